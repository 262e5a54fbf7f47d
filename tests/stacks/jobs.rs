//! Jobs: on demand, by a schedule (the engine's clock is put forward), and over the engine's death.

use crate::durability::SmallDisk;
use crate::support::{Stack, Terminal, eventually, sleeping};
use serde_json::Value;
use std::process::{Child, Stdio};

/// The registered jobs, by their names.
fn jobs(stack: &Stack) -> Vec<Value> {
    let text = stack.wharf(&["job", "ls", "--format", "json"]).ok();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The states of a job's runs, the newest first, each with its exit code and what has started it.
fn runs(stack: &Stack, job: &str) -> Vec<String> {
    let text = stack.wharf(&["job", "runs", job, "--format", "{{.Iteration}} {{.State}} {{.ExitCode}} {{.Trigger}}"]);
    text.stdout.lines().map(str::to_string).collect()
}

fn job(stack: &Stack, job: &str, field: &str) -> Value {
    let text = stack.wharf(&["job", "inspect", job]).ok();
    serde_json::from_str::<Value>(&text).expect("JSON")[0][field].clone()
}

fn kill_engine(stack: &Stack) {
    let Some(pid) = stack.engine_pid() else { return };
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    eventually("the engine is dead", 5, || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    });
}

/// How many containers of runs there are.
fn containers(stack: &Stack) -> usize {
    stack.wharf(&["container", "ls", "-aq", "--filter", "label=com.docker.job.run-id"]).ok().lines().count()
}

