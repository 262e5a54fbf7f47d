//! The API where clients look for Docker's socket, and in containers that have the engine's socket mounted.

use super::lifecycle::socket_path;
use crate::engine::record::MountKind;
use crate::engine::{Config, Container, EngineError};
use crate::runtime::{remount, user};
use crate::sys::foreign_disk::ask;
use crate::sys::socket::connect_at_once;
use nix::libc::pid_t;
use nix::sys::socket::{SockType, getsockopt, sockopt::PeerCredentials};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;

/// Docker's group, which may use its socket. Who is in it is root by that.
const GROUP: &str = "docker";

/// Looks whether an engine can listen at a path, before it replaces the one of a run root, which may be who listens there.
///
/// # Errors
/// As [`listen`].
pub(super) fn check(path: &Path, run_root: &Path) -> Result<(), EngineError> {
    let own = connect_at_once(&socket_path(run_root), SockType::Stream).ok().and_then(|engine| peer(&engine));
    free(path, own)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::metadata(directory).map(drop).map_err(EngineError::io(format!("listening on {}", path.display())))
}

/// Listens at a path in the place of what an earlier engine has left there.
///
/// # Errors
/// When somebody else listens there, or has something else there, or the directory is missing.
pub(super) fn listen(path: &Path) -> Result<UnixListener, EngineError> {
    let doing = || EngineError::io(format!("listening on {}", path.display()));
    if free(path, None)? {
        fs::remove_file(path).map_err(doing())?;
    }
    let listener = UnixListener::bind(path).map_err(doing())?;
    // The C library would load others of its own for it, which a static program cannot.
    let group = fs::read_to_string("/etc/group").ok().and_then(|groups| user::group_id(&groups, GROUP));
    if let Some(group) = group {
        std::os::unix::fs::chown(path, Some(0), Some(group)).map_err(doing())?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(doing())?;
    Ok(listener)
}

/// Whether a socket is there to which nobody listens but the process `own`. Nobody waits for one whose queue is full.
fn free(path: &Path, own: Option<pid_t>) -> Result<bool, EngineError> {
    let Ok(file) = fs::symlink_metadata(path) else { return Ok(false) };
    if !file.file_type().is_socket() {
        return Err(EngineError::Invalid(format!("{} is there and is no socket: remove it", path.display())));
    }
    let is_anothers = match connect_at_once(path, SockType::Stream) {
        Ok(listener) => own.is_none() || peer(&listener) != own,
        Err(error) => error == nix::Error::EAGAIN && own.is_none(),
    };
    if is_anothers {
        return Err(EngineError::Conflict(format!(
            "somebody else listens on {}: stop it, or start wharf's engine without --docker-socket",
            path.display()
        )));
    }
    Ok(true)
}

/// The process that listens at the other end.
fn peer(connected: &impl AsFd) -> Option<pid_t> {
    getsockopt(connected, PeerCredentials).ok().map(|credentials| credentials.pid())
}

/// Gives a running container this engine's socket where it has that of an earlier one: nobody listens there any more.
/// Nobody waits for the container's file system.
pub(in crate::engine) fn renew_sockets(config: &Arc<Config>, container: &Arc<Container>, pid: i32) {
    let mounts = container.with_record(|record| record.spec.mounts.clone());
    let binds: Vec<_> = mounts.into_iter().filter(|mount| mount.kind == MountKind::Bind).collect();
    if binds.is_empty() {
        return;
    }
    let (config, container) = (config.clone(), container.clone());
    tokio::task::spawn_blocking(move || {
        for mount in binds {
            let own = ask(|| {
                let source = config.bind_source(&mount.source);
                Ok(config.is_own_socket(&source).then_some(source))
            });
            let renewed = own.and_then(|own| match own {
                Some(source) => remount::renew_socket(&source, pid, &mount.target, mount.read_only),
                None => Ok(()),
            });
            if let Err(error) = renewed {
                let (name, target) = (container.name(), &mount.target);
                tracing::warn!("{name}: the engine's socket at {target} is that of an earlier engine: {error}");
            }
        }
    });
}
