//! Logs: answers that may go on as long as the client listens.

use super::follow::{self, FollowOptions, FollowedLog, Form, SharedLease};
use super::reply::{self, Query, Reply};
use crate::engine::{Engine, EngineError};
use crate::logs::reader::LineSelection;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A client that follows a log and takes nothing for so long is not waited for: `logs -f | less` must not hold up a container.
const PATIENCE: Duration = Duration::from_secs(30);

/// `GET /containers/{id}/logs`. With `multiplexed=1`, which Docker has not, what a terminal has said comes in frames as well: only
/// so can be told where one piece ends and the next begins with its time.
pub async fn of_container(engine: &Arc<Engine>, id: &str, query: &Query) -> Reply {
    let container = engine.containers.find(id)?;
    let raw = container.with_record(|record| record.spec.tty) && !query.flag("multiplexed");
    let options = FollowOptions {
        follow: query.flag("follow"),
        timestamps: query.flag("timestamps"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        form: if raw { Form::Raw } else { Form::Frames },
    };
    if !options.stdout && !options.stderr {
        return Err(EngineError::Invalid("ask for stdout, stderr or both".into()));
    }
    let selection = LineSelection { snapshot: !options.follow, ..selection(query)? };
    let until = follow::end_of(&selection);
    let path = engine.config.log_path(&container.id);
    let lease = match options.follow {
        true => Some(SharedLease::new(
            container.hold_log(crate::random::number().map_err(EngineError::io("choosing a number"))?).await,
        )),
        false => None,
    };
    let opened = follow::open(&path, selection).await;
    let (reader, width) = opened.map_err(EngineError::io(format!("reading the log of {}", container.name())))?;
    lease.iter().for_each(|lease| lease.at(reader.file()));
    // One batch waits while the next is made; a client that does not read holds up both.
    let (sender, receiver) = mpsc::channel(1);
    let held = lease.clone().map(|lease| (lease, Some(PATIENCE)));
    let following = FollowedLog { engine: engine.clone(), container, reader, path, width, options, until, lease: held };
    tokio::spawn(following.send(sender));
    let kind = if raw { "application/vnd.docker.raw-stream" } else { "application/vnd.docker.multiplexed-stream" };
    let batches = futures::stream::unfold((receiver, lease), |(mut receiver, lease)| async move {
        let batch = receiver.recv().await?;
        lease.iter().for_each(|lease| lease.at(batch.file));
        Some((batch.bytes, (receiver, lease)))
    });
    reply::stream(kind, batches)
}

/// `GET /projects/{name}/incarnations/{id}/logs`: all of it that a query asks for. It may be dropped meanwhile; the files are open.
pub async fn of_gone(engine: &Arc<Engine>, project: &str, id: &str, query: &Query) -> Reply {
    let known = engine.incarnations_of(project);
    let gone =
        known.iter().find(|gone| gone.id == id && gone.removed_at.is_some()).ok_or_else(|| EngineError::no_container(id))?;
    let options = FollowOptions {
        follow: false,
        timestamps: query.flag("timestamps"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        form: Form::Frames,
    };
    let opened = follow::open(&engine.config.kept_log_path(&gone.id), selection(query)?).await;
    let (reader, width) = opened.map_err(EngineError::io(format!("reading the log of {}, which is gone", gone.name)))?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(follow::send_whole(reader, width, options, sender));
    reply::stream("application/vnd.docker.multiplexed-stream", reply::receiver_stream(receiver))
}

/// The lines that a query asks for.
pub(super) fn selection(query: &Query) -> Result<LineSelection, EngineError> {
    let time = |key: &str| query.get(key).filter(|t| !t.is_empty() && *t != "0").map(log_time).transpose();
    Ok(LineSelection {
        tail: query.number("tail"),
        since: time("since")?,
        after: time("after")?,
        until: time("until")?,
        snapshot: false,
    })
}

/// A time in the form of the log, so that they compare as text.
fn log_time(text: &str) -> Result<String, EngineError> {
    Ok(format!("{:.9}", moment(text)?))
}

/// Docker's times: seconds since 1970 with a fraction, or RFC 3339.
pub(super) fn moment(text: &str) -> Result<jiff::Timestamp, EngineError> {
    let bad = || EngineError::Invalid(format!("`{text}` is not a time: write 2026-01-31T12:00:00Z, or seconds since 1970"));
    Ok(match text.split_once('.').unwrap_or((text, "")) {
        (seconds, fraction) if seconds.parse::<i64>().is_ok() => {
            let nanos = format!("{fraction:0<9}");
            jiff::Timestamp::new(seconds.parse().map_err(|_| bad())?, nanos[..9].parse().map_err(|_| bad())?)
                .map_err(|_| bad())?
        }
        _ => text.parse::<jiff::Timestamp>().map_err(|_| bad())?,
    })
}
