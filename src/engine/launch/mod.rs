//! From a container's record to the launch file that its monitor reads.

pub(super) mod cdi;
pub(super) mod control_groups;
pub mod devices;
pub(super) mod etc;
pub(super) mod launcher;
pub(super) mod security;
pub(super) mod sysctls;

use self::security::{AppArmor, Security};
use super::Engine;
use super::error::EngineError;
use super::record::{ContainerRecord, MountKind, Sharing};
use crate::runtime::DEFAULT_PATH;
use crate::runtime::launch::{ImageMount, Launch, LogTarget, Rootfs};
use crate::runtime::scope::Scope;
use crate::runtime::spec::{BindMount, Ipc, Resources, Settings};
use crate::runtime::{pack, seccomp_file, spec, targets};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Bytes of each of two files in memory that hold what nobody has attached to, with the log driver `none`.
const UNKEPT_OUTPUT: u64 = 256 << 10;
const DEFAULT_SHM: u64 = 64 << 20;

impl Engine {
    /// Builds the launch file. Volumes are made and their sources checked on the way.
    pub(super) fn launch_file(&self, record: &ContainerRecord) -> Result<Launch, EngineError> {
        let spec = &record.spec;
        let invalid = |why: String| EngineError::Start { name: record.name.clone(), message: why, code: 128 };
        let capabilities =
            spec.capabilities().map_err(|name| invalid(format!("`{name}` is not a capability; capabilities(7) lists them")))?;
        let Security { unconfined, no_new_privileges, system_paths, seccomp: custom, apparmor } =
            Security::of(spec).map_err(&invalid)?;
        let apparmor = match apparmor {
            AppArmor::Named(profile) if !crate::runtime::apparmor::is_loaded(&profile) => {
                return Err(invalid(format!(
                    "the AppArmor profile `{profile}` is not loaded; `apparmor_parser -r FILE` loads it"
                )));
            }
            AppArmor::Named(profile) => Some(profile),
            AppArmor::Unconfined => None,
            AppArmor::Default if spec.privileged => None,
            AppArmor::Default => self.launcher.apparmor_profile(),
        };
        let sysctls = sysctls::of(spec).map_err(&invalid)?;
        let hostname = self.containers.host_name(record);
        let (entrypoint, command) = record.entrypoint_and_command();
        let args = [entrypoint, command].concat();
        let user = record.user().to_string();
        let cwd = Some(record.working_dir()).filter(|directory| !directory.is_empty()).unwrap_or("/").to_string();
        let names = spec.devices.iter().map(|device| device.source.as_str());
        let edits = cdi::resolve(names.filter(|name| cdi::is_name(name))).map_err(&invalid)?;
        let mut env = record.process_env(&[], &hostname, spec.tty);
        env.extend(edits.env);
        let settings = Settings {
            args,
            env,
            cwd,
            terminal: spec.tty,
            console_size: spec.console_size,
            hostname: (!spec.uts_host).then_some(hostname),
            domainname: spec.domainname.clone(),
            capabilities,
            privileged: spec.privileged,
            no_new_privileges,
            readonly_rootfs: spec.read_only,
            rlimits: self.rlimits(record)?,
            oom_score_adj: spec.oom_score_adj,
            sysctls,
            shm_size: spec.shm_size.unwrap_or(DEFAULT_SHM),
            mounts: Vec::new(),
            tmpfs: spec.tmpfs.clone(),
            resources: resources(record).map_err(&invalid)?,
            ipc: match spec.ipc {
                Sharing::Own | Sharing::Container(_) => Ipc::Own,
                Sharing::Bare => Ipc::Bare,
                Sharing::Host => Ipc::Host,
            },
            annotations: spec.annotations.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            devices: devices::of(spec).map_err(&invalid)?.into_iter().chain(edits.devices).collect(),
            device_rules: devices::rules(&spec.device_cgroup_rules).map_err(&invalid)?,
            system_paths,
        };
        let mounted = self.mounts(record)?;
        let destinations = mounted.binds.iter().map(|mount| (mount.destination.as_str(), mount.source.as_path()));
        let empty = Path::new("");
        let images = mounted.images.iter().filter_map(|image| Some((image.destination.to_str()?, empty)));
        for (destination, source) in destinations.chain(images).chain(spec.tmpfs.iter().map(|(path, _)| (path.as_str(), empty))) {
            check_destination(destination, source).map_err(&invalid)?;
        }
        let settings = Settings { mounts: mounted.binds.into_iter().chain(edits.mounts).collect(), ..settings };
        let runtime = find_runtime(spec.runtime.as_deref()).map_err(&invalid)?;
        let mut oci = spec::oci(&settings);
        if runtime.is_none()
            && let Some(hook) = edits.hooks.values().next()
        {
            let program = hook[0]["path"].as_str().unwrap_or_default();
            return Err(invalid(format!(
                "a device of it has the hook {program}, which wharf's own runtime does not run: add `runtime: runc`, with runc on this host"
            )));
        }
        if runtime.is_some() {
            if !edits.hooks.is_empty() {
                oci["hooks"] = edits.hooks.into();
            }
            if spec.init {
                return Err(invalid("`init` is wharf's own runtime's; it cannot be had with another".into()));
            }
            // What wharf's own runtime takes compiled, or by another name.
            oci["process"]["apparmorProfile"] = apparmor.clone().into();
            oci["linux"]["seccomp"] = match &custom {
                _ if unconfined => serde_json::Value::Null,
                Some(path) => seccomp_file::oci(Path::new(path), capabilities).map_err(&invalid)?,
                None => crate::runtime::seccomp::oci(capabilities),
            };
        }
        let oci = serde_json::from_value(oci).map_err(|e| invalid(format!("its configuration is no valid OCI one: {e}")))?;
        let directory = self.config.container_directory(&record.id);
        let seccomp = match custom {
            _ if unconfined => Vec::new(),
            Some(path) => {
                seccomp_file::compile(Path::new(&path), capabilities).map_err(&invalid)?.into_iter().map(pack).collect()
            }
            None => self.launcher.seccomp_program(capabilities),
        };
        let mut namespaces = libc::CLONE_NEWNS;
        for (own, flag) in [
            (spec.pid == Sharing::Own, libc::CLONE_NEWPID),
            (matches!(spec.ipc, Sharing::Own | Sharing::Bare), libc::CLONE_NEWIPC),
            (!spec.uts_host, libc::CLONE_NEWUTS),
        ] {
            namespaces |= if own { flag } else { 0 };
        }
        Ok(Launch {
            id: record.id.clone(),
            runtime,
            clone_flags: namespaces as u64,
            joins: Vec::new(),
            // As Docker has it: the host's with cgroup v1, and for the privileged.
            cgroup_namespace: spec.cgroup_private.unwrap_or(self.launcher.groups.hierarchy.is_v2() && !spec.privileged),
            terminal: spec.tty,
            cgroup: self.launcher.groups.hierarchy.clone(),
            group: record.group(),
            monitors: self.launcher.groups.scope.as_ref().map(Scope::monitors),
            oci,
            rootfs: Rootfs {
                lower: record
                    .layers
                    .iter()
                    .rev()
                    .map(|layer| self.images.store.layer(layer))
                    .chain([self.config.base_layer()])
                    .collect(),
                upper: directory.join("upper"),
                work: directory.join("work"),
                // Each container mounts its own there, in its own mount namespace.
                mountpoint: self.config.run_root.join("rootfs"),
            },
            user,
            group_add: spec.group_add.clone(),
            copy_up: mounted.copy_up,
            images: mounted.images,
            subpaths: mounted.subpaths,
            shared: Vec::new(),
            kept: self.volumes.kept_mounts(record),
            init: spec.init,
            apparmor,
            seccomp,
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

    /// A container's limits in OCI's form, without its device rules.
    pub(super) fn oci_limits(&self, record: &ContainerRecord) -> Result<oci_spec::runtime::LinuxResources, EngineError> {
        let resources = resources(record).map_err(EngineError::Invalid)?;
        spec::limits(&resources).map_err(|e| EngineError::Invalid(format!("the limits are not valid: {e}")))
    }

    fn rlimits(&self, record: &ContainerRecord) -> Result<Vec<(String, u64, u64)>, EngineError> {
        // The engine raises its own limit of open files; a container gets the one that the engine was started with.
        let mut limits = vec![("RLIMIT_NOFILE".to_string(), self.launcher.nofile.0, self.launcher.nofile.1)];
        for (name, soft, hard) in &record.spec.ulimits {
            let full = format!("RLIMIT_{}", name.to_ascii_uppercase());
            let known: Result<oci_spec::runtime::PosixRlimitType, _> = serde_json::from_value(full.clone().into());
            if known.is_err() {
                return Err(EngineError::Start {
                    name: record.name.clone(),
                    message: format!("`{name}` is not a limit; setrlimit(2) lists them (nofile, nproc, memlock, ...)"),
                    code: 128,
                });
            }
            let value = |n: i64| if n < 0 { u64::MAX } else { n as u64 };
            limits.retain(|(known, _, _)| *known != full);
            limits.push((full, value(*soft), value(*hard)));
        }
        Ok(limits)
    }

    /// Bind mounts of the container: its own files, volumes and the user's directories; and which take the image's content.
    fn mounts(&self, record: &ContainerRecord) -> Result<Mounts, EngineError> {
        let mut all = Mounts::default();
        let directory = self.config.etc_directory(&self.containers.named_as(record).id);
        for file in ["resolv.conf", "hostname", "hosts"] {
            let destination = format!("/etc/{file}");
            if !record.spec.mounts.iter().any(|m| m.target == destination) && directory.join(file).exists() {
                let mut options = vec!["bind".to_string()];
                options.extend(record.spec.read_only.then(|| "ro".to_string()));
                all.binds.push(BindMount { source: directory.join(file), destination, options, fstype: None });
            }
        }
        let own_files = self.config.container_directory(&record.id).join("files");
        for (n, file) in record.spec.files.iter().enumerate() {
            let source = file.source.as_ref().map_or_else(|| own_files.join(n.to_string()), std::path::PathBuf::from);
            let options = vec!["bind".into(), "ro".into()];
            all.binds.push(BindMount { source, destination: file.target.clone(), options, fstype: None });
        }
        for mount in &record.spec.mounts {
            if let Some(subpath) = &mount.subpath {
                let inside = Path::new(subpath);
                if inside.components().any(|c| !matches!(c, std::path::Component::Normal(_))) {
                    return Err(EngineError::Invalid(format!("the subpath `{subpath}` must be a relative path without `..`")));
                }
                // Others would share the part of who was first for the whole.
                if mount.kind == MountKind::Volume && self.volumes.is_file_system(&mount.source) {
                    return Err(EngineError::Invalid(format!(
                        "the volume {} is a file system of its own and has no subpath `{subpath}` for a container: mount it whole",
                        mount.source
                    )));
                }
                all.subpaths.insert(mount.target.clone(), inside.to_path_buf());
            }
            let source = match mount.kind {
                MountKind::Image => {
                    // overlayfs wants two layers at least; these are empty.
                    let empty = ["proc", "sys"].map(|empty| self.config.base_layer().join(empty));
                    let layers = empty.into_iter().chain(mount.layers.iter().map(|layer| self.images.store.layer(layer)));
                    all.images.push(ImageMount { destination: mount.target.clone().into(), layers: layers.collect() });
                    continue;
                }
                MountKind::Bind => {
                    let source = self.config.bind_source(&mount.source);
                    if !source.exists() {
                        if !mount.create_host_path {
                            return Err(EngineError::Start {
                                name: record.name.clone(),
                                message: format!(
                                    "the bind mount's source {} does not exist; create it, or correct the path",
                                    mount.source
                                ),
                                code: 128,
                            });
                        }
                        fs::create_dir_all(&source)
                            .map_err(EngineError::io(format!("making the bind mount's source {}", mount.source)))?;
                    }
                    source
                }
                MountKind::Volume if self.volumes.get(&mount.source).is_some_and(|volume| volume.has_device()) => {
                    let options = self.volumes.get(&mount.source).map(|volume| volume.options).unwrap_or_default();
                    let mounted = driver_mount(&mount.source, &options, mount)?;
                    if mounted.fstype.is_none() && takes_content(mount, &mounted.source) {
                        all.copy_up.push(mount.target.clone());
                    }
                    all.binds.push(mounted);
                    continue;
                }
                MountKind::Volume => {
                    let data = self.config.volume_data(&mount.source);
                    fs::create_dir_all(&data).map_err(EngineError::io(format!("making the volume {}", mount.source)))?;
                    if takes_content(mount, &data) {
                        all.copy_up.push(mount.target.clone());
                    }
                    data
                }
            };
            let mut options = vec![if mount.not_recursive { "bind" } else { "rbind" }.to_string()];
            options.extend(mount.read_only.then(|| "ro".to_string()));
            options.extend(mount.propagation.clone());
            all.binds.push(BindMount { source, destination: mount.target.clone(), options, fstype: None });
        }
        Ok(all)
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
pub(super) fn find_runtime(name: Option<&str>) -> Result<Option<std::path::PathBuf>, String> {
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

/// Refuses mounts on /proc, which would take the place of what is masked there; but for those files of it that lxcfs and the
/// like stand in for. Where symlinks lead is known when they are followed: the runtime refuses what then is the kernel's.
fn check_destination(destination: &str, source: &Path) -> Result<(), String> {
    let clean = targets::clean(Path::new(destination));
    let Ok(inside) = clean.strip_prefix("proc") else { return Ok(()) };
    let whole = inside == Path::new("") && source == Path::new("/proc");
    if whole || targets::STAND_INS.iter().any(|file| Path::new(file) == inside) {
        return Ok(());
    }
    Err(format!("nothing can be mounted on `{destination}`: it would take the place of what the kernel shows there"))
}

/// What is mounted into a container besides what every one has.
#[derive(Default)]
struct Mounts {
    binds: Vec<BindMount>,
    /// Destinations of empty volumes, which take the image's content.
    copy_up: Vec<String>,
    images: Vec<ImageMount>,
    subpaths: HashMap<String, std::path::PathBuf>,
}

/// Whether a volume is to be filled with what the image has in its place: it is empty, and nobody has said otherwise.
fn takes_content(mount: &super::record::MountSpec, directory: &Path) -> bool {
    let is_empty = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    is_empty && !mount.no_copy && mount.subpath.is_none()
}

/// A volume of the driver `local` with options: what mount(8) would do with them, in the container's own mount namespace.
fn driver_mount(
    name: &str,
    options: &indexmap::IndexMap<String, String>,
    mount: &super::record::MountSpec,
) -> Result<BindMount, EngineError> {
    let option = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let (fstype, device) = (option("type"), option("device"));
    let mut words: Vec<String> = option("o").split(',').filter(|o| !o.is_empty()).map(str::to_string).collect();
    words.extend(mount.read_only.then(|| "ro".to_string()));
    let is_bind = words.iter().any(|o| o == "bind" || o == "rbind");
    if is_bind && !Path::new(device).exists() {
        return Err(EngineError::Invalid(format!("the volume {name} is {device}, which does not exist; create it")));
    }
    if !is_bind && fstype.starts_with("nfs") {
        // The kernel wants the server's address; mount.nfs would look its name up.
        let server = device.split_once(":/").map_or(device, |(server, _)| server);
        if !words.iter().any(|o| o.starts_with("addr=")) {
            words.push(format!("addr={server}"));
        }
    }
    let destination = mount.target.clone();
    Ok(BindMount { source: device.into(), destination, options: words, fstype: (!is_bind).then(|| fstype.to_string()) })
}

fn resources(record: &ContainerRecord) -> Result<Resources, String> {
    const PERIOD: u64 = 100_000;
    let r = &record.spec.resources;
    Ok(Resources {
        memory: r.memory,
        memory_reservation: r.memory_reservation,
        memory_swap: r.memory_swap,
        cpu_shares: r.cpu_shares,
        cpu_quota: r.cpus.map(|cpus| (cpus * PERIOD as f64) as i64).or(r.cpu_quota),
        cpu_period: r.cpus.map(|_| PERIOD).or(r.cpu_period),
        cpuset: r.cpuset.clone(),
        cpuset_mems: r.cpuset_mems.clone(),
        pids: r.pids,
        cpu_rt_period: r.cpu_rt_period,
        cpu_rt_runtime: r.cpu_rt_runtime,
        swappiness: r.memory_swappiness,
        oom_kill_disable: r.oom_kill_disable,
        block_io: devices::block_io(&r.blkio)?,
    })
}