fn run_job(stack: &Stack, name: &str) -> Child {
    stack.command(&["run", name]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("wharf")
}

const IMAGE: &str = "image: 'busybox:local', stop_signal: SIGKILL";

#[test]
fn a_job_is_run_on_demand() {
    let stack = Stack::new("none");
    stack.write(
        "compose.yaml",
        &format!(
            "services:
  db: {{{}, healthcheck: {{test: test -e /ready || touch /ready, interval: 100ms}}}}
jobs:
  migrate: {{{IMAGE}, command: 'sh -c \"echo migrated $$VALUE; cat /run/secrets/word; echo aside >&2\"', environment: {{VALUE: '7'}},
    secrets: [word], depends_on: {{db: {{condition: service_healthy}}}}, triggers: {{manual: true}}}}
  report: {{{IMAGE}, command: 'sh -c \"echo no table; exit 3\"', triggers: {{manual: true}}}}
  after: {{{IMAGE}, command: echo after, depends_on: [migrate], triggers: {{manual: true}}}}
  bad: {{{IMAGE}, command: echo never, depends_on: [report], triggers: {{manual: true}}}}
  locked: {{{IMAGE}, command: echo never, triggers: {{manual: false}}}}
  behind: {{{IMAGE}, command: echo never, depends_on: [locked], triggers: {{manual: true}}}}
  absent: {{image: '127.0.0.1:1/absent', triggers: {{manual: true}}}}
  program: {{{IMAGE}, command: /no/such/program, triggers: {{manual: true}}}}
  slow: {{{IMAGE}, command: sleep 1000, x-timeout: 300ms, triggers: {{manual: true}}}}
  long: {{{IMAGE}, command: 'sh -c \"echo begun; sleep 1000\"', triggers: {{manual: true}}}}
secrets: {{word: {{environment: WORD}}}}
",
            sleeping("")
        ),
    );
    stack.write(".env", "WORD=hidden\n");
    let up = stack.wharf(&["up", "-d"]);
    assert!(up.code == 0 && up.stderr.contains("`wharf run JOB` does") && up.stderr.contains("migrate"), "{}", up.stderr);
    assert!(jobs(&stack).is_empty(), "`up` registers no job without a schedule");
    stack.wharf(&["stop", "db"]).ok();

    // Dependencies are started, the output is streamed, the container goes and its log stays.
    let ran = stack.wharf(&["run", "migrate"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "migrated 7\nhidden"), "{}", ran.stderr);
    assert!(ran.stderr.contains("aside"), "{}", ran.stderr);
    assert_eq!(stack.state("db"), "running");
    let name = |job: &str| format!("{}.{job}", stack.project);
    assert_eq!(runs(&stack, &name("migrate")), ["1 succeeded 0 manual"]);
    eventually("the container is removed", 5, || containers(&stack) == 0);
    assert_eq!(stack.wharf(&["job", "logs", "migrate"]).ok(), "migrated 7\nhidden");
    assert!(!std::fs::read_to_string(stack.data_root().join("state.journal")).expect("journal").contains("hidden"));

    // What has failed stays, and so does its exit code.
    stack.wharf(&["run", "report"]).fails(3, &[]);
    assert_eq!((runs(&stack, &name("report")), containers(&stack)), (vec!["1 failed 3 manual".to_string()], 1));
    assert_eq!(stack.wharf(&["job", "logs", &name("report")]).ok(), "no table\n");
    stack.wharf(&["job", "wait", "report"]).fails(3, &[]);
    let table = stack.wharf(&["job", "ls"]).ok();
    assert!(table.starts_with("NAME") && table.contains("LAST RUN") && table.contains("failed ("), "{table}");
    assert_eq!(stack.wharf(&["ps", "-q"]).ok().lines().count(), 1);

    // Jobs come before jobs, each with a record; what fails before is what the run fails for.
    assert_eq!(stack.wharf(&["run", "-q", "after"]).ok(), "after\n");
    assert_eq!(runs(&stack, &name("migrate")), ["2 succeeded 0 dependency", "1 succeeded 0 manual"]);
    stack.wharf(&["run", "bad"]).fails(1, &["the job `report`, which comes before, has failed (3)"]);
    assert_eq!(runs(&stack, &name("bad")), ["1 failed - manual"]);
    stack.wharf(&["run", "behind"]).fails(1, &["`locked` has `manual: false`"]);
    stack.wharf(&["run", "locked"]).fails(1, &["`triggers.manual: false`"]);
    stack.wharf(&["run", "absent"]).fails(1, &["127.0.0.1:1"]);
    assert!(job(&stack, "absent", "LastRun")["Error"].as_str().is_some_and(|why| why.contains("127.0.0.1:1")));
    stack.wharf(&["run", "program"]).fails(1, &["/no/such/program"]);
    stack.wharf(&["run", "slow"]).fails(124, &[]);
    assert!(runs(&stack, &name("slow"))[0].starts_with("1 timed_out "), "{:?}", runs(&stack, &name("slow")));

    // Twice at once, and cancelled; a job is what the file says.
    let first = run_job(&stack, "long");
    eventually("it runs", 10, || runs(&stack, "long") == ["1 running - manual"]);
    stack.wharf(&["run", "long"]).fails(1, &["the run 1 of the job", "wharf job cancel"]);
    stack.wharf(&["job", "run", "long"]).fails(1, &["the run 1 of the job"]);
    assert_eq!(job(&stack, "long", "State"), "running");
    stack.wharf(&["job", "cancel", "long"]).ok();
    let ended = first.wait_with_output().expect("its end");
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(130), &b"begun\n"[..]), "{ended:?}");
    assert!(runs(&stack, "long")[0].starts_with("1 cancelled "));
    stack.wharf(&["job", "cancel", "long"]).fails(1, &["no run of the job"]);
    for (command, words) in [
        (&["run", "report", "ls"][..], "runs as the file has it: a command"),
        (&["run", "-e", "A=1", "report"], "--env"),
        (&["up", "-d", "report"], "`wharf run report`"),
        (&["start", "report"], "`wharf run report`"),
        (&["logs", "report"], "`wharf run report`"),
        (&["job", "run", "nobody"], "there is no job `nobody`"),
        (&["job", "pause", "report"], "has no schedule"),
        (&["job", "logs", "bad"], "no logs available"),
        (&["job", "inspect", "report", "--run", "9"], "no run `9`"),
    ] {
        stack.wharf(command).fails(1, &[words]);
    }

    // Only the last finished runs are kept, and their containers.
    for _ in 0..6 {
        stack.wharf(&["run", "report"]).fails(3, &[]);
    }
    assert_eq!(runs(&stack, "report").len(), 5, "{:?}", runs(&stack, "report"));
    let limited = stack.wharf(&["job", "runs", "report", "--limit", "1", "--before", "6", "--format", "{{.Iteration}}"]).ok();
    assert_eq!(limited, "5\n");
    let of_report = |stack: &Stack| {
        let id = format!("label=com.docker.job.id={}", job(stack, "report", "ID").as_str().expect("id"));
        stack.wharf(&["container", "ls", "-aq", "--filter", &id]).ok().lines().count()
    };
    assert_eq!(of_report(&stack), 5);

    // Removal with and without the past; prune; nothing is left by `down`.
    stack.wharf(&["job", "rm", "slow"]).ok();
    assert!(runs(&stack, &name("slow"))[0].contains("timed_out"), "its runs are kept");
    stack.wharf(&["job", "rm", "--runs", "remove", "report"]).ok();
    assert!(runs(&stack, &name("report")).is_empty() && !jobs(&stack).iter().any(|job| job["Job"] == "report"));
    let pruned = stack.wharf(&["job", "prune", "-f", "--label", "com.docker.compose.project=other"]).ok();
    assert_eq!(pruned, "");
    assert!(stack.wharf(&["job", "prune", "-f"]).ok().contains(&name("migrate")));
    assert!(jobs(&stack).is_empty());
    let last = run_job(&stack, "long");
    eventually("it runs", 10, || runs(&stack, "long").first().is_some_and(|run| run.contains("running")));
    stack.wharf(&["down", "-t", "1"]).ok();
    assert_ne!(last.wait_with_output().expect("its end").status.code(), Some(0));
    assert_eq!((containers(&stack), jobs(&stack).len()), (0, 0));
    assert!(runs(&stack, &name("slow")).is_empty() && runs(&stack, &name("long")).is_empty());
}

