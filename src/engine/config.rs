//! Where an engine keeps its things.

use super::process::tcp::{TcpEndpoint, TlsFiles};
use super::record::{ContainerRecord, clean_source};
use crate::runtime::launch::Exit;
use std::ffi::OsString;
use std::path::PathBuf;

/// The directories of an engine. Two engines with different ones know nothing of each other.
#[derive(Clone, Debug)]
pub struct Config {
    /// Images, volumes, containers, state: survives a reboot. `/var/lib/wharf` by default.
    pub data_root: PathBuf,
    /// Sockets and locks: `/run/wharf` by default.
    pub run_root: PathBuf,
    pub listening: Listening,
}

/// Where the API can be reached besides the run root.
#[derive(Clone, Debug, Default)]
pub struct Listening {
    /// For clients that look where Docker's socket is.
    pub docker_socket: Option<PathBuf>,
    pub tcp: Vec<TcpEndpoint>,
    /// How clients of all ports are checked.
    pub tls: Option<TlsFiles>,
    /// Containers do not get the engine's socket in the place of Docker's.
    pub not_lent: bool,
}

/// The variables that say the same as the options of `wharf engine`: the configuration of an engine.
pub const LISTEN: &str = "WHARF_LISTEN";
pub const TLS_VERIFY: &str = "WHARF_TLSVERIFY";
pub const TLS_AUTHORITIES: &str = "WHARF_TLSCACERT";
pub const TLS_CERTIFICATE: &str = "WHARF_TLSCERT";
pub const TLS_KEY: &str = "WHARF_TLSKEY";
pub const NO_DOCKER_SOCKET: &str = "WHARF_NO_DOCKER_SOCKET";

impl Listening {
    /// Every variable, and its value for an engine that is started with the same settings.
    pub fn variables(&self) -> [(&'static str, Option<OsString>); 7] {
        let tcp = self.tcp.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let file = |of: fn(&TlsFiles) -> &PathBuf| self.tls.as_ref().map(|files| of(files).clone().into_os_string());
        let yes = |is: bool| is.then(|| "true".into());
        [
            (DOCKER_SOCKET, self.docker_socket.clone().map(PathBuf::into_os_string)),
            (LISTEN, (!tcp.is_empty()).then(|| tcp.into())),
            (TLS_VERIFY, yes(self.tls.is_some())),
            (TLS_AUTHORITIES, file(|files| &files.authorities)),
            (TLS_CERTIFICATE, file(|files| &files.certificate)),
            (TLS_KEY, file(|files| &files.key)),
            (NO_DOCKER_SOCKET, yes(self.not_lent)),
        ]
    }
}

/// Where Docker's socket is; `/var/run` is a link to `/run`.
const DOCKER_SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/docker.sock"];

/// Whether a path, however it is written, is that of Docker's socket. A container that asks for it gets this engine's where the host has no Docker.
pub fn is_docker_socket(path: &str) -> bool {
    DOCKER_SOCKETS.contains(&clean_source(path).as_str())
}

/// Whether a path is that of Docker's socket, and nobody has one there.
fn has_no_docker(path: &str) -> bool {
    use std::os::unix::fs::FileTypeExt;
    is_docker_socket(path) && !std::fs::metadata(clean_source(path)).is_ok_and(|file| file.file_type().is_socket())
}

/// The variable that says where the API listens besides.
pub const DOCKER_SOCKET: &str = "WHARF_DOCKER_SOCKET";

/// The flag of an engine that a monitor starts.
pub const REVIVED: &str = "--revived";

impl Config {
    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_root.join("engine.sock")
    }

    /// The source of a bind mount of a path: the path, or this engine's socket in the place of Docker's where that is none.
    pub(super) fn bind_source(&self, path: &str) -> PathBuf {
        if self.is_lent(path) { self.socket() } else { PathBuf::from(path) }
    }

    /// Whether a container that binds a path gets this engine's socket there: the path is Docker's, and nobody has a socket there.
    pub(super) fn is_lent(&self, path: &str) -> bool {
        !self.listening.not_lent && has_no_docker(path)
    }

    /// Why a container cannot bind a path: it is Docker's socket, there is none, and the engine's is not lent.
    pub(super) fn refusal_of_bind(&self, path: &str) -> Option<String> {
        (self.listening.not_lent && has_no_docker(path)).then(|| {
            format!(
                "there is no Docker on this host whose socket {path} could be mounted, and the engine was told not to lend its own (--no-docker-socket): remove the mount, or start the engine without that option"
            )
        })
    }

