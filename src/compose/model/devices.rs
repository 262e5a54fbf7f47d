//! The devices of a service: `devices`, `gpus`, and the rates of `blkio_config`.

use crate::units::{ByteSize, as_text};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// `blkio_config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioConfig {
    pub device_read_bps: Vec<Throttle>,
    pub device_read_iops: Vec<Throttle>,
    pub device_write_bps: Vec<Throttle>,
    pub device_write_iops: Vec<Throttle>,
    pub weight: Option<u16>,
    pub weight_device: Vec<BlkioWeight>,
}

/// A rate of a device in `blkio_config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Throttle {
    pub path: String,
    /// Bytes or operations a second.
    #[serde(with = "as_text")]
    pub rate: Option<ByteSize>,
}

/// A weight of a device in `blkio_config`, 10 to 1000.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioWeight {
    pub path: String,
    pub weight: u16,
}

/// An entry of `devices`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    pub source: String,
    pub target: Option<String>,
    /// Of `r`, `w` and `m`.
    pub permissions: Option<String>,
}

/// An entry of `gpus` or of `deploy.resources.reservations.devices`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceReservation {
    pub capabilities: Vec<String>,
    /// -1 is all of them.
    pub count: Option<i64>,
    pub device_ids: Vec<String>,
    pub driver: Option<String>,
    pub options: IndexMap<String, String>,
}
