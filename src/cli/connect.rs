//! The way to the engine, which is started when none answers.

use super::{DATA_ROOT, Failure, Global};
use crate::api::client::Client;
use crate::engine::process::lifecycle::socket_path;
use crate::engine::process::revival::log_path;
use crate::engine::process::roots::{other_data_root, prepare_run_root};
use crate::engine::process::surroundings;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long an engine that another process has just started may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long after a start that was refused another is tried.
const AGAIN: Duration = Duration::from_millis(200);

fn client(global: &Global) -> Client {
    let again = |data_root: &Path, run_root: &Path| drop(start_in(data_root, run_root));
    Client::new(&socket_path(&global.run_root)).with_starter(again, &global.data_root, &global.run_root)
}

/// A client of a running engine.
///
/// # Errors
/// When none runs and none can be started.
pub async fn engine(global: &Global) -> Result<Client, Failure> {
    if let Some(other) = global.machine.other() {
        return other.engine().await;
    }
    let client = client(global);
    if client.is_alive().await {
        return refuse_other_data_root(global).map(|()| client);
    }
    let mut why = start(global)?;
    // Somebody else may be starting one: theirs is as good. One that was killed may hold its lock for a moment yet.
    let begun = Instant::now();
    let mut tried = begun;
    while !client.is_alive().await {
        if begun.elapsed() > PATIENCE || why.is_some() && begun.elapsed() > PATIENCE / 5 {
            let why = why.unwrap_or_else(|| "it does not answer".into());
            return Err(Failure::Message(format!("the engine cannot be started: {why}")));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        if why.is_some() && tried.elapsed() > AGAIN {
            why = start(global)?;
            tried = Instant::now();
        }
    }
    Ok(client)
}

/// A client for commands that only look: none where no engine runs and there is nothing that one would know of.
///
/// # Errors
/// As [`engine`].
pub async fn engine_if_any(global: &Global) -> Result<Option<Client>, Failure> {
    if let Some(other) = global.machine.other() {
        return other.engine_if_any().await;
    }
    let client = client(global);
    if client.is_alive().await {
        return refuse_other_data_root(global).map(|()| Some(client));
    }
    require_root()?;
    let known = std::fs::metadata(global.data_root.join("state.journal")).is_ok_and(|m| m.len() > 0);
    if known { engine(global).await.map(Some) } else { Ok(None) }
}

/// A command that names a data root is about what is in it, and not about what the engine that runs has. Who names none means that
/// engine's, wherever it is.
fn refuse_other_data_root(global: &Global) -> Result<(), Failure> {
    if global.data_root == Path::new(DATA_ROOT) {
        return Ok(());
    }
    let Some(used) = other_data_root(&global.run_root, &global.data_root) else { return Ok(()) };
    Err(Failure::Message(format!(
        "the engine of the run root {} has the data root {}, not {}: name another run root with --run-root for an engine of its own, or leave --data-root out",
        global.run_root.display(),
        used.display(),
        global.data_root.display()
    )))
}

/// The engine's socket and state are root's alone.
fn require_root() -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::Message("wharf needs root to run containers and to see them: use sudo".into()))
}

/// Starts an engine in the background and waits for its word that it listens. Returns its complaint when it does not.
fn start(global: &Global) -> Result<Option<String>, Failure> {
    start_in(&global.data_root, &global.run_root)
}

fn start_in(data_root: &Path, run_root: &Path) -> Result<Option<String>, Failure> {
    require_root()?;
    if let Some(why) = surroundings::cannot_start() {
        return Err(Failure::Message(format!("the engine cannot be started: {why}")));
    }
    let failed = |e: std::io::Error| Failure::Message(format!("the engine cannot be started: {e}"));
    prepare_run_root(run_root).map_err(|error| Failure::Message(error.to_string()))?;
    let log_path = log_path(run_root);
    let log = std::fs::File::options().create(true).append(true).open(&log_path).map_err(failed)?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("wharf")
        .arg("--data-root")
        .arg(std::path::absolute(data_root).map_err(failed)?)
        .arg("--run-root")
        .arg(std::path::absolute(run_root).map_err(failed)?)
        .args(["engine", "--background"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(failed)?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line).map_err(failed)?;
    }
    match line.trim() {
        "ready" => Ok(None),
        "" => Ok(Some(format!("see {}", log_path.display()))),
        why => Ok(Some(why.to_string())),
    }
}
