//! A small API server on a loopback address: keeps objects, applies on the server's side with field managers, lists by label, deletes, and has
//! Pods and workloads whose states the test sets. What it sends is made of the types of `k8s-openapi`, or is what the test has it say.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Status, StatusCause, StatusDetails};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What the server does with the next requests instead of answering them.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    /// The request's method and a part of its path.
    pub on: (&'static str, &'static str),
    pub how: Mischief,
    /// How many requests, of those that match.
    pub times: usize,
}

#[derive(Clone, Debug, Default)]
pub enum Mischief {
    #[default]
    Close,
    /// A status, its body, and how it goes on.
    Answer(u16, String),
    /// A body that has no end.
    Endless,
    /// A body that is longer by its head than what comes of it.
    Cut(String),
    /// No answer within the client's patience.
    Silence,
}

#[derive(Default)]
pub struct Cluster {
    /// By their paths.
    pub objects: BTreeMap<String, Json>,
    pub trouble: Option<Trouble>,
    /// `METHOD PATH?QUERY` of every request.
    pub requests: Vec<String>,
    /// Whether workloads are ready as soon as they are applied.
    pub is_ready: bool,
    /// The output of containers, by `POD/CONTAINER`.
    pub logs: BTreeMap<String, String>,
    /// Ends of the paths of objects that stay although they are deleted, as those with finalizers do.
    pub kept: Vec<String>,
    /// The last request's `Authorization`.
    pub authorization: String,
    count: u64,
}

pub struct ApiServer {
    pub address: SocketAddr,
    pub cluster: Arc<Mutex<Cluster>>,
}

impl ApiServer {
    /// With the namespace `default`, and workloads that are ready at once.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let cluster = Arc::new(Mutex::new(Cluster { is_ready: true, ..Cluster::default() }));
        cluster.lock().expect("lock").objects.insert("/api/v1/namespaces/default".into(), json!({"kind": "Namespace"}));
        let shared = cluster.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let cluster = shared.clone();
                std::thread::spawn(move || serve(stream, &cluster));
            }
        });
        ApiServer { address, cluster }
    }

    pub fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().expect("lock")
    }

    pub fn has(&self, kind: &str, name: &str) -> bool {
        self.lock().objects.contains_key(&path(kind, name))
    }

    pub fn object(&self, kind: &str, name: &str) -> Json {
        self.lock().objects.get(&path(kind, name)).cloned().unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    pub fn put(&self, kind: &str, name: &str, object: Json) {
        self.lock().objects.insert(path(kind, name), object);
    }

    pub fn remove(&self, kind: &str, name: &str) {
        self.lock().objects.remove(&path(kind, name));
    }

    pub fn trouble(&self, on: (&'static str, &'static str), times: usize, how: Mischief) {
        self.lock().trouble = Some(Trouble { on, how, times });
    }

    pub fn kubeconfig(&self) -> String {
        kubeconfig("fake", &format!("http://{}", self.address))
    }
}

pub fn kubeconfig(context: &str, server: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": context,
        "clusters": [{"name": context, "cluster": {"server": server}}],
        "users": [{"name": context, "user": {"token": "t"}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
    })
    .to_string()
}

fn path(kind: &str, name: &str) -> String {
    let root = match kind {
        "deployments" | "statefulsets" | "daemonsets" => "/apis/apps/v1",
        "jobs" | "cronjobs" => "/apis/batch/v1",
        _ => "/api/v1",
    };
    format!("{root}/namespaces/default/{kind}/{name}")
}

fn serve(stream: TcpStream, cluster: &Mutex<Cluster>) {
    let mut reader = BufReader::new(stream.try_clone().expect("dup"));
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split_whitespace().map(str::to_string);
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return };
        let mut length = 0;
        let mut authorization = String::new();
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 || header == "\r\n" {
                break;
            }
            if let Some((_, value)) = header.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
                authorization = value.trim_end().to_string();
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        cluster.lock().expect("lock").authorization = authorization;
        if !answer(&mut stream, cluster, &method, &target, &body) {
            return;
        }
    }
}

/// Answers one request. False where the connection ends.
fn answer(stream: &mut TcpStream, cluster: &Mutex<Cluster>, method: &str, target: &str, body: &[u8]) -> bool {
    let mut state = cluster.lock().expect("lock");
    state.requests.push(format!("{method} {target}"));
    let mischief = match &mut state.trouble {
        Some(trouble) if trouble.times > 0 && trouble.on.0 == method && target.contains(trouble.on.1) => {
            trouble.times -= 1;
            Some(trouble.how.clone())
        }
        _ => None,
    };
    let (code, text) = match mischief {
        Some(Mischief::Close) => return false,
        Some(Mischief::Answer(code, text)) => (code, text),
        Some(Mischief::Endless) => {
            drop(state);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20));
            let _ = stream.write_all(head.as_bytes());
            while stream.write_all(chunk.as_bytes()).is_ok() {}
            return false;
        }
        Some(Mischief::Cut(text)) => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len() + 1);
            let _ = stream.write_all(head.as_bytes());
            return false;
        }
        Some(Mischief::Silence) => {
            drop(state);
            std::thread::sleep(Duration::from_secs(60));
            return false;
        }
        None => state.answer(method, target, body),
    };
    drop(state);
    let head = format!("HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", text.len());
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(text.as_bytes())).is_ok()
}

