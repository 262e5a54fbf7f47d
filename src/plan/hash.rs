//! Hashes of definitions: a changed hash is a changed definition.

use crate::compose::model::{Network, Project, Service, Volume};
use data_encoding::HEXLOWER;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// Attributes that do not make a container different: Docker Compose leaves out the same ones, and does not know `x-update`.
const IGNORED: [&str; 7] = ["build", "depends_on", "profiles", "pull_policy", "pull_refresh_after", "scale", "x-update"];

/// Made once: a project has many services.
static DEFAULT_SERVICE: LazyLock<Value> = LazyLock::new(|| serde_json::to_value(Service::default()).unwrap_or_default());

/// SHA-256 over the service's canonical JSON with sorted keys, in hexadecimal; with its configs and secrets, of whose contents a
/// container has copies.
pub fn config_hash(project: &Project, service: &Service) -> String {
    let mut value = serde_json::to_value(service).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        map.retain(|key, _| !IGNORED.contains(&key.as_str()));
        if let Some(Value::Object(deploy)) = map.get_mut("deploy") {
            deploy.remove("replicas");
        }
    }
    let mut hash = Sha256::new();
    feed_attributes(&value, &DEFAULT_SERVICE, &mut hash);
    for (mounts, objects) in [(&service.configs, &project.configs), (&service.secrets, &project.secrets)] {
        for object in mounts.iter().filter_map(|mount| objects.get(&mount.source)) {
            if let Some(content) = &object.content {
                hash.update(Sha256::digest(content));
            }
            if let Some(file) = &object.file {
                hash.update(Sha256::digest(file));
            }
        }
    }
    hexadecimal(hash)
}

/// The hash of a part of a project, with the contents of its configs and secrets.
pub(super) fn part_hash(part: &Project) -> String {
    let mut hash = Sha256::new();
    feed(&serde_json::to_value(part).unwrap_or_default(), &mut hash);
    hexadecimal(hash)
}

/// The hash of a network's definition, its name included.
pub fn network_hash(network: &Network) -> String {
    hash_of(network, &Network::default())
}

/// The hash of a volume's definition, its name included.
pub fn volume_hash(volume: &Volume) -> String {
    hash_of(volume, &Volume::default())
}

fn hash_of<T: serde::Serialize>(definition: &T, default: &T) -> String {
    let json = |value| serde_json::to_value(value).unwrap_or_default();
    let mut hash = Sha256::new();
    feed_attributes(&json(definition), &json(default), &mut hash);
    hexadecimal(hash)
}

fn hexadecimal(hash: Sha256) -> String {
    HEXLOWER.encode(&hash.finalize())
}

/// A definition. An attribute that is as if it were absent is left out, so that one which a later wharf knows changes no hash by
/// being absent; what stands below keys of the user's own is counted in any case.
fn feed_attributes(value: &Value, default: &Value, hash: &mut Sha256) {
    let Value::Object(map) = value else { return feed(value, hash) };
    let stated = map.iter().filter(|(key, value)| default.get(key.as_str()) != Some(*value));
    let is_users = |key: &str| matches!(default.get(key), Some(Value::Object(empty)) if empty.is_empty());
    feed_sorted(stated, hash, |key, value, hash| match value {
        Value::Object(entries) if is_users(key) => feed_sorted(entries.iter(), hash, |_, value, hash| feed(value, hash)),
        value => feed(value, hash),
    });
}

fn feed_sorted<'a>(
    entries: impl Iterator<Item = (&'a String, &'a Value)>,
    hash: &mut Sha256,
    each: impl Fn(&str, &Value, &mut Sha256),
) {
    let mut keys: Vec<_> = entries.collect();
    keys.sort_by_key(|(key, _)| *key);
    hash.update(b"{");
    for (key, value) in keys {
        hash.update(key.as_bytes());
        hash.update(b":");
        each(key, value, hash);
    }
    hash.update(b"}");
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The value without the order of its keys, and without what says nothing.
fn feed(value: &Value, hash: &mut Sha256) {
    match value {
        Value::Object(map) => {
            let stated = map.iter().filter(|(_, value)| !is_empty(value));
            feed_sorted(stated, hash, |_, value, hash| feed(value, hash));
        }
        Value::Array(list) => {
            hash.update(b"[");
            list.iter().for_each(|value| feed(value, hash));
            hash.update(b"]");
        }
        scalar => {
            hash.update(scalar.to_string().as_bytes());
            hash.update(b",");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(yaml: &str) -> Service {
        serde_yaml::from_str(yaml).expect("service")
    }

    #[test]
    fn what_changes_a_container_changes_its_hash() {
        let hash = |yaml: &str| config_hash(&Project::default(), &service(yaml));
        // Two services, and whether their containers are the same.
        let table = [
            ("{image: a}", "{image: a}", true),
            ("{image: a, environment: {A: '', B: '1'}}", "{image: a, environment: {B: '1', A: ''}}", true),
            ("{image: a, depends_on: {}}", "{image: a, scale: 3, profiles: [x], pull_policy: always}", true),
            ("{image: a}", "{image: a, annotations: {x: '1'}}", false),
            ("{image: a}", "{image: a, environment: {A: ''}}", false),
            ("{image: a, environment: {A: ''}}", "{image: a, environment: {A: null}}", false),
            ("{image: a}", "{image: a, environment: {A: null}}", false),
            ("{image: a, networks: {x: null}}", "{image: a, networks: {x: null, y: null}}", false),
            ("{image: a}", "{image: a, command: []}", false),
            ("{image: a}", "{image: a, entrypoint: []}", false),
            ("{image: a}", "{image: a, init: false}", false),
            ("{image: a, labels: {x: ''}}", "{image: a, labels: {y: ''}}", false),
            ("{image: a, deploy: {replicas: 2}}", "{image: a, deploy: {replicas: 3}}", true),
        ];
        for (one, other, same) in table {
            assert_eq!(hash(one) == hash(other), same, "{one} {other}");
        }
    }

    #[test]
    fn the_path_of_a_secret_counts() {
        let project = |file: &str| -> Project {
            serde_yaml::from_str(&format!("services: {{a: {{secrets: [{{source: s}}]}}}}\nsecrets: {{s: {{file: {file}}}}}"))
                .expect("project")
        };
        let hash = |project: &Project| config_hash(project, &project.services["a"]);
        assert_ne!(hash(&project("/a")), hash(&project("/b")));
        assert_eq!(hash(&project("/a")), hash(&project("/a")));
    }
}
