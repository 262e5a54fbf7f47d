//! Manifests, indexes and configurations: untrusted JSON, bounded and checked when it is read.

use super::digest::{BadDigest, ChainId, DiffId, Digest, shown};
use super::{ImageError, ImageRef};
use oci_spec::image::ImageConfiguration;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// Bytes of a manifest, an index or a configuration: what registries and containerd take of a manifest.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Values in such a document. A real configuration has some hundreds; three bytes of JSON may take a hundred in memory.
pub const MAX_VALUES: usize = 20_000;
/// Layers of an image: as many lower directories as overlayfs takes (`OVL_MAX_STACK`).
pub const MAX_LAYERS: usize = 500;

/// The name of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
}

/// The manifest of one image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    #[serde(default)]
    pub media_type: Option<String>,
    pub config: Descriptor,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: Option<ManifestAnnotations>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct ManifestAnnotations {
    /// [`super::attest::ANNOTATION`].
    #[serde(rename = "dev.wharf.attestations", default, deserialize_with = "digest_or_none")]
    attestations: Option<Digest>,
}

impl Manifest {
    /// # Errors
    /// When it is too large, is no manifest, or is an index at the same time (CVE-2021-41190).
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let manifest: Manifest = read_object("manifest", bytes)?;
        if Fields::of("manifest", bytes)?.manifests {
            return Err(malformed("manifest", "it is an index as well"));
        }
        if manifest.layers.len() > MAX_LAYERS {
            return Err(malformed(
                "manifest",
                format!("it has {} layers, and {MAX_LAYERS} can be mounted", manifest.layers.len()),
            ));
        }
        Ok(manifest)
    }

    /// The blob with the image's attestations.
    pub fn predicates(&self) -> Option<&Digest> {
        self.annotations.as_ref()?.attestations.as_ref()
    }

    /// The blobs that it names besides the configuration.
    pub fn named_blobs(&self) -> impl Iterator<Item = &Digest> {
        self.layers.iter().map(|layer| &layer.digest).chain(self.predicates())
    }
}

/// A list of manifests: an index of platforms, or `index.json` of an OCI layout.
#[derive(Clone, Debug, Deserialize)]
pub struct Index {
    pub manifests: Vec<IndexEntry>,
}

/// A manifest that an index names.
#[derive(Clone, Debug, Deserialize)]
pub struct IndexEntry {
    /// One that is not for us may have an algorithm that is not known here.
    #[serde(deserialize_with = "digest_or_error")]
    pub digest: Result<Digest, BadDigest>,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<EntryAnnotations>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct EntryAnnotations {
    #[serde(rename = "io.containerd.image.name", default)]
    containerd: Option<String>,
    #[serde(rename = "org.opencontainers.image.ref.name", default)]
    oci: Option<String>,
}

/// `platform` of OCI's descriptors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}

impl IndexEntry {
    /// The image's name in an archive.
    pub fn name(&self) -> Option<&str> {
        let annotations = self.annotations.as_ref()?;
        annotations.containerd.as_deref().or(annotations.oci.as_deref())
    }
}

impl Index {
    /// # Errors
    /// When it is too large, is no index, or is a manifest at the same time (CVE-2021-41190).
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let index: Index = read_object("index", bytes)?;
        let fields = Fields::of("index", bytes)?;
        if fields.layers || fields.config {
            return Err(malformed("index", "it is a manifest as well"));
        }
        Ok(index)
    }

    /// The manifest for this machine.
    ///
    /// # Errors
    /// When there is none: the message names those that there are.
    pub fn choose_platform(&self, name: &ImageRef) -> Result<&Digest, ImageError> {
        let wanted = super::architecture();
        let platform = |entry: &IndexEntry| entry.platform.clone().unwrap_or_default();
        let own = |entry: &&IndexEntry| {
            let platform = platform(entry);
            platform.architecture == wanted && super::is_native(&platform.to_string())
        };
        if let Some(entry) = self.manifests.iter().find(own) {
            return entry.digest.as_ref().map_err(|bad| bad.clone().into());
        }
        let mut has: Vec<String> =
            self.manifests.iter().map(|entry| shown(&platform(entry).to_string())).filter(|p| p != "unknown/unknown").collect();
        has.dedup();
        has.truncate(20);
        Err(ImageError::WrongPlatform { image: name.familiar(), has: has.join(", "), wants: format!("linux/{wanted}") })
    }
}

/// Which of the two a registry has answered with.
#[derive(Clone, Debug)]
pub enum AnsweredManifest {
    Manifest(Manifest),
    Index(Index),
}

impl AnsweredManifest {
    /// # Errors
    /// As [`Manifest::parse`] and [`Index::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        match Fields::of("manifest", bytes)?.manifests {
            true => Index::parse(bytes).map(AnsweredManifest::Index),
            false => Manifest::parse(bytes).map(AnsweredManifest::Manifest),
        }
    }
}

