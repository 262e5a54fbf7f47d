//! `POST /containers/{id}/attach`: a container's output as it comes, and its standard input.

use super::connections::Stream;
use super::logs::{self, Options};
use super::reply::{Query, Reply};
use crate::engine::record::Status;
use crate::engine::{Container, Engine, EngineError};
use crate::logs::reader::Selection;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, header};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

pub(super) async fn attach(
    engine: &Arc<Engine>,
    id: &str,
    query: &Query,
    mut request: Request<Incoming>,
    place: Option<Stream>,
) -> Reply {
    let container = engine.containers.find(id)?;
    let record = container.record();
    match record.state.status() {
        Status::Paused => {
            return Err(EngineError::Conflict(format!(
                "container {} is paused, unpause the container before attach",
                record.name
            )));
        }
        Status::Restarting => {
            return Err(EngineError::Conflict(format!(
                "container {} is restarting, wait until the container is running",
                record.name
            )));
        }
        _ => {}
    }
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let upgrade = upgrades.then(|| hyper::upgrade::on(&mut request));
    let options = Options {
        follow: query.flag("stream"),
        timestamps: false,
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        raw: record.spec.tty,
    };
    let wanted = Wanted { options, from_start: query.flag("logs"), input: query.flag("stdin") && record.spec.stdin_open };
    let (engine, tty) = (engine.clone(), record.spec.tty);
    engine.containers.emit(&container, "attach", &[]);
    super::exec::serve(upgrade, tty, place, async move |stream| serve(&engine, &container, stream, wanted).await)
}

/// What a client has asked for.
struct Wanted {
    options: Options,
    /// What the container has written since its start as well.
    from_start: bool,
    input: bool,
}

/// Moves bytes both ways until the container has ended, or the client has left. One that was not started yet is waited for:
/// clients attach before they start.
async fn serve<S: AsyncRead + AsyncWrite + Send + 'static>(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    stream: S,
    wanted: Wanted,
) {
    // Clients attach before they start a container, whether or not it has run before.
    let fresh = wanted.options.follow && !wanted.from_start && !container.status().is_alive();
    if fresh {
        let before = container.record().state;
        container
            .wait_until(|record| {
                let state = &record.state;
                let started = state.output_since != before.output_since || state.error != before.error;
                started || state.status() != before.status()
            })
            .await;
    }
    let started = container.record().state.output_since;
    let selection = if wanted.from_start || fresh {
        Selection { since: started.map(|t| format!("{t:.9}")), ..Selection::default() }
    } else {
        Selection { tail: Some(0), ..Selection::default() }
    };
    let path = engine.config.output_path(&container.record());
    let (reader, width) = match logs::open(&path, selection).await {
        Ok(opened) => opened,
        Err(error) => return tracing::warn!("attaching to {}: reading its log: {error}", container.name()),
    };
    // One that has ended already has its last words, and takes none.
    let input = match wanted.input && container.status().is_alive() {
        true => container.input().await.unwrap_or_default(),
        false => None,
    };
    let input = input.and_then(|fd| pipe::Sender::from_owned_fd_unchecked(fd).ok());
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let fed = container.clone();
    let feeding = tokio::spawn(async move {
        let Some(mut input) = input else { return };
        let _ = tokio::io::copy(&mut from_client, &mut input).await;
        drop(input);
        if fed.record().spec.stdin_once {
            fed.close_input();
        }
    });
    let (sender, mut chunks) = mpsc::channel::<Bytes>(1);
    tokio::spawn(logs::send_log(engine.clone(), container.clone(), (reader, path, width), wanted.options, sender));
    while let Some(chunk) = chunks.recv().await {
        if to_client.write_all(&chunk).await.is_err() {
            break;
        }
    }
    let _ = to_client.shutdown().await;
    feeding.abort();
}
