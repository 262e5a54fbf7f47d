//! wharf runs Docker Compose stacks on Linux with a container runtime of its own.
//!
//! docs/ARCHITECTURE.md lists which room answers which question.

pub mod api;
pub mod cli;
pub mod compose;
pub mod cron;
pub mod engine;
pub mod image;
pub mod jobs;
pub mod kubernetes;
pub mod labels;
pub mod logs;
pub mod network;
pub mod plan;
pub mod printable;
pub mod random;
pub mod runtime;
pub mod sys;
pub mod units;
pub mod wire;
