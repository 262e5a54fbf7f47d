//! `wharf engine`: the engine itself.

use super::{Failure, Global, Outcome};
use crate::api::client::Client;
use crate::engine::Config;
use crate::engine::lifecycle;
use std::io::Write;
use std::os::fd::AsFd;

#[derive(clap::Args, Debug)]
pub struct EngineCommand {
    #[command(subcommand)]
    action: Option<Action>,
    /// Leave the terminal; say `ready` on standard output when listening.
    #[arg(long, hide = true)]
    background: bool,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Stop the engine; containers go on running, and the next command starts an engine again.
    Stop,
}

pub fn run(global: &Global, command: &EngineCommand) -> Outcome {
    if let Some(Action::Stop) = command.action {
        return stop(global);
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("WHARF_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let absolute = |path: &std::path::Path| std::path::absolute(path).map_err(|e| Failure::Message(e.to_string()));
    let config = Config { data_root: absolute(&global.data_root)?, run_root: absolute(&global.run_root)? };
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
    lifecycle::run(config, ready).map_err(|error| {
        if background {
            println!("{error}");
        }
        Failure::Message(error.to_string())
    })
}

/// Asks the engine to end and waits until it has: its lock is free then.
fn stop(global: &Global) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| Failure::Message(e.to_string()))?;
    let client = Client::new(&lifecycle::socket_path(&global.run_root));
    let asked: Result<Option<serde_json::Value>, _> = runtime.block_on(client.post("/engine/stop", &serde_json::Value::Null));
    if let Err(crate::api::client::ClientError::Connect { .. }) = asked {
        return Ok(());
    }
    let lock = std::fs::File::options().append(true).open(global.run_root.join("engine.lock"));
    if let Ok(lock) = lock {
        let _ = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive);
    }
    Ok(())
}
