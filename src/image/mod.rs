//! Images: references, registries, archives, and the store of unpacked layers.

pub mod answers;
pub mod archive;
pub mod arrival;
pub mod artifact;
pub mod attest;
pub mod build;
pub mod chunks;
pub mod compression;
pub mod credentials;
pub mod digest;
pub mod documents;
mod drafts;
pub mod entries;
mod frames;
pub mod hosts;
pub mod keyed_mutex;
pub mod manifest;
pub mod pack;
pub mod prune;
pub mod push;
pub mod reference;
pub mod registry;
pub mod store;
pub mod tar_paths;
pub mod unpack;

pub use digest::{ChainId, DiffId, Digest};
pub use reference::ImageRef;
pub use store::{Image, Store};

use crate::printable;
use std::io;

/// Why something with an image was not done.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] reference::BadReference),
    #[error(transparent)]
    Digest(#[from] digest::BadDigest),
    #[error("{doing}: {source}{}", disk_hint(source))]
    Store { doing: String, source: io::Error },
    #[error("{0}{hint}", hint = unpack_hint(.0))]
    Unpack(#[from] unpack::UnpackError),
    #[error("the {what} has the digest {got}, but {expected} was asked for: it is damaged or forged, and was thrown away")]
    WrongDigest { what: String, expected: Digest, got: Digest },
    #[error("the image's {what} cannot be understood: {}", printable::line(why))]
    Malformed { what: &'static str, why: String },
    #[error("the blob {digest} of the image store is damaged ({why}): pull, load or build the image again, or remove it")]
    Damaged { digest: Digest, why: String },
    #[error("the image {image} does not exist on {host}: check the name and the tag, or whether it needs a login")]
    NotFound { image: String, host: String },
    /// A registry does not tell those without a login what it has. Docker's clients match its words.
    #[error(
        "pull access denied for {repository}, repository does not exist or may require 'docker login': denied: the image {image} does not exist on {host}, or needs a login: check the name and the tag"
    )]
    Denied { image: String, repository: String, host: String },
    #[error("unauthorized: {why}: log in to {host}, or check the name and the password")]
    Unauthorized { host: String, why: String },
    #[error("the image {image} is not for this machine: it has {has}, and this is {wants}")]
    WrongPlatform { image: String, has: String, wants: String },
    /// A layer's, by its digest.
    #[error("the layer {layer} of {image}: {source}")]
    Layer { layer: String, image: String, source: Box<ImageError> },
    #[error("asking {host} for {what}: {why}")]
    Registry { host: String, what: String, why: String },
    #[error("{0}")]
    Change(String),
    /// A build's: the whole sentence.
    #[error("{0}")]
    Build(String),
    /// The same of a line of a Dockerfile.
    #[error("{text}")]
    Dockerfile { text: String, place: Box<build::DockerfileLine> },
}

impl ImageError {
    pub fn wrong_digest(what: &str, expected: &Digest, got: &Digest) -> ImageError {
        ImageError::WrongDigest { what: what.into(), expected: expected.clone(), got: got.clone() }
    }

    /// The reason alone: without the line of a Dockerfile, where it is one's.
    pub fn reason(&self) -> String {
        match self {
            ImageError::Dockerfile { place, .. } => place.what.clone(),
            other => other.to_string(),
        }
    }

    /// Says what was being done when the disk failed.
    pub fn store(doing: String) -> impl Fn(io::Error) -> ImageError {
        move |source| ImageError::Store { doing: doing.clone(), source }
    }
}

fn disk_hint(error: &io::Error) -> &'static str {
    if error.raw_os_error() == Some(libc::EOVERFLOW) {
        // The kernel's answer where a mount maps the user to nobody.
        "; the mount there is id-mapped (`idmap`), and has no place for files of this user: copy into its source on the host, or write by `exec`"
    } else if is_full(error) {
        "; free some space (`wharf images` shows what takes it) or move the data root (--data-root); nothing half-made was kept"
    } else {
        ""
    }
}

/// Whether there was no room: on the file system, or in what a quota leaves of it.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn unpack_hint(error: &unpack::UnpackError) -> &'static str {
    match error {
        unpack::UnpackError::Write { source, .. } | unpack::UnpackError::Archive(source) => disk_hint(source),
        _ => "",
    }
}

/// Progress of a pull.
#[derive(Clone, Debug)]
pub enum PullProgress {
    /// A layer, by the beginning of its digest, and how many of its bytes have come.
    Layer { id: String, status: &'static str, current: u64, total: u64 },
}

/// How often a layer's bytes are reported: a server that sends one at a time would fill the memory of an engine whose client does not
/// read.
const REPORT_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// Takes what happens during a pull.
pub type PullReport = std::sync::Arc<dyn Fn(PullProgress) + Send + Sync>;

/// Whether this machine runs programs of a platform, `os[/architecture[/variant]]`.
pub fn is_native(platform: &str) -> bool {
    let mut parts = platform.split('/');
    let (os, architecture, variant) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let variant_is_own = match (architecture, variant) {
        (_, None) => true,
        (Some("arm64" | "aarch64"), Some(variant)) => variant == "v8",
        // x86-64's levels; `v1` is what every processor has.
        (_, Some(variant)) => variant == "v1",
    };
    os == "linux"
        && architecture.is_none_or(|a| a == crate::image::architecture() || a == std::env::consts::ARCH)
        && variant_is_own
}

/// Docker's warning for an image of another processor, which is used nevertheless: the host may emulate it.
pub fn platform_warning(image: &Image) -> Option<String> {
    let (own, other) = (architecture(), image.config.architecture().to_string());
    // Processors that have the older instructions as well.
    let runs = match own {
        "amd64" => &["amd64", "386"][..],
        "arm64" => &["arm64", "arm"],
        own => &[own],
    };
    let is_other = !other.is_empty() && !runs.contains(&other.as_str());
    is_other.then(|| {
        let (system, other) = (image.config.os(), crate::printable::line(&other).into_owned());
        format!(
            "The requested image's platform ({system}/{other}) does not match the detected host platform (linux/{own}) and no specific platform was requested"
        )
    })
}

/// The architecture of this machine in OCI's (Go's) words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
