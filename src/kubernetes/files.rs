//! Objects as files: YAML or JSON, one file an object; with kustomize's list of them; as a chart for Helm.

use super::object::Object;
use crate::compose::render::yaml;
use serde_json::{Value as Json, json};
use std::str::FromStr;

/// In what form objects are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Yaml,
    Json,
    Kustomize,
    Helm,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "yaml" => Format::Yaml,
            "json" => Format::Json,
            "kustomize" => Format::Kustomize,
            "helm" => Format::Helm,
            _ => return Err(format!("`{text}` is none of yaml, json, kustomize and helm")),
        })
    }
}

/// A file of the outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// Relative, of one part or two.
    pub path: String,
    pub text: String,
    /// For nobody's eyes but the user's own.
    pub is_secret: bool,
}

impl OutputFile {
    /// A file without secrets.
    fn open(path: impl Into<String>, text: String) -> Self {
        OutputFile { path: path.into(), text, is_secret: false }
    }

    fn of(object: &Object, path: String, text: String) -> Self {
        OutputFile { path, text, is_secret: matches!(object, Object::Secret(_)) }
    }
}

/// All objects as one text: documents of YAML, or a list in JSON.
pub fn text(objects: &[Object], format: Format) -> String {
    if format == Format::Json {
        let items: Vec<Json> = objects.iter().map(Object::to_json).collect();
        return pretty(&json!({"apiVersion": "v1", "kind": "List", "items": items}));
    }
    let documents: Vec<String> = objects.iter().map(|object| yaml::text(&object.to_json())).collect();
    documents.join("---\n")
}

fn pretty(json: &Json) -> String {
    serde_json::to_string_pretty(json).map(|text| text + "\n").unwrap_or_default()
}

/// The files of a directory.
pub fn files(objects: &[Object], format: Format, project: &str) -> Vec<OutputFile> {
    match format {
        Format::Helm => helm(objects, project),
        Format::Json => objects
            .iter()
            .map(|object| OutputFile::of(object, format!("{}.json", object.file_stem()), pretty(&object.to_json())))
            .collect(),
        Format::Yaml | Format::Kustomize => {
            let mut files: Vec<OutputFile> = objects.iter().map(|object| yaml_file(object, "")).collect();
            if format == Format::Kustomize {
                files.push(kustomization(&files));
            }
            files
        }
    }
}

fn yaml_file(object: &Object, directory: &str) -> OutputFile {
    OutputFile::of(object, format!("{directory}{}.yaml", object.file_stem()), yaml::text(&object.to_json()))
}

fn kustomization(files: &[OutputFile]) -> OutputFile {
    let resources: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let json = json!({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources});
    OutputFile::open("kustomization.yaml", yaml::text(&json))
}

/// A chart whose values are images and numbers of replicas. Everything else is text that Helm is to leave alone.
fn helm(objects: &[Object], project: &str) -> Vec<OutputFile> {
    let name = super::names::dns(project);
    let chart = json!({
        "apiVersion": "v2",
        "name": name,
        "description": format!("The Compose project {project}"),
        "type": "application",
        "version": "0.1.0",
    });
    let mut values = serde_json::Map::new();
    let mut files = Vec::new();
    for object in objects {
        let file = yaml_file(object, "templates/");
        files.push(OutputFile { text: templated(object, &mut values), ..file });
    }
    let mut all = vec![
        OutputFile::open("Chart.yaml", yaml::text(&chart)),
        OutputFile::open("values.yaml", yaml::text(&json!({ "services": values }))),
    ];
    all.extend(files);
    all
}

/// An object's template: words that stand for values are put in before it is written, and replaced afterwards.
fn templated(object: &Object, values: &mut serde_json::Map<String, Json>) -> String {
    let mut json = object.to_json();
    let plain = yaml::text(&json);
    // No text of the object has it.
    let mark = (0..).map(|n| format!("HELM{n}VALUE")).find(|mark| !plain.contains(mark.as_str())).unwrap_or_default();
    let mut given: Vec<(String, String)> = Vec::new();
    let name = object.name().to_string();
    let mut take = |place: Option<&mut Json>, workload: &str, field: &str| {
        let Some(place) = place else { return };
        let entry = values.entry(workload).or_insert_with(|| json!({}));
        entry[field] = place.clone();
        let word = format!("{mark}{}", given.len());
        let quote = if place.is_string() { " | quote" } else { "" };
        given.push((word.clone(), format!("{{{{ index .Values.services \"{workload}\" \"{field}\"{quote} }}}}")));
        *place = Json::String(word + "E");
    };
    let spec = match object {
        Object::Deployment(_) | Object::StatefulSet(_) | Object::DaemonSet(_) | Object::Job(_) => json.get_mut("spec"),
        Object::CronJob(_) => json.pointer_mut("/spec/jobTemplate/spec"),
        _ => None,
    };
    if let Some(spec) = spec {
        take(spec.get_mut("replicas"), &name, "replicas");
        for container in spec.pointer_mut("/template/spec/containers").and_then(Json::as_array_mut).into_iter().flatten() {
            let workload = container["name"].as_str().unwrap_or(&name).to_string();
            take(container.get_mut("image"), &workload, "image");
        }
    }
    // Helm reads braces everywhere, in comments and texts, too.
    let mut text = yaml::text(&json).replace("{{", "{{ \"{{\" }}");
    for (word, value) in given {
        text = text.replace(&(word + "E"), &value);
    }
    text
}
