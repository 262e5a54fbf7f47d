"""The engine is killed, or one of its calls fails, at every state-changing system call of an operation.

    crashpoints.py [scenario=up,down,...] [action=kill,28,5,24,12] [seconds=300] [first=1] [stride=0]

For each scenario, action and k: the state before is made, the k-th counted call (see inject.c) is the last one or fails with
ENOSPC (28), EIO (5), EMFILE (24) or ENOMEM (12), and then must hold: after a kill the engine starts again and what one command
does to one object is done or not done; a second try succeeds and the state is the one wanted; after `down` nothing is left.
`stride=0` chooses the distance between points so that `seconds` suffice; `stride=1` tries each.
CHAOS_PORT is the first of ten ports, for two runs at once (each with a CHAOS_DIR of its own).
"""
import collections
import errno
import sys
from lab import *

PORT = int(os.environ.get("CHAOS_PORT", "24210"))
SERVICE = f"image: '{IMAGE}', stop_signal: SIGKILL"
STACK = f"""
name: cp
services:
  web: {{{SERVICE}, command: writer 100000 port=80 name=web, ports: ['127.0.0.1:{PORT}:80'], volumes: ['data:/data', /anonymous], depends_on: [db]}}
  db: {{{SERVICE}, command: writer 100000, restart: always}}
volumes: {{data: {{}}}}
"""
BOTH = [("cp-db-1", "running"), ("cp-web-1", "running")]


class Point(Lab):
    """An engine whose counted calls are watched."""

    def __init__(self):
        super().__init__("crashpoints")
        self.file = self.write("compose.yaml", STACK)
        self.injector = None

    def begin(self):
        self.log = f"{self.directory}/calls"
        command = [compiled("inject"), self.log, self.data, self.run, "--", WHARF, "engine"]
        self.injector = subprocess.Popen(command, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                         stderr=open(f"{self.directory}/engine.log", "a"))
        if eventually(lambda: None if self.answers() else "the engine does not answer", 20):
            raise Violation("the engine does not start under the injector")

    def tell(self, line):
        self.injector.stdin.write(line + "\n")
        self.injector.stdin.flush()
        return int(self.injector.stdout.readline())

    def end(self):
        """The injector serves the filter of every process that the engine has started: it ends when they have."""
        if self.injector:
            self.injector.stdin.close()
            try:
                self.injector.wait(20)
            except subprocess.TimeoutExpired:
                self.injector.kill()
                raise Violation("a process that the engine has started lives on")
            finally:
                self.injector.stdout.close()
                self.injector = None

    def compose(self, *args):
        return self("-f", self.file, *args)


class Scenario:
    name = ""

    def prepare(self, lab):
        """The state before."""

    def act(self, lab):
        """What is broken off. Returns what ran."""

    def after_crash(self, lab):
        """What must hold before anything else is done: a complaint or None."""

    def wrong(self, lab):
        """What differs from the state that is wanted: a complaint or None."""

    def again(self, lab):
        return self.act(lab)


def states_are(lab, wanted):
    found = lab.states()
    return None if found == wanted else f"containers are {found}, not {wanted}"


class Up(Scenario):
    name = "up"

    def act(self, lab):
        return lab.compose("up", "-d")

    def after_crash(self, lab):
        odd = [n for n, _ in lab.states() if n not in ("cp-db-1", "cp-web-1")]
        return f"names that nobody has given: {odd}" if odd else None

    def wrong(self, lab):
        complaint = states_are(lab, BOTH)
        if complaint:
            return complaint
        try:
            with socket.create_connection(("127.0.0.1", PORT), 2) as connection:
                connection.settimeout(2)
                text = connection.recv(100).decode()
            return None if text.startswith("web ") else f"the port answers {text!r}"
        except OSError as error:
            return f"the published port: {error}"


class Recreate(Up):
    name = "recreate"

    def prepare(self, lab):
        lab.ok("-f", lab.file, "up", "-d")
        self.before = {c["Id"] for c in lab.containers()}

    def act(self, lab):
        return lab.compose("up", "-d", "--force-recreate")

    def after_crash(self, lab):
        return super().after_crash(lab) or eventually(lambda: None if {"cp-db-1", "cp-web-1"} == {n for n, _ in lab.states()}
                                                      else f"a container is gone: {lab.states()}", 1)


