//! Mounts of a container: `Binds`, `Mounts`, `Tmpfs` and `Volumes`.

use super::{invalid, text};
use crate::api::types::{ContainerCreate, Mount};
use crate::engine::EngineError;
use crate::engine::is_docker_socket;
use crate::engine::record::{MountKind, MountSpec};
use crate::engine::volumes::NewVolume;
use crate::sys::foreign_disk::ask;
use crate::units::IdMap;
use std::path::Path;

/// The mounts of a container; file systems in memory with their options.
#[derive(Debug, Default)]
pub(super) struct SpecMounts {
    pub mounts: Vec<MountSpec>,
    pub tmpfs: Vec<(String, Vec<String>)>,
}

impl SpecMounts {
    fn has(&self, target: &str) -> bool {
        self.mounts.iter().any(|mount| mount.target == target) || self.tmpfs.iter().any(|(path, _)| path == target)
    }

    fn add(&mut self, mount: MountSpec) -> Result<(), EngineError> {
        if self.has(&mount.target) {
            return Err(invalid(format!("Duplicate mount point: {}", mount.target)));
        }
        self.mounts.push(mount);
        Ok(())
    }
}

pub(super) fn of(create: &ContainerCreate) -> Result<SpecMounts, EngineError> {
    let host = &create.host_config;
    let mut all = SpecMounts::default();
    for (path, options) in &host.tmpfs {
        let target = target(path).ok_or_else(|| invalid(format!("invalid tmpfs option: {path}: the path must be absolute")))?;
        all.tmpfs.push((target, options.split(',').filter(|option| !option.is_empty()).map(str::to_string).collect()));
    }
    for raw in &host.binds {
        all.add(bind(raw)?)?;
    }
    for entry in &host.mounts {
        match mount(entry)? {
            MountTargets::Other(mount) => all.add(mount)?,
            MountTargets::Tmpfs(target, _) if all.has(&target) => {
                return Err(invalid(format!("Duplicate mount point: {target}")));
            }
            MountTargets::Tmpfs(target, options) => all.tmpfs.push((target, options)),
        }
    }
    for path in create.volumes.keys() {
        let target = target(path).filter(|_| !path.contains(':'));
        let target = target.ok_or_else(|| invalid(format!("invalid volume specification: '{path}'")))?;
        if !all.has(&target) {
            all.mounts.push(MountSpec { kind: MountKind::Volume, target, anonymous: true, ..MountSpec::default() });
        }
    }
    Ok(all)
}

/// A path in the container, cleaned: absolute, and not the root itself.
fn target(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.strip_prefix('/')?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| format!("/{}", parts.join("/")))
}

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// The options in the third part of a bind.
#[derive(Default)]
struct Mode {
    read_only: bool,
    no_copy: bool,
    propagation: Option<String>,
}

fn mode(text: &str) -> Option<Mode> {
    let mut mode = Mode::default();
    let mut seen = [false; 4];
    let mut once = |n: usize| !std::mem::replace(&mut seen[n], true);
    for option in text.split(',').filter(|_| !text.is_empty()) {
        let known = match option {
            "ro" | "rw" => {
                mode.read_only = option == "ro";
                once(0)
            }
            "nocopy" => {
                mode.no_copy = true;
                once(1)
            }
            // There is no SELinux label to set, and no consistency to relax.
            "z" | "Z" => once(2),
            "consistent" | "cached" | "delegated" => true,
            _ if PROPAGATIONS.contains(&option) => {
                mode.propagation = Some(option.to_string());
                once(3)
            }
            _ => false,
        };
        if !known {
            return None;
        }
    }
    Some(mode)
}

