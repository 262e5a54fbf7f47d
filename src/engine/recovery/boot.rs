//! The containers that a boot of the host starts, and nothing else.

use crate::engine::record::{RestartPolicy, Status, Transition};
use crate::engine::state::directories::{read_manifest, write_manifest};
use crate::engine::{Engine, locked};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The kernel's number of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The number of the boot in which an engine was here last, in the data root.
const LAST_BOOT: &str = "boot.json";

impl Engine {
    /// Starts containers with `restart: always` that somebody had stopped, once in a boot of the host. Docker does so whenever its daemon
    /// starts; an engine of wharf's comes and goes with the commands. The boot is noted afterwards: an engine that dies in between has
    /// started some, and the next starts the others.
    pub(super) fn start_after_boot(self: &Arc<Self>) {
        let path = self.config.data_root.join(LAST_BOOT);
        let Ok(now) = std::fs::read_to_string(BOOT_ID) else { return };
        let now = now.trim();
        let last = read_manifest::<String>(&path).ok();
        if last.as_deref() == Some(now) {
            return;
        }
        for container in self.containers.all().into_iter().filter(|_| last.is_some()) {
            let is_due = container.with_record(|record| {
                record.spec.restart == RestartPolicy::Always && record.stopped_by_user && record.state.status() == Status::Exited
            });
            if is_due {
                locked(&container.live).brought_back = true;
                self.containers.transition(&container, &Transition::DueAfterBoot);
                self.restart_after(&container, Duration::ZERO);
            }
        }
        note(&path, now);
    }
}

/// Without the note the next engine starts once more what somebody has stopped meanwhile.
fn note(path: &Path, boot: &str) {
    if let Err(error) = write_manifest(path, &boot) {
        tracing::error!("writing {}: {error}; what is stopped now may be started once more by the next engine", path.display());
    }
}
