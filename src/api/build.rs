//! `POST /build`: wharf's own form, a JSON request about a directory of this machine; and Docker's, a tar of the context and
//! its options in the query.

use super::reply::{self, Query, Reply};
use super::request_body;
use super::types::{BuildLine, BuiltId, ProgressLine, UlimitConfig};
use crate::engine::{Engine, EngineError};
use crate::image::build::{BuildEvent, BuildReport, BuildRequest, SentDirectory, SentRequest};
use crate::image::credentials::Logins;
use crate::image::store::Passing;
use crate::image::{Digest, ImageError};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

pub async fn build(engine: &Arc<Engine>, query: &Query, request: hyper::Request<Incoming>) -> Reply {
    let logins = super::logins::of_build(&request);
    let is_json = request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_json {
        let wanted: BuildRequest = request_body::json(request).await?;
        return answer(engine.clone(), (wanted, logins), None, String::new(), own_words);
    }
    if query.flag("sent") {
        return sent(engine, request, logins).await;
    }
    let own = query.get("request").map(serde_json::from_str::<BuildRequest>).transpose();
    let own = own.map_err(|e| EngineError::Invalid(format!("the request is not understood: {e}")))?;
    let docker = own.is_none();
    let mut wanted = match own {
        Some(wanted) => wanted,
        None => of_docker(query)?,
    };
    let draft = Passing::new(engine.images.store.draft()?);
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
        let first: String = first.into_iter().map(|text| words.of(&BuildLine::Event(BuildEvent::Warning(text)))).collect();
        return answer(engine.clone(), (wanted, logins), Some(draft), first, move |event| words.of(event));
    }
    answer(engine.clone(), (wanted, logins), Some(draft), String::new(), own_words)
}

/// A build of a client on another machine: the request after its length, and the archive of its directories.
async fn sent(engine: &Arc<Engine>, request: hyper::Request<Incoming>, logins: Logins) -> Reply {
    const MAX_REQUEST: u64 = 16 << 20;
    let draft = Passing::new(engine.images.store.draft()?);
    let target = draft.diff();
    let sent: SentRequest = super::images::with_body(request, move |mut body| {
        let reading = |e: std::io::Error| ImageError::Build(format!("the request of the build cannot be read: {e}"));
        let mut length = [0; 8];
        body.read_exact(&mut length).map_err(reading)?;
        let length = u64::from_be_bytes(length);
        if length > MAX_REQUEST {
            return Err(ImageError::Build(format!("the request of the build has more than {MAX_REQUEST} bytes")));
        }
        let mut text = Vec::new();
        (&mut body).take(length).read_to_end(&mut text).map_err(reading)?;
        let sent = serde_json::from_slice(&text).map_err(|e| reading(e.into()))?;
        let directory = std::fs::File::open(&target).map_err(ImageError::store("unpacking the build context".into()))?;
        crate::image::unpack::extract(body, directory.as_fd(), None)?;
        Ok(sent)
    })
    .await?;
    let place = |directory: SentDirectory| draft.diff().join(directory.to_string());
    let mut wanted = sent.request;
    wanted.given = sent.dockerfile;
    if let Some(context) = sent.context {
        (wanted.context, wanted.unpacked) = (place(context), true);
    }
    wanted.contexts.extend(sent.contexts.into_iter().map(|(name, at)| (name, place(at).display().to_string())));
    answer(engine.clone(), (wanted, logins), Some(draft), String::new(), own_words)
}

