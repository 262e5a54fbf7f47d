"""Random operations on three stacks, disturbed, against a model of what must be true.

    churn.py [minutes=5] [seed=1] [kills=1000000] [port=24100]

A round does one thing (up, recreate, scale, restart, stop, kill, pause, exec, network, build, import, run, down) and meanwhile one
disturbance: SIGKILL of the engine (again while the next one takes over, sometimes), SIGKILL of a monitor, a full disk, few
descriptors, or none. An engine must come back without a command's help while containers run; the thing is done to its end; then
the containers, their states and exit codes, each numbered line of their logs exactly once, their ports, their names and what is
on the machine are compared with the model. At the end everything is taken down, and nothing may be left.
"""
import collections
import random
import resource
import sys
import threading
import traceback
from lab import *

SERVICE = f"image: '{IMAGE}', stop_grace_period: 5s"
ENDS = {"once": 7, "flaky": 3}
RESTARTED = {"web", "db", "api", "worker", "burst", "rotated", "side", "quiet"}
SERVICES = {"ka": ["web", "db", "cache", "api"], "kb": ["worker", "once", "flaky", "burst", "rotated"], "kc": ["side", "term", "quiet"]}
MOST = {"web": 5, "worker": 6, "side": 4}


def stacks(port):
    return {
        "ka": f"""
name: ka
services:
  web: {{{SERVICE}, command: writer 40000 port=8080 name=web, restart: always, ports: ['127.0.0.1:{port}-{port + 5}:8080'], networks: [default, back]}}
  db: {{{SERVICE}, command: writer 40000, restart: unless-stopped, volumes: ['data:/data'], networks: [back], healthcheck: {{test: [CMD, 'true'], interval: 1s, retries: 3}}}}
  cache: {{{SERVICE}, command: writer 70000, networks: [back]}}
  api: {{{SERVICE}, command: writer 50000 port=8080 name=api, restart: always, depends_on: [db], ports: ['127.0.0.1:{port + 10}:8080'], networks: [default, back]}}
networks: {{back: {{}}}}
volumes: {{data: {{}}}}
""",
        "kb": f"""
name: kb
services:
  worker: {{{SERVICE}, command: writer 30000, restart: always}}
  once: {{{SERVICE}, command: writer 20000 lines=20 code=7}}
  flaky: {{{SERVICE}, command: writer 20000 lines=40 code=3, restart: 'on-failure:2'}}
  burst: {{{SERVICE}, command: writer 200000 burst=300, restart: always}}
  rotated: {{{SERVICE}, command: writer 100000 burst=50, restart: always, logging: {{driver: json-file, options: {{max-size: 60k, max-file: '3'}}}}}}
""",
        "kc": f"""
name: kc
services:
  side: {{{SERVICE}, command: writer 60000 port=9000 name=side, restart: unless-stopped, ports: ['127.0.0.1:{port + 20}-{port + 24}:9000']}}
  term: {{{SERVICE}, command: writer 80000, tty: true, stdin_open: true}}
  quiet: {{{SERVICE}, command: writer 90000, init: true, restart: on-failure}}
""",
    }


