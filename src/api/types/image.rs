//! `/images`, `/commit`, `/distribution`, `/build/prune`.

use super::{GraphDriver, StringMap};
use serde_json::Value;

wire! {
    /// An image in a list.
    pub struct ImageSummary {
        pub id: String,
        pub parent_id: String,
        pub repo_tags: Vec<String>,
        pub repo_digests: Vec<String>,
        /// Seconds since 1970.
        pub created: i64,
        /// Bytes.
        pub size: u64,
        /// Before 1.44.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub virtual_size: Option<u64>,
        pub labels: Option<StringMap>,
        /// -1 where they are not counted.
        pub containers: i64,
        pub shared_size: i64,
    }

    /// `GET /images/{name}/json`.
    pub struct ImageInspect {
        pub id: String,
        pub repo_tags: Vec<String>,
        pub repo_digests: Vec<String>,
        pub parent: String,
        pub comment: String,
        /// RFC 3339.
        pub created: Option<String>,
        pub docker_version: String,
        pub author: String,
        /// As the image has it: with what Docker has beside OCI's fields as well, such as Healthcheck and Shell.
        pub config: Value,
        pub architecture: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub variant: Option<String>,
        pub os: String,
        /// Bytes.
        pub size: u64,
        /// Before 1.44.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub virtual_size: Option<u64>,
        pub graph_driver: GraphDriver,
        #[serde(rename = "RootFS")]
        pub root_fs: RootFsLayers,
        pub metadata: ImageMetadata,
        /// wharf's own: predicates that a push attests.
        pub attestations: Value,
    }

    /// The layers of an image, by the digests of their content.
    pub struct RootFsLayers {
        #[serde(rename = "Type")]
        pub kind: String,
        pub layers: Vec<String>,
    }

    /// `Metadata` of an image.
    pub struct ImageMetadata {
        /// RFC 3339.
        pub last_tag_time: String,
    }

    /// A step that made an image.
    pub struct ImageHistoryItem {
        pub id: String,
        /// Seconds since 1970.
        pub created: i64,
        pub created_by: String,
        pub tags: Option<Vec<String>>,
        /// Bytes of its layer.
        pub size: u64,
        pub comment: String,
    }

    /// A name that was taken from an image, or an image that was deleted.
    pub struct ImageRemoval {
        #[serde(skip_serializing_if = "String::is_empty")]
        pub untagged: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub deleted: String,
    }

    /// The answer to `/images/prune`.
    pub struct ImagesPruned {
        pub images_deleted: Option<Vec<ImageRemoval>>,
        /// Bytes.
        pub space_reclaimed: u64,
        /// wharf's own: how many layers and blobs were deleted.
        pub layers: u64,
        pub blobs: u64,
    }

    /// The answer to `/build/prune`.
    pub struct CachePruned {
        pub caches_deleted: Option<Vec<String>>,
        /// Bytes.
        pub space_reclaimed: u64,
    }

    /// `GET /distribution/{name}/json`.
    pub struct DistributionInspect {
        pub descriptor: DescriptorAnswer,
        pub platforms: Vec<PlatformAnswer>,
    }
}

wire! {
    "camelCase"
    /// A descriptor of OCI's.
    pub struct DescriptorAnswer {
        pub media_type: String,
        pub digest: String,
        pub size: usize,
    }

    /// A platform of OCI's.
    pub struct PlatformAnswer {
        pub architecture: String,
        pub os: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub variant: Option<String>,
    }
}
