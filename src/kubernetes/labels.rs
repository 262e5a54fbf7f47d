//! Labels and annotations: those by which objects find each other, and the project's own.

use super::context::Context;
use super::workload::{Pod, Workload};
use super::{kompose, names};
use indexmap::IndexMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use std::collections::BTreeMap;

/// Labels of an object or a selector.
pub type Labels = BTreeMap<String, String>;

pub const NAME: &str = "app.kubernetes.io/name";
pub const INSTANCE: &str = "app.kubernetes.io/instance";
const PART_OF: &str = "app.kubernetes.io/part-of";
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Before a network's name: the Pods that are on it.
const NETWORK: &str = "network.wharf.io/";

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_string(), value.to_string())
}

/// The labels of every object of the project.
pub fn of_project(context: &Context<'_>) -> Labels {
    let project = names::label_value(&context.project().name);
    [pair(INSTANCE, &project), pair(MANAGED_BY, "wharf"), pair(PART_OF, &project)].into()
}

/// The labels of the objects of one workload.
pub fn of_workload(context: &Context<'_>, workload: &Workload<'_>) -> Labels {
    let mut labels = of_project(context);
    labels.extend([pair(NAME, &workload.object)]);
    labels
}

/// The labels by which a Pod is selected.
pub fn selector(context: &Context<'_>, pod: &Pod<'_, '_>) -> Labels {
    let project = names::label_value(&context.project().name);
    [pair(NAME, &pod.leader().object), pair(INSTANCE, &project)].into()
}

pub fn label_selector(labels: Labels) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

/// The label of the Pods on a network.
pub fn network(name: &str) -> (String, String) {
    (format!("{NETWORK}{}", names::dns(name)), "true".into())
}

pub fn metadata(context: &Context<'_>, name: &str, labels: Labels) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: context.options.namespace.clone(),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

/// Adds the user's labels; what cannot be a label is an annotation, and what can be neither is a warning.
pub fn add(context: &Context<'_>, path: &[&str], own: &IndexMap<String, String>, labels: &mut Labels, annotations: &mut Labels) {
    kompose::judge(context, path, own);
    for (key, value) in own.iter().filter(|(key, _)| !kompose::is_kompose(key)) {
        if names::is_label_key(key) && names::is_label_value(value) {
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        } else {
            annotate(context, path, key, value, annotations);
        }
    }
}

/// Adds an annotation: any value, and a key as labels have.
pub fn annotate(context: &Context<'_>, path: &[&str], key: &str, value: &str, annotations: &mut Labels) {
    // A key's prefix is in lower case.
    if names::is_label_key(key) {
        annotations.insert(key.into(), value.into());
    } else {
        let path: Vec<&str> = path.iter().copied().chain([key]).collect();
        let message = format!("`{}` can be the key of no label and of no annotation: it is left out", shortened(key));
        context.warn(
            &path,
            message,
            "a key has up to 63 letters, digits, `-`, `_` and `.`, and may have a domain and `/` before it",
        );
    }
}

/// A stranger's text in a message.
pub fn shortened(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_string() } else { text.chars().take(77).chain("...".chars()).collect() }
}

/// Absent where it is empty: nobody writes `annotations: {}`.
pub fn some<T>(collection: T) -> Option<T>
where
    for<'a> &'a T: IntoIterator,
{
    let is_empty = (&collection).into_iter().next().is_none();
    (!is_empty).then_some(collection)
}
