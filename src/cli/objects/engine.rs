//! `wharf engine`: the engine itself.

use crate::api::client::{Client, ClientError};
use crate::cli::machine::dial_stdio;
use crate::cli::{Failure, Global, Outcome, connect};
use crate::engine::process::lifecycle::{self, WhenIdle};
use crate::engine::process::locks;
use crate::engine::process::revival;
use crate::engine::process::surroundings::Starters;
use crate::engine::process::tcp::TlsFiles;
use crate::engine::{
    Config, DOCKER_SOCKET, LISTEN, Listening, NO_DOCKER_SOCKET, REVIVED, TLS_AUTHORITIES, TLS_CERTIFICATE, TLS_KEY, TLS_VERIFY,
};
use crate::sys;
use clap::builder::FalseyValueParser;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct EngineCommand {
    #[command(subcommand)]
    action: Option<EngineAction>,
    /// Stop an engine that runs already, and go on in its place: what a service manager starts. Containers notice nothing.
    #[arg(long)]
    replace: bool,
    /// Listen here as well, for clients that look where Docker's socket is: /var/run/docker.sock. The group `docker`, where there is
    /// one, may use it, and is root by that.
    #[arg(long, value_name = "PATH", env = DOCKER_SOCKET)]
    docker_socket: Option<PathBuf>,
    /// Give containers that mount /var/run/docker.sock an error, and not this engine's socket, where the host has no Docker.
    #[arg(long, env = NO_DOCKER_SOCKET, value_parser = FalseyValueParser::new())]
    no_docker_socket: bool,
    /// On the ports of -H, take clients alone whose certificate an authority of --tlscacert has signed.
    #[arg(long, env = TLS_VERIFY, value_parser = FalseyValueParser::new(), requires = "tlscacert", requires = "tlscert", requires = "tlskey")]
    tlsverify: bool,
    /// The authorities of clients' certificates, PEM.
    #[arg(long, value_name = "FILE", env = TLS_AUTHORITIES, hide_env_values = true)]
    tlscacert: Option<PathBuf>,
    /// The engine's own certificate, PEM.
    #[arg(long, value_name = "FILE", env = TLS_CERTIFICATE, hide_env_values = true)]
    tlscert: Option<PathBuf>,
    /// The key of that certificate, PEM.
    #[arg(long, value_name = "FILE", env = TLS_KEY, hide_env_values = true)]
    tlskey: Option<PathBuf>,
    /// Leave the terminal, and end when idle; say `ready` on standard output when listening.
    #[arg(long, hide = true)]
    background: bool,
    /// Started by a monitor, since the engine before has died.
    #[arg(long, hide = true)]
    revived: bool,
    /// Keep the limits and the scheduling of whoever starts it, though it is in the background.
    #[arg(long, hide = true)]
    keep_limits: bool,
}

#[derive(clap::Subcommand, Debug)]
enum EngineAction {
    /// Stop the engine; containers go on running, and the next command starts an engine again.
    Stop {
        /// Stop the containers first, as for a shutdown of the host: the next engine starts those that are to be restarted.
        #[arg(long)]
        containers: bool,
    },
    /// Connect standard input and output with the engine, for a wharf of another machine.
    DialStdio,
}

impl EngineCommand {
    /// Whether it is for an engine that runs, here or elsewhere.
    pub fn asks(&self) -> bool {
        matches!(self.action, Some(EngineAction::Stop { .. }))
    }
}

/// How often `--replace` replaces an engine that has come in between.
const REPLACEMENTS: usize = 10;

pub fn run(global: &Global, command: &EngineCommand) -> Outcome {
    match command.action {
        Some(EngineAction::Stop { containers }) if global.machine.other().is_some() => return stop_elsewhere(global, containers),
        Some(EngineAction::Stop { containers }) => return stop(global, containers),
        _ if global.context.is_some() || global.hosts.iter().any(|host| host.starts_with("ssh://")) => {
            return Err(Failure::Message("an engine runs on the machine that it is for: start it there by ssh".into()));
        }
        Some(EngineAction::DialStdio) => return dial_stdio::run(global),
        None => {}
    }
    if command.revived {
        let error = revival::take_over(&global.run_root, REVIVED);
        // An engine with an empty environment is better than none.
        eprintln!("taking over how the engine was started: {error}");
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("WHARF_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let listening = listening(global, command)?;
    let config = Config { data_root: absolute(&global.data_root)?, run_root: absolute(&global.run_root)?, listening };
    // The working directory is another one soon.
    let global = &Global { data_root: config.data_root.clone(), run_root: config.run_root.clone(), ..global.clone() };
    if command.replace {
        lifecycle::check(&config).map_err(|error| Failure::Message(format!("{error}; the engine that runs, if any, goes on")))?;
        stop(global, false)?;
    }
    if command.background {
        let _ = nix::unistd::setsid();
    }
    let _ = nix::unistd::chdir("/");
    let background = command.background;
    let ready = move || {
        if background {
            let mut output = std::io::stdout();
            let _ = output.write_all(b"ready\n").and_then(|()| output.flush());
            // Whoever started us waits for the end of this pipe.
            if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
                let _ = nix::unistd::dup2_stdout(null.as_fd());
            }
        }
    };
    let when_idle = if background { WhenIdle::Leave } else { WhenIdle::Stay };
    let starters = if background && !command.keep_limits { Starters::Forgotten } else { Starters::Kept };
    let run = || lifecycle::run(config.clone(), when_idle, starters, crate::api::server::serve, ready);
    let mut ran = run();
    // A command may have started another engine in the moment in which none ran.
    let mut left = if command.replace { REPLACEMENTS } else { 0 };
    while ran.is_err() && left > 0 && locks::is_run_root_taken(&config.run_root) {
        stop(global, false)?;
        ran = run();
        left -= 1;
    }
    ran.map_err(|error| {
        if background {
            println!("{error}");
        }
        Failure::Message(error.to_string())
    })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::Message(e.to_string()))
}

