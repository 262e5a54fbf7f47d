//! Compose projects as OCI artifacts (docker/compose, `internal/oci` and `pkg/remote`): Compose files and env files are the layers
//! of a manifest.

use super::attest::Blob;
use super::digest::Digest;
use super::documents::{OCI_MANIFEST, to_bytes};
use super::manifest::read;
use super::push::UploadBody;
use super::registry::Registry;
use super::{ImageError, ImageRef};
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

const PROJECT: &str = "application/vnd.docker.compose.project";
const COMPOSE_FILE: &str = "application/vnd.docker.compose.file+yaml";
const ENV_FILE: &str = "application/vnd.docker.compose.envfile";
/// The configuration of OCI 1.0, which has no artifact types.
const CONFIG_OF_1_0: &str = "application/vnd.docker.compose.config.empty.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const NOTHING: &[u8] = b"{}";

const VERSION_NAME: &str = "com.docker.compose.version";
const FILE_NAME: &str = "com.docker.compose.file";
const ENV_FILE_NAME: &str = "com.docker.compose.envfile";
const EXTENDS: &str = "com.docker.compose.extends";

/// The project's own file, of all layers that are none of the others.
pub const MAIN_FILE: &str = "compose.yaml";
const MAX_LAYERS: usize = 100;
const MAX_BYTES: u64 = 16 << 20;

/// A version of the OCI image specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OciVersion {
    V1_0,
    V1_1,
}

/// A file of a project that is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectFile {
    pub kind: FileKind,
    /// Without directories.
    pub name: String,
    pub content: Vec<u8>,
}

/// What a layer of a published project is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Compose,
    /// A Compose file that another one extends.
    Extended,
    Env,
}