/// `[SOURCE:]TARGET[:MODE]`.
fn bind(raw: &str) -> Result<MountSpec, EngineError> {
    let wrong = || invalid(format!("invalid volume specification: '{raw}'"));
    let parts: Vec<&str> = raw.split(':').collect();
    let (source, path, options) = match parts.as_slice() {
        [path] => ("", *path, ""),
        [source, path] => (*source, *path, ""),
        [source, path, options] => (*source, *path, *options),
        _ => return Err(wrong()),
    };
    if parts.len() > 1 && source.is_empty() || path.is_empty() || options.is_empty() && parts.len() == 3 {
        return Err(wrong());
    }
    let mode = mode(options).ok_or_else(|| invalid(format!("invalid mode: {options}")))?;
    let target = target(path).ok_or_else(|| match path {
        "/" => invalid(format!("invalid volume specification: '{raw}': invalid specification: destination can't be '/'")),
        _ => invalid(format!(
            "invalid volume specification: '{raw}': invalid mount config: invalid mount path: '{path}' mount path must be absolute"
        )),
    })?;
    let is_bind = source.starts_with('/');
    if !is_bind && mode.propagation.is_some() || is_bind && mode.no_copy {
        return Err(invalid(format!("invalid mode: {options}")));
    }
    Ok(MountSpec {
        kind: if is_bind { MountKind::Bind } else { MountKind::Volume },
        anonymous: source.is_empty(),
        source: source.into(),
        target,
        read_only: mode.read_only,
        no_copy: mode.no_copy,
        propagation: mode.propagation,
        create_host_path: is_bind,
        ..MountSpec::default()
    })
}

/// One of Docker's `Mounts`.
enum MountTargets {
    Tmpfs(String, Vec<String>),
    Other(MountSpec),
}

fn mount(entry: &Mount) -> Result<MountTargets, EngineError> {
    let kind = if entry.kind.is_empty() { "volume" } else { entry.kind.as_str() };
    let wrong = |why: String| invalid(format!("invalid mount config for type \"{kind}\": {why}"));
    if entry.target.is_empty() {
        return Err(wrong("field Target must not be empty".into()));
    }
    let target = target(&entry.target).ok_or_else(|| match entry.target.as_str() {
        "/" => wrong("invalid specification: destination can't be '/'".into()),
        path => wrong(format!("invalid mount path: '{path}' mount path must be absolute")),
    })?;
    for (given, name, of) in [
        (entry.bind_options.is_some(), "BindOptions", "bind"),
        (entry.volume_options.is_some(), "VolumeOptions", "volume"),
        (entry.tmpfs_options.is_some(), "TmpfsOptions", "tmpfs"),
        (entry.image_options.is_some(), "ImageOptions", "image"),
    ] {
        if given && kind != of {
            return Err(invalid(format!("{name} must not be specified on mount type \"{kind}\"")));
        }
    }
    let needed = || text(&entry.source).ok_or_else(|| wrong("field Source must not be empty".into()));
    let common = MountSpec { read_only: entry.read_only, target: target.clone(), ..MountSpec::default() };
    Ok(MountTargets::Other(match kind {
        "tmpfs" => {
            if !entry.source.is_empty() {
                return Err(wrong("field Source must not be specified".into()));
            }
            return Ok(MountTargets::Tmpfs(target, tmpfs_options(entry)));
        }
        "bind" => {
            let options = entry.bind_options.clone().unwrap_or_default();
            let source = needed()?;
            if !source.starts_with('/') {
                return Err(wrong(format!("invalid mount path: '{source}' mount path must be absolute")));
            }
            if !options.create_mountpoint
                && !is_there(&source).map_err(|e| wrong(format!("bind source path {source}: {e}")))?
                && !is_docker_socket(&source)
            {
                return Err(wrong(format!("bind source path does not exist: {source}")));
            }
            if !options.propagation.is_empty() && !PROPAGATIONS.contains(&options.propagation.as_str()) {
                return Err(wrong(format!("invalid propagation: '{}'", options.propagation)));
            }
            let id_map = options.id_mapping.as_ref().map(|map| IdMap::of_parts(&map.source, &map.user)).transpose();
            MountSpec {
                kind: MountKind::Bind,
                id_map: id_map.map_err(|why| wrong(format!("invalid IDMapping: {why}")))?,
                source,
                propagation: text(&options.propagation),
                create_host_path: options.create_mountpoint,
                not_recursive: options.non_recursive,
                ..common
            }
        }
        "volume" => {
            let options = entry.volume_options.clone().unwrap_or_default();
            if let Some(driver) = options.driver_config.iter().find(|driver| !matches!(driver.name.as_str(), "" | "local")) {
                return Err(EngineError::NoSuch { what: "volume plugin", name: driver.name.clone() });
            }
            MountSpec {
                kind: MountKind::Volume,
                anonymous: entry.source.is_empty(),
                listed: true,
                source: entry.source.clone(),
                no_copy: options.no_copy,
                subpath: text(&options.subpath),
                labels: options.labels,
                ..common
            }
        }
        "image" => MountSpec {
            kind: MountKind::Image,
            source: needed()?,
            subpath: entry.image_options.as_ref().and_then(|options| text(&options.subpath)),
            read_only: true,
            ..common
        },
        other => return Err(invalid(format!("mount type unknown: \"{other}\""))),
    }))
}