/// Writes the engine's clock: whoever reads it meanwhile has the time before or the time after.
fn put_forward(stack: &Stack, seconds: i64) {
    stack.write("clock.new", &seconds.to_string());
    std::fs::rename(stack.path("clock.new"), stack.path("clock")).expect("renamed");
}

/// An engine in the foreground whose clock a test puts forward.
struct Clock<'a> {
    stack: &'a Stack,
    /// What puts the real time half past an hour: no fire of an hour is just over.
    half_past: i64,
    engine: Option<Child>,
}

impl<'a> Clock<'a> {
    fn start(stack: &'a Stack) -> Self {
        stack.wharf(&["engine", "stop"]).ok();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("time").as_secs() as i64;
        let half_past = (1800 - now % 3600).rem_euclid(3600);
        if !stack.path("clock").exists() {
            put_forward(stack, half_past);
        }
        let mut clock = Clock { stack, half_past, engine: None };
        clock.engine();
        clock
    }

    /// Starts the engine of this clock, in the place of one that a monitor has started meanwhile, which has another clock.
    fn engine(&mut self) {
        eventually("the engine answers", 20, || {
            let ended = self.engine.as_mut().is_none_or(|engine| engine.try_wait().expect("engine").is_some());
            if ended {
                let mut command = self.stack.command(&["engine", "--replace"]);
                command.env("TEST_CLOCK", self.stack.path("clock"));
                self.engine = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("engine"));
            }
            self.stack.api("GET", "/_ping", None).0 == 200 && self.stack.engine_pid().is_none()
        });
    }

    /// Kills the engine, at a time when the clock is so many seconds from where it was at first, and has another one go on.
    fn kill_at(&mut self, seconds: i64) {
        put_forward(self.stack, self.half_past + seconds);
        // A monitor may have started another in the meantime of an earlier one.
        kill_engine(self.stack);
        if let Some(mut engine) = self.engine.take() {
            let _ = engine.kill();
            let _ = engine.wait();
        }
        self.engine();
    }

    /// Puts the clock so many seconds from where it was at first, and has the engine look at it.
    fn set(&self, seconds: i64) {
        put_forward(self.stack, self.half_past + seconds);
        // On a full disk it stays what it is; the clock is looked at all the same.
        let looked = ["pause", "resume"].map(|word| self.stack.wharf(&["job", word, "bell"]).code == 0);
        assert!(looked.contains(&true));
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        if let Some(mut engine) = self.engine.take() {
            self.stack.wharf(&["down", "-t", "1"]);
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine.id() as i32), nix::sys::signal::Signal::SIGTERM);
            let _ = engine.wait();
        }
    }
}

