//! Services of providers, and models: what another program stands for.

use super::support::{Ran, Stack, eventually, sleeping};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// A stack whose commands find programs of the test's in PATH.
struct Programs<'a>(&'a Stack);

impl Programs<'_> {
    fn write(&self, name: &str, script: &str) {
        let directory = self.0.path("bin");
        std::fs::create_dir_all(&directory).expect("directory");
        let file = directory.join(name);
        // By another name first: what is open for writing is not executed.
        std::fs::write(directory.join("draft"), format!("#!/bin/sh\n{script}\n")).expect("script");
        std::fs::set_permissions(directory.join("draft"), std::fs::Permissions::from_mode(0o755)).expect("mode");
        std::fs::rename(directory.join("draft"), file).expect("rename");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.0.command(args);
        let path = format!("{}:{}", self.0.path("bin").display(), std::env::var("PATH").unwrap_or_default());
        command.env("PATH", path).env("HOME", self.0.path("home")).env_remove("DOCKER_CONFIG");
        command
    }

    fn wharf(&self, args: &[&str]) -> Ran {
        let output = self.command(args).output().expect("wharf");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// What the programs were called with, a line each.
    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.0.path("calls")).unwrap_or_default();
        let _ = std::fs::remove_file(self.0.path("calls"));
        text.lines().map(str::to_string).collect()
    }
}

#[test]
fn a_provider_stands_for_a_service() {
    let stack = Stack::new("nothing");
    let programs = Programs(&stack);
    let project = &stack.project;
    let calls = stack.path("calls").display().to_string();
    programs.write(
        "cloud",
        &format!(
            r#"test "$2" = metadata && exit 1
echo "$@" >> {calls}
test "$3" = up || exit 0
echo '{{"type":"info","message":"preparing mysql"}}'
echo '{{"type":"setenv","message":"URL=http://cloud/'$SIZE'"}}'
echo '{{"type":"rawsetenv","message":"PLAIN=overridden"}}'"#
        ),
    );
    programs.write(
        "careful",
        &format!(
            r#"if test "$2" = metadata; then
echo '{{"description":"d","up":{{"parameters":[{{"name":"size","required":true}}]}},"down":{{"parameters":[]}},"stop":{{"parameters":[]}}}}'
exit; fi
echo "$@" >> {calls}"#
        ),
    );
    let app = sleeping("depends_on: [db, other], environment: {PLAIN: own, KEPT: 'yes'}");
    let plain = sleeping("");
    stack.write(
        "compose.yaml",
        &format!(
            "services:
  app: {{{app}}}
  plain: {{{plain}}}
  db: {{provider: {{type: cloud, options: {{type: mysql, size: 256, tag: [a, b]}}}}}}
  other: {{depends_on: [db], provider: {{type: careful, options: {{size: 1, unknown: x}}}}}}
"
        ),
    );
    stack.write(".env", "SIZE=256\n");
    let up = programs.wharf(&["up", "-d"]);
    assert_eq!(up.code, 0, "{}", up.stderr);
    assert!(
        up.stderr.contains("preparing mysql") && up.stderr.contains("overrides environment variable \"PLAIN\""),
        "{}",
        up.stderr
    );
    assert_eq!(
        programs.calls(),
        [
            format!("compose --project-name={project} up --type=mysql --size=256 --tag=a --tag=b db"),
            format!("compose --project-name={project} up --size=1 other"),
        ]
    );
    assert_eq!(stack.sh("app", "echo $DB_URL $PLAIN $KEPT; env | grep -c OTHER_ || true"), "http://cloud/256 overridden yes\n0");
    assert_eq!(stack.sh("plain", "env | grep -c DB_URL || true"), "0");
    let ids = (stack.id("app"), stack.id("plain"));
    // The same answers are the same containers, others are another one of who depends on it.
    programs.wharf(&["up", "-d"]).ok();
    assert_eq!((stack.id("app"), stack.id("plain")), ids);
    stack.write(".env", "SIZE=512\n");
    programs.wharf(&["up", "-d"]).ok();
    assert!(stack.id("app") != ids.0 && stack.id("plain") == ids.1);
    programs.calls();
    // A plan runs nothing.
    programs.wharf(&["plan"]).ok();
    programs.wharf(&["up", "--dry-run"]).ok();
    assert!(programs.calls().is_empty());
    assert_eq!(programs.wharf(&["run", "--rm", "-T", "app", "sh", "-c", "echo $DB_URL"]).ok(), "http://cloud/512\n");
    programs.calls();
    programs.wharf(&["up", "-d", "db"]).ok();
    assert_eq!(programs.calls().len(), 1);
    programs.wharf(&["stop"]).ok();
    assert_eq!(programs.calls(), [format!("compose --project-name={project} stop other")]);
    programs.wharf(&["down"]).ok();
    assert_eq!(
        programs.calls(),
        [
            format!("compose --project-name={project} down other"),
            format!("compose --project-name={project} down --type=mysql --size=256 --tag=a --tag=b db"),
        ]
    );
    stack.write("compose.yaml", "services: {}");
}