/// Which fields a document has, whatever their values.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    #[serde(deserialize_with = "present")]
    manifests: bool,
    #[serde(deserialize_with = "present")]
    layers: bool,
    #[serde(deserialize_with = "present")]
    config: bool,
}

impl Fields {
    /// # Errors
    /// As [`read`], and when a field is there twice: parsers differ in which one they take.
    fn of(what: &'static str, bytes: &[u8]) -> Result<Self, ImageError> {
        read_object(what, bytes)
    }
}

/// An image's configuration, and its layers' names as what they are.
#[derive(Clone, Debug)]
pub struct Configuration {
    pub parsed: ImageConfiguration,
    pub diff_ids: Vec<DiffId>,
}

impl Configuration {
    /// # Errors
    /// When it is too large, is no configuration, or names a layer by what is no digest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let parsed: ImageConfiguration = read_object("configuration", bytes)?;
        let diff_ids = parsed.rootfs().diff_ids();
        if diff_ids.len() > MAX_LAYERS {
            return Err(malformed("configuration", format!("it has {} layers, and {MAX_LAYERS} can be mounted", diff_ids.len())));
        }
        let diff_ids = diff_ids
            .iter()
            .map(|text| text.parse().map_err(|bad: BadDigest| malformed("configuration", format!("`rootfs.diff_ids`: {bad}"))))
            .collect::<Result<_, _>>()?;
        Ok(Configuration { parsed, diff_ids })
    }

    /// Of an image that arrives: one of another operating system cannot be used.
    ///
    /// # Errors
    /// As [`Configuration::parse`]; Docker's words for an image of another system.
    pub fn arriving(bytes: &[u8]) -> Result<Self, ImageError> {
        let configuration = Configuration::parse(bytes)?;
        let system = configuration.parsed.os().to_string();
        if !matches!(system.as_str(), "" | "linux") {
            return Err(ImageError::Build(format!("cannot load {} image on linux", shown(&system))));
        }
        Ok(configuration)
    }

    pub fn chain_ids(&self) -> Vec<ChainId> {
        ChainId::all(&self.diff_ids)
    }
}

fn malformed(what: &'static str, why: impl fmt::Display) -> ImageError {
    ImageError::Malformed { what, why: why.to_string() }
}

/// Reads a document of a stranger's.
///
/// # Errors
/// When it is longer than [`MAX_DOCUMENT`], has more than [`MAX_VALUES`] values, or is not what it should be.
pub fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ImageError> {
    check(what, bytes)?;
    serde_json::from_slice(bytes).map_err(|e| malformed(what, e))
}

/// As [`read`]. A list would be taken for the fields in their order.
fn read_object<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ImageError> {
    match bytes.trim_ascii_start().first() {
        Some(b'{') => read(what, bytes),
        _ => Err(malformed(what, "it is no JSON object")),
    }
}

/// Whether a document is within its bounds, without making anything of it.
fn check(what: &'static str, bytes: &[u8]) -> Result<(), ImageError> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(malformed(what, format!("it has {} bytes, and {MAX_DOCUMENT} are allowed", bytes.len())));
    }
    let mut values = 0;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    CountedValues(&mut values).deserialize(&mut reader).map_err(|e| malformed(what, e))
}

/// Counts values, and refuses what has too many.
struct CountedValues<'a>(&'a mut usize);

impl CountedValues<'_> {
    fn one<E: de::Error>(self) -> Result<(), E> {
        *self.0 += 1;
        if *self.0 > MAX_VALUES {
            return Err(E::custom(format!("it has more than {MAX_VALUES} values")));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for CountedValues<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CountedValues<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.one()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.one()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.one()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.one()
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.one()
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.one()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(CountedValues(self.0))?.is_some() {}
        self.one()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(CountedValues(self.0))?;
        }
        self.one()
    }
}

/// A field is present with `null` as well.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// An annotation of a stranger's: a digest, or as if it were not there.
fn digest_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Digest>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| text.parse().ok()))
}

