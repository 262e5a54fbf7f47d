//! `POST /build`: wharf's own form, a JSON request about a directory of this machine; and Docker's, a tar of the context and
//! its options in the query.

use super::reply::{self, Query, Reply};
use crate::engine::{Engine, EngineError};
use crate::image::ImageError;
use crate::image::build::{Event, Report, Request};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

pub async fn build(engine: &Arc<Engine>, query: &Query, request: hyper::Request<Incoming>) -> Reply {
    let is_json = request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_json {
        let wanted: Request = reply::json_body(request).await?;
        return answer(engine.clone(), wanted, None, |line| line.to_string());
    }
    let own = query.get("request").map(serde_json::from_str::<Request>).transpose();
    let own = own.map_err(|e| EngineError::Invalid(format!("the request is not understood: {e}")))?;
    let docker = own.is_none();
    let mut wanted = match own {
        Some(wanted) => wanted,
        None => of_docker(query)?,
    };
    let draft = engine.images.store.draft()?;
    let place = draft.diff();
    let target = place.clone();
    super::images::with_body(request, move |body| {
        let directory = std::fs::File::open(&target).map_err(ImageError::store("unpacking the build context".into()))?;
        let plain =
            crate::image::compression::plain_of_any(body).map_err(ImageError::store("reading the build context".into()))?;
        crate::image::unpack::extract(plain, directory.as_fd(), None).map_err(ImageError::from)
    })
    .await?;
    wanted.context = place;
    wanted.unpacked = true;
    if docker {
        return answer(engine.clone(), wanted, Some(draft), dockers_words);
    }
    answer(engine.clone(), wanted, Some(draft), |line| line.to_string())
}

/// Docker's query parameters.
fn of_docker(query: &Query) -> Result<Request, EngineError> {
    let map = |key: &str| -> Result<BTreeMap<String, String>, EngineError> {
        match query.get(key).filter(|text| !text.is_empty()) {
            Some(text) => {
                // Go's clients send `null` for a map without values.
                let values: Option<BTreeMap<String, Option<String>>> =
                    serde_json::from_str(text).map_err(|e| EngineError::Invalid(format!("`{key}` is not understood: {e}")))?;
                Ok(values.into_iter().flatten().filter_map(|(name, value)| Some((name, value?))).collect())
            }
            None => Ok(BTreeMap::new()),
        }
    };
    Ok(Request {
        dockerfile: query.get("dockerfile").filter(|path| !path.is_empty()).map(Into::into),
        target: query.get("target").filter(|target| !target.is_empty()).map(str::to_string),
        args: map("buildargs")?,
        labels: map("labels")?,
        tags: query.all("t").to_vec(),
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        network: query.get("networkmode").map(str::to_string),
        extra_hosts: query.all("extrahosts").to_vec(),
        shm_size: query.number("shmsize").filter(|size| *size > 0),
        platform: query.get("platform").filter(|platform| !platform.is_empty()).map(str::to_string),
        ..Request::default()
    })
}

/// Events as Docker's builder says them.
fn dockers_words(event: &Value) -> String {
    let stream = |text: String| json!({"stream": text}).to_string();
    if let Some(step) = event.get("step") {
        return stream(format!("{}\n", step["name"].as_str().unwrap_or_default()));
    }
    if let Some(output) = event.get("output") {
        return stream(format!("{}\n", output["line"].as_str().unwrap_or_default()));
    }
    if event.get("cached").is_some() {
        return stream(" ---> Using cache\n".into());
    }
    if let Some(built) = event.get("built") {
        let id = built["id"].as_str().unwrap_or_default();
        let short = id.trim_start_matches("sha256:").get(..12).unwrap_or_default();
        return format!("{}\n{}", json!({"aux": {"ID": id}}), json!({"stream": format!("Successfully built {short}\n")}));
    }
    match event.get("error") {
        Some(error) => json!({"error": error, "errorDetail": {"message": error}}).to_string(),
        None => stream(String::new()),
    }
}

/// Bytes of a build's output that wait for a client which reads them more slowly than they come. Like BuildKit's own limit, it
/// concerns what is shown, never what is done.
const MAX_BACKLOG: usize = 4 << 20;
/// What a line takes besides its bytes while it waits.
const LINE: usize = 512;

/// The output that waits for its client.
#[derive(Default)]
struct Backlog {
    bytes: AtomicUsize,
    /// Lines that did not wait any more.
    left_out: AtomicUsize,
}

impl Backlog {
    /// The event, unless it is output for which there is no room, and what is to be said before it.
    fn admit(&self, event: Event) -> (Option<Event>, Option<Event>) {
        if let Event::Output { line, .. } = &event {
            if self.bytes.load(Ordering::Relaxed) + line.len() + LINE > MAX_BACKLOG {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                return (None, None);
            }
            self.bytes.fetch_add(line.len() + LINE, Ordering::Relaxed);
        }
        let count = self.left_out.swap(0, Ordering::Relaxed);
        let said = || Event::Warning(format!("{count} lines of output were left out: they came faster than they were read"));
        (Some(event), (count > 0).then(said))
    }

    fn sent(&self, line: &str) {
        self.bytes.fetch_sub(line.len() + LINE, Ordering::Relaxed);
    }
}

/// Builds, and streams what happens. A client that goes away ends its build.
fn answer(
    engine: Arc<Engine>,
    wanted: Request,
    context: Option<crate::image::store::Draft>,
    words: impl Fn(&Value) -> String + Send + Sync + 'static,
) -> Reply {
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    let (events, mut pending) = mpsc::unbounded_channel::<Value>();
    let backlog = Arc::new(Backlog::default());
    let report: Report = {
        let (events, backlog) = (events.clone(), backlog.clone());
        Arc::new(move |event: Event| {
            let (event, left_out) = backlog.admit(event);
            for event in left_out.into_iter().chain(event) {
                let _ = events.send(serde_json::to_value(event).unwrap_or_default());
            }
        })
    };
    let building = tokio::spawn(async move {
        let result = engine.build(wanted, report).await;
        drop(context);
        if let Err(error) = result {
            let _ = events.send(json!({"error": error.to_string()}));
        }
    });
    tokio::spawn(async move {
        let abort = building.abort_handle();
        loop {
            let event = tokio::select! {
                event = pending.recv() => event,
                () = sender.closed() => None,
            };
            if let Some(line) = event.as_ref().and_then(|event| event["output"]["line"].as_str()) {
                backlog.sent(line);
            }
            let sent = match event {
                Some(event) => sender.send(Bytes::from(format!("{}\n", words(&event)))).await.is_ok(),
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
