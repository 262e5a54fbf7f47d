//! `wharf kubernetes`, and `wharf bridge`, which is Docker's name for its export.
//!
//! [`cluster`] asks the API server that [`kubeconfig`] names, as whom [`credentials`] and a [`plugin`] say; [`made`] makes the project's objects for it, [`images`] pushes what is built first.
//! [`apply`] sends the objects and prunes, [`rollout`] waits for them; [`diff`], [`status`], [`logs`] and [`down`] are the commands of their names.

mod apply;
mod away;
mod cluster;
mod cluster_error;
mod credentials;
mod diff;
mod down;
mod export;
mod images;
mod kubeconfig;
mod log_follow;
mod log_lines;
mod logs;
mod made;
mod plugin;
mod read;
mod rollout;
mod status;
mod written;

use super::signals::or_cancelled;
use super::{Global, Outcome};
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub enum Kubernetes {
    /// Write the project's objects for Kubernetes.
    Export(export::Export),
    /// Bring the project to a cluster: apply its objects, prune what it no longer has, wait until it is ready.
    Apply(apply::Apply),
    /// Show what `apply` would change on the cluster. Exit code 1 where something would.
    Diff(diff::DiffCommand),
    /// Show the project's workloads and Pods on the cluster, and why they are not ready.
    Status(status::StatusCommand),
    /// Show the output of the project's containers on the cluster.
    Logs(logs::PodLogs),
    /// Delete the project's objects from the cluster.
    Down(down::ClusterDown),
}

impl Kubernetes {
    /// Whether it asks an engine, to build and push.
    pub fn asks(&self) -> bool {
        matches!(self, Kubernetes::Apply(command) if command.pushes())
    }
}

#[derive(Subcommand, Debug)]
pub enum Bridge {
    /// Write the project's objects for Kubernetes, as `kubernetes export` does.
    Convert(export::Convert),
}

pub async fn kubernetes(global: &Global, command: Kubernetes) -> Outcome {
    match command {
        Kubernetes::Export(command) => export::run(global, &command),
        Kubernetes::Apply(command) => or_cancelled(apply::run(global, &command)).await,
        Kubernetes::Diff(command) => or_cancelled(diff::run(global, &command)).await,
        Kubernetes::Status(command) => or_cancelled(status::run(global, &command)).await,
        Kubernetes::Logs(command) => logs::run(global, &command).await,
        Kubernetes::Down(command) => or_cancelled(down::run(global, &command)).await,
    }
}

pub fn bridge(global: &Global, command: Bridge) -> Outcome {
    match command {
        Bridge::Convert(command) => export::convert(global, &command),
    }
}
