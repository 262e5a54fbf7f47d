//! From a container's record to the launch file that its monitor reads.

pub(super) mod cdi;
pub(super) mod control_groups;
pub mod devices;
pub(super) mod etc;
pub(super) mod launcher;
mod limits;
mod mounts;
mod oci;
pub(super) mod security;
pub(super) mod sysctls;

use super::containers::registry::Containers;
use super::error::EngineError;
use super::images::Images;
use super::record::{ContainerRecord, ContainerSpec, Sharing};
use super::volumes::Volumes;
use super::{Config, Engine};
use crate::runtime::DEFAULT_PATH;
use crate::runtime::capabilities::Capabilities;
use crate::runtime::error::SetupStep;
use crate::runtime::launch::{Launch, LogTarget, Rootfs};
use crate::runtime::pack;
use crate::runtime::scope::Scope;
use crate::runtime::seccomp::{self, Profile};
use launcher::Launcher;
use oci::LaunchParts;
use oci_spec::runtime::LinuxSeccomp;
use security::{AppArmor, Security};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Bytes of each of two files in memory that hold what nobody has attached to, with the log driver `none`.
const UNKEPT_OUTPUT: u64 = 256 << 10;

/// The parts of the engine out of which launch files are made.
pub(super) struct LaunchFiles<'a> {
    config: &'a Config,
    containers: &'a Containers,
    images: &'a Images,
    launcher: &'a Launcher,
    volumes: &'a Volumes,
}

impl Engine {
    pub(super) fn launch_files(&self) -> LaunchFiles<'_> {
        let Engine { config, containers, images, launcher, volumes, .. } = self;
        LaunchFiles { config, containers, images, launcher, volumes }
    }
}

impl LaunchFiles<'_> {
    /// Builds the launch file. Makes what its mounts need on the host: directories of volumes and sources of bind mounts.
    pub(super) fn make(&self, record: &ContainerRecord) -> Result<Launch, EngineError> {
        let spec = &record.spec;
        let invalid = |why: String| EngineError::Start { name: record.name.clone(), message: why, step: SetupStep::Monitor };
        let capabilities =
            spec.capabilities().map_err(|name| invalid(format!("`{name}` is not a capability; capabilities(7) lists them")))?;
        let security = Security::of(spec).map_err(&invalid)?;
        let apparmor = self.apparmor(spec, &security).map_err(&invalid)?;
        let names = spec.devices.iter().map(|device| device.source.as_str());
        let edits = cdi::resolve(names.filter(|name| cdi::is_name(name))).map_err(&invalid)?;
        let runtime = find_runtime(spec.runtime.as_deref()).map_err(&invalid)?;
        check_runtime(record, runtime.is_none(), &edits).map_err(&invalid)?;
        let mounted = self.mounts(record)?;
        mounts::check_destinations(&mounted, &spec.tmpfs).map_err(&invalid)?;
        let parts = LaunchParts {
            hostname: self.containers.host_name(record),
            capabilities,
            security: &security,
            apparmor: apparmor.clone(),
            nofile: self.launcher.nofile,
            mounts: mounted.binds,
            edits,
            seccomp: if runtime.is_some() { oci_seccomp(&security, capabilities).map_err(&invalid)? } else { None },
            is_own_runtime: runtime.is_none(),
        };
        let oci = oci::configuration(record, parts).map_err(&invalid)?;
        Ok(Launch {
            id: record.id.clone(),
            runtime,
            clone_flags: clone_flags(spec),
            joins: Vec::new(),
            // As Docker has it: the host's with cgroup v1, and for the privileged.
            cgroup_namespace: spec.cgroup_private.unwrap_or(self.launcher.groups.hierarchy.is_v2() && !spec.privileged),
            terminal: spec.tty,
            cgroup: self.launcher.groups.hierarchy.clone(),
            group: record.group(),
            monitors: self.launcher.groups.scope.as_ref().map(Scope::monitors),
            oci,
            rootfs: self.rootfs(record),
            user: record.user().to_string(),
            group_add: spec.group_add.clone(),
            copy_up: mounted.copy_up,
            images: mounted.images,
            subpaths: mounted.subpaths,
            id_maps: mounted.id_maps,
            shared: Vec::new(),
            kept: self.volumes.kept_mounts(record),
            init: spec.init,
            seccomp: self.seccomp_program(&security, capabilities).map_err(&invalid)?,
            apparmor,
            log: LogTarget {
                path: self.config.output_path(record),
                max_size: if spec.log.none { UNKEPT_OUTPUT } else { spec.log.max_size },
                max_files: if spec.log.none { 2 } else { spec.log.max_files },
                holds: Vec::new(),
                expected: Vec::new(),
            },
            stdin: spec.stdin_open,
            exit_file: self.config.exit_file(&record.id),
            revive: self.config.revive_arguments(),
            revive_lock: self.config.run_root.join("revive.lock"),
        })
    }

    fn rootfs(&self, record: &ContainerRecord) -> Rootfs {
        let directory = self.config.container_directory(&record.id);
        let layers = record.layers.iter().rev().map(|layer| self.images.store.layer(layer));
        Rootfs {
            lower: layers.chain([self.config.base_layer()]).collect(),
            upper: directory.join("upper"),
            work: directory.join("work"),
            // Each container mounts its own there, in its own mount namespace.
            mountpoint: self.config.run_root.join("rootfs"),
        }
    }

    /// The compiled profile, which wharf's own runtime takes and processes of `exec` have in any case.
    fn seccomp_program(&self, security: &Security, capabilities: Capabilities) -> Result<Vec<[u32; 2]>, String> {
        match &security.seccomp {
            _ if security.unconfined => Ok(Vec::new()),
            Some(path) => Ok(security::compile(path, capabilities)?.into_iter().map(pack).collect()),
            None => self.launcher.seccomp_program(capabilities),
        }
    }

    /// The AppArmor profile of a container; `None` for none.
    fn apparmor(&self, spec: &ContainerSpec, security: &Security) -> Result<Option<String>, String> {
        match &security.apparmor {
            AppArmor::Named(profile) if !crate::runtime::apparmor::is_loaded(profile) => {
                Err(format!("the AppArmor profile `{profile}` is not loaded; `apparmor_parser -r FILE` loads it"))
            }
            AppArmor::Named(profile) => Ok(Some(profile.clone())),
            AppArmor::Unconfined => Ok(None),
            AppArmor::Default if spec.privileged => Ok(None),
            AppArmor::Default => Ok(self.launcher.apparmor_profile()),
        }
    }
}

