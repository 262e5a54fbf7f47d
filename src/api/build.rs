//! `POST /build`: wharf's own form, a JSON request about a directory of this machine; and Docker's, a tar of the context and
//! its options in the query.

use super::reply::{self, Query, Reply};
use crate::engine::{Engine, EngineError};
use crate::image::ImageError;
use crate::image::build::{Event, Report, Request};
use crate::image::credentials::Logins;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// The answer to a request for BuildKit.
pub(super) const NO_BUILDKIT: &str = "wharf has no BuildKit API: build with the classic builder (DOCKER_BUILDKIT=0 docker build ..., \
    COMPOSE_BAKE=false DOCKER_BUILDKIT=0 docker compose build) or with `wharf image build` and `wharf build`, which know all of a Dockerfile";

pub async fn build(engine: &Arc<Engine>, query: &Query, request: hyper::Request<Incoming>) -> Reply {
    let logins = super::logins::of_build(&request);
    let is_json = request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_json {
        let wanted: Request = reply::json_body(request).await?;
        return answer(engine.clone(), (wanted, logins), None, String::new(), |line| format!("{line}\n"));
    }
    let own = query.get("request").map(serde_json::from_str::<Request>).transpose();
    let own = own.map_err(|e| EngineError::Invalid(format!("the request is not understood: {e}")))?;
    let docker = own.is_none();
    let mut wanted = match own {
        Some(wanted) => wanted,
        None => of_docker(query)?,
    };
    let draft = engine.images.store.draft()?;
    // A repository is fetched, and the body is empty then.
    if !docker || wanted.git.is_none() {
        wanted.context = draft.diff();
        wanted.unpacked = true;
        let target = wanted.context.clone();
        super::images::with_body(request, move |body| {
            let directory = std::fs::File::open(&target).map_err(ImageError::store("unpacking the build context".into()))?;
            let plain =
                crate::image::compression::plain_of_any(body).map_err(ImageError::store("reading the build context".into()))?;
            crate::image::unpack::extract(plain, directory.as_fd(), None).map_err(ImageError::from)
        })
        .await?;
    }
    if docker {
        let words = DockersWords { quiet: query.flag("q"), returned: Mutex::default() };
        let unset = unset_limits(query);
        let first = (!unset.is_empty()).then(|| format!("wharf sets no limits for a build's containers: {}", unset.join(", ")));
        let first: String = first.iter().map(|text| words.of(&json!({"warning": text}))).collect();
        return answer(engine.clone(), (wanted, logins), Some(draft), first, move |event| words.of(event));
    }
    answer(engine.clone(), (wanted, logins), Some(draft), String::new(), |line| format!("{line}\n"))
}