/// Docker's query parameters.
fn of_docker(query: &Query) -> Result<BuildRequest, EngineError> {
    refuse(query)?;
    let map = |key: &str| -> Result<BTreeMap<String, String>, EngineError> {
        // Go's clients send `null` for a map without values.
        let values: Option<BTreeMap<String, Option<String>>> = json_of(query, key)?.flatten();
        Ok(values.into_iter().flatten().filter_map(|(name, value)| Some((name, value?))).collect())
    };
    let ulimits: Vec<UlimitConfig> = json_of::<Option<_>>(query, "ulimits")?.flatten().unwrap_or_default();
    Ok(BuildRequest {
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
        ..BuildRequest::default()
    })
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
        return invalid("a build of version 2 goes through /session and /grpc");
    }
    if query.get("outputs").is_some_and(|outputs| !matches!(outputs, "" | "[]" | "null")) {
        return invalid("`outputs` are for BuildKit's API; `wharf image build -o DIRECTORY` writes what was built");
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

/// A line of wharf's own form.
fn own_words(line: &BuildLine) -> String {
    format!("{}\n", serde_json::to_string(line).unwrap_or_default())
}

/// Events in the words of Docker's classic builder.
struct DockersWords {
    /// Nothing but the id, or what has gone wrong.
    quiet: bool,
    /// The command that has failed.
    returned: Mutex<Option<(String, i64)>>,
}

impl DockersWords {
    fn of(&self, line: &BuildLine) -> String {
        let event = match line {
            BuildLine::Event(event) => event,
            BuildLine::Error { error } => return self.failed(error),
            BuildLine::Later(_) => return String::new(),
        };
        let lines: Vec<String> = match event {
            BuildEvent::Instruction { number, count, text, .. } => vec![format!("Step {number}/{count} : {text}\n")],
            BuildEvent::InstructionDone { cached, id, .. } => {
                let cached = cached.then(|| " ---> Using cache\n".to_string());
                cached.into_iter().chain((!id.is_empty()).then(|| format!(" ---> {id}\n"))).collect()
            }
            BuildEvent::Output { line, .. } => vec![format!("{line}\n")],
            BuildEvent::Warning(text) => vec![format!("[Warning] {text}\n")],
            BuildEvent::Returned { command, code, .. } => {
                let returned = Some((command.clone(), i64::from(*code)));
                *self.returned.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = returned;
                Vec::new()
            }
            BuildEvent::Built { id, names, .. } => return self.built(id, names),
            BuildEvent::Step { .. } | BuildEvent::Cached { .. } | BuildEvent::Done { .. } | BuildEvent::Failed { .. } => {
                Vec::new()
            }
        };
        match self.quiet {
            true => String::new(),
            false => lines.into_iter().map(|line| ProgressLine::stream(line).to_line()).collect(),
        }
    }

    fn built(&self, id: &Digest, names: &[String]) -> String {
        if self.quiet {
            return ProgressLine::stream(format!("{id}\n")).to_line();
        }
        let aux = serde_json::to_value(BuiltId { id: id.to_string() }).ok();
        let lines = std::iter::once(format!("Successfully built {}\n", &id.hex()[..12]))
            .chain(names.iter().map(|name| format!("Successfully tagged {name}\n")));
        let lines: String = lines.map(|line| ProgressLine::stream(line).to_line()).collect();
        ProgressLine { aux, ..ProgressLine::default() }.to_line() + &lines
    }

    fn failed(&self, error: &str) -> String {
        let returned = self.returned.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match returned {
            Some((command, code)) => {
                let message = format!("The command '{command}' returned a non-zero code: {code}: {error}");
                ProgressLine::failed(&message, Some(code)).to_line()
            }
            None => ProgressLine::failed(error, None).to_line(),
        }
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
    fn take(&self, event: BuildEvent) -> (Option<BuildEvent>, Option<BuildEvent>) {
        if let BuildEvent::Output { line, .. } = &event {
            if self.bytes.load(Ordering::Relaxed) + line.len() + LINE > MAX_BACKLOG {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                return (None, None);
            }
            self.bytes.fetch_add(line.len() + LINE, Ordering::Relaxed);
        }
        let count = self.left_out.swap(0, Ordering::Relaxed);
        let warning =
            || BuildEvent::Warning(format!("{count} lines of output were left out: they came faster than they were read"));
        (Some(event), (count > 0).then(warning))
    }

    fn sent(&self, line: &str) {
        self.bytes.fetch_sub(line.len() + LINE, Ordering::Relaxed);
    }
}

/// Builds, and streams what happens. A client that goes away ends its build.
fn answer(
    engine: Arc<Engine>,
    (wanted, logins): (BuildRequest, Logins),
    context: Option<Passing>,
    first: String,
    words: impl Fn(&BuildLine) -> String + Send + Sync + 'static,
) -> Reply {
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    let (events, mut pending) = mpsc::unbounded_channel::<BuildLine>();
    let backlog = Arc::new(Backlog::default());
    let report: BuildReport = {
        let (events, backlog) = (events.clone(), backlog.clone());
        Arc::new(move |event: BuildEvent| {
            let (event, left_out) = backlog.take(event);
            for event in left_out.into_iter().chain(event) {
                let _ = events.send(BuildLine::Event(event));
            }
        })
    };
    let building = tokio::spawn(async move {
        let result = engine.build(wanted, logins, report).await;
        drop(context);
        if let Err(error) = result {
            let _ = events.send(BuildLine::Error { error: error.to_string() });
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
            if let Some(BuildLine::Event(BuildEvent::Output { line, .. })) = &event {
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
