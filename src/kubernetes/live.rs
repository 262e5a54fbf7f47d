//! What an API server says of objects, as far as it decides anything here. Fields that are absent are empty; what has another type than the
//! API's is an error of the reader.

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// What is an object in JSON. serde takes structs from arrays as well: of `[]` everything would be empty, and nothing wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent, bound = "T: DeserializeOwned")]
pub struct OfObject<T>(#[serde(deserialize_with = "object")] pub T);

fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct ObjectAlone<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectAlone<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_map(ObjectAlone(PhantomData))
}

fn objects<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let list: Vec<OfObject<T>> = Vec::deserialize(deserializer)?;
    Ok(list.into_iter().map(|OfObject(item)| item).collect())
}

/// A page of a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
pub struct LiveList<T> {
    #[serde(default, deserialize_with = "object")]
    pub metadata: LiveListMeta,
    #[serde(default = "Vec::new", deserialize_with = "objects")]
    pub items: Vec<T>,
}

/// `metadata` of a list.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct LiveListMeta {
    /// Where the next page begins; empty on the last.
    #[serde(default, rename = "continue")]
    pub next: String,
}

/// `metadata` of an object; times are RFC 3339.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LiveMeta {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    pub labels: BTreeMap<String, String>,
    pub creation_timestamp: Option<String>,
    /// Set while it is being deleted.
    pub deletion_timestamp: Option<String>,
    pub owner_references: Vec<LiveOwner>,
    pub managed_fields: Vec<FieldOwner>,
}

/// The object on whose behalf a controller has made this one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LiveOwner {
    pub kind: String,
    pub name: String,
    pub uid: String,
}

/// Who has set fields of an object.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct FieldOwner {
    pub manager: String,
    /// `Apply` of a server-side apply, else `Update`.
    pub operation: String,
    pub subresource: String,
}

/// An object of any kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LiveObject {
    #[serde(deserialize_with = "object")]
    pub metadata: LiveMeta,
    #[serde(deserialize_with = "object")]
    pub spec: LiveSpec,
    #[serde(deserialize_with = "object")]
    pub status: LiveStatus,
}

/// What of the `spec` of workloads is looked at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LiveSpec {
    pub replicas: Option<i64>,
    /// Of a Job: how many Pods have to succeed.
    pub completions: Option<i64>,
    /// Of Jobs and CronJobs.
    pub suspend: Option<bool>,
    pub update_strategy: LiveStrategy,
}

/// `updateStrategy` of a StatefulSet or a DaemonSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LiveStrategy {
    #[serde(rename = "type")]
    pub kind: String,
}

/// What of the `status` of workloads and claims is looked at: numbers of Pods, and conditions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LiveStatus {
    /// The generation of the specification that the controller has seen.
    pub observed_generation: i64,
    pub replicas: i64,
    pub updated_replicas: i64,
    pub ready_replicas: i64,
    pub available_replicas: i64,
    pub current_revision: String,
    pub update_revision: String,
    pub desired_number_scheduled: i64,
    pub updated_number_scheduled: i64,
    pub number_ready: i64,
    pub number_available: i64,
    pub succeeded: i64,
    pub failed: i64,
    pub conditions: Vec<LiveCondition>,
    /// Of a claim: Pending, Bound, Lost.
    pub phase: String,
}

/// One of `status.conditions`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LiveCondition {
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    pub reason: String,
    pub message: String,
}

impl LiveStatus {
    /// A condition that holds.
    pub fn holds(&self, kind: &str) -> Option<&LiveCondition> {
        self.conditions.iter().find(|condition| condition.kind == kind && condition.status == "True")
    }
}

/// A Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LivePod {
    #[serde(deserialize_with = "object")]
    pub metadata: LiveMeta,
    #[serde(deserialize_with = "object")]
    pub spec: LivePodSpec,
    #[serde(deserialize_with = "object")]
    pub status: LivePodStatus,
}

/// `spec` of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LivePodSpec {
    pub node_name: String,
    pub containers: Vec<LiveContainer>,
    pub init_containers: Vec<LiveContainer>,
}

/// A container of a Pod, as it is wanted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LiveContainer {
    pub name: String,
    pub image: String,
}

/// `status` of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LivePodStatus {
    /// Pending, Running, Succeeded, Failed or Unknown.
    pub phase: String,
    pub reason: String,
    pub message: String,
    pub conditions: Vec<LiveCondition>,
    pub container_statuses: Vec<LiveContainerStatus>,
    pub init_container_statuses: Vec<LiveContainerStatus>,
}

/// A container of a Pod, as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LiveContainerStatus {
    pub name: String,
    pub ready: bool,
    pub restart_count: u64,
    pub image: String,
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub state: LiveContainerState,
    pub last_state: LiveContainerState,
}

/// One of the three.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LiveContainerState {
    pub waiting: Option<LiveWaiting>,
    pub running: Option<LiveRunning>,
    pub terminated: Option<LiveTerminated>,
}

/// Why a container does not run yet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LiveWaiting {
    pub reason: String,
    pub message: String,
}

/// Since when a container runs, RFC 3339.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LiveRunning {
    pub started_at: Option<String>,
}

/// How a container has ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LiveTerminated {
    pub exit_code: i64,
    pub reason: String,
    pub message: String,
}

/// What has happened to an object.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LiveEvent {
    pub involved_object: LiveInvolved,
    /// Normal or Warning.
    #[serde(rename = "type")]
    pub kind: String,
    pub reason: String,
    pub message: String,
    pub last_timestamp: Option<String>,
    pub event_time: Option<String>,
}

/// The object that an event is about.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LiveInvolved {
    pub kind: String,
    pub name: String,
    pub uid: String,
}

impl LiveEvent {
    /// When it was last seen, as text that sorts by time.
    pub fn when(&self) -> &str {
        self.last_timestamp.as_deref().or(self.event_time.as_deref()).unwrap_or_default()
    }

    pub fn is_warning(&self) -> bool {
        self.kind == "Warning"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_no_object() {
        let list =
            |text: &str| serde_json::from_str::<OfObject<LiveList<LiveObject>>>(text).map(|OfObject(list)| list.items.len());
        assert_eq!(list(r#"{"items": [{"metadata": {"name": "a"}}, {}]}"#).expect("a list"), 2);
        assert_eq!(list("{}").expect("a list"), 0);
        for text in [
            "[]",
            r#"{"metadata": []}"#,
            r#"{"items": [[]]}"#,
            r#"{"items": [{"metadata": []}]}"#,
            r#"{"items": [{"status": []}]}"#,
        ] {
            assert!(list(text).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<OfObject<LivePod>>(r#"{"spec": []}"#).is_err());
    }
}
