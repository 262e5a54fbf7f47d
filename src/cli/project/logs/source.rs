//! The log of one container, read from the engine in batches of lines.

use super::View;
use crate::api::client::{Client, ClientError, Frames};
use crate::api::followed::{Followed, Piece};
use crate::api::reply::escape;
use crate::cli::Failure;
use crate::cli::project::ps::Listed;
use bytes::Bytes;
use std::collections::VecDeque;

/// One container's log stream.
pub(super) struct Source {
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

pub(super) enum Feed {
    /// The lines that are there.
    Whole(Frames),
    Followed(Box<Followed>),
}

impl Source {
    pub(super) fn new(container: &Listed, prefix: String, feed: Feed) -> Self {
        let (id, name) = (container.id.clone(), container.short_name());
        Source { id, name, prefix, feed, lines: VecDeque::new(), then: None }
    }
}

pub(super) async fn open_whole(client: &Client, container: &Listed, view: &View, prefix: String) -> Result<Source, Failure> {
    let mut path = format!("/containers/{}/logs?stdout=1&stderr=1&timestamps=1&multiplexed=1", container.id);
    let tail = view.tail.map(|tail| tail.to_string());
    for (key, value) in [("tail", &tail), ("since", &view.since), ("until", &view.until)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", escape(value)));
        }
    }
    Ok(Source::new(container, prefix, Feed::Whole(client.get_frames(&path).await?)))
}

/// How many lines are read at once.
const MOST_LINES: usize = 10_000;

/// Waits for more of a source; false at its end.
pub(super) async fn read_more(mut source: Source) -> Result<(Source, bool), ClientError> {
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
