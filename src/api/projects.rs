//! `/projects`: `up` and `down` as one request each, whose answer is the progress, a JSON object a line.

use super::reply::{self, Query, Reply};
use super::request_body;
use super::types::{CommandCancelled, ProjectSummary, RevisionSummary};
use crate::engine::projects::ProgressSender;
use crate::engine::{Engine, EngineError};
use crate::labels::LABEL_PROJECT;
use crate::plan::{DownOptions, Lifecycle, LifecycleOptions};
use crate::wire::{JobRunRequest, Progress, RollbackRequest, RunRequest, UpRequest, UpdateRequest};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A command has a number of its client's choice, by which it can be cancelled.
pub async fn route(engine: &Arc<Engine>, method: &Method, rest: &[&str], query: &Query, request: Request<Incoming>) -> Reply {
    let number = query.get("command");
    match (method.as_str(), rest) {
        ("GET", []) => list(engine),
        ("POST", [_, "up"]) => {
            let body: UpRequest = request_body::project(request).await?;
            run(engine, number, async move |engine, progress| engine.up(body, progress).await)
        }
        ("POST", [_, "run"]) => {
            let body: RunRequest = request_body::project(request).await?;
            run(engine, number, async move |engine, progress| engine.run(body, progress).await)
        }
        ("POST", [_, "jobs", job, "run"]) => {
            let body: JobRunRequest = request_body::project(request).await?;
            let job = (*job).to_string();
            run(engine, number, async move |engine, progress| engine.run_job_for_client(&job, body, progress).await)
        }
        ("POST", [name, "down"]) => {
            let options: DownOptions = request_body::project(request).await?;
            let name = (*name).to_string();
            run(engine, number, async move |engine, progress| engine.down(&name, options, progress).await)
        }
        ("GET", [name, "history"]) => history(engine, name),
        ("GET", [name, "incarnations"]) => reply::json(200, &engine.incarnations_of(name)),
        ("GET", [name, "incarnations", id, "logs"]) => super::logs::of_gone(engine, name, id, query).await,
        ("GET", [name, "updates"]) => reply::json(200, &engine.image_updates_of(name)),
        ("POST", [name, "updates"]) => {
            let body: UpdateRequest = request_body::project(request).await?;
            let name = (*name).to_string();
            run(engine, number, async move |engine, progress| engine.update_images(&name, &body.services, progress).await)
        }
        ("POST", [name, "rollback"]) => {
            let body: RollbackRequest = request_body::project(request).await?;
            let name = (*name).to_string();
            run(engine, number, async move |engine, progress| engine.rollback(&name, body, progress).await)
        }
        ("POST", [_, "cancel"]) => {
            reply::json(200, &CommandCancelled { cancelled: number.is_some_and(|number| engine.commands().cancel(number)) })
        }
        ("POST", [name, command]) if Lifecycle::parse(command).is_some() => {
            let Some(command) = Lifecycle::parse(command) else { return super::server::not_found(method, request.uri().path()) };
            let options: LifecycleOptions = request_body::project(request).await?;
            let name = (*name).to_string();
            run(engine, number, async move |engine, progress| engine.lifecycle(&name, command, options, progress).await)
        }
        _ => super::server::not_found(method, request.uri().path()),
    }
}

/// The revisions of a project's services, the oldest first.
fn history(engine: &Engine, project: &str) -> Reply {
    let mut all = Vec::new();
    for (service, revisions) in engine.state.revisions(project) {
        for (n, revision) in revisions.iter().enumerate() {
            let changed = n.checked_sub(1).map(|before| revision.changes(&revisions[before])).unwrap_or_default();
            all.push(RevisionSummary {
                service: service.clone(),
                revision: revision.number,
                at: revision.at.to_string(),
                cause: revision.cause.clone(),
                changed,
                image: revision.service.image.clone(),
                image_id: revision.image_id.as_ref().map(ToString::to_string).unwrap_or_default(),
                outcome: revision.failed.as_deref().map_or("good", |_| "failed").into(),
                failure: revision.failed.clone(),
            });
        }
    }
    reply::json(200, &all)
}

/// Every project with the states of its containers.
fn list(engine: &Engine) -> Reply {
    let mut projects: BTreeMap<String, (BTreeMap<&'static str, usize>, String)> = BTreeMap::new();
    for container in engine.containers.all() {
        let record = container.record();
        let Some(project) = record.spec.labels.get(LABEL_PROJECT) else { continue };
        let files = record.spec.labels.get("com.docker.compose.project.config_files").cloned().unwrap_or_default();
        let entry = projects.entry(project.clone()).or_insert_with(|| (BTreeMap::new(), files));
        *entry.0.entry(record.state.status().as_str()).or_default() += 1;
    }
    let value = |(name, (states, files)): (String, (BTreeMap<&str, usize>, String))| {
        let status: Vec<String> = states.iter().map(|(state, count)| format!("{state}({count})")).collect();
        ProjectSummary { name, status: status.join(", "), config_files: files }
    };
    reply::json(200, &projects.into_iter().map(value).collect::<Vec<_>>())
}

/// Runs an operation. Each of its steps is done to its end, whether the client listens to it or not; those that have not begun
/// when the client leaves, or cancels it, do not begin.
fn run<F>(
    engine: &Arc<Engine>,
    number: Option<&str>,
    operation: impl FnOnce(Arc<Engine>, ProgressSender) -> F + Send + 'static,
) -> Reply
where
    F: Future<Output = Result<(), EngineError>> + Send + 'static,
{
    let (sender, mut steps) = mpsc::unbounded_channel();
    let (output, mut hooks) = mpsc::channel::<Progress>(16);
    let (lines, receiver) = mpsc::channel::<Bytes>(256);
    let last = sender.clone();
    let engine = engine.clone();
    let progress = match number {
        Some(number) => ProgressSender::new(sender, engine.commands().begin(number)),
        None => sender.into(),
    };
    let progress = progress.with_output(output);
    tokio::spawn(async move {
        let result = operation(engine, progress).await;
        if let Err(error) = &result {
            // Failed steps have been reported one by one.
            if !matches!(error, EngineError::Several(_) | EngineError::Cancelled) {
                let _ = last.send(Progress::Error { object: String::new(), message: error.to_string() });
            }
        }
        let _ = last.send(Progress::Done { ok: result.is_ok() });
    });
    tokio::spawn(async move {
        loop {
            let first = tokio::select! {
                step = steps.recv() => step,
                Some(output) = hooks.recv() => Some(output),
                // The client has left: waiting for the project's lock is given up.
                () = lines.closed() => return,
            };
            let Some(first) = first else { return };
            // A hook has written before its step ends.
            let mut bytes = Vec::new();
            if matches!(first, Progress::HookOutput { .. }) {
                bytes.extend(line(&first));
            }
            while let Ok(output) = hooks.try_recv() {
                bytes.extend(line(&output));
            }
            if !matches!(first, Progress::HookOutput { .. }) {
                bytes.extend(line(&first));
            }
            // What has come meanwhile goes with it: a hundred containers are a few writes, not a few hundred.
            while let Ok(more) = steps.try_recv() {
                bytes.extend(line(&more));
            }
            if lines.send(Bytes::from(bytes)).await.is_err() {
                return;
            }
        }
    });
    reply::stream("application/json", reply::receiver_stream(receiver))
}

fn line(progress: &Progress) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(progress).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