class Churn:
    def __init__(self, options):
        self.options = options
        self.chance = random.Random(options["seed"])
        self.lab = Lab("churn")
        self.files = {name: self.lab.write(f"{name}.yaml", text) for name, text in stacks(options["port"]).items()}
        self.scale = {"ka": {"web": 3}, "kb": {"worker": 4}, "kc": {"side": 3}}
        self.up = dict.fromkeys(SERVICES, False)
        self.rounds = 0
        self.disturbances, self.checked, self.violations = collections.Counter(), collections.Counter(), []
        # Containers whose monitor was killed once.
        self.orphaned = set()
        self.back = []
        self.report = open(f"{self.lab.directory}/churn-{options['seed']}.log", "w")

    def violation(self, kind, what):
        self.violations.append(kind)
        line = f"{time.strftime('%T')} round {self.rounds} VIOLATION {kind}: {what}"
        print(line[:1500], flush=True)
        print(line, file=self.report, flush=True)

    def say(self, what):
        now = time.time()
        print(f"{time.strftime('%T', time.localtime(now))}.{int(now * 1000) % 1000:03} round {self.rounds} {what}", file=self.report, flush=True)

    # --- operations: a name, what is done, and what is true afterwards

    def compose(self, project, *args):
        return self.lab("-f", self.files[project], *args)

    def scaled(self, project):
        return [word for service, n in self.scale[project].items() for word in ("--scale", f"{service}={n}")]

    def names(self, project):
        return [f"{project}-{s}-{n}" for s in SERVICES[project] for n in range(1, self.scale[project].get(s, 1) + 1)]

    def of_up(self):
        """A project that is up and one of its services; None when none is."""
        up = [p for p in SERVICES if self.up[p]]
        if not up:
            return None
        project = self.chance.choice(up)
        return project, self.chance.choice(SERVICES[project])

    def running(self):
        return [c for c in self.lab.containers() if c["State"] == "running" and self.service(c) not in ENDS]

    def service(self, container):
        return container["Names"][0].split("-")[1]

    def do_up(self):
        project = self.chance.choice(list(SERVICES))
        def done():
            self.up[project] = True
        return f"up {project}", lambda: self.compose(project, "up", "-d", *self.scaled(project)), done

    def do_down(self):
        project = self.chance.choice(list(SERVICES))
        def done():
            self.up[project] = False
        volumes = ["-v"] if self.chance.random() < 0.5 else []
        return f"down {project}", lambda: self.compose(project, "down", "-t", "2", *volumes), done

    def do_recreate(self):
        if not (target := self.of_up()):
            return self.do_up()
        project = target[0]
        services = self.chance.sample(SERVICES[project], self.chance.randint(1, len(SERVICES[project])))
        return (f"recreate {project} {services}",
                lambda: self.compose(project, "up", "-d", "--force-recreate", *self.scaled(project), *services), None)

    def do_scale(self):
        project, service = self.chance.choice([("ka", "web"), ("kb", "worker"), ("kc", "side")])
        if not self.up[project]:
            return self.do_up()
        self.scale[project][service] = self.chance.randint(1, MOST[service])
        return f"scale {service}", lambda: self.compose(project, "up", "-d", *self.scaled(project)), None

    def do_restart(self):
        if not (target := self.of_up()):
            return self.do_up()
        project, service = target
        return f"restart {project} {service}", lambda: self.compose(project, "restart", "-t", "2", service), None

    def do_stop(self):
        if not (target := self.of_up()):
            return self.do_up()
        project, service = target
        def both():
            stopped = self.compose(project, "stop", "-t", "2", service)
            return stopped if stopped.code else self.compose(project, "start", service)
        return f"stop, start {project} {service}", both, None

    def do_kill(self):
        """The first process of a container is killed: its policy brings it back, or its exit code is 137."""
        if not (up := self.running()):
            return self.do_up()
        container = self.chance.choice(up)
        before = self.lab.inspect(container["Id"])
        name, service = container["Names"][0][1:], self.service(container)
        def kill():
            time.sleep(self.chance.random() * 0.2)
            try:
                os.kill(before["State"]["Pid"], signal.SIGKILL)
            except ProcessLookupError:
                pass
            return Ran(("kill", name), 0, "", "", 0)
        def right():
            now = self.lab.inspect(container["Id"])
            state = now["State"]
            if service not in RESTARTED:
                good = state["Status"] == "exited" and state["ExitCode"] == 137
            else:
                good = state["Status"] == "running" and state["Pid"] != before["State"]["Pid"] and now["RestartCount"] > before["RestartCount"]
            return None if good else f"{name} is {state}, {now['RestartCount']} restarts ({before['RestartCount']} before)"
        self.afterwards = right
        return f"kill init of {name}", kill, None

    def do_exec(self):
        if not (up := self.running()):
            return self.do_up()
        container, code = self.chance.choice(up), self.chance.randint(1, 99)
        def run():
            ran = self.lab("container", "exec", container["Id"], "sh", "-c", f"echo said; sleep 0.1; exit {code}")
            if ran.code == code and ran.out != "said\n":
                self.violation("output of exec", repr(ran))
            return Ran(ran.args, 0 if ran.code == code else ran.code or 1, ran.out, ran.err, ran.seconds)
        return f"exec in {container['Names'][0]}", run, None

    def do_pause(self):
        if not (up := self.running()):
            return self.do_up()
        container = self.chance.choice(up)
        def both():
            paused = self.lab("container", "pause", container["Id"])
            if paused.code:
                return paused
            time.sleep(self.chance.random() * 0.2)
            return self.lab("container", "unpause", container["Id"])
        return f"pause, unpause {container['Names'][0]}", both, None

    def do_network(self):
        if not (up := self.running()):
            return self.do_up()
        container = self.chance.choice(up)
        def all_of_it():
            for words in (("create", "kx"), ("connect", "kx", container["Id"]), ("disconnect", "kx", container["Id"]), ("rm", "kx")):
                ran = self.lab("network", *words)
                if ran.code and "already" not in ran.err and "not connected" not in ran.err:
                    return ran
            return ran
        return f"network connect {container['Names'][0]}", all_of_it, None

    def do_build(self):
        stamp = str(self.chance.randint(0, 10**9))
        def run():
            self.lab.write("build/Dockerfile", f"FROM {IMAGE}\nRUN echo {stamp} > /stamp\nRUN cat /stamp > /copy && sleep 0.1\nCMD [\"cat\", \"/copy\"]\n")
            ran = self.lab("image", "build", "-t", "kbuilt", f"{self.lab.directory}/build")
            if ran.code:
                return ran
            ran = self.lab("container", "run", "--rm", "kbuilt")
            if ran.code == 0 and ran.out.strip() != stamp:
                self.violation("content of a build", f"{stamp} {ran!r}")
            return ran
        return "build and run", run, None

    def do_import(self):
        tag = f"kimported:{self.chance.randint(0, 3)}"
        def run():
            ran = self.lab("image", "import", base_tar(), tag)
            if ran.code == 0:
                self.lab.verify_image(tag)
            return ran
        return "import", run, None

    def do_run(self):
        code = self.chance.randint(2, 99)  # 1 is what the command says when it fails itself
        def run():
            ran = self.lab("container", "run", "--rm", IMAGE, "writer", "1000", "lines=30", f"code={code}")
            if ran.code == code:
                wrong, at = check_numbers(((1, line.encode()) for line in ran.out.splitlines()))
                if wrong or at != (1, 29):
                    self.violation("output of run", f"{wrong} {at} {ran!r}")
            return Ran(ran.args, 0 if ran.code == code else ran.code or 1, ran.out, ran.err, ran.seconds)
        return "run --rm", run, None

    OPERATIONS = [(do_up, 3), (do_recreate, 3), (do_scale, 3), (do_down, 2), (do_restart, 2), (do_stop, 2), (do_kill, 4), (do_exec, 2),
                  (do_pause, 2), (do_network, 2), (do_build, 2), (do_import, 1), (do_run, 2)]

    # --- disturbances

    def kill_engine(self):
        for again in range(1 + (self.chance.random() < 0.35) + (self.chance.random() < 0.15)):
            if again:
                # As soon as the next one is there, or a moment later: while it takes over.
                begun = time.time()
                while time.time() - begun < 5 and (self.lab.engine_pid() or pid) == pid:
                    time.sleep(0.002)
                time.sleep(self.chance.choice([0, self.chance.random() * 0.03, self.chance.random() * 0.2]))
            pid = self.lab.kill_engine()
            if pid:
                self.say(f"SIGKILL of the engine {pid}")
                self.disturbances["SIGKILL of the engine"] += 1

    def kill_monitor(self):
        """A container dies with its monitor, and what is in its pipe is lost; its policy holds."""
        monitors = [(container, pid) for container, pids in self.lab.monitors().items() for pid in pids]
        if monitors:
            container, pid = self.chance.choice(monitors)
            self.orphaned.add(container)
            before = self.state_of(container)
            try:
                os.kill(pid, signal.SIGKILL)
                self.say(f"SIGKILL of the monitor of {container[:12]}")
                self.disturbances["SIGKILL of a monitor"] += 1
                # Who looks before the engine has heard of it finds the container running.
                self.heard(container, before)
            except ProcessLookupError:
                pass

    def state_of(self, container):
        found = self.lab.inspect(container)
        return found and (found["State"]["Status"], found["State"]["Pid"])

    def heard(self, container, before):
        """Waits until the engine knows that a container that ran so runs no more."""
        if before and before[1]:
            eventually(lambda: "it runs as before" if self.state_of(container) == before else None, 5)

    def few_descriptors(self):
        """The engine may open nothing more for a moment."""
        pid = self.lab.engine_pid()
        if not pid:
            return
        try:
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + self.chance.randint(0, 6), hard))
            time.sleep(self.chance.random() * 0.4)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            self.disturbances["few descriptors"] += 1
        except (OSError, ProcessLookupError):
            pass

    DISTURBANCES = [(kill_engine, 8), (kill_monitor, 1), (few_descriptors, 1), (lambda self: None, 2)]

    # --- a round

    def round(self):
        self.rounds += 1
        self.afterwards = None
        name, run, done = self.chance.choices(*zip(*self.OPERATIONS))[0](self)
        disturb = self.chance.choices(*zip(*self.DISTURBANCES))[0]
        running = bool(self.running())
        result = {}
        def guarded():
            try:
                result["ran"] = run()
            except Exception as error:
                result["ran"] = Ran((name,), 1, "", f"{type(error).__name__}: {error}", 0)
        thread = threading.Thread(target=guarded)
        thread.start()
        time.sleep(min(self.chance.expovariate(1 / 0.15), 1.5))
        idle = not thread.is_alive()
        # `down` may have left nothing that could bring an engine back.
        running = running and bool(self.lab.monitors())
        killed = self.lab.monitors() if disturb is Churn.kill_monitor else None
        disturb(self)
        if disturb is Churn.kill_engine and idle and running:
            # Nobody but a monitor brings it back.
            back = self.lab.wait_back(15)
            if back is None:
                self.violation("no engine came back within 15 s though containers ran", f"after {name}")
            else:
                self.back.append(back)
        thread.join(150)
        ran = result.get("ran")
        if thread.is_alive() or ran.code is None:
            self.violation("a command hangs", f"{name}: {ran!r}")
            thread.join()
        self.say(f"{name}: {'failed: ' + repr(ran) if ran.code else 'done'}")
        if self.lab.wait_back(15) is None:
            self.lab("container", "ls")
        if ran.code:
            # Again, now that nobody disturbs it: it must go through.
            for container in self.lab.containers():
                if container["State"] == "paused":
                    self.lab("container", "unpause", container["Id"])
            if not name.startswith(("exec", "pause", "kill", "network")):
                again = run()
                if again.code:
                    self.violation("what was broken off cannot be done again", f"{name}: {again!r}")
        if done:
            done()
        if self.afterwards and killed is None:
            complaint = eventually(self.afterwards, 12)
            self.checked["restarts and exit codes"] += 1
            if complaint:
                self.violation("restart policy or exit code", complaint)
        elif self.afterwards:
            # What a monitor's death makes of it is another test's. But `up` is for a container whose end is known.
            eventually(self.afterwards, 3)
        # What was broken off in the middle of a stop is completed as a user would.
        for project in SERVICES:
            if self.up[project]:
                ran = self.compose(project, "up", "-d", *self.scaled(project))
                if ran.code:
                    self.violation("up fails after a disturbance", f"{name}: {ran!r}")
                    self.compose(project, "down", "-t", "2")
                    self.compose(project, "up", "-d", *self.scaled(project))
        self.compare(name)

    # --- the comparison

    def wrong_states(self):
        listed = self.lab.containers()
        wanted = {name for p in SERVICES if self.up[p] for name in self.names(p)}
        known = {c["Names"][0][1:]: c for c in listed}
        if len(listed) != len(known):
            return f"a name twice: {sorted((c['Names'][0], c['State'], c['Id'][:12]) for c in listed)}"
        if set(known) != wanted:
            return f"too many: {sorted(set(known) - wanted)}, missing: {sorted(wanted - set(known))}"
        for name, container in known.items():
            service = name.split("-")[1]
            state = self.lab.inspect(container["Id"])["State"]
            if service in ENDS:
                # Its monitor may have been the one that was killed, before its program ran or later.
                allowed = (ENDS[service], 137, 128) if container["Id"] in self.orphaned else (ENDS[service],)
                if state["Status"] == "exited" and state["ExitCode"] not in allowed:
                    return f"{name} exited with {state['ExitCode']}, not {ENDS[service]}: {state}"
                if state["Status"] not in ("running", "exited", "restarting"):
                    return f"{name} is {state}"
            elif state["Status"] != "running":
                return f"{name} is {state}"
            elif not is_alive(state["Pid"]) or container["Id"] not in open(f"/proc/{state['Pid']}/cgroup").read():
                return f"{name}: process {state['Pid']} is not one of it"
            if state["Status"] == "running":
                self.lab.spaces_seen |= {readlink(f"/proc/{state['Pid']}/ns/net")} - {""}
                if service == "db" and (state.get("Health") or {}).get("Status") != "healthy":
                    return f"{name} is {state.get('Health')}"
        return None

    def wrong_ports(self):
        for project, service, port in (("ka", "web", "8080/tcp"), ("ka", "api", "8080/tcp"), ("kc", "side", "9000/tcp")):
            for n in range(1, self.scale[project].get(service, 1) + 1) if self.up[project] else ():
                name = f"{project}-{service}-{n}"
                found = self.lab.inspect(name)
                bound = (found["NetworkSettings"]["Ports"].get(port) or [None])[0] if found else None
                if not bound:
                    return f"{name} has no port"
                try:
                    with socket.create_connection(("127.0.0.1", int(bound["HostPort"])), 2) as connection:
                        connection.settimeout(2)
                        text = connection.recv(200).decode()
                except OSError as error:
                    return f"{name} at {bound}: {error}"
                if text != f"{service} {found['Config']['Hostname']}\n":
                    return f"{name} at {bound} says {text!r}, is {found['Config']['Hostname']}"
        return None

    def wrong_names(self):
        for project, asker, service in (("ka", "ka-cache-1", "web"), ("kb", "kb-burst-1", "worker"), ("kc", "kc-quiet-1", "side")):
            if not self.up[project]:
                continue
            pid = self.lab.inspect(asker)["State"]["Pid"]
            network = f"{project}_back" if project == "ka" else f"{project}_default"
            wanted = {self.lab.inspect(f"{project}-{service}-{n}")["NetworkSettings"]["Networks"][network]["IPAddress"]
                      for n in range(1, self.scale[project][service] + 1)}
            ran = subprocess.run(["nsenter", "-n", "-t", str(pid), "busybox", "nslookup", "-type=a", service, "127.0.0.11"],
                                 capture_output=True, text=True, timeout=20)
            found = set(re.findall(r"Address: (\d+\.\d+\.\d+\.\d+)$", ran.stdout, re.M)) - {"127.0.0.11"}
            if found != wanted:
                return f"{service} for {asker} is {found}, not {wanted}: {ran.stdout[-200:]} {ran.stderr[-100:]}"
        return None

    def wrong_machine(self):
        known = {c["Id"]: c for c in self.lab.containers()}
        for where in (f"{self.lab.data}/containers", f"{self.lab.run}/containers"):
            strays = [p for p in below(where) if os.path.basename(p) not in known]
            if strays:
                return f"directories that belong to no container: {strays}"
        alive = {i for i, c in known.items() if c["State"] in ("running", "paused")}
        for container, pids in self.lab.monitors().items():
            if container not in alive or len(pids) > 1:
                return f"monitors {pids} of {container[:12]}, which is {known.get(container, {}).get('State')}"
        engines = self.lab.engine_processes()
        if len(engines) != 1:
            return f"engines: {engines}"
        ends = {f"wh{i[:8]}" for i in alive}
        strays = [n for n in os.listdir("/sys/class/net") if n[:10] in {f"wh{i[:8]}" for i in self.lab.ids_seen} - ends]
        return f"interfaces that belong to no container: {strays}" if strays else None

    def wrong_logs(self):
        for container in self.lab.containers():
            name, path = container["Names"][0][1:], f"{self.lab.data}/containers/{container['Id']}/log"
            if not os.path.exists(path):
                continue
            wrong, at = check_numbers(log_lines(path), whole="rotated" not in name)
            self.checked["log lines"] += (at[1] or 0) + 1
            if container["Id"] in self.orphaned:
                # Also the first line of a run, by which it is known.
                wrong = [w for w in wrong if " wrote line " not in w and not re.fullmatch(r"run \d+ follows run \d+", w)]
            if wrong:
                return f"{name}: {wrong[:4]} ({len(wrong)} in all) {path}"
        return None

    def compare(self, after):
        checks = {"containers and states": self.wrong_states, "published ports": self.wrong_ports, "names": self.wrong_names, "machine": self.wrong_machine}
        if self.rounds % 3 == 0:
            checks["logs"] = self.wrong_logs
        for kind, check in checks.items():
            def guarded():
                try:
                    return check()
                except (TypeError, KeyError, FileNotFoundError) as error:
                    # A container that is just being replaced by its policy.
                    return f"{type(error).__name__} {error}"
            complaint = eventually(guarded, 12, 0.03)
            self.checked[kind] += 1
            if complaint:
                self.violation(kind, f"after {after}: {complaint}")
                self.repair()

    def repair(self):
        """So that one fault is counted once."""
        for container in self.lab.containers():
            self.lab("container", "rm", "-f", container["Id"])
        for project in SERVICES:
            if self.up[project]:
                self.compose(project, "up", "-d", *self.scaled(project))

    def main(self):
        lab = self.lab
        lab.fresh()
        for project in SERVICES:
            lab.ok("-f", self.files[project], "up", "-d", *self.scaled(project))
            self.up[project] = True
        until, first = time.time() + self.options["minutes"] * 60, None
        while time.time() < until and self.disturbances["SIGKILL of the engine"] < self.options["kills"]:
            try:
                self.round()
            except Exception:
                self.violation("the harness", traceback.format_exc()[-900:])
                if lab.wait_back(10) is None:
                    lab("container", "ls")
        usage = lab.usage()
        for project in SERVICES:
            ran = self.compose(project, "down", "-v", "-t", "2")
            if ran.code:
                self.violation("the last down", repr(ran))
        lab("network", "rm", "kx")
        lab("volume", "prune", "-a", "-f")
        rest = lab.states()
        if rest:
            self.violation("containers after down", rest)
        try:
            lab.ends_clean()
        except Violation as violation:
            self.violation("leak", violation)
        back = sorted(self.back)
        at = lambda share: f"{back[int(share * (len(back) - 1))] * 1000:.0f}" if back else "-"
        print(f"churn: {self.rounds} rounds, seed {self.options['seed']}; {dict(self.disturbances)}; engine back without a command {len(back)} times, "
              f"ms: median {at(0.5)}, most {at(1)}; at the end {usage}; checked {dict(self.checked)}; {len(self.violations)} violations {dict(collections.Counter(self.violations))}")
        return 1 if self.violations else 0


if __name__ == "__main__":
    sys.exit(Churn(options_of(sys.argv[1:], minutes=5.0, seed=1, kills=1_000_000, port=24100)).main())
