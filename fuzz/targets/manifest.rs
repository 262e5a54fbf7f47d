//! Any bytes as what a registry has of an image: its manifest, an index, its configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::image::manifest::{AnsweredManifest, Configuration, Index, MAX_LAYERS, Manifest};
use wharf::image::{Digest, ImageRef};

fuzz_target!(|bytes: &[u8]| {
    let is_digest = |digest: &Digest| {
        let again: Digest = digest.as_str().parse().expect("a digest is one");
        assert!(again == *digest && digest.hex().bytes().all(|b| b.is_ascii_hexdigit()));
    };
    let name: ImageRef = "x".parse().expect("a name");
    match AnsweredManifest::parse(bytes) {
        Ok(AnsweredManifest::Manifest(manifest)) => {
            manifest.named_blobs().chain([&manifest.config.digest]).for_each(is_digest);
            assert!(Index::parse(bytes).is_err(), "it is two things");
        }
        Ok(AnsweredManifest::Index(index)) => {
            index.choose_platform(&name).map(is_digest).unwrap_or_default();
            assert!(Manifest::parse(bytes).is_err(), "it is two things");
            index.manifests.iter().for_each(|entry| drop(entry.name().map(str::parse::<ImageRef>)));
        }
        Err(_) => {}
    }
    if let Ok(configuration) = Configuration::parse(bytes) {
        let chain = configuration.chain_ids();
        assert!(chain.len() == configuration.diff_ids.len() && chain.len() <= MAX_LAYERS);
        chain.iter().for_each(|id| is_digest(id.digest()));
    }
});
