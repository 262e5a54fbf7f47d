//! `wharf attach`, and the running container's streams for `run`.

use super::{logs, ps};
use crate::api::client::{Client, ClientError, MOST_ENGINES};
use crate::api::followed::{Begin, Follow, Followed};
use crate::api::types::{ContainerInspect, ContainerWaited, NEVER};
use crate::cli::output::terminal::{self, JoinedStreams, SignalTarget, TerminalEnd};
use crate::cli::signals::PassedSignals;
use crate::cli::{Failure, Global, Outcome, connect, project};
use serde_json::Value;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub struct AttachArgs {
    #[command(flatten)]
    how: AttachOptions,
    /// Which container of a service, where it has several.
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    service: String,
}

// Options that `attach` to a service and to a container share.
#[derive(clap::Args, Debug)]
pub struct AttachOptions {
    /// Keys that leave the container running, typed at a terminal.
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    detach_keys: String,
    /// Send no standard input.
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the container.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    sig_proxy: bool,
}

pub async fn run(global: &Global, command: AttachArgs) -> Outcome {
    let (project, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), std::slice::from_ref(&command.service))?;
    let client = connect::engine(global).await?;
    let container = ps::one(&client, &project, &command.service, command.index).await?;
    to_container(&client, &container.id, &command.how).await
}

/// Attaches to a running container; its exit code is ours.
///
/// # Errors
/// When it does not run, or its exit code.
pub async fn to_container(client: &Client, id: &str, how: &AttachOptions) -> Outcome {
    let keys = terminal::detach_keys(&how.detach_keys)?;
    let attached = open(client, id, Which::output(!how.no_stdin), Begin::Now).await?;
    let proxied = if how.sig_proxy { Proxied::WithoutTerminal } else { Proxied::Never };
    let signals = proxied.signals(attached.tty, None)?;
    stay(client, attached, signals, keys).await?.map_or(Ok(()), ended_with)
}

fn ended_with(code: u8) -> Outcome {
    if code == 0 { Ok(()) } else { Err(Failure::Code(code)) }
}

/// A container that is attached to.
struct AttachedContainer {
    id: String,
    tty: bool,
    which: Which,
    followed: Followed,
    /// Its last run before.
    last_run: LastRun,
}

async fn open(client: &Client, id: &str, which: Which, begin: Begin) -> Result<AttachedContainer, Failure> {
    let found: ContainerInspect = client.get(&format!("/containers/{id}/json")).await?;
    let tty = found.config.tty;
    // What runs is not started again.
    let begin =
        if matches!(begin, Begin::NextStart) && found.state.running && !found.state.restarting { Begin::Now } else { begin };
    let stdin = which.stdin && found.config.open_stdin;
    let follow = Follow { begin, until: None, stdin, attached: true, reader: logs::reader()? };
    let followed = Followed::open(client, id, follow).await?;
    let last_run = LastRun::of(&found);
    Ok(AttachedContainer { id: id.into(), tty, which: Which { stdin, ..which }, followed, last_run })
}

/// Whether the signals of this process are the container's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proxied {
    Always,
    WithoutTerminal,
    Never,
}

impl Proxied {
    /// Those that are passed on, heard from before on where somebody listened. Others do what they do.
    fn signals(self, tty: bool, heard: Option<PassedSignals>) -> Result<Option<PassedSignals>, Failure> {
        if self == Proxied::Never || self == Proxied::WithoutTerminal && tty {
            return Ok(None);
        }
        let signals = heard.map_or_else(PassedSignals::listen, Ok)?;
        if tty { Ok(Some(signals)) } else { signals.with_hangup().map(Some) }
    }
}

/// Joins this process's streams to a container's, to its end; its exit code, or nothing where the user has left.
///
/// With a terminal, signals are passed on where the command has started the container, as Docker does.
async fn stay(
    client: &Client,
    attached: AttachedContainer,
    signals: Option<PassedSignals>,
    detach_keys: Vec<u8>,
) -> Result<Option<u8>, Failure> {
    let AttachedContainer { id, tty, which, followed, .. } = attached;
    let joined = JoinedStreams {
        tty,
        stdin: which.stdin,
        resize: format!("/containers/{id}/resize"),
        signals: signals.map(|signals| SignalTarget { path: format!("/containers/{id}/kill"), signals }),
        detach_keys,
    };
    let shown = |stream| if stream == 2 { which.stderr } else { which.stdout };
    match terminal::follow(client, followed, joined, shown).await? {
        (TerminalEnd::Detached, _) => Ok(None),
        (TerminalEnd::Closed, Some(code)) => Ok(Some(code as u8)),
        (TerminalEnd::Closed, None) => exit_code(client, &id).await.map(Some),
    }
}

/// Which of a container's streams are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Which {
    /// All of its output, and its input where that is wanted.
    pub fn output(stdin: bool) -> Self {
        Which { stdin, stdout: true, stderr: true }
    }
}

/// How a container that has just been made is run.
pub struct Stay {
    /// Print its id and leave it running.
    pub detach: bool,
    pub which: Which,
    /// Pass signals on.
    pub sig_proxy: bool,
    /// Remove it when it has ended.
    pub rm: bool,
    /// Keys that leave it running.
    pub detach_keys: String,
    /// It was there before, and stays when it cannot be started.
    pub keep: bool,
    /// The signals since before it was made.
    pub signals: Option<PassedSignals>,
}

