//! `/version` and `/info`.

use super::{API_VERSION, MIN_API_VERSION};
use crate::engine::record::Status;
use crate::engine::{Engine, EngineError};
use serde_json::{Value, json};

fn kernel() -> String {
    nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
}

pub(super) fn version() -> Value {
    let (version, kernel) = (env!("CARGO_PKG_VERSION"), kernel());
    json!({
        "Platform": {"Name": "wharf"},
        "Components": [{
            "Name": "Engine", "Version": version,
            "Details": {
                "ApiVersion": API_VERSION, "MinAPIVersion": MIN_API_VERSION, "Os": "linux", "Arch": crate::image::architecture(),
                "KernelVersion": kernel, "Experimental": "false", "GitCommit": "", "GoVersion": "", "BuildTime": "",
            },
        }],
        "Version": version,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": crate::image::architecture(),
        "KernelVersion": kernel,
        "Experimental": false,
        "BuildTime": "",
    })
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
pub(super) fn info(engine: &Engine) -> Result<Value, EngineError> {
    let containers: Vec<Status> = engine.containers.all().iter().filter(|c| !c.is_build_step()).map(|c| c.status()).collect();
    let count = |wanted: Status| containers.iter().filter(|status| **status == wanted).count();
    let (running, paused) = (count(Status::Running) + count(Status::Restarting), count(Status::Paused));
    let mut images: Vec<String> = engine.images.store.list()?.into_iter().map(|(_, image)| image.id.to_string()).collect();
    images.sort_unstable();
    images.dedup();
    let proxy = |name: &str| std::env::var(name).unwrap_or_default();
    let cgroup = if has_unified_groups() { "2" } else { "1" };
    let mut info = json!({
        "ID": engine.config.fixed_id("engine"),
        "Name": nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "Containers": containers.len(),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": containers.len() - running - paused,
        "Images": images.len(),
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]],
        "SystemStatus": null,
        "DockerRootDir": engine.config.data_root,
        "Plugins": {
            "Volume": ["local"], "Network": ["bridge", "host", "ipvlan", "macvlan", "null"], "Authorization": null,
            "Log": ["json-file", "none"],
        },
        "MemoryLimit": true, "SwapLimit": true, "KernelMemory": false, "CpuCfsPeriod": true, "CpuCfsQuota": true,
        "CPUShares": true, "CPUSet": true, "PidsLimit": true, "OomKillDisable": cgroup == "1",
        "IPv4Forwarding": true, "BridgeNfIptables": false, "BridgeNfIp6tables": false, "Debug": false,
        "NFd": std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        "NGoroutines": 0,
    });
    let rest = json!({
        "SystemTime": jiff::Timestamp::now().to_string(),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": cgroup,
        "NEventsListener": 0,
        "KernelVersion": kernel(),
        "OperatingSystem": os_release("PRETTY_NAME"),
        "OSVersion": os_release("VERSION_ID"),
        "OSType": "linux",
        "Architecture": std::env::consts::ARCH,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {"AllowNondistributableArtifactsCIDRs": null, "AllowNondistributableArtifactsHostnames": null,
            "InsecureRegistryCIDRs": [], "IndexConfigs": {}, "Mirrors": []},
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "MemTotal": memory(),
        "GenericResources": null,
        "HttpProxy": proxy("HTTP_PROXY"), "HttpsProxy": proxy("HTTPS_PROXY"), "NoProxy": proxy("NO_PROXY"),
        "Labels": [],
        "ExperimentalBuild": false,
        "Runtimes": {"wharf": {"path": "wharf"}},
        "DefaultRuntime": "wharf",
        "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null},
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "wharf",
        "ContainerdCommit": {"ID": "", "Expected": ""}, "RuncCommit": {"ID": "", "Expected": ""}, "InitCommit": {"ID": "", "Expected": ""},
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"],
        "Warnings": engine.state.warnings(),
    });
    if let (Some(info), Value::Object(rest)) = (info.as_object_mut(), rest) {
        info.extend(rest);
    }
    Ok(info)
}
