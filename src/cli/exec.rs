//! `wharf exec`.

use super::ps;
use super::{Failure, Global, Outcome, connect, project};
use crate::api::client::{ClientError, take_frame};
use bytes::BytesMut;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[derive(clap::Args, Debug)]
pub struct Exec {
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
    #[arg(short = 'T', long = "no-tty", alias = "no-TTY")]
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
    /// The service, or a container's name.
    service: String,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

pub async fn run(global: &Global, command: Exec) -> Outcome {
    let (project, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), std::slice::from_ref(&command.service))?;
    let client = connect::engine(global).await?;
    let list = ps::containers(&client, &project, std::slice::from_ref(&command.service), false).await?;
    let container = list.iter().find(|c| command.index.is_none_or(|n| c.number() == n));
    let Some(container) = container else {
        let which = command.index.map_or_else(String::new, |n| format!(" number {n}"));
        return Err(Failure::Message(format!(
            "the service `{}` has no running container{which}; `wharf up -d {}` starts it",
            command.service, command.service
        )));
    };
    let stdin = std::io::stdin();
    let tty = !command.no_tty && !command.detach && stdin.is_terminal() && std::io::stdout().is_terminal();
    let size = if tty { crate::runtime::sys::window_size(stdin.as_fd()) } else { None };
    let body = json!({
        "Cmd": command.command,
        "Env": command.env,
        "User": command.user,
        "WorkingDir": command.workdir,
        "Privileged": command.privileged,
        "Tty": tty,
        "AttachStdin": !command.detach,
        "AttachStdout": true,
        "AttachStderr": true,
        "ConsoleSize": size.map(|(rows, columns)| [rows, columns]),
    });
    let created: Value = client.post(&format!("/containers/{}/exec", container.id), &body).await?;
    let id = created["Id"].as_str().unwrap_or_default().to_string();
    if command.detach {
        return Ok(client.post::<Value>(&format!("/exec/{id}/start"), &json!({"Detach": true})).await.map(drop)?);
    }
    let stream = client.hijack(&format!("/exec/{id}/start"), &json!({"Detach": false, "Tty": tty})).await?;
    let (mut from, mut to) = tokio::io::split(stream);
    let raw = if tty { Some(RawTerminal::enter()?) } else { None };
    // A thread reads standard input: its blocking read cannot be given up, and must not keep the command from ending.
    let (sender, mut typed) = tokio::sync::mpsc::channel::<Vec<u8>>(8);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = nix::unistd::read(std::io::stdin(), &mut buffer) {
            if sender.blocking_send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    let feeding = tokio::spawn(async move {
        while let Some(bytes) = typed.recv().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
    let resizing = tokio::spawn(follow_size(client.clone(), id.clone(), tty));
    let mut buffer = BytesMut::with_capacity(1 << 16);
    loop {
        let read = from.read_buf(&mut buffer).await.unwrap_or(0);
        if tty {
            write(1, &buffer.split())?;
        }
        while let Some((stream, bytes)) = take_frame(&mut buffer).filter(|_| !tty) {
            write(stream, &bytes)?;
        }
        if read == 0 {
            break;
        }
    }
    feeding.abort();
    resizing.abort();
    drop(raw);
    let state: Value = client.get(&format!("/exec/{id}/json")).await?;
    match state["ExitCode"].as_i64() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::Code(code as u8)),
        None => Err(Failure::Client(ClientError::Protocol("the connection ended before the command did".into()))),
    }
}

fn write(stream: u8, bytes: &[u8]) -> Outcome {
    let result = if stream == 2 {
        std::io::stderr().write_all(bytes)
    } else {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush())
    };
    result.map_err(|e| Failure::Message(format!("writing the command's output: {e}")))
}

/// Tells the command when the terminal's size changes.
async fn follow_size(client: crate::api::client::Client, id: String, tty: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while tty && changes.recv().await.is_some() {
        if let Some((rows, columns)) = crate::runtime::sys::window_size(std::io::stdin().as_fd()) {
            let _: Result<Value, _> = client.post(&format!("/exec/{id}/resize?h={rows}&w={columns}"), &Value::Null).await;
        }
    }
}

/// The user's terminal without its own editing, until this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self, Failure> {
        let failed = |e: nix::Error| Failure::Message(format!("preparing the terminal: {e}"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).map_err(failed)?;
        Ok(RawTerminal(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
