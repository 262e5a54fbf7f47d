//! The loader as a user meets it: files on disk, the model or the message that comes back.

mod architecture;
mod jobs;
mod kubernetes;
mod messages;
mod models;
mod properties;
mod reference;
mod support;