#[test]
fn schedules_fire_and_what_was_missed_is_as_they_say() {
    let stack = Stack::new("none");
    let hour = 3600;
    // `bell` is due in years: it is paused and resumed to have the engine look at its clock.
    let write = |tick: &str, more: &str| {
        stack.write(
            "compose.yaml",
            &format!(
                "services:
  db: {{{}}}
jobs:
  bell: {{{IMAGE}, command: 'true', triggers: {{schedule: ['0 0 29 2 *']}}}}
  tick: {{{IMAGE}, command: {tick}, configs: [text], depends_on: [db], triggers: {{schedule: [{{cron: '0 * * * *'}}]}}}}
  skip: {{{IMAGE}, command: 'true', triggers: {{schedule: [{{cron: '0 * * * *', missed_fires: skip}}]}}}}
  line: {{{IMAGE}, command: sleep 1000, triggers: {{schedule: [{{cron: '0 * * * *', concurrency: queue}}]}}}}
{more}configs: {{text: {{content: 'inline'}}}}
",
                sleeping("")
            ),
        );
    };
    write("cat /text", "  other: {image: 'busybox:local', command: 'true', triggers: {schedule: '@yearly'}}\n");
    let mut clock = Clock::start(&stack);
    let plan = stack.wharf(&["plan"]).ok();
    assert!(plan.contains("register job tick (0 * * * *): not registered"), "{plan}");
    stack.wharf(&["up", "-d", "--no-start"]).ok();
    assert_eq!(jobs(&stack).len(), 5);
    assert!(stack.wharf(&["plan"]).ok().contains("start container"), "nothing else");
    assert!(!stack.wharf(&["plan"]).ok().contains("register"));
    let next = job(&stack, "tick", "NextFire");
    assert!(next.as_str().is_some_and(|next| next.contains(":00:00Z")), "{next}");

    // Due: the dependency is started, the run has the content of the file, and the next fire is an hour later.
    clock.set(hour);
    eventually("it has run", 10, || runs(&stack, "tick") == ["1 succeeded 0 schedule"]);
    assert_eq!(stack.wharf(&["job", "logs", "tick"]).ok(), "inline");
    assert_eq!(stack.state("db"), "running");
    assert_eq!(runs(&stack, "skip").len(), 0, "an hour is more than late");
    eventually("the other runs", 10, || runs(&stack, "line") == ["1 running - schedule"]);
    // Once, however often the clock is looked at, and when it is set back a little.
    clock.set(hour);
    clock.set(hour - 600);
    assert_eq!(runs(&stack, "tick").len(), 1);

    // During a run: one waits, and no more than one.
    clock.set(2 * hour);
    eventually("one waits", 10, || runs(&stack, "line") == ["2 pending - schedule", "1 running - schedule"]);
    eventually("tick has run", 10, || runs(&stack, "tick")[0] == "2 succeeded 0 schedule");
    clock.set(3 * hour);
    eventually("tick has run", 10, || runs(&stack, "tick")[0] == "3 succeeded 0 schedule");
    assert_eq!(runs(&stack, "line").len(), 2);
    stack.wharf(&["job", "run", "line"]).fails(1, &["no more than one waits"]);
    stack.wharf(&["job", "cancel", "line"]).ok();
    eventually("the next runs", 10, || runs(&stack, "line")[0] == "2 running - schedule");

    // Paused, nothing is due; resumed, nothing was missed. A manual run is one more, or stands for the next.
    stack.wharf(&["job", "pause", "tick"]).ok();
    assert!(job(&stack, "tick", "NextFire").is_null() && job(&stack, "tick", "Paused") == true);
    clock.set(5 * hour);
    stack.wharf(&["job", "resume", "tick"]).ok();
    clock.set(5 * hour);
    assert_eq!(runs(&stack, "tick").len(), 3);
    stack.wharf(&["job", "run", "--reschedule", "tick"]).ok();
    eventually("it has run", 10, || runs(&stack, "tick")[0] == "4 succeeded 0 manual");
    clock.set(6 * hour);
    clock.set(6 * hour);
    assert_eq!(runs(&stack, "tick").len(), 4, "the manual run stood for it");

    // `up` again changes nothing; a changed job is registered anew, one that is gone no longer.
    write("cat /text", "  other: {image: 'busybox:local', command: 'true', triggers: {schedule: '@yearly'}}\n");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(runs(&stack, "tick").len(), 4);
    write("echo changed", "");
    let plan = stack.wharf(&["plan"]).ok();
    assert!(
        plan.contains("register job tick (0 * * * *): its definition has changed")
            && plan.contains("deregister job other: the project has no such job"),
        "{plan}"
    );
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(jobs(&stack).len(), 4);
    clock.set(7 * hour);
    eventually("it runs as it is now", 10, || stack.wharf(&["job", "logs", "tick"]).stdout == "changed\n");

    // The engine is down for three fires: one makes up for them, or none.
    clock.kill_at(10 * hour);
    eventually("one makes up for them", 10, || runs(&stack, "tick")[0].starts_with("6 succeeded"));
    assert!(runs(&stack, "skip").is_empty(), "{:?}", runs(&stack, "skip"));
    // It dies at the moment of a fire: there is one run, whether or not it was noted by then.
    for n in 11..14 {
        put_forward(&stack, clock.half_past + n * hour);
        std::thread::scope(|scope| {
            scope.spawn(|| stack.api("POST", "/jobs/bell/pause", None));
            scope.spawn(|| kill_engine(&stack));
        });
        clock.kill_at(n * hour);
        let expected = format!("{} succeeded 0 schedule", n - 4);
        eventually("it has run once", 10, || runs(&stack, "tick")[0] == expected);
    }

    // It ends what runs, and what waits does not begin.
    eventually("one runs and one waits", 10, || {
        let of_line = runs(&stack, "line");
        of_line[0].contains("pending") && of_line[1].contains("running")
    });
    stack.wharf(&["down", "-t", "1"]).ok();
    assert_eq!((jobs(&stack).len(), containers(&stack)), (0, 0));
    drop(clock);
}