/// Docker's query parameters.
fn of_docker(query: &Query) -> Result<Request, EngineError> {
    refuse(query)?;
    let map = |key: &str| -> Result<BTreeMap<String, String>, EngineError> {
        // Go's clients send `null` for a map without values.
        let values: Option<BTreeMap<String, Option<String>>> = json_of(query, key)?.flatten();
        Ok(values.into_iter().flatten().filter_map(|(name, value)| Some((name, value?))).collect())
    };
    let ulimits: Vec<Ulimit> = json_of::<Option<_>>(query, "ulimits")?.flatten().unwrap_or_default();
    Ok(Request {
        dockerfile: query.get("dockerfile").filter(|path| !path.is_empty()).map(Into::into),
        target: query.get("target").filter(|target| !target.is_empty()).map(str::to_string),
        args: map("buildargs")?,
        labels: map("labels")?,
        tags: query.all("t").to_vec(),
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        network: query.get("networkmode").filter(|mode| !mode.is_empty()).map(str::to_string),
        extra_hosts: query.all("extrahosts").to_vec(),
        shm_size: query.number("shmsize").filter(|size| *size > 0),
        platform: query.get("platform").filter(|platform| !platform.is_empty()).map(str::to_string),
        git: query.get("remote").filter(|remote| !remote.is_empty()).map(str::to_string),
        cache_from: json_of::<Option<_>>(query, "cachefrom")?.flatten().unwrap_or_default(),
        ulimits: ulimits.into_iter().map(|limit| (limit.name, limit.soft, limit.hard)).collect(),
        ..Request::default()
    })
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ulimit {
    name: String,
    soft: i64,
    hard: i64,
}

/// A parameter that is JSON.
fn json_of<T: serde::de::DeserializeOwned>(query: &Query, key: &str) -> Result<Option<T>, EngineError> {
    let text = query.get(key).filter(|text| !text.is_empty());
    let parse = |text| serde_json::from_str(text).map_err(|e| EngineError::Invalid(format!("`{key}` is not understood: {e}")));
    text.map(parse).transpose()
}

/// Parameters of a query that must not be ignored.
fn refuse(query: &Query) -> Result<(), EngineError> {
    let invalid = |text: &str| Err(EngineError::Invalid(text.into()));
    if query.flag("squash") {
        return invalid("squash is only supported with experimental mode");
    }
    if query.get("version") == Some("2") {
        return invalid(NO_BUILDKIT);
    }
    if query.get("outputs").is_some_and(|outputs| !matches!(outputs, "" | "[]" | "null")) {
        return invalid("`outputs` needs BuildKit; `wharf image build -o DIRECTORY` writes what was built");
    }
    if let Some(remote) = query.get("remote").filter(|remote| !remote.is_empty() && !is_git(remote)) {
        return invalid(&format!("cannot fetch the context {remote}: send it as the request's body, or name a Git repository"));
    }
    Ok(())
}

/// Whether it is a Git repository and not an archive, by Docker's rule.
fn is_git(remote: &str) -> bool {
    let bare = remote.split('#').next().unwrap_or(remote);
    let prefixes = ["git://", "git@", "github.com/", "ssh://"];
    prefixes.iter().any(|prefix| remote.starts_with(prefix)) || bare.ends_with(".git")
}

/// Limits of a build's containers that wharf does not set.
fn unset_limits(query: &Query) -> Vec<&'static str> {
    const LIMITS: [&str; 8] =
        ["memory", "memswap", "cpushares", "cpuperiod", "cpuquota", "cpusetcpus", "cpusetmems", "cgroupparent"];
    LIMITS.into_iter().filter(|key| query.get(key).is_some_and(|value| !matches!(value, "" | "0"))).collect()
}

/// Events as Docker's classic builder says them.
struct DockersWords {
    /// Nothing but the id, or what has gone wrong.
    quiet: bool,
    /// The command that has failed.
    returned: Mutex<Option<(String, i64)>>,
}

impl DockersWords {
    fn of(&self, event: &Value) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let lines: Vec<Value> = match event.as_object().and_then(|event| event.iter().next()) {
            Some((kind, event)) => match kind.as_str() {
                "instruction" => {
                    vec![json!(format!("Step {}/{} : {}\n", event["number"], event["count"], text(&event["text"])))]
                }
                "instruction_done" => {
                    let cached = (event["cached"] == true).then(|| json!(" ---> Using cache\n"));
                    let id = Some(text(&event["id"])).filter(|id| !id.is_empty());
                    cached.into_iter().chain(id.map(|id| json!(format!(" ---> {id}\n")))).collect()
                }
                "output" => vec![json!(format!("{}\n", text(&event["line"])))],
                "warning" => vec![json!(format!("[Warning] {}\n", event.as_str().unwrap_or_default()))],
                "returned" => {
                    let returned = Some((text(&event["command"]), event["code"].as_i64().unwrap_or(1)));
                    *self.returned.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = returned;
                    Vec::new()
                }
                "built" => return self.built(event),
                "error" => return self.failed(event),
                _ => Vec::new(),
            },
            None => Vec::new(),
        };
        match self.quiet {
            true => String::new(),
            false => lines.iter().map(|line| format!("{}\n", json!({"stream": line}))).collect(),
        }
    }

    fn built(&self, built: &Value) -> String {
        let id = built["id"].as_str().unwrap_or_default();
        if self.quiet {
            return format!("{}\n", json!({"stream": format!("{id}\n")}));
        }
        let short = id.trim_start_matches("sha256:").get(..12).unwrap_or_default();
        let names = built["names"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let lines = std::iter::once(format!("Successfully built {short}\n"))
            .chain(names.map(|name| format!("Successfully tagged {name}\n")));
        let lines: String = lines.map(|line| format!("{}\n", json!({"stream": line}))).collect();
        format!("{}\n{lines}", json!({"aux": {"ID": id}}))
    }

    fn failed(&self, error: &Value) -> String {
        let returned = self.returned.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let mut message = error.as_str().unwrap_or_default().to_string();
        let mut detail = json!({});
        if let Some((command, code)) = returned {
            message = format!("The command '{command}' returned a non-zero code: {code}: {message}");
            detail["code"] = json!(code);
        }
        detail["message"] = json!(message);
        format!("{}\n", json!({"errorDetail": detail, "error": message}))
    }
}

