//! `provider` services: a program of the user's stands for each, and its JSON lines tell what goes on and which variables the
//! services that depend on it get (docker/compose, `docs/extension.md`).

use crate::cli::last_bytes::LastBytes;
use crate::cli::output::Steps;
use crate::cli::signals::or_cancelled;
use crate::cli::{Failure, Outcome};
use crate::compose::Loaded;
use crate::compose::diagnostic::{Diagnostic, LoadError};
use crate::compose::model::{Project, Provider};
use crate::compose::node::Node;
use crate::printable;
use crate::wire::Progress;
use serde::Deserialize;
use serde_json::Value as Json;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;

/// Bytes of a line, of what a program says of itself, and of all variables.
const MAX_LINE: usize = 64 << 10;
const MAX_METADATA: u64 = 1 << 20;
const MAX_VARIABLES: usize = 1 << 20;
/// Bytes of its standard error that are shown when it fails.
const MAX_STDERR: usize = 4 << 10;
/// How long after a program's end its output is read, where another process holds it.
const AFTER_THE_END: Duration = Duration::from_millis(500);

/// Where docker's plugins are, after the user's own.
const PLUGINS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// What a program is asked to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Up,
    Down,
    Stop,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Action::Up => "up",
            Action::Down => "down",
            Action::Stop => "stop",
        }
    }

    /// Before and after.
    fn statuses(self) -> (&'static str, &'static str) {
        match self {
            Action::Up => ("Creating", "Created"),
            Action::Down => ("Removing", "Removed"),
            Action::Stop => ("Stopping", "Stopped"),
        }
    }

    fn failed(self) -> &'static str {
        match self {
            Action::Up => "create",
            Action::Down => "remove",
            Action::Stop => "stop",
        }
    }
}

/// Takes out of a project what the engine has nothing to do with: services of providers, and who waits for them.
pub fn leave_out(project: &mut Project) {
    let names: Vec<String> = names(project);
    if names.is_empty() {
        return;
    }
    project.services.retain(|_, service| service.provider.is_none());
    let jobs = project.jobs.values_mut().map(|job| &mut job.service);
    for service in project.services.values_mut().chain(jobs) {
        service.depends_on.retain(|name, _| !names.contains(name));
    }
}

/// The services of providers.
pub fn names(project: &Project) -> Vec<String> {
    project.services.iter().filter(|(_, service)| service.provider.is_some()).map(|(name, _)| name.clone()).collect()
}

/// Has the programs of the selected services create what they stand for, each after those that it depends on. Services that depend
/// on one get its variables.
///
/// # Errors
/// The first that failed, in its own words.
pub async fn up(loaded: &mut Loaded, selected: &[String]) -> Outcome {
    for name in in_order(&loaded.project, selected) {
        let variables = or_cancelled(run(loaded, &name, Action::Up)).await?;
        let prefix = format!("{}_", name.to_uppercase());
        let jobs = loaded.project.jobs.values_mut().map(|job| &mut job.service);
        let services = loaded.project.services.iter_mut().map(|(name, service)| (name.as_str(), service));
        let all = services.chain(jobs.map(|service| ("a job", service)));
        for (dependent, service) in all.filter(|(_, service)| service.depends_on.contains_key(&name)) {
            for ProviderVariable { raw, key, value } in &variables {
                let key = if *raw { key.clone() } else { format!("{prefix}{key}") };
                let before = service.environment.insert(key.clone(), Some(value.clone()));
                if *raw && before.is_some_and(|before| before.as_ref() != Some(value)) {
                    eprintln!("warning: provider {name:?} overrides environment variable {key:?} in service {dependent:?}");
                }
            }
        }
    }
    Ok(())
}

/// Has the programs remove what they stand for, each before those that it depends on. All of the project's, without names.
///
/// # Errors
/// As [`up`].
pub async fn down(loaded: &Loaded, named: &[String]) -> Outcome {
    ended(loaded, named, Action::Down).await
}

/// As [`down`]; programs that do not say that they can stop are left alone.
///
/// # Errors
/// As [`up`].
pub async fn stop(loaded: &Loaded, named: &[String]) -> Outcome {
    ended(loaded, named, Action::Stop).await
}

