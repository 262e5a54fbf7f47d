//! The hash by which a changed service is told from an unchanged one.

use crate::compose::model::{Project, Service};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Attributes that do not make a container different: Docker Compose leaves out the same ones.
const IGNORED: [&str; 6] = ["build", "depends_on", "profiles", "pull_policy", "scale", "annotations"];

/// SHA-256 over the service's canonical JSON with sorted keys, in hexadecimal; with the contents of its configs and secrets, of
/// which a container has copies.
pub fn config_hash(project: &Project, service: &Service) -> String {
    let mut value = serde_json::to_value(service).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        map.retain(|key, _| !IGNORED.contains(&key.as_str()));
        if let Some(Value::Object(deploy)) = map.get_mut("deploy") {
            deploy.remove("replicas");
        }
    }
    let mut hash = Sha256::new();
    feed(&value, &mut hash);
    for (mounts, objects) in [(&service.configs, &project.configs), (&service.secrets, &project.secrets)] {
        for content in mounts.iter().filter_map(|mount| objects.get(&mount.source)?.content.as_ref()) {
            hash.update(Sha256::digest(content));
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The value without the order of its keys.
fn feed(value: &Value, hash: &mut Sha256) {
    match value {
        Value::Object(map) => {
            // What says nothing is left out: an attribute that a later wharf knows changes no hash by being absent.
            let mut keys: Vec<_> = map.iter().filter(|(_, value)| !is_empty(value)).collect();
            keys.sort_by_key(|(key, _)| *key);
            hash.update(b"{");
            for (key, value) in keys {
                hash.update(key.as_bytes());
                hash.update(b":");
                feed(value, hash);
            }
            hash.update(b"}");
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
