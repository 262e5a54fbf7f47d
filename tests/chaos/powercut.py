"""The power goes at any moment: what an engine has promised is on the disk, and nothing there is a mixture.

    powercut.py [seconds=120] [seed=1] [megabytes=160]

An engine works on an ext4 file system whose disk writes its history down (disk.c). Then, for moments of that history, the disk
is made as it was: everything up to a flush and, of what came after it, a random part, since a disk may write what is in its
cache in any order. An engine is started on each. It must start, report no damage, know what had been acknowledged before that
moment and nothing that had not begun, and every image that it knows must verify.
"""
import glob
import random
import sys
from lab import *

STACK = f"""
name: pc
services:
  a: {{image: '{IMAGE}', command: writer 50000, stop_signal: SIGKILL, volumes: ['data:/data']}}
  b: {{image: '{IMAGE}', command: writer 50000, stop_signal: SIGKILL}}
volumes: {{data: {{}}}}
"""


class State:
    """What is known: containers by name, images by name with what their file /stamp says."""

    def __init__(self, containers=(), images=()):
        self.containers, self.images = frozenset(containers), dict(images)


class Disk:
    """A block device that remembers, with ext4 on it."""

    def __init__(self, directory, megabytes):
        self.image, self.fuse, self.mount, self.log = (f"{directory}/{n}" for n in ("disk.img", "fuse", "mnt", "history"))
        for path in (self.fuse, self.mount):
            subprocess.run(["umount", "-l", path], capture_output=True)
            os.makedirs(path, exist_ok=True)
        with open(self.image, "wb") as file:
            file.truncate(megabytes << 20)
        subprocess.check_call(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image])
        self.first = f"{directory}/first.img"
        subprocess.check_call(["cp", "--sparse=always", self.image, self.first])
        self.server = subprocess.Popen([compiled("disk"), self.image, self.fuse, self.log], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.server.stdout.readline() != "ready\n":
            raise Violation("the disk does not start")
        self.loop = subprocess.check_output(["losetup", "-f", "--show", f"{self.fuse}/disk"], text=True).strip()
        subprocess.check_call(["mount", "-t", "ext4", self.loop, self.mount])

    def mark(self, text):
        self.server.stdin.write(text + "\n")
        self.server.stdin.flush()
        self.server.stdout.readline()

    def close(self):
        if eventually(lambda: subprocess.run(["umount", self.mount], capture_output=True, text=True).stderr, 20):
            raise Violation("the disk is still used after the engine's end")
        subprocess.check_call(["losetup", "-d", self.loop])
        eventually(lambda: subprocess.run(["umount", self.fuse], capture_output=True, text=True).stderr, 10)
        self.server.wait(20)

    def history(self):
        """('W', offset, data), ('F',) and ('M', text), in order."""
        with open(self.log, "rb") as file:
            while kind := file.read(1):
                if kind == b"W":
                    offset, length = struct.unpack("QQ", file.read(16))
                    yield "W", offset, file.read(length)
                elif kind == b"M":
                    yield "M", file.read(struct.unpack("Q", file.read(8))[0]).decode().strip()
                else:
                    yield ("F",)


def work(lab, disk):
    """Does things, marking the beginning and the acknowledgement of each. Returns the states, the first one empty."""
    states = [State()]

    def step(command, containers=None, images=None):
        before = states[-1]
        states.append(State(before.containers if containers is None else containers, before.images if images is None else images))
        disk.mark(f"begin {len(states) - 1}")
        command()
        disk.mark(f"done {len(states) - 1}")

    def build(stamp):
        lab.write("build/file", stamp)
        lab.write("build/Dockerfile", f"FROM {IMAGE}\nCOPY file /stamp\nRUN cp /stamp /copy && seq 20000 > /numbers\nCMD [\"cat\", \"/stamp\"]\n")
        lab.ok("image", "build", "-t", "built:1", f"{lab.directory}/build")

    file = lab.write("compose.yaml", STACK)
    base = {IMAGE: None}
    stack = {"pc-a-1", "pc-b-1"}
    step(lambda: lab.import_base(), images=base)
    step(lambda: lab.ok("container", "create", "--name", "one", IMAGE, "true"), containers={"one"})
    step(lambda: build("first"), images=base | {"built:1": "first"})
    step(lambda: lab.ok("-f", file, "up", "-d"), containers={"one"} | stack)
    step(lambda: lab.ok("container", "rename", "one", "two"), containers={"two"} | stack)
    step(lambda: lab.ok("-f", file, "up", "-d", "--force-recreate"))
    step(lambda: build("second"), images=base | {"built:1": "second"})
    step(lambda: lab.ok("image", "tag", "built:1", "other:1"), images=base | {"built:1": "second", "other:1": "second"})
    step(lambda: lab.ok("image", "rm", "built:1"), images=base | {"other:1": "second"})
    step(lambda: lab.ok("container", "rm", "two"), containers=stack)
    # Large records make the journal be written anew.
    large = "x" * 110_000
    step(lambda: lab.ok("container", "create", "--name", "large0", "--label", f"l={large}", IMAGE, "true"), containers=stack | {"large0"})
    for n in range(42):
        step(lambda: lab.ok("container", "rename", f"large{n}", f"large{n + 1}"), containers=stack | {f"large{n + 1}"})
    step(lambda: lab.ok("-f", file, "down", "-v", "-t", "0"), containers={"large42"})
    step(lambda: lab.ok("container", "rm", "large42"), containers=())
    lab.ok("engine", "stop")
    return states


def wrong(lab, states, begun, done):
    """What the state on the disk says that it must not."""
    ran = lab("container", "ls", "-a", "--format", "{{.Names}}")
    if ran.code != 0:
        return f"the engine does not start: {ran!r}"
    if "damaged" in ran.err:
        return f"damage is reported: {ran.err.strip()}"
    old, new = states[done], states[begun]
    between = states[done:begun + 1]
    found = set(ran.out.split())
    if missing := frozenset.intersection(*(s.containers for s in between)) - found:
        return f"containers are missing: {sorted(missing)} of {sorted(found)}"
    if more := found - frozenset.union(*(s.containers for s in between)):
        return f"containers that are not to be: {sorted(more)}"
    if begun == done and found != old.containers:
        return f"containers are {sorted(found)}, acknowledged {sorted(old.containers)}"
    images = set(lab.ok("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()) - {"<none>:<none>"}
    for name in images | set(old.images) | set(new.images):
        allowed = [s.images.get(name, "absent") if name in s.images else "absent" for s in between]
        if name not in images:
            if "absent" not in allowed:
                return f"image {name} is missing"
            continue
        if allowed == ["absent"] * len(allowed):
            return f"image {name} is there and should not be"
        lab.verify_image(name)
        if name != IMAGE:
            stamp = lab.ok("container", "run", "--rm", "--network", "none", name).strip()
            if stamp not in allowed:
                return f"image {name} says {stamp!r}, not one of {allowed}"
    return None


def main():
    options = options_of(sys.argv[1:], seconds=120.0, seed=1, megabytes=160)
    chance = random.Random(options["seed"])
    directory = f"{HERE}/powercut"
    shutil.rmtree(f"{directory}/replay", True)
    os.makedirs(f"{directory}/replay", exist_ok=True)
    disk = Disk(directory, options["megabytes"])
    try:
        lab = Lab("powercut", data=f"{disk.mount}/data")
        states = work(lab, disk)
    finally:
        lab.clear()
        disk.close()
    history = list(disk.history())
    flushes = sum(1 for entry in history if entry[0] == "F")
    begun_at = time.time()
    image, mount = "/dev/shm/wharf-powercut.img", f"{directory}/replay/mnt"
    os.makedirs(mount, exist_ok=True)
    subprocess.check_call(["cp", "--sparse=always", disk.first, image])
    tried, violations, begun, done, seen = 0, [], 0, 0, 0
    pending, picked = [], flushes
    try:
        with open(image, "r+b", buffering=0) as whole:
            for at, entry in enumerate(history):
                if entry[0] == "W":
                    pending.append(entry)
                    continue
                if entry[0] == "M":
                    what, number = entry[1].split()
                    begun, done = (int(number), done) if what == "begin" else (begun, int(number))
                    continue
                seen += 1
                # What was flushed is there; of what came later, a part. Points are spread over the time that is left.
                flushed, pending = pending, []
                later = []
                marks = (begun, done)
                for following in history[at + 1:]:
                    if following[0] == "F":
                        break
                    if following[0] == "M" and following[1].startswith("begin"):
                        marks = (int(following[1].split()[1]), marks[1])
                    if following[0] == "W":
                        later.append(following)
                for _, offset, data in flushed:
                    os.pwrite(whole.fileno(), data, offset)
                left = options["seconds"] - (time.time() - begun_at)
                pace = (time.time() - begun_at) / tried if tried else 1.0
                if left <= 0 or chance.random() > left / pace / max(1, 2 * (flushes - seen + 1)):
                    continue
                for part in ([], [w for w in later if chance.random() < 0.5]):
                    if part == [] and later and tried and chance.random() < 0.3:
                        continue
                    # A file of its own for each: a mount namespace that another program makes just then keeps the last one mounted.
                    copy = f"{image}.{tried}"
                    subprocess.check_call(["cp", "--sparse=always", image, copy])
                    with open(copy, "r+b", buffering=0) as torn:
                        for _, offset, data in part:
                            os.pwrite(torn.fileno(), data, offset)
                    complaint = look(copy, mount, states, marks[0] if part else begun, done)
                    os.unlink(copy)
                    tried += 1
                    if complaint:
                        violations.append(f"flush {seen} of {flushes}, {len(part)} of {len(later)} later writes, step {done} done, {begun} begun: {complaint}")
                        print("VIOLATION", violations[-1], flush=True)
    finally:
        for path in glob.glob(f"{image}*"):
            os.unlink(path)
    print(f"power cuts: {tried} tried at {flushes} flushes of {len(history)} records (seed {options['seed']}), {len(violations)} violations")
    return 1 if violations else 0


def look(copy, mount, states, begun, done):
    loop = subprocess.check_output(["losetup", "-f", "--show", copy], text=True).strip()
    lab = Lab("powercut/replay", data=f"{mount}/data")
    shutil.rmtree(lab.run, True)
    try:
        subprocess.check_call(["mount", "-t", "ext4", loop, mount])
        os.makedirs(lab.data, exist_ok=True)
        try:
            # What a recreation has begun is undone by the engine that starts, after it answers.
            return eventually(lambda: wrong(lab, states, begun, done), 10)
        except Violation as violation:
            return str(violation)
        finally:
            lab.clear()
            eventually(lambda: subprocess.run(["umount", mount], capture_output=True, text=True).stderr, 20)
    finally:
        subprocess.run(["losetup", "-d", loop])


if __name__ == "__main__":
    sys.exit(main())