class Changed(Up):
    """A changed definition: what has it is made anew, and the containers that use it."""
    before, after = "", ""

    def changed(self, lab):
        """Whether it is the new one."""

    def prepare(self, lab):
        lab.ok("-f", lab.file, "up", "-d")
        self.file = lab.write("changed/compose.yaml", STACK.replace(self.before, self.after))

    def act(self, lab):
        return lab("-f", self.file, "up", "-d", "-y")

    def wrong(self, lab):
        return super().wrong(lab) or (None if self.changed(lab) else "it is the old one")


class ChangedVolume(Changed):
    name = "volume"
    before, after = "volumes: {data: {}}", "volumes: {data: {labels: {version: two}}}"

    def changed(self, lab):
        return json.loads(lab.ok("volume", "inspect", "cp_data"))[0]["Labels"].get("version") == "two"


class ChangedNetwork(Changed):
    name = "network"
    before, after = "volumes: {data: {}}", "volumes: {data: {}}\nnetworks: {default: {labels: {version: two}}}"

    def changed(self, lab):
        return json.loads(lab.ok("network", "inspect", "cp_default"))[0]["Labels"].get("version") == "two"


class Scale(Scenario):
    name = "scale"

    def prepare(self, lab):
        lab.ok("-f", lab.file, "up", "-d")

    def act(self, lab):
        return lab.compose("up", "-d", "--scale", "db=3")

    def wrong(self, lab):
        return states_are(lab, sorted(BOTH + [("cp-db-2", "running"), ("cp-db-3", "running")]))


class Down(Scenario):
    name = "down"

    def prepare(self, lab):
        lab.ok("-f", lab.file, "up", "-d")

    def act(self, lab):
        return lab.compose("down", "-v", "-t", "0")

    def wrong(self, lab):
        rest = lab.ok("volume", "ls", "-q").split()
        networks = [n for n in lab.ok("network", "ls", "--format", "{{.Name}}").split() if n.startswith("cp_")]
        return states_are(lab, []) or (f"left: {rest} {networks}" if "cp_data" in rest or networks else None)


class Remove(Scenario):
    name = "rm"

    def prepare(self, lab):
        lab.ok("container", "run", "-d", "--name", "one", IMAGE, "writer", "100000")

    def act(self, lab):
        return lab("container", "rm", "-f", "one")

    def again(self, lab):
        return lab("container", "rm", "-f", *[n for n, _ in lab.states()]) if lab.states() else None

    def after_crash(self, lab):
        found = lab.states()
        return None if [n for n, _ in found] in ([], ["one"]) else f"neither there nor gone: {found}"

    def wrong(self, lab):
        return states_are(lab, [])


class Rename(Scenario):
    name = "rename"

    def prepare(self, lab):
        lab.ok("container", "create", "--name", "one", IMAGE, "true")

    def act(self, lab):
        return lab("container", "rename", "one", "two")

    def again(self, lab):
        return None if lab.states() == [("two", "created")] else self.act(lab)

    def after_crash(self, lab):
        found = lab.states()
        return None if found in ([("one", "created")], [("two", "created")]) else f"neither renamed nor not: {found}"

    def wrong(self, lab):
        return states_are(lab, [("two", "created")])


class Stop(Scenario):
    name = "stop"

    def prepare(self, lab):
        lab.ok("container", "run", "-d", "--name", "one", "--restart", "always", IMAGE, "writer", "100000")

    def act(self, lab):
        return lab("container", "stop", "one")

    def wrong(self, lab):
        found = lab.inspect("one")["State"]
        return None if (found["Status"], found["ExitCode"]) == ("exited", 42) else f"stopped is {found}"


