//! The log of one container, read from the engine in batches of lines.

use super::LogView;
use crate::api::client::{Client, ClientError, Frames};
use crate::api::followed::{Followed, Piece};
use crate::api::reply::escape;
use crate::api::types::ContainerSummary;
use crate::cli::Failure;
use crate::wire::Incarnation;
use bytes::Bytes;
use std::collections::VecDeque;

/// One container's log stream.
pub(super) struct LogSource {
    pub(super) id: String,
    /// The prefix of its lines, where there is one.
    pub(super) name: String,
    pub(super) prefix: String,
    pub(super) feed: Feed,
    /// Whole lines with their time, which is not printed unless asked for.
    pub(super) lines: VecDeque<(u8, Bytes)>,
    /// The lines after those.
    pub(super) then: Option<Piece>,
}

/// Where the lines of a container come from.
pub(super) enum Feed {
    /// The lines that are there.
    Whole(Frames),
    Followed(Box<Followed>),
}

impl LogSource {
    pub(super) fn new(container: &ContainerSummary, prefix: String, feed: Feed) -> Self {
        let (id, name) = (container.id.clone(), container.short_name());
        LogSource { id, name, prefix, feed, lines: VecDeque::new(), then: None }
    }
}

pub(super) async fn open_whole(
    client: &Client,
    container: &ContainerSummary,
    view: &LogView,
    prefix: String,
) -> Result<LogSource, Failure> {
    let path = selected(format!("/containers/{}/logs", container.id), view);
    Ok(LogSource::new(container, prefix, Feed::Whole(client.get_frames(&path).await?)))
}

/// The log of a container that is gone.
pub(super) async fn open_gone(
    client: &Client,
    gone: &Incarnation,
    view: &LogView,
    prefix: String,
) -> Result<LogSource, ClientError> {
    let path = selected(format!("/projects/{}/incarnations/{}/logs", escape(&gone.project), escape(&gone.id)), view);
    let feed = Feed::Whole(client.get_frames(&path).await?);
    Ok(LogSource { id: gone.id.clone(), name: gone.name.clone(), prefix, feed, lines: VecDeque::new(), then: None })
}

/// The call of a log with the lines that a view shows.
fn selected(mut path: String, view: &LogView) -> String {
    path.push_str("?stdout=1&stderr=1&timestamps=1&multiplexed=1");
    let tail = view.tail.map(|tail| tail.to_string());
    for (key, value) in [("tail", &tail), ("since", &view.since), ("until", &view.until)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", escape(value)));
        }
    }
    path
}

/// How many lines are read at once.
const MOST_LINES: usize = 10_000;

/// Waits for more of a source; false at its end.
pub(super) async fn read_more(mut source: LogSource) -> Result<(LogSource, bool), ClientError> {
    let more = match &mut source.feed {
        Feed::Whole(frames) => match frames.next().await? {
            Some(frame) => {
                source.lines.push_back(frame);
                // What has come with it is taken along, within bounds.
                while source.lines.len() < MOST_LINES {
                    let Some(frame) = frames.buffered() else { break };
                    source.lines.push_back(frame);
                }
                true
            }
            None => false,
        },
        Feed::Followed(followed) => {
            let mut next = followed.next().await?;
            let more = next.is_some();
            while let Some(piece) = next {
                match piece {
                    Piece::Line { stream, line } => source.lines.push_back((stream, line)),
                    other => {
                        source.then = Some(other);
                        break;
                    }
                }
                next = if source.lines.len() < MOST_LINES { followed.buffered() } else { None };
            }
            more
        }
    };
    Ok((source, more))
}
