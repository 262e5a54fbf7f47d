//! The engine: owns every decision and all state.
//!
//! [`record`] is what is known, [`state`] how it survives; [`containers`] finds, starts, supervises and removes them, [`launch`]
//! makes what a monitor starts from; [`projects`] executes plans; [`recovery`] takes over what an earlier engine left;
//! [`process`] is the process itself.
//!
//! Each part below owns its locks and has its own methods; a part holds those before it that it needs. [`Engine`] has the operations
//! that cross parts: a container's life, projects, the consequences of an exit, the process. A method that needs one part, or a part
//! and those that it holds, is that part's, whichever file it is in.

mod config;
pub mod containers;
pub mod error;
pub mod events;
pub mod images;
pub mod jobs;
pub mod launch;
pub mod networks;
mod numbers;
pub mod process;
pub mod projects;
pub mod record;
pub mod recovery;
#[cfg(test)]
mod simulation;
pub mod state;
pub mod volumes;

pub use config::{
    Config, DOCKER_SOCKET, LISTEN, Listening, NO_DOCKER_SOCKET, REVIVED, TLS_AUTHORITIES, TLS_CERTIFICATE, TLS_KEY, TLS_VERIFY,
    is_docker_socket,
};
pub use containers::container::Container;
pub use error::EngineError;
pub use events::Event;

use containers::exec::Execs;
use containers::incarnations::Incarnations;
use containers::registry::Containers;
use events::Events;
use images::Images;
use jobs::Jobs;
use launch::launcher::Launcher;
use networks::Networks;
use process::shutdown::Shutdown;
use projects::{ImageUpdates, Projects, Schedules};
use state::StateStore;
use std::sync::{Arc, Mutex, MutexGuard};
use volumes::Volumes;

/// The engine. Locks are taken in the order of the numbers: who holds one takes only later ones. A project's lock and a
/// container's operation lock are held across waits, all others for one step.
///
/// 1. the lock of a project's changes ([`Projects`]);
/// 2. a container's operation lock ([`Container`]), a volume that is being mounted ([`Volumes`]), a start's slot ([`Launcher`]);
/// 3. the records of networks ([`Networks`]), a volume's name and then the records of volumes ([`Volumes`]);
/// 4. the registry of containers ([`Containers`]);
/// 5. a container's record, then what lives beside it ([`Container`]);
/// 6. the last ones, under which nothing else is locked: the journal and what recovery has found ([`StateStore`]), [`Events`],
///    [`Execs`], [`Incarnations`], the launcher's caches, firewall, resolver. Before them: the records of jobs ([`Jobs`]).
pub struct Engine {
    pub config: Arc<Config>,
    pub events: Arc<Events>,
    pub state: Arc<StateStore>,
    pub containers: Arc<Containers>,
    pub execs: Arc<Execs>,
    pub images: Images,
    pub incarnations: Incarnations,
    pub volumes: Volumes,
    pub networks: Networks,
    pub launcher: Launcher,
    projects: Projects,
    image_updates: ImageUpdates,
    schedules: Schedules,
    jobs: Jobs,
    pub shutdown: Shutdown,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// 256 random bits in hexadecimal: an id of a container or a network.
pub(crate) fn new_id() -> std::io::Result<String> {
    loop {
        let id = crate::random::hex::<32>()?;
        if may_be_a_hostname(&id) {
            return Ok(id);
        }
    }
}

/// Whether the short form, which is the hostname of a container by default, is looked up as a name: libc takes digits alone for
/// an address and finds no host, whatever /etc/hosts says. One id of 281 is such.
fn may_be_a_hostname(id: &str) -> bool {
    id.bytes().take(12).any(|byte| !byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_no_number() {
        assert!(!may_be_a_hostname(&format!("{}{}", "749820042378", "a".repeat(52))));
        assert!(may_be_a_hostname(&format!("{}{}", "74982004237a", "1".repeat(52))));
        // Of as many random ones, 14 in the mean would be.
        assert!((0..4000).all(|_| may_be_a_hostname(&new_id().expect("an id"))));
    }
}
