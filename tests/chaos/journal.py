"""A damaged journal: every truncation and every flipped bit, as far as the time goes, and nothing is deleted.

    journal.py [seconds=60] [seed=1] [all=0]

Three stopped containers with a file in their own layer, a log, a named and an anonymous volume each. The journal is cut at every
byte, then has every single bit flipped (a random order; `all=1` tries each one whatever it takes), and an engine is started on a
copy of the data root. Every container's layer, log and volumes must still be there, and every container must be known unless it
was the damage's own record that said so; a cut elsewhere than at a line's end must not be told as damage, a flip must.
"""
import collections
import random
import sys
from lab import *


class Subject(Lab):
    def __init__(self):
        super().__init__("journal")
        self.base = f"{self.directory}/base"

    def make(self):
        self.fresh()
        self.ok("network", "create", "jn")
        self.ok("volume", "create", "jv")
        script = "echo precious > /precious; echo precious > /data/$(hostname); echo precious > /anonymous/file; echo logged; exec sleep 100000"
        self.containers_made = {}
        for n in range(3):
            name = f"c{n}"
            self.containers_made[name] = self.ok("container", "run", "-d", "--name", name, "--network", "jn", "-v", "jv:/data", "-v", "/anonymous",
                                                 IMAGE, "sh", "-c", script).strip()
        complaint = eventually(lambda: [n for n, i in self.containers_made.items() if not os.path.exists(f"{self.data}/containers/{i}/log")
                                        or os.path.getsize(f"{self.data}/containers/{i}/log") == 0])
        if complaint:
            raise Violation(f"containers without output: {complaint}")
        self.ok("container", "kill", *self.containers_made)
        self.ok("engine", "stop")
        shutil.rmtree(self.base, True)
        subprocess.check_call(["cp", "-a", self.data, self.base])
        with open(f"{self.base}/state.journal", "rb") as file:
            return file.read()

    def restore(self, journal):
        for name in ("containers", "volumes", "networks"):
            shutil.rmtree(f"{self.data}/{name}", True)
            if os.path.exists(f"{self.base}/{name}"):
                subprocess.check_call(["cp", "-a", f"{self.base}/{name}", f"{self.data}/{name}"])
        for name in os.listdir(self.data):
            if name.startswith("state."):
                os.unlink(f"{self.data}/{name}")
        with open(f"{self.data}/state.journal", "wb") as file:
            file.write(journal)

    def look(self):
        """What is lost, and whether damage is reported."""
        ran = self("container", "ls", "-a", "--no-trunc", "-q")
        if ran.code != 0:
            return f"the engine does not start: {ran!r}", False
        lost = []
        known = set(ran.out.split())
        for name, container in self.containers_made.items():
            if not os.path.exists(f"{self.data}/containers/{container}/upper/precious"):
                lost.append(f"{name}'s layer")
            if not os.path.exists(f"{self.data}/containers/{container}/log"):
                lost.append(f"{name}'s log")
            if container not in known:
                lost.append(f"{name} itself")
        files = [f for _, _, names in os.walk(f"{self.data}/volumes") for f in names]
        if files.count("file") != 3 or sum(len(f) == 12 for f in files) != 3:
            lost.append(f"files of volumes: {files}")
        volumes = self.ok("volume", "ls", "-q").split()
        if "jv" not in volumes or len(volumes) != 4:
            lost.append(f"volumes: {volumes}")
        if "jn" not in self.ok("network", "ls", "--format", "{{.Name}}").split():
            lost.append("the network")
        self.ok("engine", "stop")
        return ", ".join(lost) or None, "damaged" in ran.err


def main():
    options = options_of(sys.argv[1:], seconds=60.0, seed=1, all=0)
    chance = random.Random(options["seed"])
    subject = Subject()
    whole = subject.make()
    lines = [m.end() for m in re.finditer(b"\n", whole)]
    points = [("cut", at) for at in range(len(whole) + 1)] + [("flip", bit) for bit in range(8 * len(whole))]
    chance.shuffle(points)
    begun, tried, violations = time.time(), collections.Counter(), []
    for kind, at in points:
        if not options["all"] and time.time() - begun > options["seconds"]:
            break
        if kind == "cut":
            journal, where = whole[:at], f"cut at byte {at} of {len(whole)}"
            # An empty journal beside containers is damage; a torn last line is not.
            damaged = at == 0
        else:
            byte = at // 8
            journal = whole[:byte] + bytes([whole[byte] ^ (1 << at % 8)]) + whole[byte + 1:]
            where = f"bit {at % 8} of byte {byte} flipped"
            # The last line without its end is a torn tail.
            damaged = byte != len(whole) - 1
        subject.restore(journal)
        tried[kind] += 1
        lost, reported = subject.look()
        if lost:
            violations.append(f"{where} (line {sum(end <= at // (1 if kind == 'cut' else 8) for end in lines) + 1}): lost {lost}")
        elif reported != damaged:
            violations.append(f"{where}: damage is {'reported' if reported else 'not reported'}")
        if violations and violations[-1].startswith(where):
            print("VIOLATION", violations[-1][:600], flush=True)
    subject.clear()
    print(f"journal: {len(whole)} bytes in {len(lines)} lines, seed {options['seed']}: {dict(tried)} tried, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
