//! Configs and secrets as ConfigMaps and Secrets.

use super::super::context::Context;
use super::super::labels::{self, metadata, of_project};
use super::super::names;
use super::super::object::Made;
use super::super::sources::{Content, Found};
use crate::compose::model::FileObject;
use crate::compose::node::At;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// The name of the object of a config or a secret, and the key of its content.
pub fn object(context: &Context<'_>, section: &'static str, source: &str, used_at: &[&str]) -> Option<(String, String)> {
    let project = context.project();
    let objects = if section == "configs" { &project.configs } else { &project.secrets };
    let Some(object) = objects.get(source) else {
        context.refuse(used_at, format!("`{source}` is not among the project's {section}"), "");
        return None;
    };
    let given = Some(object.name.as_str()).filter(|name| !name.is_empty() && *name != format!("{}_{source}", project.name));
    let key = names::key(source);
    if object.external {
        // It is there already: another name would be another object.
        let name = given.unwrap_or(source).to_string();
        context.refuse_external(&[section, source], &name);
        return Some((name, key));
    }
    let name = given.map_or_else(|| names::dns(source), names::given);
    let path = [section, source];
    let bytes = content(context, section, source, object)?;
    let at = context.place(&path);
    let made = if section == "configs" {
        config_map(context, &name, [(key.clone(), bytes)].into(), at, &object.labels)
    } else {
        secret(context, &name, &key, bytes, at, &object.labels)
    };
    context.share(made);
    Some((name, key))
}

fn content(context: &Context<'_>, section: &'static str, source: &str, object: &FileObject) -> Option<Vec<u8>> {
    let what = if section == "configs" { "config" } else { "secret" };
    if let Some(content) = &object.content {
        return Some(content.clone().into_bytes());
    }
    if let Some(variable) = &object.environment {
        let content = context.loaded.contents.get(&(section, source.to_string()));
        if content.is_none() {
            let message = format!("the {what} `{source}` is the variable `{variable}`, which is not set");
            context.refuse(&[section, source, "environment"], message, "set it, or put it into .env");
        }
        return content.map(|content| content.clone().into_bytes());
    }
    // The loader lets none pass that says nothing: this one's content is empty.
    if object.file.is_none() && object.driver.is_none() {
        return Some(Vec::new());
    }
    let Some(file) = &object.file else {
        let message = format!("the {what} `{source}` has no content");
        context.refuse(
            &[section, source],
            message,
            "give it `file`, `content` or `environment`, or `external: true` for one that is in the cluster",
        );
        return None;
    };
    let path = [section, source, "file"];
    let (message, help) = match context.file(file) {
        Found::File(content) => return Some(content.bytes.clone()),
        Found::Absent => (format!("{file} does not exist"), "create it"),
        Found::TooLarge => (
            format!("{file} is larger than 1 MiB, which is the most that a {what} holds in Kubernetes"),
            "put it into an image or a volume",
        ),
        Found::Directory(_) => (format!("{file} is a directory"), "name each of its files"),
        Found::Irregular => (format!("{file} is not a regular file"), ""),
        Found::Unreadable(why) => (format!("{file} cannot be read: {why}"), ""),
    };
    context.refuse(&path, message, help);
    None
}

/// A text that YAML shows as it is; anything else is written in base64.
fn as_text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let is_plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t' | '\r');
    text.chars().all(|c| is_plain(c) && c != '\u{feff}').then_some(text)
}

pub fn config_map(
    context: &Context<'_>,
    name: &str,
    contents: BTreeMap<String, Vec<u8>>,
    at: At,
    own: &indexmap::IndexMap<String, String>,
) -> Made {
    let (mut data, mut binary_data) = (BTreeMap::new(), BTreeMap::new());
    for (key, bytes) in contents {
        match as_text(&bytes) {
            Some(text) => drop(data.insert(key, text.to_string())),
            None => drop(binary_data.insert(key, ByteString(bytes))),
        }
    }
    let metadata = named(context, name, own, "configs");
    Made::new(ConfigMap { metadata, data: labels::some(data), binary_data: labels::some(binary_data), immutable: None }, at)
}

fn secret(
    context: &Context<'_>,
    name: &str,
    key: &str,
    bytes: Vec<u8>,
    at: At,
    own: &indexmap::IndexMap<String, String>,
) -> Made {
    let (mut string_data, mut data) = (BTreeMap::new(), BTreeMap::new());
    match as_text(&bytes) {
        Some(text) => drop(string_data.insert(key.to_string(), text.to_string())),
        None => drop(data.insert(key.to_string(), ByteString(bytes))),
    }
    let secret = Secret {
        metadata: named(context, name, own, "secrets"),
        string_data: labels::some(string_data),
        data: labels::some(data),
        type_: Some("Opaque".into()),
        immutable: None,
    };
    Made::new(secret, at)
}

fn named(context: &Context<'_>, name: &str, own: &indexmap::IndexMap<String, String>, section: &str) -> ObjectMeta {
    let (mut of_object, mut annotations) = (of_project(context), labels::Labels::new());
    of_object.insert(labels::NAME.into(), names::label_value(name));
    labels::add(context, &[section], own, &mut of_object, &mut annotations);
    ObjectMeta { annotations: labels::some(annotations), ..metadata(context, name, of_object) }
}

/// The mode of a file that may be run.
pub fn mode(content: &Content) -> Option<i32> {
    content.is_executable.then_some(0o755)
}