fn digest_or_error<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<Digest, BadDigest>, D::Error> {
    Ok(String::deserialize(deserializer)?.parse())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bytes(value: serde_json::Value) -> Vec<u8> {
        value.to_string().into_bytes()
    }

    #[test]
    fn layers_are_named_by_digests_or_the_configuration_is_refused() {
        let of = |diff_ids: serde_json::Value| {
            let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
            Configuration::parse(&bytes(config))
        };
        assert_eq!(of(json!([Digest::of(b"x")])).unwrap().chain_ids()[0].digest(), &Digest::of(b"x"));
        for wrong in ["../../../etc", "/etc", "sha256:../../../etc", "", ".", "sha256:.", &format!("sha512:{}", "a".repeat(128))]
        {
            let refused = of(json!([Digest::of(b"x"), wrong])).unwrap_err().to_string();
            assert!(refused.contains("diff_ids") && refused.contains("not a digest"), "{refused}");
        }
        assert!(of(json!(vec![Digest::of(b"x"); MAX_LAYERS + 1])).unwrap_err().to_string().contains("501 layers"));
    }

    #[test]
    fn manifests_name_blobs_by_digests_or_are_refused() {
        let good = json!({"digest": Digest::of(b"x"), "size": 1});
        let of = |config: &serde_json::Value, layer: &serde_json::Value| {
            Manifest::parse(&bytes(json!({"schemaVersion": 2, "config": config, "layers": [layer]})))
        };
        assert!(of(&good, &good).is_ok());
        for wrong in [json!("../x"), json!("sha256:.."), json!(null), json!(7)] {
            let wrong = json!({"digest": wrong, "size": 1});
            assert!(of(&wrong, &good).is_err() && of(&good, &wrong).is_err(), "{wrong}");
        }
        assert!(of(&good, &json!({"digest": Digest::of(b"x"), "size": -1})).is_err());
        let annotated = |digest: &str| {
            let manifest = json!({"config": good, "annotations": {"dev.wharf.attestations": digest, "other": {"x": 1}}});
            Manifest::parse(&bytes(manifest)).unwrap().predicates().cloned()
        };
        assert_eq!(annotated(Digest::of(b"y").as_str()), Some(Digest::of(b"y")));
        assert_eq!(annotated("../../index.json"), None);
    }

    #[test]
    fn a_document_is_one_thing() {
        let descriptor = json!({"digest": Digest::of(b"x"), "size": 1});
        let both = bytes(json!({"config": descriptor, "layers": [], "manifests": []}));
        assert!(AnsweredManifest::parse(&both).is_err() && Manifest::parse(&both).is_err() && Index::parse(&both).is_err());
        assert!(matches!(AnsweredManifest::parse(&bytes(json!({"manifests": []}))), Ok(AnsweredManifest::Index(_))));
        assert!(matches!(AnsweredManifest::parse(&bytes(json!({"config": descriptor}))), Ok(AnsweredManifest::Manifest(_))));
        assert!(AnsweredManifest::parse(b"[]").is_err() && AnsweredManifest::parse(b"").is_err());
        let both = |manifest: &str| format!(r#"{{"config": {descriptor}, "layers": [], {manifest}}}"#).into_bytes();
        for manifests in [r#""manifests": null"#, r#""manifests": [], "manifests": []"#, r#""manifests": null, "manifests": {}"#]
        {
            let both = both(manifests);
            assert!(
                AnsweredManifest::parse(&both).is_err() && Manifest::parse(&both).is_err() && Index::parse(&both).is_err(),
                "{manifests}"
            );
        }
        for field in ["config", "layers"] {
            let both = format!(r#"{{"manifests": [], "{field}": null}}"#).into_bytes();
            assert!(AnsweredManifest::parse(&both).is_err() && Index::parse(&both).is_err(), "{field}");
            let twice = format!(r#"{{"manifests": [], "{field}": [], "{field}": []}}"#).into_bytes();
            assert!(AnsweredManifest::parse(&twice).is_err() && Index::parse(&twice).is_err(), "{field}");
        }
        // Twice the same field: each reader would take another.
        assert!(Manifest::parse(format!(r#"{{"config": {descriptor}, "config": {descriptor}}}"#).as_bytes()).is_err());
    }

    #[test]
    fn documents_are_bounded() {
        let many = format!(r#"{{"manifests": [], "x": [{}1]}}"#, "[],".repeat(MAX_VALUES));
        assert!(Index::parse(many.as_bytes()).unwrap_err().to_string().contains("more than 20000 values"));
        let deep = "[".repeat(100_000);
        assert!(AnsweredManifest::parse(deep.as_bytes()).is_err());
        let long = format!(r#"{{"manifests": [], "x": "{}"}}"#, "x".repeat(MAX_DOCUMENT as usize));
        assert!(Index::parse(long.as_bytes()).unwrap_err().to_string().contains("are allowed"));
    }

    #[test]
    fn an_entry_of_an_unknown_algorithm_is_in_nobodys_way() {
        let platform = json!({"os": "linux", "architecture": crate::image::architecture()});
        let index = json!({"manifests": [
            {"digest": "blake3:00", "platform": {"os": "linux", "architecture": "s390x"}},
            {"digest": Digest::of(b"x"), "platform": platform},
        ]});
        let name: ImageRef = "x".parse().unwrap();
        assert_eq!(Index::parse(&bytes(index)).unwrap().choose_platform(&name).unwrap(), &Digest::of(b"x"));
        let index = json!({"manifests": [{"digest": "sha256:../../x", "platform": platform}]});
        assert!(Index::parse(&bytes(index)).unwrap().choose_platform(&name).is_err());
    }
}