/// Where the engine listens besides: as the command line says, else as the environment does.
fn listening(global: &Global, command: &EngineCommand) -> Result<Listening, Failure> {
    let mut listening = Listening { not_lent: command.no_docker_socket, ..Listening::default() };
    let given = command.docker_socket.as_deref().filter(|path| !path.as_os_str().is_empty());
    listening.docker_socket = given.map(absolute).transpose()?;
    let configured = std::env::var(LISTEN).unwrap_or_default();
    let configured = configured.split(',').map(str::to_string).filter(|_| global.hosts.is_empty());
    for host in global.hosts.iter().cloned().chain(configured).filter(|host| !host.is_empty()) {
        match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') && listening.docker_socket.is_none() => {
                listening.docker_socket = Some(path.into());
            }
            Some(_) => {
                return Err(Failure::Message(format!("-H {host}: one socket besides the engine's own, by an absolute path")));
            }
            None => listening.tcp.push(host.parse().map_err(|why| Failure::Message(format!("-H: {why}")))?),
        }
    }
    if command.tlsverify
        && let (Some(authorities), Some(certificate), Some(key)) = (&command.tlscacert, &command.tlscert, &command.tlskey)
    {
        let files = TlsFiles { authorities: absolute(authorities)?, certificate: absolute(certificate)?, key: absolute(key)? };
        listening.tls = Some(files);
    } else if let Some((name, _)) =
        [("tlscacert", &command.tlscacert), ("tlscert", &command.tlscert), ("tlskey", &command.tlskey)]
            .into_iter()
            .find(|(_, file)| file.is_some())
    {
        return Err(Failure::Message(format!(
            "--{name} is for --tlsverify, which is not given: clients without a certificate are never served by TLS"
        )));
    }
    Ok(listening)
}

/// Asks another machine's engine to end.
fn stop_elsewhere(global: &Global, containers: bool) -> Outcome {
    let failed = |e: std::io::Error| Failure::Message(format!("starting: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let Some(client) = connect::engine_if_any(global).await? else { return Ok(()) };
        match client.post::<serde_json::Value>(stop_path(containers), &serde_json::Value::Null).await {
            Err(error @ (ClientError::Host(_) | ClientError::Refused { .. })) => Err(error.into()),
            // The engine may be gone before its answer is read.
            _ => Ok(()),
        }
    })
}

fn stop_path(containers: bool) -> &'static str {
    if containers { "/engine/stop?containers=1" } else { "/engine/stop" }
}

/// Asks the engine to end and waits until it has. Another that somebody starts meanwhile is not waited for.
fn stop(global: &Global, containers: bool) -> Outcome {
    use nix::poll::{PollFd, PollFlags, PollTimeout};
    let socket = lifecycle::socket_path(&global.run_root);
    let failed = |e: std::io::Error| Failure::Message(format!("looking at the engine of {}: {e}", socket.display()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    // Containers outlive their engine: another one has to end them.
    if containers {
        runtime.block_on(connect::engine_if_any(global))?;
    }
    // No engine, and none to end.
    let Ok(peer) = std::os::unix::net::UnixStream::connect(&socket) else { return Ok(()) };
    let credentials = nix::sys::socket::getsockopt(&peer, nix::sys::socket::sockopt::PeerCredentials);
    let process = sys::pidfd_open(credentials.map_err(|e| failed(e.into()))?.pid()).map_err(failed)?;
    drop(peer);
    match runtime.block_on(Client::new(&socket).post::<serde_json::Value>(stop_path(containers), &serde_json::Value::Null)) {
        Ok(_) | Err(ClientError::Connect { .. }) => {}
        // The engine may be gone before its answer is read.
        Err(error) => tracing::debug!("{error}"),
    }
    let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    loop {
        match nix::poll::poll(&mut ended, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            result => return result.map(drop).map_err(|e| failed(e.into())),
        }
    }
}
