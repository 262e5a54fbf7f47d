//! The operations that plans are made of.

use crate::compose::model::Condition;
use crate::units::duration_text;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One operation. Each carries what it needs and no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Operation {
    /// A network of the project, by its key in the file.
    CreateNetwork {
        key: String,
    },
    CreateVolume {
        key: String,
    },
    PullImage {
        image: String,
    },
    CreateContainer {
        service: String,
        number: u32,
        name: String,
    },
    /// Creates the new container beside the old one, then stops and removes the old one and gives its name to the new one.
    RecreateContainer {
        service: String,
        number: u32,
        name: String,
        replaces: String,
    },
    /// Starts the new container beside the old one, waits until it is good, has names and ports lead to it, and stops the old one
    /// (`deploy.update_config.order: start-first`).
    UpdateContainer {
        service: String,
        number: u32,
        name: String,
        replaces: String,
        /// Nanoseconds that it has to run where it has no health check.
        monitor: u64,
        /// Nanoseconds to wait before.
        delay: u64,
        /// The file gives it a health check.
        checked: bool,
    },
    /// Before the next containers of a service are replaced: waits, and goes on unless too many of those before have failed.
    NextUpdate {
        service: String,
        /// The container that is replaced next.
        name: String,
        /// Nanoseconds.
        delay: u64,
    },
    /// Waits until a container that has replaced another is good.
    WatchContainer {
        service: String,
        name: String,
        /// As of [`Operation::UpdateContainer`].
        monitor: u64,
        checked: bool,
    },
    /// Runs the `pre_start` hooks of a service, or those of one of its containers.
    PreStart {
        service: String,
        /// The container before whose start they run.
        name: String,
        per_replica: bool,
    },
    StartContainer {
        service: String,
        name: String,
    },
    StopContainer {
        id: String,
        name: String,
    },
    RestartContainer {
        id: String,
        name: String,
    },
    KillContainer {
        id: String,
        name: String,
        signal: String,
    },
    PauseContainer {
        id: String,
        name: String,
    },
    UnpauseContainer {
        id: String,
        name: String,
    },
    /// Waits until every container of a service fulfils the condition.
    Await {
        service: String,
        condition: Condition,
        /// The service that waits. Without one, the command waits until the service runs, and is healthy where it has a health check.
        dependent: Option<String>,
        /// An optional dependency that fails is warned of.
        required: bool,
    },
    /// Removes a container.
    RemoveContainer {
        id: String,
        name: String,
        /// One that runs is stopped before; otherwise it is an error.
        stop: bool,
        /// Its anonymous volumes as well.
        volumes: bool,
    },
    RemoveNetwork {
        name: String,
        /// One that is in use stays, with a warning.
        unless_used: bool,
    },
    RemoveVolume {
        name: String,
        unless_used: bool,
    },
    /// One that is in use stays, with a warning.
    RemoveImage {
        image: String,
    },
    /// Has the engine know a job: it runs by its schedule from then on.
    RegisterJob {
        job: String,
        /// Its triggers, as lists show them.
        trigger: String,
    },
    /// Has the engine start a job no more. A run that goes on is cancelled.
    DeregisterJob {
        job: String,
    },
}