/// A project of a registry.
#[derive(Debug)]
pub struct PulledProject {
    /// Of the manifest or index under the name.
    pub digest: Digest,
    /// By their names, which are no paths; [`MAIN_FILE`] is among them.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What the files are made of.
    pub layers: Vec<(Digest, Vec<u8>)>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ArtifactIndex {
    manifests: Vec<Described>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ArtifactManifest {
    artifact_type: String,
    media_type: String,
    config: ArtifactConfig,
    layers: Vec<Described>,
    /// Of an index.
    manifests: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ArtifactConfig {
    media_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

impl Described {
    fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

fn malformed(why: impl Into<String>) -> ImageError {
    ImageError::Malformed { what: "manifest", why: why.into() }
}

/// Files by their names, and the layers that they are made of.
type ArtifactFiles = (BTreeMap<String, Vec<u8>>, Vec<(Digest, Vec<u8>)>);

/// A file's name, and nothing that leads elsewhere.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= 200 && !name.contains(['/', '\\']) && !name.contains(char::is_control)
}

impl Registry {
    /// Fetches a project. What `kept` has is not fetched again.
    ///
    /// # Errors
    /// The registry's; what is no project, or has names that are paths, too many layers or too many bytes.
    pub async fn project(&self, name: &ImageRef, kept: impl Fn(&Digest) -> Option<Vec<u8>>) -> Result<PulledProject, ImageError> {
        let bytes = self.manifest(name, name.version()).await?;
        if let Some(expected) = &name.digest {
            expected.matches(&bytes).map_err(|got| ImageError::wrong_digest("manifest", expected, &got))?;
        }
        let digest = Digest::of(&bytes);
        let mut manifest: ArtifactManifest = read("manifest", &bytes)?;
        if manifest.manifests.is_some() {
            // A whole application: its images' manifests, and the project's.
            let index: ArtifactIndex = read("index", &bytes)?;
            let project = index.manifests.iter().find(|entry| entry.artifact_type == PROJECT);
            let project = project.ok_or_else(|| malformed("the index names no Compose project"))?;
            let bytes = self.manifest(name, project.digest.as_str()).await?;
            project.digest.matches(&bytes).map_err(|got| ImageError::wrong_digest("manifest", &project.digest, &got))?;
            manifest = read("manifest", &bytes)?;
        }
        let is_project = match manifest.artifact_type.as_str() {
            "" => manifest.config.media_type == CONFIG_OF_1_0,
            kind => kind == PROJECT,
        };
        if !is_project {
            let kinds = [&manifest.artifact_type, &manifest.config.media_type, &manifest.media_type];
            let kind = kinds.into_iter().find(|kind| !kind.is_empty()).map_or("of no type", String::as_str);
            return Err(malformed(format!("{} is no Compose project, but {kind}", name.familiar())));
        }
        let (files, layers) = self.project_files(name, &manifest.layers, kept).await?;
        Ok(PulledProject { digest, files, layers })
    }

    async fn project_files(
        &self,
        name: &ImageRef,
        layers: &[Described],
        kept: impl Fn(&Digest) -> Option<Vec<u8>>,
    ) -> Result<ArtifactFiles, ImageError> {
        let bytes = layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
        if layers.len() > MAX_LAYERS || bytes > MAX_BYTES {
            return Err(malformed(format!(
                "the project has {} layers of {bytes} bytes; {MAX_LAYERS} of {MAX_BYTES} are read at most",
                layers.len()
            )));
        }
        let (mut files, mut contents) = ArtifactFiles::default();
        for layer in layers {
            let part_of_main = layer.media_type == COMPOSE_FILE && layer.annotation(EXTENDS).is_none();
            let file = match layer.media_type.as_str() {
                COMPOSE_FILE if part_of_main => MAIN_FILE,
                COMPOSE_FILE => layer.annotation(FILE_NAME).unwrap_or_default(),
                ENV_FILE => layer.annotation(ENV_FILE_NAME).unwrap_or_default(),
                // Of a later version's; nothing of it is read.
                _ => continue,
            };
            if !is_name(file) {
                return Err(malformed(format!("a layer's file has the name `{file}`, which is no file name")));
            }
            if !part_of_main && (file == MAIN_FILE || files.contains_key(file)) {
                return Err(malformed(format!("two layers are the file `{file}`")));
            }
            let content = match kept(&layer.digest) {
                Some(content) => content,
                None => self.document(name, &format!("blobs/{}", layer.digest), None).await?,
            };
            layer.digest.matches(&content).map_err(|got| ImageError::wrong_digest("layer", &layer.digest, &got))?;
            if content.len() as u64 != layer.size {
                return Err(malformed(format!(
                    "the layer {} has not the {} bytes that it says",
                    layer.digest.short(),
                    layer.size
                )));
            }
            let whole = files.entry(file.to_string()).or_default();
            if !whole.is_empty() {
                // Further files are laid on top of the first, as further documents.
                whole.extend_from_slice(b"\n---\n");
            }
            whole.extend_from_slice(&content);
            contents.push((layer.digest.clone(), content));
        }
        if files.contains_key(MAIN_FILE) { Ok((files, contents)) } else { Err(malformed("the project has no Compose file")) }
    }

    /// Publishes a project under a name. Without a version of OCI it is 1.1, or 1.0 for a registry that refuses that.
    ///
    /// # Errors
    /// The registry's.
    pub async fn publish(
        &self,
        name: &ImageRef,
        files: &[ProjectFile],
        version: Option<OciVersion>,
    ) -> Result<Digest, ImageError> {
        let nothing = Blob::new(NOTHING.to_vec());
        let blobs = files.iter().map(|file| Blob::new(file.content.clone()));
        for blob in blobs.chain([nothing]) {
            if !self.has_blob(name, &blob.digest).await? {
                self.upload(name, &blob.digest, blob.bytes.len() as u64, UploadBody::Bytes(blob.bytes)).await?;
            }
        }
        let put = async |version| {
            let manifest = Blob::new(to_bytes("manifest", &manifest_of(files, version))?);
            let response = self.send_manifest(name, name.version(), OCI_MANIFEST, &manifest).await?;
            Ok::<_, ImageError>((response, manifest.digest))
        };
        let (response, digest) = put(version.unwrap_or(OciVersion::V1_1)).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(digest);
        }
        let is_login = matches!(status.as_u16(), 401 | 403 | 407);
        if version.is_none() && status.is_client_error() && !is_login {
            let (response, digest) = put(OciVersion::V1_0).await?;
            return if response.status().is_success() {
                Ok(digest)
            } else {
                Err(self.refused(name, "the manifest", response).await)
            };
        }
        Err(self.refused(name, "the manifest", response).await)
    }
}

fn manifest_of(files: &[ProjectFile], version: OciVersion) -> Value {
    let descriptor = |media_type: &str, content: &[u8]| json!({"mediaType": media_type, "digest": Digest::of(content).as_str(), "size": content.len(), "data": BASE64.encode(content)});
    let layers: Vec<Value> = files
        .iter()
        .map(|file| {
            let (media_type, named) = match file.kind {
                FileKind::Compose | FileKind::Extended => (COMPOSE_FILE, FILE_NAME),
                FileKind::Env => (ENV_FILE, ENV_FILE_NAME),
            };
            let mut layer = descriptor(media_type, &file.content);
            layer["annotations"] = json!({VERSION_NAME: env!("CARGO_PKG_VERSION"), named: file.name});
            if file.kind == FileKind::Extended {
                layer["annotations"][EXTENDS] = "true".into();
            }
            layer
        })
        .collect();
    let created = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let config = if version == OciVersion::V1_0 { CONFIG_OF_1_0 } else { EMPTY };
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, NOTHING),
        "layers": layers,
        "annotations": {"org.opencontainers.image.created": created},
    });
    if version == OciVersion::V1_1 {
        manifest["artifactType"] = PROJECT.into();
    }
    manifest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        for (name, expected) in [
            ("compose.yaml", true),
            (".env", true),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("../x", false),
            ("/x", false),
            (r"..\x", false),
            ("a\nb", false),
        ] {
            assert_eq!(is_name(name), expected, "{name:?}");
        }
        assert!(!is_name(&"x".repeat(300)));
    }
}
