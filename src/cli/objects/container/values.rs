//! Values of the options of `docker run`, in Docker's forms.

use super::limits::size;
use crate::api::types::{
    BindOptions, DeviceMapping, DeviceRequest, IdMapping, ImageOptions, Mount, RestartPolicyConfig, TmpfsOptions, VolumeOptions,
};
use crate::cli::Failure;
use crate::compose::model::{ServiceVolume, VolumeKind};
use crate::units::IdMap;
use std::path::{Path, PathBuf};

pub(super) fn wrong(option: &str, text: &str, what: &str) -> Failure {
    Failure::Message(format!("--{option} {text}: write {what}"))
}

pub(super) fn nanoseconds(text: &str) -> Result<u64, String> {
    crate::units::duration(text).ok_or_else(|| format!("`{text}` is not a duration such as 30s"))
}

/// `on-failure:3` in Docker's form.
pub(super) fn restart_policy(text: &str) -> Result<RestartPolicyConfig, Failure> {
    let (name, retries) = text.split_once(':').unwrap_or((text, "0"));
    let retries: u32 = retries.parse().map_err(|_| wrong("restart", text, "on-failure:TIMES"))?;
    Ok(RestartPolicyConfig { name: name.into(), maximum_retry_count: i64::from(retries) })
}

/// Variables of files, and then those that are named: a name alone is this process's variable, if that is set.
pub(super) fn variables(files: &[PathBuf], named: &[String]) -> Result<Vec<String>, Failure> {
    let mut lines = file_lines(files)?;
    lines.extend(named.iter().cloned());
    let variable = |text: String| match text.contains('=') {
        true => Some(text),
        false => std::env::var(&text).ok().map(|value| format!("{text}={value}")),
    };
    Ok(lines.into_iter().filter_map(variable).collect())
}

/// The lines of files, without comments, as Docker reads them: nothing is unquoted.
pub(super) fn file_lines(files: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|e| Failure::Message(format!("reading {}: {e}", file.display())))?;
        let useful = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.extend(useful.map(str::to_string));
    }
    Ok(lines)
}

/// A volume of `--volume` as one of Docker's `Mounts`.
pub(super) fn volume_mount(volume: &ServiceVolume) -> Mount {
    let bind = |bind: &crate::compose::model::ServiceVolumeBind| BindOptions {
        propagation: bind.propagation.clone().unwrap_or_default(),
        create_mountpoint: bind.create_host_path,
        id_mapping: bind.idmap.as_ref().map(IdMapping::from),
        ..BindOptions::default()
    };
    Mount {
        kind: volume.kind.to_string(),
        source: volume.source.clone().unwrap_or_default(),
        target: volume.target.clone(),
        read_only: volume.read_only,
        bind_options: volume.bind.as_ref().filter(|_| volume.kind == VolumeKind::Bind).map(bind),
        volume_options: volume
            .volume
            .as_ref()
            .filter(|_| volume.kind == VolumeKind::Volume)
            .map(|options| VolumeOptions { no_copy: options.nocopy, ..VolumeOptions::default() }),
        ..Mount::default()
    }
}

/// A mount of `--mount`, in the words of Docker's command line.
pub(super) fn mount(text: &str, here: &Path) -> Result<Mount, Failure> {
    const KEYS: &str = "type, source, target, readonly, bind-propagation, bind-idmap, volume-nocopy, volume-subpath, image-subpath, tmpfs-size or tmpfs-mode";
    let mut mount = Mount { kind: "volume".into(), ..Mount::default() };
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        let flag = || {
            value
                .parse::<bool>()
                .or_else(|_| value.parse::<u8>().map(|n| n != 0))
                .map_err(|_| wrong("mount", text, "true or false"))
        };
        let owned = || value.to_string();
        match key {
            "type" => mount.kind = owned(),
            "source" | "src" => mount.source = owned(),
            "target" | "dst" | "destination" => mount.target = owned(),
            "readonly" | "ro" => mount.read_only = flag()?,
            "bind-propagation" => mount.bind_options.get_or_insert_default().propagation = owned(),
            "bind-nonrecursive" => mount.bind_options.get_or_insert_default().non_recursive = flag()?,
            "bind-recursive" => mount.bind_options.get_or_insert_default().non_recursive = value == "disabled",
            "bind-idmap" => {
                let map = if field.contains('=') { value } else { "match-user" };
                let map: IdMap = map.parse().map_err(|why| Failure::Message(format!("--mount {text}: {why}")))?;
                mount.bind_options.get_or_insert_default().id_mapping = Some(IdMapping::from(&map));
            }
            "volume-nocopy" => mount.volume_options.get_or_insert_default().no_copy = flag()?,
            "volume-subpath" => mount.volume_options.get_or_insert_default().subpath = owned(),
            "image-subpath" => mount.image_options = Some(ImageOptions { subpath: owned() }),
            "tmpfs-size" => tmpfs(&mut mount).size_bytes = size(Some(&owned()))?.unwrap_or(0),
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).map_err(|_| wrong("mount", text, "tmpfs-mode=MODE in octal"))?;
                tmpfs(&mut mount).mode = mode;
            }
            "consistency" => {}
            _ => return Err(wrong("mount", text, KEYS)),
        }
    }
    if mount.kind == "bind" {
        if mount.source.is_empty() {
            return Err(wrong("mount", text, "source=PATH with type=bind"));
        }
        mount.source = here.join(&mount.source).to_string_lossy().into_owned();
    }
    Ok(mount)
}

fn tmpfs(mount: &mut Mount) -> &mut TmpfsOptions {
    mount.tmpfs_options.get_or_insert_default()
}

/// `all`, a number, or `device=0,1` of `--gpus`.
pub(super) fn gpus(text: &str) -> Result<DeviceRequest, Failure> {
    let text = text.trim_matches('"');
    let request = |count: i64, ids: Vec<String>| DeviceRequest {
        count,
        device_ids: ids,
        capabilities: vec![vec!["gpu".into()]],
        ..DeviceRequest::default()
    };
    match (text, text.parse::<i64>(), text.strip_prefix("device=")) {
        ("all", ..) => Ok(request(-1, Vec::new())),
        (_, Ok(count), _) => Ok(request(count, Vec::new())),
        (_, _, Some(ids)) => Ok(request(0, ids.split(',').map(str::to_string).collect())),
        _ => Err(wrong("gpus", text, "all, a number, or device=ID")),
    }
}

pub(super) fn device(text: &str) -> DeviceMapping {
    // A vendor's name has `=`, and no path.
    let mut parts = if text.starts_with('/') { text.split(':') } else { text.split('\0') }.map(str::to_string);
    DeviceMapping {
        path_on_host: parts.next().unwrap_or_default(),
        path_in_container: parts.next().unwrap_or_default(),
        cgroup_permissions: parts.next().unwrap_or_default(),
    }
}