#[test]
fn a_killed_engine_goes_on_with_its_runs() {
    let stack = Stack::new("none");
    stack.write(
        "compose.yaml",
        &format!(
            "services:
  db: {{{}, healthcheck: {{test: test -e /host/ready, interval: 100ms, retries: 1000}}, volumes: ['.:/host']}}
jobs:
  long: {{{IMAGE}, command: 'sh -c \"while ! test -e /host/end; do sleep 0.05; done; exit 4\"', volumes: ['.:/host'], triggers: {{manual: true}}}}
  turns: {{{IMAGE}, command: 'sh -c \"while ! test -e /host/go; do sleep 0.05; done; echo done\"', volumes: ['.:/host'],
    triggers: {{schedule: [{{cron: '0 0 29 2 *', concurrency: queue}}]}}}}
  waits: {{{IMAGE}, command: echo ready, depends_on: {{db: {{condition: service_healthy}}}}, triggers: {{manual: true}}}}
",
            sleeping("")
        ),
    );
    let kill = || kill_engine(&stack);
    // Two clients at once: the second one's run begins when the first has ended, and there is no third.
    let first = run_job(&stack, "turns");
    eventually("it runs", 10, || runs(&stack, "turns") == ["1 running - manual"]);
    let second = run_job(&stack, "turns");
    eventually("it waits", 10, || runs(&stack, "turns").len() == 2);
    stack.wharf(&["run", "turns"]).fails(1, &["no more than one waits"]);
    stack.write("go", "");
    for (client, words) in [(first, ""), (second, "the run 1 of the job")] {
        let ended = client.wait_with_output().expect("its end");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success() && ended.stdout == b"done\n" && said.contains(words), "{ended:?}");
    }
    // While the process runs: it goes on, and the next engine has its end.
    let id = stack.wharf(&["run", "-d", "long"]).ok();
    assert_eq!(id.trim().len(), 12, "{id}");
    eventually("it runs", 10, || runs(&stack, "long") == ["1 running - manual"]);
    kill();
    assert_eq!(runs(&stack, "long"), ["1 running - manual"]);
    kill();
    stack.write("end", "");
    eventually("its end is known", 10, || runs(&stack, "long") == ["1 failed 4 manual"]);

    // Between the record and the container: a run that nobody stays with goes on, a client's is given up.
    let client = run_job(&stack, "waits");
    eventually("it waits", 10, || runs(&stack, "waits") == ["1 pending - manual"]);
    kill();
    eventually("it is given up", 10, || runs(&stack, "waits") == ["1 failed - manual"]);
    assert_ne!(client.wait_with_output().expect("its end").status.code(), Some(0));
    let ran = stack.command(&["job", "run", "waits"]).output().expect("wharf");
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(runs(&stack, "waits")[0], "2 pending - manual");
    kill();
    assert_eq!(runs(&stack, "waits")[0], "2 pending - manual");
    stack.write("ready", "");
    eventually("it has run, once", 15, || runs(&stack, "waits")[0] == "2 succeeded 0 manual");
    assert_eq!(stack.wharf(&["job", "logs", "waits"]).ok(), "ready\n");

    // Cancelled while it waits, and taken down while it waits.
    std::fs::remove_file(stack.path("ready")).expect("file");
    stack.wharf(&["rm", "-sf", "db"]).ok();
    stack.wharf(&["job", "run", "waits"]).ok();
    stack.wharf(&["job", "cancel", "waits"]).ok();
    eventually("it is cancelled", 10, || runs(&stack, "waits")[0] == "3 cancelled - manual");
    stack.wharf(&["job", "run", "waits"]).ok();
    stack.wharf(&["down", "-t", "1"]).ok();
    assert_eq!((jobs(&stack).len(), containers(&stack)), (0, 0));
}

