//! The Docker Engine API over a unix socket, with one resource of wharf's own, `/projects`.
//!
//! [`server`] is the engine's end and routes to [`containers`], [`exec`], [`images`], [`logs`], [`networks`] and
//! [`projects`]; [`client`] is the other end, all that the CLI knows of the engine.

mod build;
pub mod client;
mod containers;
mod exec;
mod images;
mod logs;
mod networks;
mod projects;
pub mod reply;
pub mod server;
mod spec;

/// The version of Docker's API that is spoken.
pub const API_VERSION: &str = "1.45";
/// The oldest version whose clients are understood.
pub const MIN_API_VERSION: &str = "1.24";