/// The condition under which a new container counts as good.
fn good(checked: bool, monitor: u64) -> String {
    if checked { "is healthy".into() } else { format!("has run for {}", duration_text(monitor)) }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::CreateNetwork { key } => write!(f, "create network {key}"),
            Operation::CreateVolume { key } => write!(f, "create volume {key}"),
            Operation::PullImage { image } => write!(f, "pull image {image}"),
            Operation::CreateContainer { name, .. } => write!(f, "create container {name}"),
            Operation::RecreateContainer { name, .. } => write!(f, "recreate container {name}"),
            Operation::UpdateContainer { name, monitor, delay, checked, .. } => {
                if *delay > 0 {
                    write!(f, "{} later, ", duration_text(*delay))?;
                }
                let good = good(*checked, *monitor);
                write!(
                    f,
                    "update container {name} (start the new one beside it, wait until that {good}, switch names and ports, stop the old one)"
                )
            }
            Operation::NextUpdate { name, delay, .. } => {
                write!(f, "go on with container {name}")?;
                if *delay > 0 { write!(f, " {} later", duration_text(*delay)) } else { Ok(()) }
            }
            Operation::WatchContainer { name, monitor, checked, .. } => {
                write!(f, "wait until container {name} {}", good(*checked, *monitor))
            }
            Operation::PreStart { name, .. } => write!(f, "run what is to run before {name}"),
            Operation::StartContainer { name, .. } => write!(f, "start container {name}"),
            Operation::StopContainer { name, .. } => write!(f, "stop container {name}"),
            Operation::RestartContainer { name, .. } => write!(f, "restart container {name}"),
            Operation::KillContainer { name, signal, .. } => write!(f, "send {signal} to container {name}"),
            Operation::PauseContainer { name, .. } => write!(f, "pause container {name}"),
            Operation::UnpauseContainer { name, .. } => write!(f, "unpause container {name}"),
            Operation::Await { service, condition, .. } => write!(f, "wait for {service} ({})", condition.as_str()),
            Operation::RemoveContainer { name, stop: true, .. } => write!(f, "stop and remove container {name}"),
            Operation::RemoveContainer { name, .. } => write!(f, "remove container {name}"),
            Operation::RemoveNetwork { name, .. } => write!(f, "remove network {name}"),
            Operation::RemoveVolume { name, .. } => write!(f, "remove volume {name}"),
            Operation::RemoveImage { image } => write!(f, "remove image {image}"),
            Operation::RegisterJob { job, trigger } => write!(f, "register job {job} ({trigger})"),
            Operation::DeregisterJob { job } => write!(f, "deregister job {job}"),
        }
    }
}

impl Operation {
    /// The object that it acts on, as progress shows it.
    pub fn object(&self) -> String {
        match self {
            Operation::CreateNetwork { key: name } | Operation::RemoveNetwork { name, .. } => format!("Network {name}"),
            Operation::CreateVolume { key: name } | Operation::RemoveVolume { name, .. } => format!("Volume {name}"),
            Operation::PullImage { image } | Operation::RemoveImage { image } => format!("Image {image}"),
            Operation::Await { service, .. } => format!("Service {service}"),
            Operation::RegisterJob { job, .. } | Operation::DeregisterJob { job } => format!("Job {job}"),
            Operation::CreateContainer { name, .. }
            | Operation::RecreateContainer { name, .. }
            | Operation::UpdateContainer { name, .. }
            | Operation::NextUpdate { name, .. }
            | Operation::WatchContainer { name, .. }
            | Operation::PreStart { name, .. }
            | Operation::StartContainer { name, .. }
            | Operation::StopContainer { name, .. }
            | Operation::RestartContainer { name, .. }
            | Operation::KillContainer { name, .. }
            | Operation::PauseContainer { name, .. }
            | Operation::UnpauseContainer { name, .. }
            | Operation::RemoveContainer { name, .. } => format!("Container {name}"),
        }
    }

    /// Whether it acts on an existing container.
    pub fn touches(&self, id: &str, name: &str) -> bool {
        match self {
            Operation::RecreateContainer { replaces, .. } | Operation::UpdateContainer { replaces, .. } => replaces == id,
            Operation::StartContainer { name: own, .. } => own == name,
            Operation::StopContainer { id: own, .. }
            | Operation::RestartContainer { id: own, .. }
            | Operation::KillContainer { id: own, .. }
            | Operation::PauseContainer { id: own, .. }
            | Operation::UnpauseContainer { id: own, .. }
            | Operation::RemoveContainer { id: own, .. } => own == id,
            _ => false,
        }
    }
}