fn refusal(code: i32, reason: &str, message: &str, causes: Vec<StatusCause>) -> (u16, String) {
    let details = StatusDetails { causes: Some(causes), ..StatusDetails::default() };
    let status = Status {
        code: Some(code),
        reason: Some(reason.into()),
        message: Some(message.into()),
        status: Some("Failure".into()),
        details: Some(details),
        ..Status::default()
    };
    (code as u16, serde_json::to_string(&status).expect("JSON"))
}

impl Cluster {
    fn answer(&mut self, method: &str, target: &str, body: &[u8]) -> (u16, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if path == "/version" {
            return (200, json!({"gitVersion": "v1.34.1"}).to_string());
        }
        if let Some(log) = path.strip_suffix("/log") {
            let pod = log.rsplit('/').next().unwrap_or_default();
            let container = query.split('&').find_map(|pair| pair.strip_prefix("container=")).unwrap_or_default();
            return (200, self.logs.get(&format!("{pod}/{container}")).cloned().unwrap_or_default());
        }
        let is_dry = query.contains("dryRun=All");
        // NAMESPACE, NAMESPACE/KIND, or NAMESPACE/KIND/NAME.
        let below = path.split_once("/namespaces/").map_or(0, |(_, rest)| rest.split('/').count());
        match method {
            "GET" if below == 2 => (200, json!({"items": self.listed(path, query)}).to_string()),
            "GET" => match self.objects.get(path) {
                Some(object) => (200, object.to_string()),
                None => refusal(404, "NotFound", &format!("{path} not found"), Vec::new()),
            },
            "PATCH" => self.apply(path, query, is_dry, body),
            "DELETE" => {
                if !self.objects.contains_key(path) {
                    return refusal(404, "NotFound", "not found", Vec::new());
                }
                if !is_dry && !self.kept.iter().any(|kept| path.ends_with(kept.as_str())) {
                    self.objects.remove(path);
                }
                (200, "{}".into())
            }
            "POST" => {
                let object: Json = serde_json::from_slice(body).expect("JSON");
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                self.objects.insert(format!("{path}/{name}"), object.clone());
                (201, object.to_string())
            }
            _ => refusal(405, "MethodNotAllowed", method, Vec::new()),
        }
    }

    fn listed(&self, path: &str, query: &str) -> Vec<Json> {
        let query = query.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
        let selector = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector=")).unwrap_or_default();
        let wanted: Vec<(&str, &str)> = selector.split(',').filter_map(|pair| pair.split_once('=')).collect();
        let own = self.objects.iter().filter(|(known, _)| known.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')));
        own.map(|(_, object)| object.clone())
            .filter(|object| wanted.iter().all(|(key, value)| object["metadata"]["labels"][key] == *value))
            .collect()
    }

    /// Server-side apply: a field that another manager has set is a conflict. Of those the test sets `x-owned: [FIELD, MANAGER]`.
    fn apply(&mut self, path: &str, query: &str, is_dry: bool, body: &[u8]) -> (u16, String) {
        let mut object: Json = serde_json::from_slice(body).expect("JSON");
        let before = self.objects.get(path).cloned();
        if let Some(owned) =
            before.as_ref().and_then(|before| before["x-owned"].as_array()).filter(|_| !query.contains("force=true"))
        {
            let cause = StatusCause {
                field: Some(owned[0].as_str().expect("a field").into()),
                message: Some(format!("conflict with {} using apps/v1", owned[1])),
                reason: Some("FieldManagerConflict".into()),
            };
            return refusal(409, "Conflict", "Apply failed with 1 conflict", vec![cause]);
        }
        let is_job = object["kind"] == "Job";
        if is_job && before.as_ref().is_some_and(|before| before["spec"] != object["spec"]) {
            return refusal(422, "Invalid", "Job is invalid: spec.template: Invalid value: field is immutable", Vec::new());
        }
        let spec = |object: &Json| (object["spec"].clone(), object["data"].clone());
        let is_changed = before.as_ref().is_none_or(|before| spec(before) != spec(&object));
        let number = |field: &str| before.as_ref().and_then(|before| before["metadata"][field].as_i64()).unwrap_or_default();
        self.count += 1;
        let known = |field: &str| before.as_ref().map(|before| before["metadata"][field].clone());
        let fresh = json!(self.count.to_string());
        object["metadata"]["uid"] = known("uid").unwrap_or_else(|| json!(format!("u{}", self.count)));
        object["metadata"]["generation"] = json!(number("generation") + i64::from(is_changed));
        object["metadata"]["resourceVersion"] = if is_changed { fresh } else { known("resourceVersion").unwrap_or(fresh) };
        let manager = ManagedFieldsEntry {
            manager: query.split('&').find_map(|pair| pair.strip_prefix("fieldManager=")).map(str::to_string),
            operation: Some("Apply".into()),
            ..ManagedFieldsEntry::default()
        };
        object["metadata"]["managedFields"] = json!([manager]);
        if self.is_ready {
            object["status"] = ready(&object);
        }
        if !is_dry {
            self.objects.insert(path.into(), object.clone());
        }
        (200, object.to_string())
    }
}

/// The status of a workload whose Pods are all ready.
fn ready(object: &Json) -> Json {
    let n = object["spec"]["replicas"].as_i64().unwrap_or(1);
    json!({
        "observedGeneration": object["metadata"]["generation"], "replicas": n, "updatedReplicas": n, "readyReplicas": n, "availableReplicas": n,
        "conditions": [{"type": "Complete", "status": "True"}],
    })
}