impl Default for Stay {
    fn default() -> Self {
        Stay {
            detach: false,
            which: Which::output(false),
            sig_proxy: true,
            rm: false,
            detach_keys: "ctrl-p,ctrl-q".into(),
            keep: false,
            signals: None,
        }
    }
}

/// Starts a container, and stays with it to its end; its exit code is ours.
///
/// # Errors
/// Why it cannot be started (it is removed then), or its exit code.
pub async fn start_and_stay(client: &Client, id: &str, stay: Stay) -> Outcome {
    let removal = format!("/containers/{id}?force=1&v=1");
    let keys = terminal::detach_keys(&stay.detach_keys)?;
    let proxied = match (stay.sig_proxy, stay.keep) {
        (false, _) => Proxied::Never,
        (true, true) => Proxied::WithoutTerminal,
        (true, false) => Proxied::Always,
    };
    // Both before the start: the log is kept from its first line on, and no signal ends this command alone.
    let heard = match stay.signals {
        None if !stay.detach && proxied != Proxied::Never => Some(PassedSignals::listen()?),
        heard => heard,
    };
    let attached = match stay.detach {
        true => None,
        false => Some(open(client, id, stay.which, Begin::NextStart).await?),
    };
    let mut signals = match &attached {
        Some(attached) => proxied.signals(attached.tty, heard)?,
        None => None,
    };
    let before = attached.as_ref().map(|attached| attached.last_run.clone()).filter(|_| stay.keep);
    let mut starting = std::pin::pin!(start(client, id, before.unwrap_or_default()));
    let started = tokio::select! {
        biased;
        started = &mut starting => started,
        signal = next_of(&mut signals) => {
            eprintln!("canceled");
            // It may run by now, and its process may not listen to signals yet.
            let ending = async {
                match stay.keep {
                    true => {
                        // A stop that came first would find nothing to stop.
                        let _late = tokio::time::timeout(HEARD, starting).await;
                        client.post::<Value>(&format!("/containers/{id}/stop"), &Value::Null).await.map(drop)
                    }
                    false => client.delete(&removal).await,
                }
            };
            let impatient = async {
                // `timeout` and a terminal's shell send one twice, and the engine must have heard by then.
                tokio::time::sleep(2 * HEARD).await;
                signals.iter_mut().for_each(PassedSignals::take);
                next_of(&mut signals).await
            };
            let why = tokio::select! {
                _ = ending => signal,
                second = impatient => second,
            };
            return Err(Failure::Code((128 + why) as u8));
        }
    };
    if let Err(failure) = started {
        // Nobody could do anything with it.
        if !stay.keep {
            let _ = client.delete(&removal).await;
        }
        return Err(failure);
    }
    let Some(attached) = attached else {
        println!("{id}");
        return Ok(());
    };
    let stayed = self::stay(client, attached, signals, keys).await.map_err(|failure| match failure {
        // An engine that comes after it has removed what has ended.
        Failure::Client(ClientError::Refused { status: 404, .. }) if !stay.keep => {
            Failure::Message(format!("the container {id} has run and is gone: its exit code is not known"))
        }
        failure => failure,
    });
    let Some(code) = stayed? else { return Ok(()) };
    if stay.rm {
        match client.delete(&removal).await {
            // The engine removes what a client leaves behind, and so does the next one.
            Err(
                ClientError::Refused { status: 404, .. }
                | ClientError::Connect { .. }
                | ClientError::Cut
                | ClientError::Protocol(_),
            )
            | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    ended_with(code)
}

/// When a container was started and has ended last, as the API has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LastRun {
    started_at: String,
    finished_at: String,
}

impl Default for LastRun {
    /// That of a container that has not run.
    fn default() -> Self {
        LastRun { started_at: NEVER.into(), finished_at: NEVER.into() }
    }
}

impl LastRun {
    fn of(container: &ContainerInspect) -> Self {
        let (started_at, finished_at) = (container.state.started_at.clone(), container.state.finished_at.clone());
        LastRun { started_at, finished_at }
    }
}

/// Starts a container, by the next engine where this one dies. What that finds started, or ended since, is not started again.
async fn start(client: &Client, id: &str, before: LastRun) -> Outcome {
    let path = format!("/containers/{id}/start");
    for _ in 0..MOST_ENGINES {
        match client.post::<Value>(&path, &Value::Null).await {
            Err(error) if error.is_of_dead_engine() => {}
            started => return Ok(started.map(drop)?),
        }
        let found: ContainerInspect = match client.get(&format!("/containers/{id}/json")).await {
            Err(ClientError::Refused { status: 404, .. }) => break,
            found => found?,
        };
        if found.state.running || LastRun::of(&found) != before {
            return Ok(());
        }
    }
    Err(Failure::Message(format!(
        "the engine ended while the container {id} was being started: it may have run, and its exit code is not known"
    )))
}

/// How long a request is on its way to the engine at most.
const HEARD: Duration = Duration::from_millis(500);

async fn next_of(signals: &mut Option<PassedSignals>) -> i32 {
    match signals {
        Some(signals) => signals.next_that_ends().await,
        None => std::future::pending().await,
    }
}

/// Waits for a container's end, and gives its exit code.
///
/// # Errors
/// A broken connection.
pub async fn exit_code(client: &Client, id: &str) -> Result<u8, Failure> {
    let path = format!("/containers/{id}/wait");
    let ended: ContainerWaited = client.ask_again(async || client.post(&path, &()).await).await?;
    Ok(ended.status_code as u8)
}
