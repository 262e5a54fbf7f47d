//! Documents of images that are written here: manifests, indexes, and configurations, made anew or of another image's.

use super::digest::{DiffId, Digest};
use super::manifest::Platform;
use super::{ImageError, architecture};
use crate::runtime::DEFAULT_PATH;
use crate::units::Nanos;
use indexmap::IndexMap;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The descriptor of a blob.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewDescriptor {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl NewDescriptor {
    pub fn new(media_type: impl Into<String>, digest: &Digest, size: u64) -> Self {
        let (annotations, platform) = (BTreeMap::new(), None);
        NewDescriptor { media_type: media_type.into(), digest: digest.clone(), size, annotations, platform }
    }

    /// Of bytes that are here.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        NewDescriptor::new(media_type, &Digest::of(bytes), bytes.len() as u64)
    }
}

/// The manifest of one image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewManifest {
    schema_version: u32,
    media_type: &'static str,
    pub config: NewDescriptor,
    pub layers: Vec<NewDescriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<&'static str, String>,
}

impl NewManifest {
    pub fn new(config: NewDescriptor, layers: Vec<NewDescriptor>) -> Self {
        NewManifest { schema_version: 2, media_type: OCI_MANIFEST, config, layers, annotations: BTreeMap::new() }
    }

    /// # Errors
    /// None that has been seen: numbers and texts can be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ImageError> {
        to_bytes("manifest", self)
    }
}

/// An index of manifests.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewIndex {
    schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<&'static str>,
    manifests: Vec<NewDescriptor>,
}

impl NewIndex {
    /// That of a registry.
    pub fn new(manifests: Vec<NewDescriptor>) -> Self {
        NewIndex { schema_version: 2, media_type: Some(OCI_INDEX), manifests }
    }

    /// `index.json` of an OCI layout.
    pub fn of_layout(manifests: Vec<NewDescriptor>) -> Self {
        NewIndex { schema_version: 2, media_type: None, manifests }
    }
}

/// # Errors
/// A value that JSON has no form for.
pub fn to_bytes(what: &'static str, document: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(document).map_err(|e| ImageError::Malformed { what, why: e.to_string() })
}

/// An image's configuration, in the form of the OCI image specification with Docker's additions. Fields that wharf does not change
/// are kept as they are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigDocument {
    architecture: String,
    os: String,
    #[serde(deserialize_with = "or_default")]
    rootfs: RootFs,
    #[serde(deserialize_with = "or_default")]
    pub history: Vec<HistoryEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
    #[serde(deserialize_with = "or_default")]
    pub config: ImageSettings,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    diff_ids: Vec<DiffId>,
}

/// A step by which an image was made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The step has no layer.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// Fields that the specification does not have.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl HistoryEntry {
    pub fn new(created: &str, created_by: &str) -> Self {
        HistoryEntry { created: Some(created.into()), created_by: Some(created_by.into()), ..HistoryEntry::default() }
    }
}

/// The `config` of a configuration: defaults of the image's containers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageSettings {
    /// `NAME=VALUE`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "IndexMap::is_empty")]
    pub labels: IndexMap<String, String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `80/tcp`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "IndexMap::is_empty")]
    pub exposed_ports: IndexMap<String, Member>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "IndexMap::is_empty")]
    pub volumes: IndexMap<String, Member>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<ImageHealthcheck>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Fields that the specification does not have.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The value of a set's member: `{}`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Member {}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Member {})
    }
}

/// Docker's health check. A time that is absent is Docker's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageHealthcheck {
    /// `["CMD", ...]`, `["CMD-SHELL", TEXT]`, `["NONE"]`.
    #[serde(deserialize_with = "or_default")]
    pub test: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub interval: Option<Nanos>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Nanos>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub start_period: Option<Nanos>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub start_interval: Option<Nanos>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

/// A stranger's value that is `null`, or not what it should be, is as if it were absent.
fn or_default<'de, T: DeserializeOwned + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).unwrap_or_default())
}

impl ConfigDocument {
    /// That of an image without layers.
    pub fn new() -> Self {
        ConfigDocument {
            architecture: architecture().into(),
            os: "linux".into(),
            rootfs: RootFs { kind: "layers".into(), diff_ids: Vec::new() },
            ..ConfigDocument::default()
        }
    }

    /// That of `FROM scratch`.
    pub fn scratch() -> Self {
        let mut config = ConfigDocument::new();
        config.config.env = vec![format!("PATH={DEFAULT_PATH}")];
        config.config.working_dir = "/".into();
        config
    }

    /// An image's, as it is stored.
    ///
    /// # Errors
    /// When it is no configuration.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        super::manifest::read("configuration", bytes)
    }

    /// The bytes that are stored: their digest is the image's id.
    ///
    /// # Errors
    /// None that has been seen.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ImageError> {
        to_bytes("configuration", self)
    }

    pub fn add_layer(&mut self, diff_id: &DiffId) {
        self.rootfs.diff_ids.push(diff_id.clone());
    }

    /// A field that the specification does not have.
    pub fn other(&self, key: &str) -> Option<&Value> {
        self.rest.get(key)
    }

    pub fn set_other(&mut self, key: &str, value: Value) {
        self.rest.insert(key.into(), value);
    }
}

