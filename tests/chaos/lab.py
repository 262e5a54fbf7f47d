"""An engine with roots of its own, what is done to it, and a census of what it has left on the machine.

Everything is found by this engine's roots and by the ids that it has given, so other engines on the machine do not matter.
WHARF names the binary, CHAOS_DIR the directory below which everything is written.
"""
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time

HERE = os.environ.get("CHAOS_DIR", "/var/tmp/wharf-chaos")
SOURCES = os.path.dirname(os.path.abspath(__file__))
WHARF = os.path.abspath(os.environ.get("WHARF", f"{SOURCES}/../../target/release/wharf"))
IMAGE = "chaos:local"


def compiled(name):
    """A program of this directory, compiled when it is older than its source."""
    os.makedirs(HERE, exist_ok=True)
    source, program = f"{SOURCES}/{name}.c", f"{HERE}/{name}"
    if not os.path.exists(program) or os.path.getmtime(program) < os.path.getmtime(source):
        subprocess.check_call(["cc", "-static", "-O1", source, "-o", program])
    return program


def base_tar():
    """A root file system with busybox and the writer of numbered lines."""
    tar = f"{HERE}/base.tar"
    if not os.path.exists(tar):
        root = f"{HERE}/base"
        shutil.rmtree(root, True)
        for directory in "bin etc tmp proc sys dev root var".split():
            os.makedirs(f"{root}/{directory}")
        shutil.copy("/bin/busybox", f"{root}/bin/busybox")
        shutil.copy(compiled("writer"), f"{root}/bin/writer")
        for applet in subprocess.check_output(["/bin/busybox", "--list"], text=True).split():
            if not os.path.lexists(f"{root}/bin/{applet}"):
                os.symlink("busybox", f"{root}/bin/{applet}")
        for name, text in ("passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("group", "root:x:0:\n"):
            with open(f"{root}/etc/{name}", "w") as file:
                file.write(text)
        subprocess.check_call(["tar", "-C", root, "-cf", tar + ".part", "."])
        os.rename(tar + ".part", tar)
    return tar


class Ran:
    """A command that has ended. `code` is None when it did not end in time."""

    def __init__(self, args, code, out, err, seconds):
        self.args, self.code, self.out, self.err, self.seconds = args, code, out, err, seconds

    def __repr__(self):
        end = "did not end" if self.code is None else f"exit code {self.code}"
        return f"wharf {' '.join(self.args)}: {end}, {self.seconds:.1f} s: {(self.err or self.out).strip()[-600:]}"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("wharf", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket_at(self.path, self.timeout)


def socket_at(path, timeout):
    """A connection to a socket whose path may be longer than the kernel's 107 bytes."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    directory = os.open(os.path.dirname(path), os.O_PATH)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection


class Lab:
    def __init__(self, name, data=None):
        self.directory = f"{HERE}/{name}"
        self.data = data or f"{self.directory}/data"
        self.run = f"{self.directory}/run"
        os.makedirs(self.directory, exist_ok=True)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("WHARF", "COMPOSE_", "DOCKER_"))}
        self.env |= {"WHARF_DATA_ROOT": self.data, "WHARF_RUN_ROOT": self.run}
        self.ids_seen = set()
        self.spaces_seen = set()

    # --- commands

    def __call__(self, *args, timeout=120, **options):
        begun = time.time()
        process = subprocess.Popen([WHARF, *args], env=self.env, text=True, errors="replace", stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        try:
            out, err = process.communicate(timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            code = None
        return Ran(args, code, out, err, time.time() - begun)

    def ok(self, *args, **options):
        ran = self(*args, **options)
        if ran.code != 0:
            raise Violation(f"a command failed that must not: {ran!r}")
        return ran.out

    def write(self, name, text):
        path = f"{self.directory}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        return path

    def import_base(self):
        self.ok("image", "import", base_tar(), IMAGE, "--change", 'CMD ["sh"]')

    # --- the API

    def api(self, path, method="GET", body=None, timeout=30):
        connection = UnixConnection(f"{self.run}/engine.sock", timeout)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.strip().startswith((b"{", b"[")) else text.decode()
        finally:
            connection.close()

    def containers(self):
        status, listed = self.api("/containers/json?all=1")
        if status != 200:
            raise Violation(f"GET /containers/json: {status} {listed}")
        self.ids_seen.update(c["Id"] for c in listed)
        return listed

    def states(self):
        return sorted((c["Names"][0][1:], c["State"]) for c in self.containers())

    def inspect(self, name):
        status, found = self.api(f"/containers/{name}/json")
        return found if status == 200 else None

    # --- the engine's process

    def engine_pid(self):
        """The process that listens on the engine's socket."""
        try:
            connection = socket_at(f"{self.run}/engine.sock", 2)
        except OSError:
            return None
        pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        connection.close()
        return pid if pid and is_alive(pid) else None

    def engine_processes(self):
        return [pid for pid, args in processes() if self.run in args and "engine" in args and "monitor" not in args]

    def monitors(self):
        """Container ids and the pids of their monitors."""
        found = {}
        for pid, args in processes():
            if len(args) >= 3 and args[1] == "monitor" and args[2].startswith(self.run + "/"):
                found.setdefault(os.path.basename(args[2].rstrip("/")), []).append(pid)
        return found

    def kill_engine(self):
        pid = self.engine_pid() or next(iter(self.engine_processes()), None)
        try:
            if pid:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        return pid

    def answers(self):
        try:
            return self.api("/_ping", timeout=5)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait_back(self, limit=30):
        """Seconds until an engine answers that no command has started; None when none does."""
        begun = time.time()
        while time.time() - begun < limit:
            if self.answers():
                return time.time() - begun
            time.sleep(0.003)
        return None

    # --- what is on the machine

    def ids(self):
        """Every container and network that the journal has had, and every container that was seen."""
        try:
            with open(f"{self.data}/state.journal", errors="replace") as journal:
                for line in journal:
                    found = re.search(r'"k":"(?:container|network)/([0-9a-f]{64})"', line)
                    if found:
                        self.ids_seen.add(found[1])
        except OSError:
            pass
        return self.ids_seen

    def census(self):
        """What of this engine is on the machine, by kind. Images are counted apart."""
        ids = self.ids()
        left = {kind: [] for kind in ("processes", "mounts", "namespaces", "interfaces", "control groups", "firewall", "files")}
        tables = {}
        for pid, args in processes():
            text = " ".join(args)
            try:
                with open(f"/proc/{pid}/cgroup") as file:
                    groups = file.read()
            except OSError:
                continue
            if args[0].startswith(HERE):
                continue  # a program of this directory
            if self.run in text or self.data + "/" in text + "/" or any(i in groups for i in ids):
                left["processes"].append(f"{pid} {text[:120]}")
            tables.setdefault(readlink(f"/proc/{pid}/ns/mnt"), pid)
            space = readlink(f"/proc/{pid}/ns/net")
            # The kernel gives the number of one that is gone to a container of another engine.
            of_others = any(i not in ids for i in re.findall(r"\b[0-9a-f]{64}\b", groups))
            if space in self.spaces_seen and not of_others:
                left["namespaces"].append(f"{space} of {pid} {text[:80]}")
        for space, pid in tables.items():
            try:
                with open(f"/proc/{pid}/mountinfo") as file:
                    left["mounts"] += [f"{space} {line.strip()}" for line in file if f"{self.data}/" in line or f"{self.run}/" in line]
            except OSError:
                continue
        links = {f"wh{i[:8]}" for i in ids} | {f"br-{i[:12]}" for i in ids}
        left["interfaces"] = [n for n in os.listdir("/sys/class/net") if n in links or n[:10] in links]
        for where, directories, _ in os.walk("/sys/fs/cgroup"):
            left["control groups"] += [f"{where}/{d}" for d in directories if d in ids]
        rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout.splitlines()
        table = "wharf-" + hashlib.sha256(self.run.encode()).hexdigest()[:12]
        left["firewall"] = [l.strip() for l in rules if table in l or any(f"br-{i[:12]}" in l for i in ids)]
        for where in ("containers", "volumes", "images/staging"):
            left["files"] += below(f"{self.data}/{where}")
        left["files"] += below(f"{self.run}/containers")
        return {kind: found for kind, found in left.items() if found}

    def usage(self):
        """Memory in KiB, descriptors and threads of the engine."""
        pid = self.engine_pid()
        if not pid:
            return None
        with open(f"/proc/{pid}/status") as file:
            status = file.read()
        number = lambda key: int(re.search(rf"^{key}:\s+(\d+)", status, re.M)[1])
        return {"rss": number("VmRSS"), "peak": number("VmHWM"), "descriptors": len(os.listdir(f"/proc/{pid}/fd")), "threads": number("Threads")}

    def clear(self):
        """Removes every container, network and volume, and stops the engine."""
        if os.path.exists(self.run):
            ids = self("container", "ls", "-aq").out.split()
            if ids:
                self("container", "rm", "-f", "-v", *ids)
            self("network", "prune", "-f")
            self("volume", "prune", "-a", "-f")
            self("engine", "stop")
        for pid in self.engine_processes() + [p for pids in self.monitors().values() for p in pids]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def fresh(self):
        """Begins with empty roots and the base image."""
        self.clear()
        shutil.rmtree(self.data, True)
        shutil.rmtree(self.run, True)
        self.import_base()

    def ends_clean(self):
        """Stops the engine, whose containers, networks and volumes are gone; what is left is a violation."""
        self.ok("engine", "stop")
        complaint = eventually(lambda: self.census(), 10)
        if complaint:
            raise Violation(f"left behind: {complaint}")

    # --- images

    def verify_image(self, name):
        """The layers of an image, written out again, have the digests that its configuration names."""
        path = f"{self.directory}/verify.tar"
        self.ok("image", "save", "-o", path, name)
        with tarfile.open(path) as archive:
            read = lambda member: archive.extractfile(member).read()
            for image in json.loads(read("manifest.json")):
                config = json.loads(read(image["Config"]))
                claimed = config["rootfs"]["diff_ids"]
                found = ["sha256:" + hashlib.sha256(unpacked(read(layer))).hexdigest() for layer in image["Layers"]]
                if claimed != found:
                    raise Violation(f"image {name}: layers {found} are not what its configuration names: {claimed}")
        os.unlink(path)


class Violation(Exception):
    """Something that must hold does not."""


def unpacked(layer):
    import gzip
    return gzip.decompress(layer) if layer[:2] == b"\x1f\x8b" else layer


def below(directory):
    """Entries of a directory; what the engine keeps for its own use there has a name that begins with a dot."""
    try:
        return [f"{directory}/{name}" for name in os.listdir(directory) if not name.startswith(".")]
    except OSError:
        return []


def readlink(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""


def processes():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    args = file.read().decode(errors="replace").split("\0")[:-1]
            except OSError:
                continue
            if args:
                yield int(name), args


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def eventually(check, limit=10, every=0.02):
    """The last complaint of a check, or None once it has none."""
    begun = time.time()
    while True:
        try:
            complaint = check()
        except (OSError, http.client.HTTPException, json.JSONDecodeError, Violation) as error:
            complaint = f"{type(error).__name__}: {error}"
        if not complaint or time.time() - begun > limit:
            return complaint
        time.sleep(every)


def log_lines(path):
    """Lines of a container's log as (stream, text), rotated files first."""
    files = [f"{path}.{n}" for n in range(9, 0, -1) if os.path.exists(f"{path}.{n}")] + [path]
    partial = {}
    for file in files:
        with open(file, "rb") as opened:
            for raw in opened:
                parts = raw.rstrip(b"\n").split(b" ", 3)
                if len(parts) < 4:
                    yield "?", raw
                    continue
                _, stream, tag, text = parts
                text = partial.pop(stream, b"") + text
                if tag == b"P":
                    partial[stream] = text
                else:
                    yield stream.decode(), text


def check_numbers(lines, whole=True):
    """What is wrong with the writer's lines, and the last (run, line). `whole`: the log begins with the first run's first line."""
    wrong, run, last, first = [], 0 if whole else None, None, True
    for stream, text in lines:
        text = text.decode(errors="replace").rstrip("\r")
        found = re.fullmatch(r"R(\d+) (?:S (\d+) (-?\d+)|L(\d+))", text)
        if not found:
            wrong.append(f"not a line of the writer: {stream} {text[:80]!r}")
            continue
        now = int(found[1])
        if found[4] is None:
            before, line = int(found[2]), int(found[3])
            if run is not None and now != run + 1:
                wrong.append(f"run {now} follows run {run}")
            if run is not None and before == run and last is not None and line > last:
                wrong.append(f"run {run} wrote line {line}, the log's last is {last}")
            run, last = now, -1
        else:
            number = int(found[4])
            if first and not whole:
                run, last = now, number - 1
            if now != run:
                wrong.append(f"line R{now} L{number} in run {run}")
            elif number != last + 1:
                wrong.append(f"R{now}: line {number} follows line {last}")
            run, last = now, number
        first = False
    return wrong, (run, last)


def options_of(argv, **defaults):
    """`name=value` words of a command line, of the defaults' types."""
    given = dict(word.split("=", 1) for word in argv)
    unknown = set(given) - set(defaults)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(f'{k}={v}' for k, v in defaults.items())}")
    return {name: type(value)(given.get(name, value)) for name, value in defaults.items()}