async fn ended(loaded: &Loaded, named: &[String], action: Action) -> Outcome {
    let all = names(&loaded.project);
    let chosen: Vec<String> = all.into_iter().filter(|name| named.is_empty() || named.contains(name)).collect();
    for name in in_order(&loaded.project, &chosen).into_iter().rev() {
        or_cancelled(run(loaded, &name, action)).await?;
    }
    Ok(())
}

/// The services of providers among the selected ones, each after those that it depends on.
fn in_order(project: &Project, selected: &[String]) -> Vec<String> {
    let providers = names(project);
    let chosen: Vec<String> = providers.into_iter().filter(|name| selected.contains(name)).collect();
    if chosen.is_empty() {
        return chosen;
    }
    crate::plan::selected(project, &chosen, false).into_iter().filter(|name| chosen.contains(name)).collect()
}

/// A variable that a program gives.
#[derive(Debug, PartialEq, Eq)]
struct ProviderVariable {
    /// By this name, and not by one that begins with the service's.
    raw: bool,
    key: String,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ProviderMetadata {
    description: String,
    up: CommandMetadata,
    down: CommandMetadata,
    stop: Option<CommandMetadata>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct CommandMetadata {
    parameters: Option<Vec<Parameter>>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Parameter {
    name: String,
    required: bool,
}

#[derive(Deserialize)]
struct ProviderMessage {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    message: String,
}

/// Refuses a service, with its place.
fn wrong(loaded: &Loaded, service: &str, why: impl Into<String>, help: &str) -> Failure {
    let provider = loaded.root.get("services").and_then(|all| all.get(service)).and_then(|one| one.get("provider"));
    let node: Option<&Node> = provider.and_then(|provider| provider.get("type").or(Some(provider)));
    match node {
        Some(node) => {
            let diagnostics = vec![Diagnostic::error(&node.at, why).help(help)];
            Failure::Load(LoadError { diagnostics, sources: loaded.sources.clone() })
        }
        None => Failure::Message(why.into()),
    }
}

async fn run(loaded: &Loaded, name: &str, action: Action) -> Result<Vec<ProviderVariable>, Failure> {
    let Some(provider) = loaded.project.services.get(name).and_then(|service| service.provider.as_ref()) else {
        return Ok(Vec::new());
    };
    let program = program(&provider.kind).map_err(|why| {
        wrong(
            loaded,
            name,
            format!("`services.{name}` is of the provider `{}`: {why}", provider.kind),
            "install it, or leave the service out by a profile",
        )
    })?;
    let metadata = metadata(loaded, &program).await;
    let said = !metadata.description.is_empty() || metadata.up.parameters.is_some() || metadata.down.parameters.is_some();
    let command = match action {
        Action::Up => metadata.up,
        Action::Down => metadata.down,
        Action::Stop => match metadata.stop {
            Some(stop) => stop,
            None => return Ok(Vec::new()),
        },
    };
    let parameters = command.parameters.unwrap_or_default();
    if let Some(missing) = parameters.iter().find(|p| said && p.required && !provider.options.contains_key(&p.name)) {
        let why = format!("required parameter {:?} is missing from provider {:?} definition", missing.name, provider.kind);
        return Err(wrong(loaded, name, why, "add it to `options`"));
    }
    let mut started = prepared(loaded, &program);
    started.args(["compose", &format!("--project-name={}", loaded.project.name), action.word()]);
    for (option, value) in options(provider) {
        if !said || parameters.iter().any(|parameter| parameter.name == option) {
            started.arg(format!("--{option}={value}"));
        }
    }
    started.arg(name);
    let (before, after) = action.statuses();
    let mut steps = Steps::new(false);
    let mut step = |status: &str, done| {
        steps.show(&Progress::Step { object: name.to_string(), status: printable::line(status).to_string(), done });
    };
    step(before, false);
    let failed = |why: String| Failure::Message(format!("service {name:?}: {}", printable::lines(&why)));
    let mut child = started.spawn().map_err(|e| failed(format!("running {}: {e}", program.display())))?;
    let said = child.stderr.take().map(|stderr| LastBytes::of(stderr, MAX_STDERR));
    let variables = heard(&mut child, |status| step(status, false)).await.map_err(failed)?;
    let status = child.wait().await.map_err(|e| failed(e.to_string()))?;
    if !status.success() {
        let said = match said {
            Some(mut said) => {
                said.end(AFTER_THE_END).await;
                String::from_utf8_lossy(&said.so_far()).into_owned()
            }
            None => String::new(),
        };
        let said = if said.trim().is_empty() { String::new() } else { format!(": {}", said.trim()) };
        return Err(failed(format!("failed to {} service provider: {status}{said}", action.failed())));
    }
    step(after, true);
    Ok(variables)
}

/// What a program says until its end. What it leaves behind, such as a tunnel, may hold its output for longer, and is not waited for.
async fn heard(child: &mut Child, info: impl FnMut(&str)) -> Result<Vec<ProviderVariable>, String> {
    let Some(stdout) = child.stdout.take() else { return Ok(Vec::new()) };
    let (ended, end) = watch::channel(false);
    let mut listening = std::pin::pin!(listen(stdout, end, info));
    tokio::select! {
        heard = &mut listening => return heard,
        _status = child.wait() => {}
    }
    ended.send_replace(true);
    listening.await
}

/// The program of a provider: a plugin of docker's, or one in PATH.
fn program(kind: &str) -> Result<PathBuf, String> {
    if kind == "compose" {
        return Err("'compose' is not a valid provider type".into());
    }
    // A file from elsewhere could name a program that came with it.
    if kind.is_empty() || kind.contains('/') || kind.starts_with('-') {
        return Err("it is the name of a program, and no path".into());
    }
    let own = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let own = own.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")));
    let plugins = own.map(|own| own.join("cli-plugins")).into_iter().chain(PLUGINS.map(PathBuf::from));
    let plugin = plugins.map(|directory| directory.join(format!("docker-{kind}")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).filter(|directory| directory.is_absolute()).map(|directory| directory.join(kind));
    let runs = |file: &PathBuf| file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    plugin.chain(in_path).find(runs).ok_or_else(|| format!("exec: {kind:?}: executable file not found in $PATH"))
}

/// The program with the project's environment, whose output is read.
fn prepared(loaded: &Loaded, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.envs(&loaded.environment).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What a program says of its options; nothing where it has no such command.
async fn metadata(loaded: &Loaded, program: &Path) -> ProviderMetadata {
    let mut command = prepared(loaded, program);
    command.args(["compose", "metadata"]).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return ProviderMetadata::default() };
    let mut text = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let _ = stdout.take(MAX_METADATA).read_to_end(&mut text).await;
    }
    match child.wait().await {
        Ok(status) if status.success() => serde_json::from_slice(&text).unwrap_or_default(),
        _ => ProviderMetadata::default(),
    }
}

/// The options of a provider, in their order; a list is an option for each of its values.
fn options(provider: &Provider) -> Vec<(&str, String)> {
    let text = |value: &Json| match value {
        Json::String(text) => text.clone(),
        Json::Null => String::new(),
        other => other.to_string(),
    };
    let pairs = provider.options.iter().flat_map(|(name, value)| match value {
        Json::Array(values) => values.iter().map(|value| (name.as_str(), text(value))).collect::<Vec<_>>(),
        value => vec![(name.as_str(), text(value))],
    });
    pairs.collect()
}

/// Reads the messages of a program until it closes its output.
async fn listen(
    stdout: ChildStdout,
    mut ended: watch::Receiver<bool>,
    mut info: impl FnMut(&str),
) -> Result<Vec<ProviderVariable>, String> {
    let mut lines = BufReader::new(stdout);
    let (mut variables, mut bytes) = (Vec::new(), 0);
    let late = async {
        let _ = ended.wait_for(|ended| *ended).await;
        tokio::time::sleep(AFTER_THE_END).await;
    };
    let mut late = std::pin::pin!(late);
    loop {
        let line = tokio::select! {
            biased;
            line = next_line(&mut lines) => line?,
            () = &mut late => None,
        };
        let Some(line) = line else { break };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let invalid =
            || format!("invalid response from plugin: {}", String::from_utf8_lossy(&line[..line.len().min(200)]).trim());
        let ProviderMessage { kind, message } = serde_json::from_slice(&line).map_err(|_| invalid())?;
        match kind.as_str() {
            "error" => return Err(message),
            "info" => info(message.lines().next().unwrap_or_default()),
            "setenv" | "rawsetenv" => {
                bytes += message.len();
                let pair = message.split_once('=').filter(|(key, _)| !key.is_empty() && !message.contains('\0'));
                let (key, value) = pair.ok_or_else(invalid)?;
                if bytes > MAX_VARIABLES {
                    return Err(format!("it gives more than {MAX_VARIABLES} bytes of variables"));
                }
                variables.push(ProviderVariable { raw: kind == "rawsetenv", key: key.into(), value: value.into() });
            }
            "debug" => {}
            _ => return Err(invalid()),
        }
    }
    Ok(variables)
}

/// A line of at most [`MAX_LINE`] bytes; `None` at the end.
async fn next_line(from: &mut BufReader<impl AsyncRead + Unpin>) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    let read =
        from.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line).await.map_err(|e| format!("reading its messages: {e}"))?;
    match read {
        0 => Ok(None),
        _ if line.len() > MAX_LINE => Err(format!("a message of it has more than {MAX_LINE} bytes")),
        _ => Ok(Some(line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard_of(output: &str) -> (Result<Vec<ProviderVariable>, String>, Vec<String>) {
        let mut command = Command::new("printf");
        command.args(["%b", &output.replace('\n', "\\n")]).stdout(Stdio::piped());
        let mut shown = Vec::new();
        let mut child = command.spawn().expect("printf");
        let variables = heard(&mut child, |status| shown.push(status.to_string())).await;
        let _ = child.kill().await;
        (variables, shown)
    }

    #[tokio::test]
    async fn messages_are_heard_and_bounded() {
        let (variables, shown) = heard_of(concat!(
            r#"{"type":"info","message":"pulling 25%"}"#,
            "\n\n",
            r#"{"type":"setenv","message":"URL=http://x?a=b"}"#,
            "\n",
            r#"{"type":"rawsetenv","message":"KEY="}"#,
            "\n",
            r#"{"type":"debug","message":"x"}"#
        ))
        .await;
        let variable = |raw, key: &str, value: &str| ProviderVariable { raw, key: key.into(), value: value.into() };
        assert_eq!(variables, Ok(vec![variable(false, "URL", "http://x?a=b"), variable(true, "KEY", "")]));
        assert_eq!(shown, ["pulling 25%"]);
        for (output, word) in [
            (r#"{"type":"error","message":"no money"}"#, "no money"),
            (r#"{"type":"setenv","message":"URL"}"#, "invalid response"),
            (r#"{"type":"setenv","message":"=x"}"#, "invalid response"),
            (r#"{"type":"other","message":"x"}"#, "invalid response"),
            ("not JSON", "invalid response from plugin: not JSON"),
            (&"x".repeat(MAX_LINE + 10), "more than 65536 bytes"),
        ] {
            let refused = heard_of(output).await.0.expect_err(word);
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn programs_are_names() {
        for kind in ["compose", "", "./evil", "/bin/sh", "-x"] {
            assert!(program(kind).is_err(), "{kind}");
        }
        assert!(program("sh").is_ok_and(|path| path.is_absolute()));
    }

    /// A program whose stderr nobody reads stands still, and one that leaves a process behind does not hold up the command.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_program_is_heard_whatever_it_says_and_leaves() {
        let says = r#"printf '{"type":"setenv","message":"X=1"}\n'"#;
        let before = std::time::Instant::now();
        for script in
            [format!("head -c 300000 /dev/zero >&2; echo wrong >&2; {says}"), format!("sleep 60 & {says}; echo wrong >&2")]
        {
            let mut command = Command::new("sh");
            command.args(["-c", &script]).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
            let mut child = command.spawn().expect("sh");
            let group = nix::unistd::Pid::from_raw(child.id().expect("a process") as i32);
            let mut stderr = LastBytes::of(child.stderr.take().expect("pipe"), MAX_STDERR);
            let variables = heard(&mut child, |_| ()).await.expect("variables");
            assert_eq!(variables.len(), 1);
            assert!(child.wait().await.expect("wait").success());
            stderr.end(AFTER_THE_END).await;
            assert!(stderr.so_far().ends_with(b"wrong\n"));
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::SIGKILL);
        }
        assert!(before.elapsed() < Duration::from_secs(20), "what is left behind was waited for");
    }
}