#[test]
fn a_full_disk_is_said_and_breaks_nothing() {
    let disk = SmallDisk::new("24m");
    let stack = &disk.stack;
    let write = |words: &str| {
        stack.write(
            "compose.yaml",
            &format!(
                "jobs:
  bell: {{{IMAGE}, command: 'true', network_mode: none, triggers: {{schedule: ['0 0 29 2 *']}}}}
  tick: {{{IMAGE}, command: echo {words}, network_mode: none, triggers: {{schedule: ['0 * * * *']}}}}
"
            ),
        );
    };
    write("one");
    let clock = Clock::start(stack);
    stack.wharf(&["up", "-d"]).ok();
    // A run has a record, which says what has kept it from having a container.
    disk.fill();
    clock.set(3600);
    eventually("it has failed", 10, || runs(stack, "tick") == ["1 failed - schedule"]);
    assert!(job(stack, "tick", "LastRun")["Error"].as_str().is_some_and(|why| why.contains("No space left on device")));
    assert_eq!(containers(stack), 0);
    // What the journal keeps for ends is not for definitions: a job that cannot be registered stays what it was.
    let writes = ["resume", "pause"].into_iter().cycle().take(200);
    let refused = writes.map(|word| stack.wharf(&["job", word, "bell"])).find(|said| said.code != 0);
    refused.expect("a full journal").fails(1, &["No space left on device"]);
    write("two");
    stack.wharf(&["up", "-d"]).fails(1, &["No space left on device"]);
    disk.free();
    clock.set(2 * 3600);
    eventually("it has run", 10, || runs(stack, "tick")[0] == "2 succeeded 0 schedule");
    assert_eq!(stack.wharf(&["job", "logs", "tick"]).ok(), "one\n");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.wharf(&["run", "tick"]).ok(), "two\n");
}

/// An engine that another one replaces leaves a run alone, and the next one learns of its end.
#[test]
fn a_run_goes_on_through_a_replaced_engine() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        &format!(
            "services: {{held: {{{IMAGE}, command: sleep 1000, network_mode: none}}}}
jobs:
  long: {{{IMAGE}, command: [sh, -c, 'echo begun; until [ -e /go ]; do sleep 0.05; done; echo ended; exit 3'], network_mode: none, triggers: {{manual: true}}}}
"
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    let client = run_job(&stack, "long");
    eventually("it runs", 10, || runs(&stack, "long") == ["1 running - manual"]);
    eventually("it writes", 10, || stack.wharf(&["job", "logs", "long"]).stdout == "begun\n");
    let before = stack.engine_pid().expect("engine");
    let mut next = stack.command(&["engine", "--replace"]);
    let mut next = next.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("an engine");
    eventually("it is replaced", 20, || stack.engine_pid() != Some(before));
    eventually("it is known", 10, || runs(&stack, "long") == ["1 running - manual"]);
    let id = stack.wharf(&["container", "ls", "-q", "--filter", "name=long"]).ok();
    stack.wharf(&["container", "exec", id.trim(), "touch", "/go"]).ok();
    let output = client.wait_with_output().expect("wharf");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(3), "begun\nended\n"));
    eventually("its end is known", 10, || runs(&stack, "long") == ["1 failed 3 manual"]);
    stack.wharf(&["down", "-t", "0"]).ok();
    stack.wharf(&["engine", "stop"]).ok();
    next.wait().expect("its end");
}