impl ImageSettings {
    pub fn variable(&self, name: &str) -> Option<String> {
        let prefix = format!("{name}=");
        self.env.iter().find_map(|variable| variable.strip_prefix(&prefix).map(str::to_string))
    }

    /// Sets a variable in its place; a new one at the end.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        let prefix = format!("{name}=");
        let new = format!("{name}={value}");
        match self.env.iter_mut().find(|variable| variable.starts_with(&prefix)) {
            Some(known) => *known = new,
            None => self.env.push(new),
        }
    }

    /// For programs that the image has to find: Docker's PATH where it has none.
    pub fn have_path(&mut self) {
        if self.variable("PATH").is_none() {
            self.set_variable("PATH", DEFAULT_PATH);
        }
    }

    /// `SHELL`'s, for the shell form of RUN, CMD and ENTRYPOINT.
    pub fn shell(&self) -> Vec<String> {
        if self.shell.is_empty() { vec!["/bin/sh".into(), "-c".into()] } else { self.shell.clone() }
    }

    pub fn directory(&self) -> String {
        if self.working_dir.is_empty() { "/".into() } else { self.working_dir.clone() }
    }

    /// Merges other settings over these: labels, ports, volumes and variables are added, all else is replaced.
    pub fn extend(&mut self, others: &ImageSettings) {
        fn replace<T: Clone>(own: &mut Option<T>, other: &Option<T>) {
            if let Some(other) = other {
                *own = Some(other.clone());
            }
        }
        for (own, other) in [(&mut self.user, &others.user), (&mut self.working_dir, &others.working_dir)] {
            if !other.is_empty() {
                own.clone_from(other);
            }
        }
        replace(&mut self.cmd, &others.cmd);
        replace(&mut self.entrypoint, &others.entrypoint);
        replace(&mut self.stop_signal, &others.stop_signal);
        replace(&mut self.healthcheck, &others.healthcheck);
        self.labels.extend(others.labels.clone());
        self.exposed_ports.extend(others.exposed_ports.clone());
        self.volumes.extend(others.volumes.clone());
        let name = |variable: &str| variable.split('=').next().unwrap_or(variable).to_string();
        let replaced: Vec<String> = others.env.iter().map(|variable| name(variable)).collect();
        self.env.retain(|known| !replaced.contains(&name(known)));
        self.env.extend(others.env.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_stays_as_it_was() {
        let stored = serde_json::json!({
            "architecture": "amd64", "os": "linux", "variant": "v2", "os.features": ["x"], "created": "2026-01-01T00:00:00Z",
            "config": {"Cmd": ["sh"], "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5}, "ArgsEscaped": true,
                "ExposedPorts": {"80/tcp": {}}, "Shell": ["/bin/bash", "-c"], "OnBuild": ["RUN true"], "Labels": {"b": "1", "a": "2"}},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"x")]},
            "history": [{"created_by": "x", "author": "me", "empty_layer": true}],
        });
        let config = ConfigDocument::parse(stored.to_string().as_bytes()).expect("a configuration");
        let again: Value = serde_json::from_slice(&config.to_bytes().expect("bytes")).expect("JSON");
        assert_eq!(again, stored);
    }

    #[test]
    fn nulls_and_values_of_other_types_are_as_if_absent() {
        let stored = serde_json::json!({
            "architecture": "amd64", "os": "linux", "history": null, "author": null,
            "rootfs": {"type": "layers", "diff_ids": null},
            "config": {"Cmd": null, "Env": null, "OnBuild": "x", "Shell": 7, "Healthcheck": {"Test": null, "Interval": -1}},
        });
        let mut config = ConfigDocument::parse(stored.to_string().as_bytes()).expect("a configuration");
        assert_eq!((config.history.len(), config.config.shell().len(), config.config.on_build.len()), (0, 2, 0));
        assert_eq!(config.config.healthcheck, Some(ImageHealthcheck::default()));
        config.config.set_variable("A", "1");
        config.config.set_variable("B", "2");
        config.config.set_variable("A", "3");
        assert_eq!(config.config.env, ["A=3", "B=2"]);
    }

    #[test]
    fn a_manifest_has_the_fields_of_the_specification() {
        let digest = Digest::of(b"x");
        let mut layer = NewDescriptor::new(OCI_LAYER, &digest, 1);
        layer.annotations.insert("a", "b".into());
        let manifest = NewManifest::new(NewDescriptor::new(OCI_CONFIG, &digest, 2), vec![layer]);
        let expected = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{OCI_CONFIG}","digest":"{digest}","size":2}},"layers":[{{"mediaType":"{OCI_LAYER}","digest":"{digest}","size":1,"annotations":{{"a":"b"}}}}]}}"#
        );
        assert_eq!(String::from_utf8(manifest.to_bytes().expect("bytes")).expect("UTF-8"), expected);
    }
}