    /// Whether a path is a socket of this engine: the next one's is another file.
    pub(super) fn is_own_socket(&self, path: &std::path::Path) -> bool {
        let same = |other: &std::path::Path| {
            path == other || std::fs::canonicalize(path).ok().zip(std::fs::canonicalize(other).ok()).is_some_and(|(a, b)| a == b)
        };
        same(&self.socket()) || self.listening.docker_socket.as_deref().is_some_and(same)
    }

    /// 64 hexadecimal digits of something that this engine has one of, always the same ones.
    pub fn fixed_id(&self, what: &str) -> String {
        use sha2::Digest;
        let mut hash = sha2::Sha256::new();
        hash.update(self.data_root.as_os_str().as_encoded_bytes());
        hash.update([0]);
        hash.update(what.as_bytes());
        data_encoding::HEXLOWER.encode(&hash.finalize())
    }

    pub(super) fn container_directory(&self, id: &str) -> PathBuf {
        self.data_root.join("containers").join(id)
    }

    /// A container's /etc/hosts, /etc/hostname and /etc/resolv.conf. It may write them, so they are where its layer is, and limited
    /// with it: a tmpfs of the host's could be filled.
    pub(super) fn etc_directory(&self, id: &str) -> PathBuf {
        self.container_directory(id).join("etc")
    }

    /// A container's own layer: what it has written.
    pub fn written_by(&self, id: &str) -> PathBuf {
        self.container_directory(id).join("upper")
    }

    /// The file in which a monitor records the exit.
    pub(super) fn exit_file(&self, id: &str) -> PathBuf {
        self.container_directory(id).join("exit.json")
    }

    /// The exit that a monitor has recorded.
    pub(super) fn recorded_exit(&self, id: &str) -> Option<Exit> {
        Exit::read(&self.exit_file(id))
    }

    pub(in crate::engine) fn run_directory(&self, id: &str) -> PathBuf {
        self.run_root.join("containers").join(id)
    }

    /// The manifest of a container's last start; gone at a reboot.
    pub(super) fn start_record(&self, id: &str) -> PathBuf {
        self.run_directory(id).join("record.json")
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.container_directory(id).join("log")
    }

    /// Where a container's output can be read as it comes: its log or, with the driver `none`, the last of it in memory (the
    /// run root is a tmpfs), for who attaches.
    pub fn output_path(&self, record: &ContainerRecord) -> PathBuf {
        if record.spec.log.none { self.run_directory(&record.id).join("output/log") } else { self.log_path(&record.id) }
    }

    /// Exit codes and logs of removed containers, a directory each.
    pub(super) fn incarnations(&self) -> PathBuf {
        self.data_root.join("incarnations")
    }

    /// The log of a container that is gone.
    pub fn kept_log_path(&self, id: &str) -> PathBuf {
        self.incarnations().join(id).join("log")
    }

    /// The directory of a volume, which no container sees.
    pub fn volume_directory(&self, name: &str) -> PathBuf {
        self.data_root.join("volumes").join(name)
    }

    /// The directory of a volume that containers see.
    pub fn volume_data(&self, name: &str) -> PathBuf {
        self.volume_directory(name).join("_data")
    }

    pub(super) fn network_manifests(&self) -> PathBuf {
        self.data_root.join("networks")
    }

    /// The manifest of a network.
    pub(super) fn network_manifest(&self, id: &str) -> PathBuf {
        self.network_manifests().join(format!("{id}.json"))
    }

    /// A file for each network that has something in the kernel. A reboot takes both away.
    pub(super) fn raised_networks(&self) -> PathBuf {
        self.run_root.join("networks")
    }

    /// The layer below every image: empty directories and files where wharf mounts something. Images have most of them, but
    /// what one lacks would have to be made in each container's own layer, on disk.
    pub(super) fn base_layer(&self) -> PathBuf {
        self.data_root.join("base")
    }

    /// How a monitor brings an engine back: this program with this engine's roots.
    pub(super) fn revive_arguments(&self) -> Vec<String> {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        vec![
            "wharf".into(),
            "--data-root".into(),
            text(&self.data_root),
            "--run-root".into(),
            text(&self.run_root),
            "engine".into(),
            "--background".into(),
            REVIVED.into(),
        ]
    }
}