/// What a run waits for may never come: nobody waits for the run, and it has an end.
#[test]
fn a_run_that_waits_holds_up_nobody() {
    let stack = Stack::new("nothing");
    let gate = "until [ -e /go ]; do sleep 0.05; done";
    let on_gate = "depends_on: {gate: {condition: service_completed_successfully}}, network_mode: none";
    let write = |version: u32| {
        stack.write(
            "compose.yaml",
            &format!(
                "services:
  gate: {{{IMAGE}, command: [sh, -c, '{gate}'], network_mode: none, environment: [V={version}]}}
  web: {{{IMAGE}, command: sleep 1000, network_mode: none}}
jobs:
  waits: {{{IMAGE}, command: echo passed, {on_gate}, triggers: {{schedule: '0 0 29 2 *'}}}}
  bounded: {{{IMAGE}, command: 'true', {on_gate}, x-timeout: 1s, triggers: {{schedule: '0 0 29 2 *'}}}}
  quick: {{{IMAGE}, command: echo quick, network_mode: none, triggers: {{schedule: '0 0 29 2 *'}}}}
"
            ),
        );
    };
    write(1);
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["job", "run", "waits"]).ok();
    eventually("it waits", 10, || runs(&stack, "waits") == ["1 pending - manual"]);
    assert_eq!(stack.wharf(&["run", "quick"]).ok(), "quick\n");
    stack.wharf(&["restart", "-t", "0", "web"]).ok();
    stack.wharf(&["stop", "-t", "0", "web"]).ok();
    // The container that it waits for is replaced.
    write(2);
    stack.wharf(&["up", "-d", "-t", "0"]).ok();
    assert_eq!(runs(&stack, "waits"), ["1 pending - manual"]);
    stack.wharf(&["job", "run", "bounded"]).ok();
    eventually("its time is over", 10, || runs(&stack, "bounded") == ["1 timed_out - manual"]);
    stack.wharf(&["exec", "-T", "gate", "touch", "/go"]).ok();
    eventually("it has run", 10, || runs(&stack, "waits") == ["1 succeeded 0 manual"]);
    assert_eq!(stack.wharf(&["job", "logs", "waits"]).ok(), "passed\n");

    // One whose dependency ends otherwise fails.
    write(3);
    stack.wharf(&["up", "-d", "-t", "0"]).ok();
    stack.wharf(&["job", "run", "waits"]).ok();
    eventually("it waits", 10, || runs(&stack, "waits")[0] == "2 pending - manual");
    stack.wharf(&["kill", "gate"]).ok();
    eventually("it has failed", 10, || runs(&stack, "waits")[0] == "2 failed - manual");
    let why = job(&stack, "waits", "LastRun")["Error"].as_str().unwrap_or_default().to_string();
    assert!(why.contains("\"gate\" didn't complete successfully"), "{why}");
}

/// A signal ends a run that waits for what may never come, and the run with it.
#[test]
fn a_signal_ends_a_run_that_waits() {
    let stack = Stack::new("nothing");
    let check = "healthcheck: {test: [CMD, 'false'], interval: 100ms, retries: 100000}";
    stack.write(
        "compose.yaml",
        &format!(
            "services: {{sick: {{{}}}}}\njobs: {{dep: {{image: 'busybox:local', command: echo, \
             depends_on: {{sick: {{condition: service_healthy}}}}, triggers: {{manual: true}}}}}}\n",
            sleeping(check)
        ),
    );
    let mut run = Terminal::start(&mut stack.command(&["run", "dep"]), 24, 100);
    run.expect("Waiting", 20);
    run.send("\x03");
    assert_eq!(run.wait(10), Some(130), "{}", run.shown());
    eventually("the run is cancelled", 10, || runs(&stack, "dep") == ["1 cancelled - manual"]);
    stack.wharf(&["down"]).ok();
}

