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
}
