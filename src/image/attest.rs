//! Attestations of an image: SLSA provenance and SPDX bills of materials, as in-toto statements.
//!
//! An image here has predicates. Their subject is the manifest as a registry gets it, which is known when it is pushed: then they
//! become statements in a manifest of their own, which an index names beside the image's (BuildKit's attestation storage).

use super::documents::{NewDescriptor, NewIndex, NewManifest, OCI_CONFIG, OCI_MANIFEST};
use super::manifest::Platform;
use super::{Digest, ImageRef};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
pub const SPDX: &str = "https://spdx.dev/Document";

/// Names in a manifest here the blob that has its predicates.
pub const ANNOTATION: &str = "dev.wharf.attestations";

/// BuildKit's generator of bills of materials.
const DEFAULT_GENERATOR: &str = "docker/buildkit-syft-scanner:stable-1";

const STATEMENT: &str = "application/vnd.in-toto+json";

/// The attestations that a build makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WantedAttestations {
    pub provenance: Option<Provenance>,
    /// The image that writes the bill of materials.
    pub sbom: Option<String>,
}

/// The options of the provenance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// Arguments, labels, the names of secrets and the Dockerfile itself as well.
    pub max: bool,
    pub builder_id: String,
    pub reproducible: bool,
}

impl WantedAttestations {
    /// Reads `build.provenance` and `build.sbom`, or the options of the same names: a boolean, or BuildKit's parameters.
    ///
    /// # Errors
    /// A sentence about the parameter that is not known.
    pub fn parse(provenance: Option<&str>, sbom: Option<&str>) -> Result<Self, String> {
        let mut wanted = WantedAttestations::default();
        if let Some(text) = provenance {
            wanted.provenance = parse_provenance(text)?;
        }
        if let Some(text) = sbom {
            wanted.sbom = match parameters(text) {
                Ok(false) => None,
                Ok(true) => Some(DEFAULT_GENERATOR.into()),
                Err(fields) => {
                    let mut generator = DEFAULT_GENERATOR.to_string();
                    for (key, value) in fields {
                        match key {
                            "generator" => generator = value.into(),
                            _ => return Err(format!("`sbom: {text}` has `{key}`: write true, false or generator=IMAGE")),
                        }
                    }
                    Some(generator)
                }
            };
        }
        Ok(wanted)
    }
}

fn parse_provenance(text: &str) -> Result<Option<Provenance>, String> {
    // BuildKit's default.
    let mut provenance = Provenance { max: true, ..Provenance::default() };
    let fields = match parameters(text) {
        Ok(wanted) => return Ok(wanted.then_some(provenance)),
        Err(fields) => fields,
    };
    let wrong = |key: &str, value: &str, what: &str| Err(format!("`provenance: {text}` has `{key}={value}`: write {what}"));
    for (key, value) in fields {
        match (key, value) {
            ("mode", "max" | "min") => provenance.max = value == "max",
            ("mode", _) => return wrong(key, value, "mode=min or mode=max"),
            ("builder-id", _) => provenance.builder_id = value.into(),
            ("reproducible", "true" | "false") => provenance.reproducible = value == "true",
            ("version", "v1") => {}
            ("version", _) => return wrong(key, value, "version=v1, the one that wharf writes"),
            // About files beside what is exported, of which wharf writes none.
            ("inline-only" | "filename", _) => {}
            _ => return wrong(key, value, "mode, builder-id, reproducible or version"),
        }
    }
    Ok(Some(provenance))
}

/// A boolean, or else `KEY=VALUE,...`.
fn parameters(text: &str) -> Result<bool, Vec<(&str, &str)>> {
    match text.trim() {
        "true" | "1" => Ok(true),
        "false" | "0" | "" => Ok(false),
        text => Err(text.split(',').map(|part| part.split_once('=').unwrap_or((part, "true"))).collect()),
    }
}

/// A statement without its subject.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Predicate {
    pub predicate_type: String,
    /// As it was written: a bill of materials has megabytes, and parsed it would be ten times as much.
    pub predicate: Box<RawValue>,
}

/// Bytes of all attestations of one image.
pub const MAX_BYTES: u64 = 24 << 20;

/// A predicate with its subject.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: &'a [StatementSubject],
    predicate_type: &'a str,
    predicate: &'a RawValue,
}

/// The subject of a statement.
#[derive(Serialize)]
struct StatementSubject {
    name: String,
    /// The hexadecimal digest by its algorithm.
    digest: BTreeMap<&'static str, String>,
}

/// A configuration that only has to be there.
#[derive(Serialize)]
struct EmptyConfig<'a> {
    architecture: &'static str,
    os: &'static str,
    config: BTreeMap<String, String>,
    rootfs: EmptyRootFs<'a>,
}