/// Bytes of a build's output that wait for a client which reads them more slowly than they come. Like BuildKit's own limit, it
/// concerns what is shown, never what is done.
const MAX_BACKLOG: usize = 4 << 20;
/// Memory of a waiting line besides its bytes.
const LINE: usize = 512;

/// The output that waits for its client.
#[derive(Default)]
struct Backlog {
    bytes: AtomicUsize,
    /// Lines that did not wait any more.
    left_out: AtomicUsize,
}

impl Backlog {
    /// The event, unless it is output for which there is no room, and the message that goes before it.
    fn take(&self, event: Event) -> (Option<Event>, Option<Event>) {
        if let Event::Output { line, .. } = &event {
            if self.bytes.load(Ordering::Relaxed) + line.len() + LINE > MAX_BACKLOG {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                return (None, None);
            }
            self.bytes.fetch_add(line.len() + LINE, Ordering::Relaxed);
        }
        let count = self.left_out.swap(0, Ordering::Relaxed);
        let warning = || Event::Warning(format!("{count} lines of output were left out: they came faster than they were read"));
        (Some(event), (count > 0).then(warning))
    }

    fn sent(&self, line: &str) {
        self.bytes.fetch_sub(line.len() + LINE, Ordering::Relaxed);
    }
}

/// Builds, and streams what happens. A client that goes away ends its build.
fn answer(
    engine: Arc<Engine>,
    (wanted, logins): (Request, Logins),
    context: Option<crate::image::store::Draft>,
    first: String,
    words: impl Fn(&Value) -> String + Send + Sync + 'static,
) -> Reply {
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    let (events, mut pending) = mpsc::unbounded_channel::<Value>();
    let backlog = Arc::new(Backlog::default());
    let report: Report = {
        let (events, backlog) = (events.clone(), backlog.clone());
        Arc::new(move |event: Event| {
            let (event, left_out) = backlog.take(event);
            for event in left_out.into_iter().chain(event) {
                let _ = events.send(serde_json::to_value(event).unwrap_or_default());
            }
        })
    };
    let building = tokio::spawn(async move {
        let result = engine.build(wanted, logins, report).await;
        drop(context);
        if let Err(error) = result {
            let _ = events.send(json!({"error": error.to_string()}));
        }
    });
    tokio::spawn(async move {
        let abort = building.abort_handle();
        if !first.is_empty() && sender.send(Bytes::from(first)).await.is_err() {
            abort.abort();
            return;
        }
        loop {
            let event = tokio::select! {
                event = pending.recv() => event,
                () = sender.closed() => None,
            };
            if let Some(line) = event.as_ref().and_then(|event| event["output"]["line"].as_str()) {
                backlog.sent(line);
            }
            let sent = match event.map(|event| words(&event)) {
                Some(line) if line.is_empty() => true,
                Some(line) => sender.send(Bytes::from(line)).await.is_ok(),
                None => false,
            };
            if !sent {
                // Its end, or nobody is there any more: an aborted build takes its steps along.
                abort.abort();
                return;
            }
        }
    });
    reply::stream("application/json", reply::receiver_stream(receiver))
}
