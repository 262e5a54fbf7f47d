//! `wharf attach`, and the running container's streams for `run`.

use super::ps;
use crate::api::client::{Client, ClientError};
use crate::cli::output::terminal::{self, Ended, Joined};
use crate::cli::{Failure, Global, Outcome, connect, project};
use serde_json::Value;

#[derive(clap::Args, Debug)]
pub struct Attach {
    #[command(flatten)]
    how: How,
    /// Which container of a service, where it has several.
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    service: String,
}

/// What `attach` to a service and to a container have in common.
#[derive(clap::Args, Debug)]
pub struct How {
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

pub async fn run(global: &Global, command: Attach) -> Outcome {
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
pub async fn to_container(client: &Client, id: &str, how: &How) -> Outcome {
    let keys = terminal::detach_keys(&how.detach_keys)?;
    let from_start = false;
    match streams(client, id, Which::output(!how.no_stdin), how.sig_proxy, from_start, keys).await? {
        Ended::Detached => Ok(()),
        Ended::Closed => match exit_code_of_ended(client, id).await? {
            0 => Ok(()),
            code => Err(Failure::Code(code)),
        },
    }
}

/// Joins this process's streams to a container's.
///
/// # Errors
/// When the container does not run.
pub async fn streams(
    client: &Client,
    id: &str,
    which: Which,
    signals: bool,
    from_start: bool,
    detach_keys: Vec<u8>,
) -> Result<Ended, Failure> {
    let config: Value = client.get(&format!("/containers/{id}/json")).await?;
    let tty = config["Config"]["Tty"].as_bool().unwrap_or(false);
    let stdin = which.stdin && config["Config"]["OpenStdin"].as_bool().unwrap_or(false);
    let [stdin_flag, stdout, stderr, logs] = [stdin, which.stdout, which.stderr, from_start].map(u8::from);
    let path = format!("/containers/{id}/attach?stream=1&stdin={stdin_flag}&stdout={stdout}&stderr={stderr}&logs={logs}");
    let stream = client.hijack(&path, &Value::Null).await?;
    let joined = Joined {
        tty,
        stdin,
        resize: format!("/containers/{id}/resize"),
        signals: (signals && !tty).then(|| format!("/containers/{id}/kill")),
        detach_keys,
    };
    terminal::join(client, stream, &joined).await
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
#[derive(Clone, Debug)]
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
        }
    }
}

/// Starts a container, and stays with it to its end; its exit code is ours.
///
/// # Errors
/// Why it cannot be started (it is removed then), or its exit code.
pub async fn start_and_stay(client: &Client, id: &str, stay: Stay) -> Outcome {
    let removal = format!("/containers/{id}?force=1&v=1");
    if let Err(error) = client.post::<Value>(&format!("/containers/{id}/start"), &Value::Null).await {
        // Nobody could do anything with it.
        if !stay.keep {
            let _ = client.delete(&removal).await;
        }
        return Err(error.into());
    }
    if stay.detach {
        println!("{id}");
        return Ok(());
    }
    let keys = terminal::detach_keys(&stay.detach_keys)?;
    if streams(client, id, stay.which, stay.sig_proxy, true, keys).await? == Ended::Detached {
        return Ok(());
    }
    let code = exit_code_of_ended(client, id).await?;
    if stay.rm {
        client.delete(&removal).await?;
    }
    if code == 0 { Ok(()) } else { Err(Failure::Code(code)) }
}

/// The exit code of a container whose streams have ended.
///
/// # Errors
/// When it goes on: the streams were cut, since the engine has died, and what it has written since is in its log alone.
async fn exit_code_of_ended(client: &Client, id: &str) -> Result<u8, Failure> {
    match client.get::<Value>(&format!("/containers/{id}/json")).await {
        Ok(known) if known["State"]["Running"] != true => exit_code(client, id).await,
        Err(error @ ClientError::Refused { .. }) => Err(error.into()),
        // The engine is dying, or another has come.
        Ok(_) | Err(ClientError::Connect { .. } | ClientError::Protocol(_)) => {
            let short = &id[..12.min(id.len())];
            Err(Failure::Message(format!(
                "the engine died, and the connection to the container with it; the container goes on, and `wharf container logs -f {short}` shows what it writes"
            )))
        }
    }
}

/// Waits for a container's end, and gives its exit code.
///
/// # Errors
/// A broken connection.
pub async fn exit_code(client: &Client, id: &str) -> Result<u8, Failure> {
    let ended: Value = client.post(&format!("/containers/{id}/wait"), &Value::Null).await?;
    Ok(ended["StatusCode"].as_i64().unwrap_or(0) as u8)
}