/// A tmpfs's options as `mount(8)` has them.
fn tmpfs_options(entry: &Mount) -> Vec<String> {
    let options = entry.tmpfs_options.clone().unwrap_or_default();
    let size = (options.size_bytes > 0).then(|| format!("size={}", options.size_bytes));
    let mode = (options.mode > 0).then(|| format!("mode={:o}", options.mode));
    size.into_iter().chain(mode).chain(entry.read_only.then(|| "ro".to_string())).collect()
}

/// Named volumes that `Mounts` describe: they are made with their labels and options before the container is.
pub fn volumes_to_make(create: &ContainerCreate) -> Vec<NewVolume> {
    let described = |mount: &Mount| {
        let options = mount.volume_options.as_ref()?;
        let driver_options = options.driver_config.as_ref().map(|driver| driver.options.clone()).unwrap_or_default();
        let named = !mount.source.is_empty() && matches!(mount.kind.as_str(), "" | "volume");
        let new =
            NewVolume { name: mount.source.clone(), labels: options.labels.clone(), options: driver_options, anonymous: false };
        (named && !(new.labels.is_empty() && new.options.is_empty())).then_some(new)
    };
    create.host_config.mounts.iter().filter_map(described).collect()
}

/// Whether there is a file, as `stat` sees it.
fn is_there(path: &str) -> std::io::Result<bool> {
    ask(|| Ok(Path::new(path).exists()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{refused, spec_of};
    use super::*;
    use serde_json::json;

    #[test]
    fn binds_are_read() {
        let spec = spec_of(json!({"HostConfig": {"Binds": [
            "/tmp:/a:ro,rshared", "data:/b/../c/:nocopy,z", "/anonymous", "/x:/y"
        ]}}))
        .expect("a body");
        let seen: Vec<_> = spec
            .mounts
            .iter()
            .map(|m| {
                (m.kind, m.source.as_str(), m.target.as_str(), m.read_only, m.propagation.as_deref(), m.no_copy, m.anonymous)
            })
            .collect();
        assert_eq!(
            seen,
            [
                (MountKind::Bind, "/tmp", "/a", true, Some("rshared"), false, false),
                (MountKind::Volume, "data", "/c", false, None, true, false),
                (MountKind::Volume, "", "/anonymous", false, None, false, true),
                (MountKind::Bind, "/x", "/y", false, None, false, false),
            ]
        );
    }

    #[test]
    fn volumes_are_anonymous_where_nothing_else_is_mounted() {
        let spec = spec_of(json!({"Volumes": {"/a": {}, "/b": null}, "HostConfig": {"Binds": ["x:/b"]}})).expect("a body");
        let seen: Vec<_> = spec.mounts.iter().map(|m| (m.target.as_str(), m.anonymous)).collect();
        assert_eq!(seen, [("/b", false), ("/a", true)]);
    }

    #[test]
    fn mounts_are_read() {
        let spec = spec_of(json!({"HostConfig": {"Mounts": [
            {"Type": "bind", "Source": "/tmp", "Target": "/a", "BindOptions": {"Propagation": "rslave", "NonRecursive": true,
                "IDMapping": {"Source": "match-user", "User": "app:staff"}}},
            {"Type": "volume", "Target": "/b", "VolumeOptions": {"Labels": {"k": "v"}}},
            {"Type": "volume", "Source": "v", "Target": "/c", "VolumeOptions": {"Subpath": "s"}},
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 0o700}},
        ]}}))
        .expect("a body");
        assert_eq!((spec.mounts[0].propagation.as_deref(), spec.mounts[0].not_recursive), (Some("rslave"), true));
        assert_eq!(spec.mounts[0].id_map, Some(IdMap::MatchUser(Some("app:staff".into()))));
        assert_eq!((spec.mounts[1].anonymous, spec.mounts[1].labels.len()), (true, 1));
        assert_eq!(spec.mounts[2].subpath.as_deref(), Some("s"));
        assert_eq!(spec.tmpfs, [("/t".to_string(), vec!["size=4096".to_string(), "mode=700".to_string()])]);
    }

    #[test]
    fn wrong_mounts_are_refused() {
        let binds = |bind: &str| json!({"HostConfig": {"Binds": [bind]}});
        let mount = |mount: serde_json::Value| json!({"HostConfig": {"Mounts": [mount]}});
        refused(vec![
            (binds("/a:/b:rshraed"), "invalid mode: rshraed"),
            (binds("/a:/b:ro,rw"), "invalid mode: ro,rw"),
            (binds("v:/b:rshared"), "invalid mode: rshared"),
            (binds("/a:/b:ro:x"), "invalid volume specification: '/a:/b:ro:x'"),
            (binds(":/b"), "invalid volume specification: ':/b'"),
            (binds("/a:"), "invalid volume specification"),
            (binds("/a:b"), "mount path must be absolute"),
            (binds("/a:/"), "destination can't be '/'"),
            (json!({"HostConfig": {"Binds": ["/a:/x", "/b:/x/"]}}), "Duplicate mount point: /x"),
            (json!({"Volumes": {"a": {}}}), "invalid volume specification: 'a'"),
            (json!({"HostConfig": {"Tmpfs": {"run": ""}}}), "must be absolute"),
            (
                mount(json!({"Type": "bind", "Source": "/no/such/path", "Target": "/a"})),
                "bind source path does not exist: /no/such/path",
            ),
            (mount(json!({"Type": "bind", "Target": "/a"})), "field Source must not be empty"),
            (mount(json!({"Type": "volume", "Source": "v"})), "field Target must not be empty"),
            (mount(json!({"Type": "volume", "Target": "/a", "TmpfsOptions": {}})), "TmpfsOptions must not be specified"),
            (mount(json!({"Type": "npipe", "Source": "v", "Target": "/a"})), "mount type unknown: \"npipe\""),
            (
                mount(json!({"Type": "bind", "Source": "/tmp", "Target": "/a", "BindOptions": {"Propagation": "x"}})),
                "invalid propagation",
            ),
            (
                mount(
                    json!({"Type": "bind", "Source": "/tmp", "Target": "/a", "BindOptions": {"IDMapping": {"Source": "uids"}}}),
                ),
                "invalid IDMapping: `uids` is no id mapping",
            ),
            (
                mount(json!({"Type": "bind", "Source": "/tmp", "Target": "/a",
                    "BindOptions": {"IDMapping": {"Source": "userns", "User": "app"}}})),
                "`userns` takes no user",
            ),
        ]);
    }
}
