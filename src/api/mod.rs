//! The Docker Engine API over a unix socket, with one resource of wharf's own, `/projects`.
//!
//! [`server`] is the engine's end and routes to a room for each resource; [`client`] is the other end, all that the CLI knows of
//! the engine.

mod archive;
mod attach;
mod build;
pub mod buildkit;
pub mod client;
mod connections;
mod containers;
pub mod detach;
mod events;
mod exec;
pub mod follow;
pub mod followed;
mod hijack;
mod images;
mod jobs;
mod logins;
mod logs;
mod networks;
mod projects;
pub mod reply;
mod request_body;
mod request_line;
mod routes;
pub mod server;
pub mod spec;
mod system;
mod tcp;
pub mod types;
mod usage;
mod volumes;
mod websocket;

/// The version of Docker's API that is spoken.
pub const API_VERSION: &str = "1.52";
/// The oldest version whose clients are understood.
pub const MIN_API_VERSION: &str = "1.24";
/// Of a request: its sender shows warnings of the engine. Of an answer: one of them.
const WARNING_HEADER: &str = "x-wharf-warning";