/// A file of before the job was written ends no run that goes on.
#[test]
fn a_run_outlives_its_job() {
    let stack = Stack::new("nothing");
    let web = format!("services: {{web: {{{}}}}}\n", sleeping(""));
    let script = "while ! test -e /shared/end; do sleep 0.05; done";
    let backup = format!(
        "jobs: {{backup: {{{IMAGE}, command: [sh, -c, '{script}'], volumes: ['.:/shared'], triggers: {{schedule: '0 0 1 1 *'}}}}}}\n"
    );
    stack.write("compose.yaml", &format!("{web}{backup}"));
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["job", "run", "backup"]).ok();
    eventually("it runs", 10, || runs(&stack, "backup") == ["1 running - manual"]);
    stack.write("compose.yaml", &web);
    stack.wharf(&["up", "-d"]).ok();
    assert!(jobs(&stack).is_empty());
    let full = format!("{}.backup", stack.project);
    assert_eq!(runs(&stack, &full), ["1 running - manual"]);
    kill_engine(&stack);
    stack.write("end", "");
    eventually("it has come to its end", 20, || runs(&stack, &full) == ["1 succeeded 0 manual"]);
    stack.wharf(&["down"]).ok();
}

#[test]
fn down_ends_a_run_within_its_time() {
    let stack = Stack::new("nothing");
    let deaf = "trap : TERM; echo begun; while :; do sleep 0.05; done";
    let image = "image: 'busybox:local', stop_grace_period: 10m, network_mode: none";
    stack.write(
        "compose.yaml",
        &format!("jobs: {{deaf: {{{image}, command: [sh, -c, '{deaf}'], triggers: {{schedule: '0 0 29 2 *'}}}}}}\n"),
    );
    for asked_before in [false, true] {
        stack.wharf(&["up", "-d"]).ok();
        stack.wharf(&["job", "run", "deaf"]).ok();
        eventually("it writes", 10, || stack.wharf(&["job", "logs", "deaf"]).stdout == "begun\n");
        if asked_before {
            stack.wharf(&["job", "cancel", "deaf"]).ok();
        }
        let begun = std::time::Instant::now();
        stack.wharf(&["down", "-t", "1"]).ok();
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!((jobs(&stack).len(), containers(&stack)), (0, 0));
    }
}

/// The clock was three years ahead, and is set right: what is scheduled goes on.
#[test]
fn a_clock_that_was_ahead_stops_no_schedule() {
    const HOUR: i64 = 3600;
    let stack = Stack::new("nothing");
    let every = "network_mode: none, command: 'true', triggers: {schedule: [{cron: '0 * * * *'";
    stack.write(
        "compose.yaml",
        &format!("jobs:\n  bell: {{{IMAGE}, {every}}}]}}}}\n  skip: {{{IMAGE}, {every}, missed_fires: skip}}]}}}}\n"),
    );
    // Two seconds before an hour.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("time").as_secs() as i64;
    let before_hour = HOUR - now % HOUR - 2;
    put_forward(&stack, 3 * 365 * 24 * HOUR);
    let clock = Clock::start(&stack);
    stack.wharf(&["up", "-d"]).ok();
    clock.set(before_hour - clock.half_past);
    for name in ["bell", "skip"] {
        eventually("it fires", 20, || runs(&stack, name) == ["1 succeeded 0 schedule"]);
    }
}

#[test]
fn a_run_brings_no_older_definition_back() {
    let stack = Stack::new("nothing");
    let write = |word: &str| {
        let job = |command: &str, more: &str| {
            format!("{{{IMAGE}, command: {command}, network_mode: none, {more}triggers: {{schedule: '0 0 29 2 *'}}}}")
        };
        let (first, second) = (job(&format!("echo {word}"), ""), job("echo second", "depends_on: [first], "));
        stack.write("compose.yaml", &format!("jobs:\n  first: {first}\n  second: {second}\n"));
    };
    write("old");
    stack.wharf(&["up", "-d"]).ok();
    write("new");
    assert_eq!(stack.wharf(&["run", "first"]).ok(), "new\n");
    stack.wharf(&["job", "run", "second"]).ok();
    eventually("both have run", 10, || runs(&stack, "second") == ["1 succeeded 0 manual"]);
    assert_eq!(runs(&stack, "first")[0], "2 succeeded 0 dependency");
    assert_eq!(stack.wharf(&["job", "logs", "first"]).ok(), "new\n");
}
