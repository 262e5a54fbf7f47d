//! A container as an OCI runtime configuration.

use super::cdi::Edits;
use super::devices::{self, DeviceNode};
use super::security::Security;
use super::{limits, sysctls};
use crate::engine::record::{ContainerRecord, Sharing};
use crate::runtime::capabilities::Capabilities;
use crate::runtime::spec::{self, Ipc};
use oci_spec::runtime::{BoxBuilder, Linux, LinuxSeccomp, Mount, Process, Root, Spec};

const DEFAULT_SHM: u64 = 64 << 20;

/// The parts of a configuration that are not in the container's record.
pub struct LaunchParts<'a> {
    pub hostname: String,
    pub capabilities: Capabilities,
    pub security: &'a Security,
    /// The AppArmor profile; absent for none.
    pub apparmor: Option<String>,
    /// Soft and hard limit of open files.
    pub nofile: (u64, u64),
    pub mounts: Vec<Mount>,
    pub edits: Edits,
    /// The profile for another runtime; wharf's own takes it compiled.
    pub seccomp: Option<LinuxSeccomp>,
    /// Whether wharf's own runtime runs the container.
    pub is_own_runtime: bool,
}

/// The configuration.
///
/// # Errors
/// An attribute that the kernel does not know or the host does not have.
pub fn configuration(record: &ContainerRecord, parts: LaunchParts<'_>) -> Result<Spec, String> {
    let process = process(record, &parts)?;
    let container = &record.spec;
    let mut edits = parts.edits;
    let devices: Vec<DeviceNode> = devices::of(container)?.into_iter().chain(std::mem::take(&mut edits.devices)).collect();
    let mut linux = linux(record, parts.security, &devices)?;
    linux.set_seccomp(parts.seccomp);
    let tmpfs = container.tmpfs.iter().map(|(destination, options)| spec::tmpfs(destination, options));
    let mounts = tmpfs.chain(parts.mounts).chain(edits.mounts).collect();
    let shm_size = container.shm_size.unwrap_or(DEFAULT_SHM);
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(container.read_only));
    let annotations = container.annotations.iter().map(|(name, value)| (name.clone(), value.clone()));
    let mut oci = spec::empty();
    oci.set_root(Some(root)).set_process(Some(process)).set_linux(Some(linux));
    oci.set_mounts(Some(spec::mounts(container.privileged, ipc(container.ipc.clone()), shm_size, mounts)));
    oci.set_annotations((!container.annotations.is_empty()).then(|| annotations.collect()));
    oci.set_hostname((!container.uts_host).then_some(parts.hostname)).set_domainname(container.domainname.clone());
    oci.set_hooks(edits.hooks);
    Ok(oci)
}

fn process(record: &ContainerRecord, parts: &LaunchParts<'_>) -> Result<Process, String> {
    let container = &record.spec;
    let (entrypoint, command) = record.entrypoint_and_command();
    let mut env = record.process_env(&[], &parts.hostname, container.tty);
    env.extend(parts.edits.env.iter().cloned());
    let cwd = Some(record.working_dir()).filter(|directory| !directory.is_empty()).unwrap_or("/");
    let size = container.console_size.map(|(height, width)| BoxBuilder::default().height(height).width(width).build());
    let size = size.transpose().map_err(|e| e.to_string())?;
    let mut process = Process::default();
    process.set_terminal(Some(container.tty)).set_console_size(size);
    process.set_args(Some([entrypoint, command].concat())).set_env(Some(env)).set_cwd(cwd.into());
    process.set_capabilities(Some(spec::capabilities(parts.capabilities)));
    process.set_no_new_privileges(Some(parts.security.no_new_privileges));
    process.set_oom_score_adj(Some(container.oom_score_adj));
    process.set_rlimits(Some(limits::rlimits(&container.ulimits, parts.nofile)?));
    // wharf's own runtime has it by another name.
    process.set_apparmor_profile(parts.apparmor.clone().filter(|_| !parts.is_own_runtime));
    Ok(process)
}

fn linux(record: &ContainerRecord, security: &Security, devices: &[DeviceNode]) -> Result<Linux, String> {
    let container = &record.spec;
    let rules = devices.iter().map(DeviceNode::rule).chain(devices::rules(&container.device_cgroup_rules)?);
    let mut resources = limits::resources(&container.resources)?;
    resources.set_devices(Some(spec::device_rules(container.privileged, rules)));
    let nodes = devices.iter().map(|device| device.node.clone());
    let mut linux = Linux::default();
    linux.set_namespaces(Some(spec::namespaces(ipc(container.ipc.clone()), !container.uts_host)));
    linux.set_resources(Some(resources)).set_sysctl(Some(sysctls::of(container)?.into_iter().collect()));
    linux.set_devices((!devices.is_empty()).then(|| nodes.collect()));
    linux.set_masked_paths((!security.system_paths).then(spec::masked_paths));
    linux.set_readonly_paths((!security.system_paths).then(spec::readonly_paths));
    Ok(linux)
}

fn ipc(sharing: Sharing) -> Ipc {
    match sharing {
        Sharing::Own | Sharing::Container(_) => Ipc::Own,
        Sharing::Bare => Ipc::Bare,
        Sharing::Host => Ipc::Host,
    }
}
