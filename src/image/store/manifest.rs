//! What a manifest names.

use super::digest_of;

/// The digests of a manifest's layers.
pub fn layer_blobs(manifest: &[u8]) -> Vec<String> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap_or_default();
    manifest["layers"].as_array().into_iter().flatten().filter_map(|l| l["digest"].as_str().map(str::to_string)).collect()
}

/// The blob with what is said of a manifest's image. Manifests come from strangers: a digest is one, or it is none.
pub fn predicates_blob(manifest: &[u8]) -> Option<String> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).ok()?;
    let digest = manifest["annotations"][crate::image::attest::ANNOTATION].as_str()?;
    crate::image::reference::is_digest(digest).then(|| digest.to_string())
}

/// The blobs that a manifest names besides its configuration.
pub fn named_blobs(manifest: &[u8]) -> Vec<String> {
    layer_blobs(manifest).into_iter().chain(predicates_blob(manifest)).collect()
}

/// OCI image specification, "Layer ChainID": each layer together with all below it.
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => digest_of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}
