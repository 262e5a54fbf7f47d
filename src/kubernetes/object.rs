//! An object of any kind that an export makes, and its place in the Compose file.

use crate::compose::node::At;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, PodTemplateSpec, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value as Json;

/// A kind as an API server serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServedKind {
    pub kind: &'static str,
    /// `GROUP/VERSION`, or `v1` of the core.
    pub api_version: &'static str,
    /// Its name in paths.
    pub plural: &'static str,
}

impl ServedKind {
    /// The path of the kind's objects in a namespace, which has to be a DNS label.
    pub fn path(&self, namespace: &str) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        format!("/{root}/{}/namespaces/{namespace}/{}", self.api_version, self.plural)
    }

    /// Its place in the order in which objects are applied: what others refer to comes first, and who waits for nobody last.
    pub fn rank(&self) -> u8 {
        match self.kind {
            "ServiceAccount" | "Role" | "RoleBinding" => 0,
            "ConfigMap" | "Secret" | "PersistentVolumeClaim" => 1,
            "Service" | "NetworkPolicy" => 2,
            "Deployment" | "StatefulSet" | "DaemonSet" | "Job" | "CronJob" => 3,
            _ => 4,
        }
    }

    /// Whether it makes Pods.
    pub fn is_workload(&self) -> bool {
        self.rank() == 3
    }
}

macro_rules! objects {
    ($($kind:ident),*) => {
        /// One of the kinds that an export makes.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $($kind(Box<$kind>)),*
        }

        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Object::$kind(Box::new(object))
            }
        })*

        /// Every kind that an export makes.
        pub const SERVED: &[ServedKind] = &[$(ServedKind {
            kind: stringify!($kind),
            api_version: <$kind as k8s_openapi::Resource>::API_VERSION,
            plural: <$kind as k8s_openapi::Resource>::URL_PATH_SEGMENT,
        }),*];

        impl Object {
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Object::$kind(_) => stringify!($kind)),*
                }
            }

            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Object::$kind(object) => &object.metadata),*
                }
            }

            pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self {
                    $(Object::$kind(object) => &mut object.metadata),*
                }
            }

            /// Its fields in the order in which a person writes them.
            pub fn to_json(&self) -> Json {
                let json = match self {
                    $(Object::$kind(object) => serde_json::to_value(object)),*
                };
                in_order(json.unwrap_or_default())
            }
        }
    };
}

objects!(
    ConfigMap,
    CronJob,
    DaemonSet,
    Deployment,
    HorizontalPodAutoscaler,
    Ingress,
    Job,
    NetworkPolicy,
    PersistentVolumeClaim,
    Role,
    RoleBinding,
    Secret,
    Service,
    ServiceAccount,
    StatefulSet
);

impl Object {
    /// Its kind as an API server serves it.
    pub fn served(&self) -> ServedKind {
        // One of each variant is in the list.
        SERVED.iter().find(|served| served.kind == self.kind()).copied().unwrap_or(SERVED[0])
    }

    /// As a server gets it. A Secret's `stringData` is `data` there: the server keeps no record of the former, and would take every apply for a
    /// change.
    pub fn for_server(&self) -> Json {
        let mut json = self.to_json();
        if let (Object::Secret(_), Some(fields)) = (self, json.as_object_mut())
            && let Some(Json::Object(texts)) = fields.remove("stringData")
        {
            let data = fields.entry("data").or_insert_with(|| Json::Object(serde_json::Map::new()));
            for (key, text) in texts {
                let encoded = data_encoding::BASE64.encode(text.as_str().unwrap_or_default().as_bytes());
                data[key.as_str()] = encoded.into();
            }
        }
        json
    }

    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// The name of its file, without the ending.
    pub fn file_stem(&self) -> String {
        format!("{}-{}", self.name(), self.kind().to_lowercase())
    }

    /// The Pods that it makes.
    pub fn template(&self) -> Option<&PodTemplateSpec> {
        match self {
            Object::Deployment(object) => object.spec.as_ref().map(|spec| &spec.template),
            Object::StatefulSet(object) => object.spec.as_ref().map(|spec| &spec.template),
            Object::DaemonSet(object) => object.spec.as_ref().map(|spec| &spec.template),
            Object::Job(object) => object.spec.as_ref().map(|spec| &spec.template),
            Object::CronJob(object) => object.spec.job_template.spec.as_ref().map(|spec| &spec.template),
            _ => None,
        }
    }
}

/// An object, and what in the Compose file it was made of.
#[derive(Clone, Debug)]
pub struct Made {
    pub object: Object,
    pub at: At,
}

impl Made {
    pub fn new(object: impl Into<Object>, at: At) -> Self {
        Made { object: object.into(), at }
    }

    pub fn file_stem(&self) -> String {
        self.object.file_stem()
    }
}

/// Fields that come first, in this order; the others follow by name.
const FIRST: [&str; 40] = [
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "labels",
    "annotations",
    "type",
    "clusterIP",
    "serviceName",
    "accessModes",
    "apiGroup",
    "apiGroups",
    "replicas",
    "schedule",
    "timeZone",
    "selector",
    "podSelector",
    "policyTypes",
    "strategy",
    "image",
    "imagePullPolicy",
    "command",
    "args",
    "workingDir",
    "value",
    "protocol",
    "port",
    "targetPort",
    "key",
    "operator",
    "template",
    "spec",
    "initContainers",
    "containers",
    "ports",
    "envFrom",
    "env",
    "resources",
    "mountPath",
];

/// Fields whose names are the user's: their order is the alphabet's.
const MAPPINGS: [&str; 9] =
    ["labels", "annotations", "matchLabels", "data", "binaryData", "stringData", "nodeSelector", "limits", "requests"];

/// An object's fields in the order in which a person writes them.
pub fn in_order(json: Json) -> Json {
    match json {
        Json::Object(map) => {
            let mut fields: Vec<(String, Json)> = map
                .into_iter()
                .map(|(name, value)| {
                    let value = if MAPPINGS.contains(&name.as_str()) { value } else { in_order(value) };
                    (name, value)
                })
                .collect();
            let rank = |name: &str| FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len());
            fields.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
            Json::Object(fields.into_iter().collect())
        }
        Json::Array(list) => Json::Array(list.into_iter().map(in_order).collect()),
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_gets_a_secrets_values_as_data() {
        let text = ("a".to_string(), "hunter2".to_string());
        let secret = Secret { string_data: Some([text].into()), ..Secret::default() };
        let json = Object::from(secret).for_server();
        assert_eq!((&json["data"]["a"], json.get("stringData")), (&"aHVudGVyMg==".into(), None));
    }

    #[test]
    fn paths_of_kinds() {
        let path = |kind: &str| SERVED.iter().find(|served| served.kind == kind).expect("a kind").path("shop");
        assert_eq!(path("Service"), "/api/v1/namespaces/shop/services");
        assert_eq!(path("NetworkPolicy"), "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies");
        assert_eq!(path("CronJob"), "/apis/batch/v1/namespaces/shop/cronjobs");
    }
}
