//! `environment` as variables of the container, and what `env_file` has as a ConfigMap.

use super::context::Context;
use super::labels::{metadata, of_workload};
use super::names;
use super::object::Made;
use super::workload::Workload;
use crate::compose::node::{FileId, Node};
use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapEnvSource, EnvFromSource, EnvVar};
use std::collections::{BTreeMap, HashMap, HashSet};

pub fn env(context: &Context<'_>, workload: &Workload<'_>) -> (Vec<EnvVar>, Vec<EnvFromSource>) {
    let from_files = of_env_files(context.node(&workload.path(&["environment"])));
    let mut variables = Vec::new();
    let mut data = BTreeMap::new();
    // A variable without a value is not set.
    for (name, value) in &workload.service.environment {
        let Some(value) = value else { continue };
        if value.contains('\0') {
            context.refuse(&workload.path(&["environment", name]), format!("the value of `{name}` has a NUL character"), "");
        } else if !(names::is_variable(name) || context.has(32) && names::is_relaxed_variable(name)) {
            let message = format!(
                "`{}` cannot be the name of a variable in Kubernetes {}",
                super::labels::shortened(name),
                context.version()
            );
            let help =
                "it has letters, digits, `_`, `-` and `.`, and does not begin with a digit; from 1.32 on, anything printable";
            context.refuse(&workload.path(&["environment", name]), message, help);
        } else if from_files.contains(name.as_str()) && names::is_variable(name) {
            data.insert(name.clone(), value.clone());
        } else {
            variables.push(EnvVar { name: name.clone(), value: Some(names::literal(value)), value_from: None });
        }
    }
    if data.is_empty() {
        return (variables, Vec::new());
    }
    let name = names::dns(&format!("{}-env", workload.object));
    let map = ConfigMap {
        metadata: metadata(context, &name, of_workload(context, workload)),
        data: Some(data),
        ..ConfigMap::default()
    };
    context.share(Made::new(map, context.place(&workload.path(&["environment"]))));
    let source = EnvFromSource { config_map_ref: Some(ConfigMapEnvSource { name, optional: None }), ..EnvFromSource::default() };
    (variables, vec![source])
}

/// The variables that a file gave: those of one file have one place, its name in `env_file`.
fn of_env_files(node: Option<&Node>) -> HashSet<&str> {
    let mut places: HashMap<(FileId, u32, u32), Vec<&str>> = HashMap::new();
    for (name, entry) in node.and_then(Node::as_map).into_iter().flatten() {
        let at = entry.node.at;
        places.entry((at.file, at.line, at.column)).or_default().push(name.as_str());
    }
    places.into_values().filter(|names| names.len() > 1).flatten().collect()
}
