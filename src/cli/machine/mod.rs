//! Another machine by ssh: which one a command is for, and the way to its engine.
//!
//! [`destination`] is its address, [`contexts`] are names for addresses, [`command`] is `wharf context`. [`tunnel`] runs `ssh` and
//! carries every connection of a command over it; [`dial_stdio`] is the other end of that.
//! [`install`] puts this program there.

pub mod command;
pub mod contexts;
mod destination;
pub mod dial_stdio;
pub mod install;
mod ssh;
mod tunnel;

pub use destination::Destination;

use super::{Failure, Global};
use crate::api::client::Client;
use contexts::{Contexts, docker};
use std::sync::Arc;
use tokio::sync::OnceCell;
use tunnel::Tunnel;

/// The machine whose engine a command is for.
#[derive(Clone, Debug, Default)]
pub enum Machine {
    #[default]
    Here,
    Other(Arc<Other>),
}

/// Another machine, and the connection to it once there is one.
#[derive(Debug)]
pub struct Other {
    destination: Destination,
    tunnel: OnceCell<Arc<Tunnel>>,
}

impl Machine {
    /// The machine that the options, the environment and the contexts say, in this order.
    ///
    /// # Errors
    /// An address or a context that is not one.
    pub fn of(global: &Global) -> Result<Self, Failure> {
        let chosen = chosen(global, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
        Ok(match chosen.destination {
            Some(destination) => Machine::Other(Arc::new(Other { destination, tunnel: OnceCell::new() })),
            None => Machine::Here,
        })
    }

    pub fn other(&self) -> Option<&Other> {
        match self {
            Machine::Here => None,
            Machine::Other(other) => Some(other),
        }
    }

    /// Refuses what can be done on this machine alone.
    ///
    /// # Errors
    /// When the command is for another.
    pub fn only_here(&self, command: &str) -> Result<(), Failure> {
        let Some(other) = self.other() else { return Ok(()) };
        let destination = &other.destination;
        Err(Failure::Message(format!(
            "`{command}` is about the machine that it runs on, and not about {destination}: run it there by ssh"
        )))
    }
}

impl Other {
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    async fn tunnel(&self) -> Result<&Arc<Tunnel>, Failure> {
        self.tunnel.get_or_try_init(|| async { Tunnel::open(&self.destination).await.map(Arc::new) }).await
    }

    /// A client of the engine there, which is started where none runs.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn engine(&self) -> Result<Client, Failure> {
        let tunnel = self.tunnel().await?;
        tunnel.find_engine(true).await?;
        Ok(Client::over(tunnel.clone()))
    }

    /// A client for commands that only look: none where no engine runs and there is nothing that one would know of.
    ///
    /// # Errors
    /// As [`Other::engine`].
    pub async fn engine_if_any(&self) -> Result<Option<Client>, Failure> {
        let tunnel = self.tunnel().await?;
        Ok(tunnel.find_engine(false).await?.then(|| Client::over(tunnel.clone())))
    }

    /// The path of the engine's socket there, once a client is there.
    pub fn socket(&self) -> Option<String> {
        self.tunnel.get().and_then(|tunnel| tunnel.socket())
    }
}

/// A machine, and the name of the context by which it was chosen.
pub struct Chosen {
    /// Absent: this machine.
    pub destination: Option<Destination>,
    pub context: Option<String>,
    /// The variable or option that chose it over the contexts.
    pub by: Option<&'static str>,
}

/// Who decides: `-H` and `--context`, WHARF_HOST and WHARF_CONTEXT, DOCKER_HOST and DOCKER_CONTEXT where they name ssh, the context in
/// use, and Docker's where it names ssh.
///
/// # Errors
/// As [`Machine::of`].
pub fn chosen(global: &Global, variable: &dyn Fn(&str) -> Option<String>) -> Result<Chosen, Failure> {
    let address = |by: &'static str, text: &str| {
        let wrong = |e| Failure::Message(format!("{by}: {e}"));
        let destination = if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
        Ok(Chosen { destination: destination.map_err(wrong)?, context: None, by: Some(by) })
    };
    let named = |by: Option<&'static str>, name: String| {
        let destination = contexts::resolve(&Contexts::load()?, &name).map_err(|failure| match by {
            Some(by) => Failure::Message(format!("{by}: {}", failure.to_string().trim_start_matches("error: "))),
            None => failure,
        })?;
        Ok(Chosen { destination, context: Some(name), by })
    };
    match global.hosts.as_slice() {
        [] => {}
        [host] => return address("-H", host),
        _ => return Err(Failure::Message("-H is given more than once: a command is for one machine".into())),
    }
    if let Some(context) = &global.context {
        return named(Some("--context"), context.clone());
    }
    if let Some(host) = variable("WHARF_HOST") {
        return address("WHARF_HOST", &host);
    }
    if let Some(context) = variable("WHARF_CONTEXT") {
        return named(Some("WHARF_CONTEXT"), context);
    }
    // Docker's own daemon is not wharf's engine: of Docker's settings those alone count that name another machine by ssh.
    let (docker_host, docker_context) = (variable("DOCKER_HOST"), variable("DOCKER_CONTEXT"));
    if let Some(host) = docker_host.as_deref().filter(|host| contexts::is_ssh(host)) {
        return address("DOCKER_HOST", host);
    }
    let by_ssh = |name: &String| docker::find(name).is_some_and(|context| contexts::is_ssh(&context.host));
    if let Some(name) = docker_context.clone().filter(|name| docker_host.is_none() && by_ssh(name)) {
        return named(Some("DOCKER_CONTEXT"), name);
    }
    if let Some(name) = Contexts::load()?.current {
        return named(None, name);
    }
    let of_docker = docker::current().filter(|name| docker_host.is_none() && docker_context.is_none() && by_ssh(name));
    match of_docker {
        Some(name) => named(None, name),
        None => Ok(Chosen { destination: None, context: Some(contexts::DEFAULT.into()), by: None }),
    }
}
