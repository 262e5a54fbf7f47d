//! `wharf kubernetes`, and `wharf bridge`, which is Docker's name for the same.

mod export;
mod read;

use super::{Global, Outcome};
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub enum Kubernetes {
    /// Write the project's objects for Kubernetes.
    Export(export::Export),
}

#[derive(Subcommand, Debug)]
pub enum Bridge {
    /// Write the project's objects for Kubernetes, as `kubernetes export` does.
    Convert(export::Convert),
}

pub fn kubernetes(global: &Global, command: Kubernetes) -> Outcome {
    match command {
        Kubernetes::Export(command) => export::run(global, &command),
    }
}

pub fn bridge(global: &Global, command: Bridge) -> Outcome {
    match command {
        Bridge::Convert(command) => export::convert(global, &command),
    }
}