class Build(Scenario):
    name = "build"

    def prepare(self, lab):
        self.stamp = str(time.time_ns())
        lab.write("build/file", self.stamp)
        lab.write("build/Dockerfile", f"FROM {IMAGE}\nCOPY file /stamp\nRUN cp /stamp /copy\nCMD [\"cat\", \"/copy\"]\n")

    def act(self, lab):
        return lab("image", "build", "-t", "built:1", f"{lab.directory}/build")

    def after_crash(self, lab):
        if "built:1" in lab.ok("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split():
            lab.verify_image("built:1")

    def wrong(self, lab):
        lab.verify_image("built:1")
        ran = lab("container", "run", "--rm", "built:1")
        return None if ran.out.strip() == self.stamp else f"the image says {ran!r}, not {self.stamp}"


class RemoveImage(Build):
    name = "image-rm"

    def prepare(self, lab):
        super().prepare(lab)
        lab.ok("image", "build", "-t", "built:1", f"{lab.directory}/build")

    def act(self, lab):
        return lab("image", "rm", "built:1")

    def again(self, lab):
        return self.act(lab) if self.there(lab) else None

    def there(self, lab):
        return "built:1" in lab.ok("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()

    def wrong(self, lab):
        return "the image is still there" if self.there(lab) else None


class Pull(Scenario):
    name = "pull"

    def __init__(self):
        self.registry = None

    def reference(self):
        return f"127.0.0.1:{PORT + 5}/chaos:1"

    def start_registry(self, lab):
        config = lab.write("registry.yaml", f"""
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {lab.directory}/registry}}}}
http: {{addr: '127.0.0.1:{PORT + 5}'}}
""")
        self.registry = subprocess.Popen(["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if eventually(lambda: socket.create_connection(("127.0.0.1", PORT + 5), 1).close(), 10):
            raise Violation("the registry does not start")
        lab.ok("image", "tag", IMAGE, self.reference())
        lab.ok("image", "push", self.reference())

    def prepare(self, lab):
        if not self.registry:
            self.start_registry(lab)
        # Nothing of it is here: neither the name nor the layers.
        lab("image", "rm", "-f", self.reference(), IMAGE, "built:1")
        lab.ok("image", "prune", "-a", "-f")

    def act(self, lab):
        return lab("image", "pull", self.reference())

    def after_crash(self, lab):
        if self.reference() in lab.ok("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split():
            lab.verify_image(self.reference())

    def wrong(self, lab):
        lab.verify_image(self.reference())
        ran = lab("container", "run", "--rm", self.reference(), "echo", "said")
        return None if ran.out == "said\n" else repr(ran)

    def finish(self, lab):
        lab("image", "tag", self.reference(), IMAGE)
        lab("image", "rm", self.reference())

    def close(self):
        if self.registry:
            self.registry.kill()
            self.registry.wait()


class Compaction(Rename):
    """A rename whose record makes the journal larger than it may be, so it is written anew."""
    name = "compaction"

    def prepare(self, lab):
        lab.ok("container", "create", "--name", "one", "--label", f"large={'x' * 110_000}", IMAGE, "true")
        # The journal is written anew when it has 4 MiB more than twice what is live (src/engine/state/journal/); the rename after
        # these does it.
        limit, path = (4 << 20) + 2 * 111_000, f"{lab.data}/state.journal"
        names = ["one", "three"]
        while os.path.getsize(path) < limit - 120_000 or names[0] != "one":
            lab.ok("container", "rename", *names)
            names.reverse()


SCENARIOS = [Up, Recreate, ChangedVolume, ChangedNetwork, Down, Scale, Remove, Rename, Stop, Build, RemoveImage, Pull, Compaction]


def attempt(lab, scenario, k, action):
    """One point. Returns how many calls were counted: fewer than k when the operation has no k-th."""
    lab.begin()
    ended = False
    try:
        scenario.prepare(lab)
        idle = lab.usage()["descriptors"]
        engine = lab.engine_pid()
        lab.tell(f"arm {k} {action}")
        ran = scenario.act(lab)
        counted = lab.tell("count")
        lab.tell("arm 0 kill")
        if counted < k:
            if ran.code != 0:
                raise Violation(f"nothing was broken off, and it fails: {ran!r}")
        elif action == "kill":
            # Gone with all its threads: one that is ending may hold the socket for a moment.
            if eventually(lambda: "the killed engine lives" if os.path.exists(f"/proc/{engine}") else None, 5):
                raise Violation("the engine was not killed")
            back = lab("container", "ls")
            if back.code != 0:
                raise Violation(f"the next command: {back!r}")
            # What was half done is ended beside other commands.
            complaint = eventually(lambda: scenario.after_crash(lab), 10)
            if complaint:
                raise Violation(f"after the crash: {complaint}")
        else:
            if ran.code is None:
                raise Violation(f"a failing call makes the command hang: {ran!r}")
            if not is_alive(engine):
                raise Violation(f"a failing call ends the engine: {ran!r}")
        if counted >= k and (action == "kill" or ran.code != 0 or scenario.wrong(lab)):
            if action != "kill" and ran.code == 0 and eventually(lambda: scenario.wrong(lab), 5):
                raise Violation(f"success was reported: {scenario.wrong(lab)}; {ran!r}")
            again = scenario.again(lab)
            if again is not None and again.code != 0:
                raise Violation(f"the second try fails: {again!r}; the first: {ran!r}")
        complaint = eventually(lambda: scenario.wrong(lab), 10)
        if complaint:
            raise Violation(f"at the end: {complaint}")
        lab.ok("-f", lab.file, "down", "-v", "-t", "0")
        for name, _ in lab.states():
            lab.ok("container", "rm", "-f", "-v", name)
        lab.ok("network", "prune", "-f")
        lab.ok("volume", "prune", "-a", "-f")
        if action != "kill" and is_alive(engine):
            complaint = eventually(lambda: f"{lab.usage()['descriptors']} descriptors, {idle} before"
                                   if lab.usage()["descriptors"] > idle + 8 else None, 5)
            if complaint:
                raise Violation(f"the engine keeps {complaint}")
        if hasattr(scenario, "finish"):
            scenario.finish(lab)
        if action != "kill":
            # What could not be removed goes with the next engine.
            lab.ok("engine", "stop")
            lab.ok("container", "ls")
        lab.ends_clean()
        ended = True
    finally:
        # The first violation is the one that is told.
        if not ended:
            lab.clear()
        try:
            lab.end()
        except Violation:
            lab.clear()
            if ended:
                raise
    return counted


def main():
    options = options_of(sys.argv[1:], scenario=",".join(s.name for s in SCENARIOS), action="kill,28,5,24,12", seconds=300.0, first=1, stride=0)
    chosen = [s for s in SCENARIOS if s.name in options["scenario"].split(",")]
    actions = options["action"].split(",")
    lab = Point()
    lab.fresh()
    lab.ok("engine", "stop")
    tried, violations = collections.Counter(), []
    share = options["seconds"] / (len(chosen) * len(actions))
    for make in chosen:
        scenario = make()
        for action in actions:
            begun, k, total, stride = time.time(), options["first"], None, options["stride"]
            name = action if action == "kill" else errno.errorcode[int(action)]
            points = 0
            while True:
                at = time.time()
                try:
                    counted = attempt(lab, scenario, k, action)
                except Violation as violation:
                    counted = k
                    calls = open(lab.log).read().splitlines()
                    where = next((line for line in reversed(calls) if line.startswith(f"{k} ")), "?")
                    violations.append(f"{scenario.name} {name} at call {where}: {violation}")
                    print("VIOLATION", violations[-1], flush=True)
                    lab.clear()
                    shutil.rmtree(lab.data, True)
                    lab.fresh()
                    lab.ok("engine", "stop")
                points += 1
                if counted < k:
                    total = counted
                    break
                if not stride:
                    # One whole run tells how many calls there are: the points are spread over them.
                    probe = attempt(lab, scenario, 1 << 30, action)
                    per_point = max(time.time() - at, 0.1) / 2
                    stride = max(1, int(probe * per_point / share + 0.999))
                k += stride
            tried[name] += points
            print(f"{scenario.name:10} {name:6} {points} of {total} points tried, {time.time() - begun:.0f} s", flush=True)
        if hasattr(scenario, "close"):
            scenario.close()
    print(f"crash points: {sum(tried.values())} tried ({dict(tried)}), {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