#[derive(Serialize)]
struct EmptyRootFs<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<&'a Digest>,
}

/// A blob with its digest.
#[derive(Clone, Debug)]
pub struct Blob {
    pub digest: Digest,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub fn new(bytes: Vec<u8>) -> Self {
        Blob { digest: Digest::of(&bytes), bytes }
    }

    fn json(value: &impl Serialize) -> Self {
        // Texts, numbers and maps of texts: there is nothing that could not be written.
        Blob::new(serde_json::to_vec(value).unwrap_or_default())
    }

    fn descriptor(&self, kind: &str) -> NewDescriptor {
        NewDescriptor::new(kind, &self.digest, self.bytes.len() as u64)
    }
}

/// The documents that a registry gets for an image with attestations.
#[derive(Clone, Debug)]
pub struct Attested {
    /// The statements, and a configuration that only has to be there.
    pub blobs: Vec<Blob>,
    /// The manifest that names them.
    pub manifest: Blob,
    /// The index under the image's name: the image, and its attestations.
    pub index: Blob,
}

impl Attested {
    /// `manifest` is the image's, of the media type `kind`.
    pub fn of(name: &ImageRef, manifest: &Blob, kind: &str, predicates: &[Predicate]) -> Self {
        let platform =
            |architecture: &str, os: &str| Some(Platform { architecture: architecture.into(), os: os.into(), variant: None });
        let digest = BTreeMap::from([(manifest.digest.algorithm().name(), manifest.digest.hex().to_string())]);
        let subject = [StatementSubject { name: purl(name), digest }];
        let mut blobs = Vec::new();
        let mut layers = Vec::new();
        for Predicate { predicate_type, predicate } in predicates {
            let kind = "https://in-toto.io/Statement/v1";
            let statement = Blob::json(&Statement { kind, subject: &subject, predicate_type, predicate });
            let mut layer = statement.descriptor(STATEMENT);
            layer.annotations.insert("in-toto.io/predicate-type", predicate_type.clone());
            layers.push(layer);
            blobs.push(statement);
        }
        let diff_ids: Vec<&Digest> = blobs.iter().map(|blob| &blob.digest).collect();
        let rootfs = EmptyRootFs { kind: "layers", diff_ids };
        let config = Blob::json(&EmptyConfig { architecture: "unknown", os: "unknown", config: BTreeMap::new(), rootfs });
        let statements = Blob::json(&NewManifest::new(config.descriptor(OCI_CONFIG), layers));
        let mut image = manifest.descriptor(kind);
        image.platform = platform(super::architecture(), "linux");
        let mut about = statements.descriptor(OCI_MANIFEST);
        about.annotations = BTreeMap::from([
            ("vnd.docker.reference.digest", manifest.digest.to_string()),
            ("vnd.docker.reference.type", "attestation-manifest".to_string()),
        ]);
        about.platform = platform("unknown", "unknown");
        let index = Blob::json(&NewIndex::new(vec![image, about]));
        blobs.push(config);
        Attested { blobs, manifest: statements, index }
    }
}

/// An image as a package URL, as BuildKit names it.
pub fn purl(name: &ImageRef) -> String {
    let version = name.version().replace(':', "%3A");
    format!("pkg:docker/{}@{version}?platform=linux%2F{}", name.familiar_name(), super::architecture())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_read() {
        let provenance = |text: &str| WantedAttestations::parse(Some(text), None).map(|wanted| wanted.provenance);
        let max = Provenance { max: true, ..Provenance::default() };
        assert_eq!(provenance("true"), Ok(Some(max.clone())));
        assert_eq!(provenance("false"), Ok(None));
        assert_eq!(provenance("mode=min"), Ok(Some(Provenance::default())));
        let all = Provenance { builder_id: "https://ci/7".into(), reproducible: true, ..max };
        assert_eq!(provenance("builder-id=https://ci/7,reproducible=true,version=v1"), Ok(Some(all)));
        assert!(provenance("mode=all").unwrap_err().contains("mode=min or mode=max"));
        assert!(provenance("version=v0.2").unwrap_err().contains("version=v1"));
        assert!(provenance("moed=min").unwrap_err().contains("`moed=min`"));
        let sbom = |text: &str| WantedAttestations::parse(None, Some(text)).map(|wanted| wanted.sbom);
        assert_eq!(sbom("true"), Ok(Some(DEFAULT_GENERATOR.into())));
        assert_eq!(sbom("generator=scan:1"), Ok(Some("scan:1".into())));
        assert_eq!(sbom("false"), Ok(None));
        assert!(sbom("scanner=x").unwrap_err().contains("generator=IMAGE"));
    }
}
