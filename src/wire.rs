//! Messages between a project's commands and the engine, beside Docker's API: JSON, a line each.

use crate::compose::model::{Job, Project};
use crate::jobs::{RecordedRun, RunState, RunTrigger};
use crate::plan::UpOptions;
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The request that brings a project up.
#[derive(Debug, Serialize, Deserialize)]
pub struct UpRequest {
    pub project: Project,
    #[serde(default)]
    pub options: UpOptions,
    #[serde(default)]
    pub config_files: String,
    #[serde(default)]
    pub working_dir: String,
    /// Variables of the user's proxies, which containers get beside their services' own.
    #[serde(default)]
    pub proxies: Vec<(String, String)>,
    /// Services of inactive profiles: their containers are no orphans.
    #[serde(default)]
    pub inactive: Vec<String>,
    /// Tell the plan and change nothing.
    #[serde(default)]
    pub plan_only: bool,
    /// The client that shows the output of the containers that are started.
    #[serde(default)]
    pub follower: Option<Follower>,
}

/// A client that attaches to containers as they are started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Follower {
    /// The number by which their logs know it.
    pub reader: u64,
    /// The services whose output it shows; empty for all.
    pub services: Vec<String>,
}

/// The request of `run`: the project with the service as the command wants it.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunRequest {
    pub up: UpRequest,
    pub service: String,
    /// The container's.
    pub name: String,
    /// The container is found by its service's names, too.
    pub use_aliases: bool,
    /// Its standard input stays open until the client that attaches to it leaves.
    pub stdin: bool,
    pub labels: IndexMap<String, String>,
    /// Rows and columns of the client's terminal.
    #[serde(default)]
    pub console_size: Option<(u16, u16)>,
    /// The engine removes it when it has ended.
    pub auto_remove: bool,
    /// The client does.
    #[serde(default)]
    pub client_removes: bool,
}

/// The request to bring a service back to an earlier revision.
#[derive(Debug, Serialize, Deserialize)]
pub struct RollbackRequest {
    pub service: String,
    /// The revision's number; the last good one before the newest where it is absent.
    #[serde(default)]
    pub to: Option<u32>,
    #[serde(default)]
    pub start_first: bool,
    #[serde(default)]
    pub timeout: Option<u32>,
}

/// A line of the answer to `up` and `down`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// `Container p-web-1` is `Starting`, `Started`, ...
    Step {
        object: String,
        status: String,
        done: bool,
    },
    /// A layer of an image that is pulled.
    Layer {
        image: String,
        id: String,
        status: String,
        current: u64,
        total: u64,
    },
    /// A container of `run`, which is not started yet, by its id.
    Created(String),
    /// A run of a job that has a record now, by its id.
    Run(String),
    Warning(String),
    /// A line of a hook's output, for a client that shows the output of containers.
    HookOutput {
        container: String,
        service: String,
        line: String,
    },
    /// Volumes whose definition has changed: nothing was done, since the user is to be asked first.
    ChangedVolumes(Vec<String>),
    /// A line of the plan.
    Plan(String),
    Error {
        object: String,
        message: String,
    },
    /// The last line: everything has been done, or not.
    Done {
        ok: bool,
    },
}

/// A run of a container that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunEnd {
    pub at: Timestamp,
    pub exit_code: i32,
    #[serde(default)]
    pub oom_killed: bool,
    /// The cause of its end.
    pub reason: String,
}

/// A container of a service: one that is there, or that another has replaced and whose log is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Incarnation {
    pub id: String,
    pub name: String,
    pub project: String,
    pub service: String,
    pub number: u32,
    pub image_id: String,
    pub created_at: Timestamp,
    /// Absent of one that is there.
    #[serde(default)]
    pub removed_at: Option<Timestamp>,
    /// Why it was removed.
    #[serde(default)]
    pub removed_for: String,
    /// Its last runs, the oldest first.
    #[serde(default)]
    pub ends: Vec<RunEnd>,
}

/// The request of `updates --now`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct UpdateRequest {
    /// Empty: all with `x-update`.
    #[serde(default)]
    pub services: Vec<String>,
}

/// The status of a service's `x-update`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageUpdate {
    pub service: String,
    pub image: String,
    pub schedule: String,
    pub next: Option<Timestamp>,
    pub checked_at: Option<Timestamp>,
    /// The digest that its containers are of, once it is known.
    pub current: Option<String>,
    /// Another that the registry had under the tag at the last look.
    pub available: Option<String>,
    /// The last ones, the oldest first.
    pub events: Vec<UpdateEvent>,
}

/// Something that an `x-update` has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateEvent {
    pub at: Timestamp,
    pub digest: Option<String>,
    pub outcome: String,
    #[serde(default)]
    pub message: Option<String>,
}

/// The request of `run` for a job.
#[derive(Debug, Serialize, Deserialize)]
pub struct JobRunRequest {
    pub up: UpRequest,
    /// The engine starts the container; otherwise its client does, once it reads the output.
    pub detach: bool,
}

/// A registered job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct JobSummary {
    #[serde(rename = "ID")]
    pub id: String,
    /// `PROJECT.JOB`.
    pub name: String,
    pub project: String,
    pub job: String,
    /// `manual`, or its schedules.
    pub trigger: String,
    /// `idle`, or that of the run that goes on.
    pub state: String,
    pub paused: bool,
    pub last_run: Option<JobRun>,
    /// Absent without a schedule, while it is paused, and while a run goes on.
    pub next_fire: Option<Timestamp>,
    pub registered_at: Timestamp,
}

/// A registered job with everything that is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct JobDetails {
    #[serde(flatten)]
    pub summary: JobSummary,
    pub definition: Option<Job>,
    /// The last ones, the newest first.
    pub runs: Vec<JobRun>,
}

/// A run of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct JobRun {
    #[serde(rename = "ID")]
    pub id: String,
    pub iteration: u64,
    pub state: RunState,
    pub trigger: RunTrigger,
    /// The fire that it was for.
    pub due_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub container: Option<String>,
    pub exit_code: Option<i32>,
    pub error: Option<String>,
}

impl From<&RecordedRun> for JobRun {
    fn from(run: &RecordedRun) -> Self {
        JobRun {
            id: run.id.clone(),
            iteration: run.iteration,
            state: run.state,
            trigger: run.trigger,
            due_at: run.due,
            created_at: run.created_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
            container: run.container.clone(),
            exit_code: run.exit_code,
            error: run.error.clone(),
        }
    }
}

/// The removal of jobs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct JobsPruned {
    /// Names of the jobs that are gone.
    pub jobs: Vec<String>,
}
