//! `/version` and `/info`.

use super::types::{
    NamedPlatform, PluginNames, RuntimePath, STORAGE_DRIVER, SwarmInfo, SystemInfo, VersionAnswer, VersionComponent,
    VersionDetails,
};
use super::{API_VERSION, MIN_API_VERSION};
use crate::engine::record::Status;
use crate::engine::{Engine, EngineError};

fn kernel() -> String {
    nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
}

pub(super) fn version() -> VersionAnswer {
    let version = env!("CARGO_PKG_VERSION").to_string();
    let (os, arch) = ("linux".to_string(), crate::image::architecture().to_string());
    let details = VersionDetails {
        api_version: API_VERSION.into(),
        min_api_version: MIN_API_VERSION.into(),
        os: os.clone(),
        arch: arch.clone(),
        kernel_version: kernel(),
        experimental: "false".into(),
        ..VersionDetails::default()
    };
    VersionAnswer {
        platform: NamedPlatform { name: "wharf".into() },
        components: vec![VersionComponent { name: "Engine".into(), version: version.clone(), details }],
        version,
        api_version: API_VERSION.into(),
        min_api_version: MIN_API_VERSION.into(),
        os,
        arch,
        kernel_version: kernel(),
        ..VersionAnswer::default()
    }
}

/// The value of a `KEY=VALUE` line of os-release(5).
fn os_release(key: &str) -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_default().trim_matches('"').to_string()
}

/// Whether the host has the unified hierarchy of control groups alone.
pub(super) fn has_unified_groups() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Bytes of the machine's memory.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// # Errors
/// When the images cannot be read.
pub(super) fn info(engine: &Engine) -> Result<SystemInfo, EngineError> {
    let containers: Vec<Status> = engine.containers.all().iter().filter(|c| !c.is_build_step()).map(|c| c.status()).collect();
    let count = |wanted: Status| containers.iter().filter(|status| **status == wanted).count();
    let (running, paused) = (count(Status::Running) + count(Status::Restarting), count(Status::Paused));
    let named = engine.images.store.list()?.into_iter().map(|(_, image)| image);
    let mut images: Vec<String> = named.chain(engine.images.store.unnamed()?).map(|image| image.id.to_string()).collect();
    images.sort_unstable();
    images.dedup();
    let proxy = |name: &str| std::env::var(name).unwrap_or_default();
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<String>>();
    let pair = |(key, value): (&str, &str)| (key.to_string(), value.to_string());
    let cgroup = if has_unified_groups() { "2" } else { "1" };
    Ok(SystemInfo {
        id: engine.config.fixed_id("engine"),
        name: nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        server_version: env!("CARGO_PKG_VERSION").into(),
        containers: containers.len(),
        containers_running: running,
        containers_paused: paused,
        containers_stopped: containers.len() - running - paused,
        images: images.len(),
        driver: STORAGE_DRIVER.into(),
        driver_status: [("Backing Filesystem", "extfs"), ("Supports d_type", "true")].map(pair).into(),
        docker_root_dir: engine.config.data_root.to_string_lossy().into_owned(),
        plugins: PluginNames {
            volume: texts(&["local"]),
            network: texts(&["bridge", "host", "ipvlan", "macvlan", "null"]),
            authorization: None,
            log: texts(&["json-file", "none"]),
        },
        oom_kill_disable: cgroup == "1",
        descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        system_time: jiff::Timestamp::now().to_string(),
        cgroup_version: cgroup.into(),
        kernel_version: kernel(),
        operating_system: os_release("PRETTY_NAME"),
        os_version: os_release("VERSION_ID"),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        mem_total: memory(),
        http_proxy: proxy("HTTP_PROXY"),
        https_proxy: proxy("HTTPS_PROXY"),
        no_proxy: proxy("NO_PROXY"),
        runtimes: [("wharf".to_string(), RuntimePath { path: "wharf".into() })].into(),
        security_options: texts(&["name=seccomp,profile=builtin"]),
        cdi_spec_dirs: texts(&["/etc/cdi", "/var/run/cdi"]),
        warnings: engine.state.warnings(),
        ..fixed_info()
    })
}

/// Fields with the same value on every host.
fn fixed_info() -> SystemInfo {
    SystemInfo {
        memory_limit: true,
        swap_limit: true,
        cpu_cfs_period: true,
        cpu_cfs_quota: true,
        cpu_shares: true,
        cpu_set: true,
        pids_limit: true,
        ipv4_forwarding: true,
        logging_driver: "json-file".into(),
        cgroup_driver: "cgroupfs".into(),
        os_type: "linux".into(),
        architecture: std::env::consts::ARCH.into(),
        index_server_address: "https://index.docker.io/v1/".into(),
        default_runtime: "wharf".into(),
        swarm: SwarmInfo { local_node_state: "inactive".into(), ..SwarmInfo::default() },
        live_restore_enabled: true,
        init_binary: "wharf".into(),
        ..SystemInfo::default()
    }
}
