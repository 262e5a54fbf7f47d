//! `/volumes`.

use super::StringMap;

wire! {
    /// `POST /volumes/create`.
    pub struct VolumeCreate {
        /// One is made where it is empty.
        pub name: String,
        pub driver: String,
        pub driver_opts: StringMap,
        pub labels: StringMap,
    }
    /// A volume, in lists and alone.
    pub struct VolumeInspect {
        pub name: String,
        pub driver: String,
        pub mountpoint: String,
        /// RFC 3339.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub created_at: String,
        pub labels: StringMap,
        pub scope: String,
        pub options: StringMap,
        /// In `/system/df` alone.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub usage_data: Option<VolumeUsage>,
    }

    /// `UsageData` of a volume.
    pub struct VolumeUsage {
        /// Bytes.
        pub size: i64,
        /// Containers that have it.
        pub ref_count: i64,
    }

    /// The answer to `GET /volumes`.
    pub struct VolumeList {
        pub volumes: Vec<VolumeInspect>,
        pub warnings: Vec<String>,
    }

    /// The answer to `/volumes/prune`.
    pub struct VolumesPruned {
        pub volumes_deleted: Option<Vec<String>>,
        pub space_reclaimed: u64,
    }
}
