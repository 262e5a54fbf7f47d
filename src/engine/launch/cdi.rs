//! Devices by the Container Device Interface: `vendor.com/class=name`, which a vendor's file in /etc/cdi or /var/run/cdi says the
//! meaning of (the specification of the CNCF, version 0.8): device nodes, variables, mounts and hooks.

use super::devices::{self, DeviceNode};
use crate::runtime::spec::mount;
use oci_spec::runtime::Hooks;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// In the order of their weight: what a later one says of a device goes before.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The devices, mounts, variables and hooks that CDI adds to a container.
#[derive(Debug, Default)]
pub struct Edits {
    pub devices: Vec<DeviceNode>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    pub mounts: Vec<oci_spec::runtime::Mount>,
    pub hooks: Option<Hooks>,
    /// The program of the first hook.
    pub first_hook: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CdiFile {
    kind: String,
    #[serde(default)]
    devices: Vec<Named>,
    #[serde(default)]
    container_edits: Stated,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    name: Value,
    #[serde(default)]
    container_edits: Stated,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stated {
    env: Vec<String>,
    device_nodes: Vec<CdiNode>,
    mounts: Vec<CdiMount>,
    hooks: Vec<CdiHook>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CdiNode {
    path: String,
    host_path: Option<String>,
    permissions: Option<String>,
    file_mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CdiMount {
    host_path: PathBuf,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CdiHook {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

/// Whether a device's source is such a name, not a path.
pub fn is_name(source: &str) -> bool {
    !source.starts_with('/') && source.split_once('=').is_some_and(|(kind, name)| kind.contains('/') && !name.is_empty())
}

/// Whether a file of this host says what the devices of a kind (`vendor.com/class`) are.
pub fn knows(kind: &str) -> bool {
    files().is_ok_and(|files| files.iter().any(|(_, file)| file.kind == kind))
}

fn files() -> Result<Vec<(PathBuf, CdiFile)>, String> {
    let mut found = Vec::new();
    for directory in DIRECTORIES {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml"));
        paths.sort();
        for path in paths {
            let wrong = |why: String| format!("the CDI specification {}: {why}", path.display());
            let text = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
            found.push((path.clone(), serde_yaml::from_str(&text).map_err(|e| wrong(e.to_string()))?));
        }
    }
    found.reverse();
    Ok(found)
}

/// Looks devices up by their names.
///
/// # Errors
/// A sentence: the device that no file knows, or what is wrong with a file.
pub fn resolve<'a>(names: impl Iterator<Item = &'a str>) -> Result<Edits, String> {
    let mut edits = Edits::default();
    let mut names = names.peekable();
    if names.peek().is_none() {
        return Ok(edits);
    }
    let files = files()?;
    let mut used: Vec<&Path> = Vec::new();
    for name in names {
        let (kind, wanted) = name.split_once('=').unwrap_or((name, ""));
        let called = |device: &Named| match &device.name {
            Value::Number(number) => number.to_string() == wanted,
            name => name.as_str() == Some(wanted),
        };
        let mut of_kind = files.iter().filter(|(_, file)| file.kind == kind);
        let found = of_kind.find_map(|(path, file)| Some((path, file, file.devices.iter().find(|d| called(d))?)));
        let Some((path, file, device)) = found else {
            let known: Vec<String> = files
                .iter()
                .flat_map(|(_, file)| file.devices.iter().map(|d| format!("{}={}", file.kind, d.name).replace('"', "")))
                .collect();
            let known = if known.is_empty() { "there are none".to_string() } else { format!("they know {}", known.join(", ")) };
            return Err(format!("no CDI specification in {} knows the device `{name}`: {known}", DIRECTORIES.join(" or ")));
        };
        // The edits of a file that hold for all its devices are applied once.
        if !used.contains(&path.as_path()) {
            used.push(path);
            edits.add(&file.container_edits)?;
        }
        edits.add(&device.container_edits)?;
    }
    Ok(edits)
}

impl Edits {
    fn add(&mut self, stated: &Stated) -> Result<(), String> {
        self.env.extend(stated.env.iter().cloned());
        for node in &stated.device_nodes {
            let source = node.host_path.as_ref().unwrap_or(&node.path);
            let access = node.permissions.as_deref().unwrap_or("rwm");
            let mut device = devices::at(Path::new(source), &node.path, access)?;
            let (mode, uid, gid) = (device.node.file_mode(), device.node.uid(), device.node.gid());
            device.node.set_file_mode(node.file_mode.or(mode)).set_uid(node.uid.or(uid)).set_gid(node.gid.or(gid));
            self.devices.retain(|known| known.node.path() != device.node.path());
            self.devices.push(device);
        }
        for stated in &stated.mounts {
            let mut options = stated.options.clone();
            if !options.iter().any(|option| option == "bind" || option == "rbind") {
                options.push("rbind".into());
            }
            let kind = stated.kind.as_deref().filter(|kind| !matches!(*kind, "none" | "")).unwrap_or("bind");
            self.mounts.push(mount(&stated.container_path, kind, &stated.host_path, options));
        }
        stated.hooks.iter().try_for_each(|hook| self.add_hook(hook))
    }

    fn add_hook(&mut self, stated: &CdiHook) -> Result<(), String> {
        let mut hook = oci_spec::runtime::Hook::default();
        hook.set_path(stated.path.clone().into()).set_args(Some(stated.args.clone())).set_env(Some(stated.env.clone()));
        hook.set_timeout(stated.timeout);
        let hooks = self.hooks.get_or_insert_with(Hooks::default);
        let list = match stated.hook_name.as_str() {
            "prestart" => hooks.prestart_mut(),
            "createRuntime" => hooks.create_runtime_mut(),
            "createContainer" => hooks.create_container_mut(),
            "startContainer" => hooks.start_container_mut(),
            "poststart" => hooks.poststart_mut(),
            "poststop" => hooks.poststop_mut(),
            other => {
                return Err(format!("the hook {} of a CDI specification is `{other}`, which OCI does not know", stated.path));
            }
        };
        list.get_or_insert_default().push(hook);
        self.first_hook.get_or_insert_with(|| stated.path.clone().into());
        Ok(())
    }
}
