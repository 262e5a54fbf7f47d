//! `wharf exec`.

use super::ps;
use crate::api::client::{Client, ClientError, MOST_ENGINES};
use crate::api::types::{CommandLine, CreatedId, ExecCreate, ExecInspect, ExecStart};
use crate::cli::output::terminal::{self, JoinedStreams, TerminalEnd};
use crate::cli::{Failure, Global, Outcome, connect, project};
use serde::de::IgnoredAny;

#[derive(clap::Args, Debug)]
pub struct ExecArgs {
    /// Leave the command running in the background.
    #[arg(short, long)]
    detach: bool,
    /// Variable for the command; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Which container of a service, where it has several.
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// No terminal; the default where standard input is none.
    #[arg(short = 'T', long = "no-TTY", alias = "no-tty")]
    no_tty: bool,
    /// Give the command every privilege.
    #[arg(long)]
    privileged: bool,
    /// User to run as.
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Working directory of the command.
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Keep standard input open; always so.
    #[arg(short, long, hide = true)]
    interactive: bool,
    /// A terminal; the default where standard input is one.
    #[arg(short, long, hide = true)]
    tty: bool,
    /// Keys that leave the command running, typed at a terminal.
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    detach_keys: String,
    /// The service, and the command with its arguments: options after the service are the command's.
    #[arg(trailing_var_arg = true, required = true, value_name = "SERVICE COMMAND")]
    words: Vec<String>,
}

pub async fn run(global: &Global, command: ExecArgs) -> Outcome {
    let Some((service, words)) = command.words.split_first().filter(|(_, words)| !words.is_empty()) else {
        return Err(Failure::Message("`exec` needs a service and a command: `wharf exec web sh`".into()));
    };
    let (project, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), std::slice::from_ref(service))?;
    let client = connect::engine(global).await?;
    let container = ps::one(&client, &project, service, command.index).await?;
    let tty = !command.no_tty && !command.detach && terminal::is_terminal();
    let names_alone = command.env.iter().any(|variable| !variable.contains('='));
    let of_project = if names_alone && loaded.is_none() { super::outer_variables(global) } else { loaded };
    let env = super::variables(&command.env, of_project.as_ref());
    let request = ExecRequest {
        command: words.to_vec(),
        env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        user: command.user,
        workdir: command.workdir,
        privileged: command.privileged,
        tty,
        stdin: !command.detach,
    };
    in_container(&client, &container.id, request, command.detach, &command.detach_keys).await
}

/// A command that is to run in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
    pub privileged: bool,
    pub tty: bool,
    pub stdin: bool,
}

/// Docker's exit code of a command whose own nobody can tell.
const NOT_KNOWN: u8 = 255;

/// Whether the engine has no process of an id.
fn is_unknown(error: &ClientError, id: &str) -> bool {
    matches!(error, ClientError::Refused { status: 404, message, .. } if message.contains(id))
}

/// Runs a command in a container, with this process's streams; its exit code is ours.
///
/// # Errors
/// Why it cannot run, or its exit code.
pub async fn in_container(client: &Client, container: &str, request: ExecRequest, detach: bool, keys: &str) -> Outcome {
    let size = if request.tty { terminal::size() } else { None };
    let body = ExecCreate {
        cmd: CommandLine(request.command),
        env: request.env,
        user: request.user.unwrap_or_default(),
        working_dir: request.workdir.unwrap_or_default(),
        privileged: request.privileged,
        tty: request.tty,
        attach_stdin: request.stdin,
        attach_stdout: true,
        attach_stderr: true,
        console_size: size,
        ..ExecCreate::default()
    };
    let start = ExecStart { detach, tty: request.tty && !detach, ..ExecStart::default() };
    let mut tried = 0;
    let (id, stream) = loop {
        tried += 1;
        let create = async || client.post(&format!("/containers/{container}/exec"), &body).await;
        let CreatedId { id } = client.ask_again(create).await?;
        let path = format!("/exec/{id}/start");
        let started = match detach {
            true => client.post::<IgnoredAny>(&path, &start).await.map(|_| None),
            false => client.hijack(&path, &start).await.map(Some),
        };
        match started {
            Ok(None) => return Ok(()),
            Ok(Some(stream)) => break (id, stream),
            // An engine that was not there, or does not know it, has not run it.
            Err(error) if tried < MOST_ENGINES && (error.was_not_sent() || is_unknown(&error, &id)) => {}
            Err(error) if error.is_of_dead_engine() => {
                let why = "the engine ended while the command was being started: it may have run, and its exit code is not known";
                return Err(Failure::Message(why.into()).or_code(NOT_KNOWN));
            }
            Err(error) => return Err(error.into()),
        }
    };
    let joined = JoinedStreams {
        tty: request.tty,
        stdin: request.stdin,
        resize: format!("/exec/{id}/resize"),
        signals: None,
        detach_keys: terminal::detach_keys(keys)?,
    };
    if terminal::join(client, stream, joined).await? == TerminalEnd::Detached {
        return Ok(());
    }
    let state: ExecInspect = match client.get(&format!("/exec/{id}/json")).await {
        // The next engine knows nothing of it.
        Err(
            ClientError::Connect { .. } | ClientError::Cut | ClientError::Protocol(_) | ClientError::Refused { status: 404, .. },
        ) => {
            let why = "the engine ended, or the container was removed, while the command ran: its exit code is not known";
            return Err(Failure::Message(why.into()).or_code(NOT_KNOWN));
        }
        Err(error @ ClientError::Host(_)) => return Err(Failure::from(error).or_code(NOT_KNOWN)),
        other => other?,
    };
    match state.exit_code {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::Code(code as u8)),
        None => Err(Failure::Client(ClientError::Protocol("the connection ended before the command did".into()))),
    }
}
