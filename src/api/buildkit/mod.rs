//! BuildKit's API, as Docker's clients use it to build: `/grpc` and `/session`, connections that become HTTP/2.
//!
//! On the one the client calls the engine ([`control`]), on the other the engine calls the client ([`session`]): for its directories
//! ([`filesync`], [`fsutil`]), which are then a build's context as any ([`sources`]). What is built is a Dockerfile ([`attributes`]), by wharf's own
//! solver; a build is a job ([`jobs`]) and ends with its exports ([`exporters`]), what its steps ask the client for in [`lender`], and [`progress`] shows it as BuildKit would. What is asked of a Dockerfile and builds nothing is in [`subrequests`], what one build takes of another in [`inputs`]. [`cache`] is what builds remember.

mod attributes;
mod cache;
mod control;
mod exporters;
mod filesync;
pub mod fsutil;
mod grpc;
mod inputs;
mod jobs;
mod lender;
mod progress;
mod session;
mod sources;
mod subrequests;

use super::connections::ConnectionCounter;
use super::hijack;
use super::reply::{self, Reply};
use crate::engine::{Engine, EngineError};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;

/// Connections of both kinds at once. A build has one of each.
static CONNECTIONS: Semaphore = Semaphore::const_new(128);

/// The answer to a request without an upgrade.
pub(super) const NO_UPGRADE: &str = "BuildKit's API is spoken over a connection that is upgraded to h2c";

/// Upgrades a connection, and serves it until its client leaves.
///
/// # Errors
/// When there are too many, or the session is none.
pub(super) fn upgrade(engine: Arc<Engine>, mut request: Request<Incoming>) -> Reply {
    let permit = CONNECTIONS.try_acquire().map_err(|_| EngineError::TooManyStreams)?;
    if request.headers().get(header::UPGRADE).is_none_or(|protocol| protocol != "h2c") {
        return Err(EngineError::Invalid(NO_UPGRADE.into()));
    }
    let is_session = request.uri().path().ends_with("/session");
    let offer = is_session.then(|| session::Offer::of(request.headers())).transpose().map_err(EngineError::Invalid)?;
    // An engine that serves such a connection is not idle.
    let counted = request.extensions_mut().remove::<ConnectionCounter>();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _held = (permit, counted.map(ConnectionCounter::hold));
        let Some((socket, read)) = hijack::taken_over(upgrade).await else { return };
        hijack::head_is_read(&socket).await;
        let (input, output) = socket.into_split();
        let stream = tokio::io::join(std::io::Cursor::new(read).chain(input), output);
        let ended = match offer {
            Some(offer) => session::serve(offer, stream).await,
            None => control::serve(engine, stream).await,
        };
        if let Err(error) = ended {
            tracing::debug!("a client of BuildKit's API: {error}");
        }
    });
    let mut response = Response::new(reply::whole(Vec::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("h2c"));
    Ok(response)
}