#[test]
fn a_provider_that_fails_or_floods_starts_nothing() {
    let stack = Stack::new("nothing");
    let programs = Programs(&stack);
    let app = sleeping("depends_on: [db]");
    let yaml =
        |provider: &str| stack.write("compose.yaml", &format!("services:\n  app: {{{app}}}\n  db:\n    provider: {provider}\n"));
    yaml("{type: cloud}");
    for (script, words) in [
        ("echo '{\"type\":\"error\",\"message\":\"no money left\"}'; exec sleep 1000", &["service \"db\"", "no money left"][..]),
        ("echo gone >&2; exit 3", &["failed to create service provider", "exit status: 3", "gone"]),
        ("echo what", &["invalid response from plugin: what"]),
        ("echo '{\"type\":\"setenv\",\"message\":\"nothing\"}'", &["invalid response from plugin"]),
        ("head -c 200000 /dev/zero | tr '\\0' x", &["more than 65536 bytes"]),
        (
            "i=0; while :; do printf '{\"type\":\"setenv\",\"message\":\"A=%060000d\"}\\n' $i || exit; done",
            &["more than 1048576 bytes of variables"],
        ),
        ("printf '{\"type\":\"error\",\"message\":\"\\\\u001b[2Jcleared\"}\\n'", &["cleared"]),
    ] {
        programs.write("cloud", &format!("test \"$2\" = metadata && exit 1\n{script}"));
        let ran = programs.wharf(&["up", "-d"]).fails(1, words);
        assert!(!ran.stderr.contains('\u{1b}'), "{script}: {:?}", ran.stderr);
        assert!(stack.ps().is_empty(), "{script}");
    }
    for (provider, words) in [
        ("{type: nowhere}", &["compose.yaml:4:22", "provider `nowhere`", "executable file not found in $PATH"][..]),
        ("{type: ./bin/cloud}", &["compose.yaml:4:22", "the name of a program, and no path"]),
        ("{type: compose}", &["compose.yaml:4:22", "'compose' is not a valid provider type"]),
        ("{type: careful}", &["compose.yaml:4:22", "required parameter \"size\" is missing"]),
    ] {
        programs.write("careful", "echo '{\"up\":{\"parameters\":[{\"name\":\"size\",\"required\":true}]}}'");
        yaml(provider);
        programs.wharf(&["up", "-d"]).fails(1, words);
    }
    // Ctrl-C ends the program as well.
    let pid = stack.path("pid");
    programs.write("cloud", &format!("test \"$2\" = metadata && exit 1\necho $$ > {}\nexec sleep 1000", pid.display()));
    yaml("{type: cloud}");
    let mut up = programs.command(&["up", "-d"]).stderr(std::process::Stdio::null()).spawn().expect("wharf");
    let read = || std::fs::read_to_string(&pid).ok().and_then(|text| text.trim().parse::<i32>().ok());
    eventually("the program runs", 10, || read().is_some());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(up.id() as i32), nix::sys::signal::Signal::SIGINT).expect("kill");
    assert_eq!(up.wait().expect("wharf").code(), Some(130));
    let pid = read().expect("pid");
    eventually("it is gone", 10, || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    // One of docker's plugins comes before a program of PATH.
    std::fs::create_dir_all(stack.path("home/.docker/cli-plugins")).expect("directory");
    programs.write("docker-cloud", "echo '{\"type\":\"setenv\",\"message\":\"BY=plugin\"}'");
    std::fs::rename(stack.path("bin/docker-cloud"), stack.path("home/.docker/cli-plugins/docker-cloud")).expect("rename");
    programs.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("app", "echo $DB_BY"), "plugin");
    programs.wharf(&["down"]).ok();
    stack.write("compose.yaml", "services: {}");
}

#[test]
fn models_are_run_by_something_else() {
    let stack = Stack::new("nothing");
    let app = sleeping("models: {llm: {endpoint_var: AI_URL, model_var: AI_NAME}, small-one: null}");
    let yaml = |endpoint: &str| {
        stack.write(
            "compose.yaml",
            &format!(
                "services: {{app: {{{app}}}}}\nmodels:\n  llm: {{model: ai/smollm2{endpoint}}}\n  small-one: {{model: ai/tiny}}\n"
            ),
        );
    };
    yaml("");
    stack.wharf(&["up", "-d"]).fails(1, &["the model `llm`", "x-endpoint", "WHARF_MODELS_ENDPOINT"]);
    yaml(", x-endpoint: 'http://10.0.0.1:8080/v1'");
    stack.wharf(&["up", "-d"]).fails(1, &["the model `small-one`"]);
    stack.write(".env", "WHARF_MODELS_ENDPOINT=http://models.local/\n");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(
        stack.sh("app", "echo $AI_URL $AI_NAME $SMALL_ONE_URL $SMALL_ONE_MODEL"),
        "http://10.0.0.1:8080/v1 ai/smollm2 http://models.local/ ai/tiny"
    );
    let config = stack.wharf(&["config"]).ok();
    assert!(config.contains("x-endpoint: http://10.0.0.1:8080/v1"), "{config}");
}
