//! `deploy` of a service.

use super::devices::DeviceReservation;
use super::values::RestartCondition;
use crate::units::{ByteSize, Nanos, as_text};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// `services.*.deploy`: how many containers a service has, what they may use, and how they are replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deploy {
    pub endpoint_mode: Option<String>,
    pub labels: IndexMap<String, String>,
    pub mode: Option<String>,
    pub placement: Placement,
    pub replicas: Option<u32>,
    pub resources: DeployResources,
    pub restart_policy: Option<DeployRestartPolicy>,
    pub rollback_config: Option<UpdateConfig>,
    pub update_config: Option<UpdateConfig>,
}

/// `deploy.placement`: of several machines. wharf has one, and keeps it for `config` and the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    pub constraints: Vec<String>,
    pub max_replicas_per_node: Option<u64>,
    pub preferences: Vec<Json>,
}

/// `deploy.update_config` and `rollback_config`: how containers are replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateConfig {
    #[serde(with = "as_text")]
    pub delay: Option<Nanos>,
    pub failure_action: Option<String>,
    pub max_failure_ratio: Option<f64>,
    #[serde(with = "as_text")]
    pub monitor: Option<Nanos>,
    pub order: Option<String>,
    pub parallelism: Option<u64>,
}

/// `deploy.resources`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeployResources {
    pub limits: Option<Limits>,
    pub reservations: Option<Reservations>,
}

/// `deploy.resources.reservations`: what a service needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reservations {
    pub cpus: Option<f64>,
    pub devices: Vec<DeviceReservation>,
    pub generic_resources: Vec<Json>,
    #[serde(with = "as_text")]
    pub memory: Option<ByteSize>,
}

/// `deploy.resources.limits`: what a service gets at most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub cpus: Option<f64>,
    #[serde(with = "as_text")]
    pub memory: Option<ByteSize>,
    pub pids: Option<i64>,
}

/// `deploy.restart_policy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeployRestartPolicy {
    pub condition: Option<RestartCondition>,
    #[serde(with = "as_text")]
    pub delay: Option<Nanos>,
    pub max_attempts: Option<u32>,
    #[serde(with = "as_text")]
    pub window: Option<Nanos>,
}