/// A container's limits in OCI's form, without its device rules.
pub(super) fn oci_limits(record: &ContainerRecord) -> Result<oci_spec::runtime::LinuxResources, EngineError> {
    limits::resources(&record.spec.resources).map_err(EngineError::Invalid)
}

/// CLONE_NEW* of the namespaces that the monitor makes.
fn clone_flags(spec: &ContainerSpec) -> u64 {
    let own = [
        (spec.pid == Sharing::Own, libc::CLONE_NEWPID),
        (matches!(spec.ipc, Sharing::Own | Sharing::Bare), libc::CLONE_NEWIPC),
        (!spec.uts_host, libc::CLONE_NEWUTS),
    ];
    own.into_iter().filter(|(own, _)| *own).fold(libc::CLONE_NEWNS, |flags, (_, flag)| flags | flag) as u64
}

/// Refuses what the runtime of a container cannot do.
fn check_runtime(record: &ContainerRecord, is_own: bool, edits: &cdi::Edits) -> Result<(), String> {
    match &edits.first_hook {
        Some(program) if is_own => Err(format!(
            "a device of it has the hook {}, which wharf's own runtime does not run: add `runtime: runc`, with runc on this host",
            program.display()
        )),
        _ if record.spec.init && !is_own => Err("`init` is wharf's own runtime's; it cannot be had with another".into()),
        _ => Ok(()),
    }
}

/// The seccomp profile for a runtime that compiles it itself.
fn oci_seccomp(security: &Security, capabilities: Capabilities) -> Result<Option<LinuxSeccomp>, String> {
    match &security.seccomp {
        _ if security.unconfined => Ok(None),
        Some(path) => Profile::read(Path::new(path))?.oci(capabilities).map(Some),
        None => seccomp::docker_default().oci(capabilities).map(Some),
    }
}

/// Makes the layer below every image.
pub(super) fn make_base_layer(base: &Path) -> Result<(), EngineError> {
    let doing = || EngineError::io(format!("making {}", base.display()));
    for directory in ["dev", "etc", "proc", "sys"] {
        fs::create_dir_all(base.join(directory)).map_err(doing())?;
    }
    for file in ["etc/hostname", "etc/hosts", "etc/resolv.conf"] {
        fs::File::options().create(true).append(true).open(base.join(file)).map_err(doing())?;
    }
    for path in ["", "dev", "etc", "proc", "sys"] {
        fs::set_permissions(base.join(path), fs::Permissions::from_mode(0o755)).map_err(doing())?;
    }
    Ok(())
}

/// The program of a runtime: wharf's own for none, for `wharf`, and for Docker's default where this host does not have that;
/// another by its name in PATH, or by its path.
pub(in crate::engine) fn find_runtime(name: Option<&str>) -> Result<Option<std::path::PathBuf>, String> {
    const DOCKERS: [&str; 2] = ["runc", "io.containerd.runc.v2"];
    let Some(name) = name.filter(|name| *name != "wharf") else { return Ok(None) };
    let program = if name == DOCKERS[1] { DOCKERS[0] } else { name };
    let directories = match program.contains('/') {
        true => String::new(),
        false => std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.into()),
    };
    let found = directories.split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.is_file());
    match found {
        Some(path) if path.is_absolute() => Ok(Some(path)),
        _ if DOCKERS.contains(&name) => Ok(None),
        _ => Err(format!("unknown or invalid runtime name: {name}: install it where PATH finds it, or give its whole path")),
    }
}
