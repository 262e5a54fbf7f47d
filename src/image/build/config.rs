//! The image's configuration while it is built: what ENV, CMD, LABEL and their like change.

use crate::image::DiffId;
use crate::runtime::DEFAULT_PATH;
use serde_json::{Map, Value, json};

/// A configuration in the form of the OCI image specification, with Docker's additions.
#[derive(Debug, Clone)]
pub struct Config {
    top: Map<String, Value>,
    /// What is under `config`.
    inner: Map<String, Value>,
}

impl Config {
    /// That of `FROM scratch`.
    pub fn scratch() -> Self {
        Config::of(json!({
            "architecture": crate::image::architecture(),
            "os": "linux",
            "config": {"Env": [format!("PATH={DEFAULT_PATH}")], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": []},
            "history": [],
        }))
    }

    /// An image's, as it is stored.
    pub fn of(value: Value) -> Self {
        let mut top = match value {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let inner = match top.shift_remove("config") {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        Config { top, inner }
    }

    /// The bytes that are stored: its digest is the image's id.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut whole = self.top.clone();
        whole.insert("config".into(), Value::Object(self.inner.clone()));
        Value::Object(whole).to_string().into_bytes()
    }

    pub fn set_top(&mut self, key: &str, value: Value) {
        self.top.insert(key.to_string(), value);
    }

    pub fn get(&self, key: &str) -> &Value {
        self.inner.get(key).unwrap_or(&Value::Null)
    }

    pub fn text(&self, key: &str) -> String {
        self.get(key).as_str().unwrap_or_default().to_string()
    }

    pub fn strings(&self, key: &str) -> Vec<String> {
        let list = self.get(key).as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|item| item.as_str().map(str::to_string)).collect()
    }

    pub fn set(&mut self, key: &str, value: Value) {
        self.inner.insert(key.to_string(), value);
    }

    pub fn remove(&mut self, key: &str) {
        self.inner.shift_remove(key);
    }

    pub fn env(&self, name: &str) -> Option<String> {
        let prefix = format!("{name}=");
        self.strings("Env").into_iter().find_map(|variable| variable.strip_prefix(&prefix).map(str::to_string))
    }

    /// Sets a variable in its place; a new one at the end.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let mut all = self.strings("Env");
        let prefix = format!("{name}=");
        let new = format!("{name}={value}");
        match all.iter_mut().find(|variable| variable.starts_with(&prefix)) {
            Some(known) => *known = new,
            None => all.push(new),
        }
        self.set("Env", json!(all));
    }

    /// Adds to a mapping: labels, ports, volumes.
    pub fn add(&mut self, key: &str, name: &str, value: Value) {
        let mut map = match self.inner.shift_remove(key) {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        map.insert(name.to_string(), value);
        self.inner.insert(key.to_string(), Value::Object(map));
    }

    /// `SHELL`'s, for the shell form of RUN, CMD and ENTRYPOINT.
    pub fn shell(&self) -> Vec<String> {
        match self.strings("Shell") {
            shell if shell.is_empty() => vec!["/bin/sh".into(), "-c".into()],
            shell => shell,
        }
    }

    pub fn working_dir(&self) -> String {
        match self.text("WorkingDir") {
            directory if directory.is_empty() => "/".into(),
            directory => directory,
        }
    }

    /// A line of the history. A step without a layer says so.
    pub fn record(&mut self, created: &str, by: &str, layer: bool) {
        let mut entry = json!({"created": created, "created_by": by, "comment": "wharf"});
        if !layer {
            entry["empty_layer"] = json!(true);
        }
        match self.top.get_mut("history").and_then(Value::as_array_mut) {
            Some(history) => history.push(entry),
            None => drop(self.top.insert("history".into(), json!([entry]))),
        }
    }

    pub fn add_layer(&mut self, diff_id: &DiffId) {
        if let Some(list) = self.top.get_mut("rootfs").and_then(|rootfs| rootfs.get_mut("diff_ids")).and_then(Value::as_array_mut)
        {
            list.push(json!(diff_id));
        }
    }
}
