//! wharf runs Docker Compose stacks on Linux with a container runtime of its own.
//!
//! docs/ARCHITECTURE.md tells which room answers which question.

pub mod compose;
pub mod logs; pub mod runtime;
pub mod network;
pub mod image;
pub mod plan;
pub mod api;
pub mod engine;
pub mod cli;
