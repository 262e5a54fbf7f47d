//! Errors of the engine, each with its HTTP status in Docker's API.

use crate::image::ImageError;
use crate::network::NetworkError;
use crate::plan::PlanError;
use crate::runtime::error::SetupStep;

/// Why the engine has not done what it was asked for. Each kind has a status of the API.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{}", no_such(.what, .name))]
    NoSuch { what: &'static str, name: String },
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Invalid(String),
    #[error("the container {name} is not running")]
    NotRunning { name: String },
    /// A fault of wharf's own: a task that has panicked, an answer that cannot be written.
    #[error("a fault of wharf's own: {0}; the engine's log has more")]
    Internal(String),
    /// It is stopped (SIGSTOP), or waits for a disk.
    #[error("the monitor of the container {name} does not answer; `wharf container stop {name}` ends both")]
    Unresponsive { name: String },
    /// It needs what this engine is not: a member of a swarm.
    #[error("{0}")]
    Unavailable(String),
    /// A feature that wharf does not have.
    #[error("{0}")]
    NotImplemented(&'static str),
    /// An operation that is never permitted.
    #[error("{0}")]
    Forbidden(String),
    #[error("the request's body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("too many clients follow logs, events, statistics or processes at once; end some of them")]
    TooManyStreams,
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Journal(#[from] crate::engine::state::journal::JournalError),
    #[error("{doing}: {source}")]
    Io { doing: String, source: std::io::Error },
    /// Its user has cancelled the command, or has left: what had not begun did not begin.
    #[error("canceled")]
    Cancelled,
    /// Too many containers of the service have failed before.
    #[error("the update is paused")]
    Paused,
    /// The container's process could not be started.
    #[error("the container {name} cannot be started: {message}")]
    Start { name: String, message: String, step: SetupStep },
    /// A further process of a container could not be run.
    #[error("the command `{command}` cannot be run in the container {container}: {message}")]
    Exec { command: String, container: String, message: String, step: SetupStep },
    /// Some of a project's steps have failed; each with the object it was about.
    #[error("{}", .0.join("\n"))]
    Several(Vec<String>),
}

impl From<tokio::task::JoinError> for EngineError {
    fn from(error: tokio::task::JoinError) -> Self {
        EngineError::Internal(error.to_string())
    }
}

impl EngineError {
    pub fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> EngineError {
        let doing = doing.into();
        move |source| EngineError::Io { doing, source }
    }

    pub fn no_container(name: &str) -> Self {
        EngineError::NoSuch { what: "container", name: name.into() }
    }

    /// The step of a start or of an exec that failed.
    pub fn failed_step(&self) -> Option<SetupStep> {
        match self {
            EngineError::Start { step, .. } | EngineError::Exec { step, .. } => Some(*step),
            _ => None,
        }
    }

    /// A full disk, missing descriptors, a fault of wharf: nothing that another image would change.
    pub fn is_of_machine(&self) -> bool {
        matches!(
            self,
            EngineError::Io { .. }
                | EngineError::Journal(_)
                | EngineError::Network(_)
                | EngineError::Internal(_)
                | EngineError::Cancelled
                | EngineError::Paused
                | EngineError::Unresponsive { .. }
        )
    }

    /// The HTTP status in Docker's API.
    pub fn status(&self) -> u16 {
        match self {
            EngineError::NoSuch { .. }
            | EngineError::Image(ImageError::NotFound { .. } | ImageError::Denied { .. })
            | EngineError::Plan(PlanError::NoSuchService { .. }) => 404,
            EngineError::Image(ImageError::Unauthorized { .. }) => 401,
            EngineError::Conflict(_) | EngineError::NotRunning { .. } => 409,
            EngineError::Invalid(_)
            | EngineError::Plan(_)
            | EngineError::Image(ImageError::Reference(_) | ImageError::Change(_)) => 400,
            EngineError::Network(error) if error.is_in_request() => 400,
            EngineError::TooLarge(_) => 413,
            EngineError::NotImplemented(_) => 501,
            EngineError::Forbidden(_) | EngineError::Network(NetworkError::Overlap { .. }) => 403,
            EngineError::TooManyStreams | EngineError::Unavailable(_) => 503,
            EngineError::Start { step, .. } | EngineError::Exec { step, .. } if matches!(step.exit_code(), 126 | 127) => 400,
            _ => 500,
        }
    }
}

/// Docker's words: its clients match them.
fn no_such(what: &str, name: &str) -> String {
    match what {
        "container" => format!("No such container: {name}"),
        "image" => format!("No such image: {name}"),
        "local image" => format!("An image does not exist locally with the tag: {name}"),
        "job" => format!(
            "there is no job `{name}`\n`wharf up` registers jobs with a schedule, `wharf run` the others; `wharf job ls` lists them"
        ),
        "exec" => format!("No such exec instance: {name}"),
        "network" => format!("network {name} not found"),
        "volume" => format!("get {name}: no such volume"),
        "volume plugin" => format!("error looking up volume plugin {name}: plugin \"{name}\" not found"),
        "plugin" => format!("plugin \"{name}\" not found"),
        "file" => format!("Could not find the file {name}"),
        "API call" => format!("page not found: {name}"),
        _ => format!("there is no {what} `{name}`"),
    }
}

/// Journal and run files: what their failure means to the user.
pub fn state_error(source: std::io::Error) -> EngineError {
    EngineError::Io { doing: "writing the engine's state".into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fault of wharf's own is no fault of the request.
    #[tokio::test]
    async fn a_panic_is_no_bad_request() {
        let panicked = tokio::spawn(async { std::panic::resume_unwind(Box::new("boom")) }).await;
        let error = EngineError::from(panicked.expect_err("panic"));
        assert_eq!(error.status(), 500, "{error}");
        let not_running = EngineError::NotRunning { name: "a".into() };
        assert_eq!((not_running.status(), not_running.to_string().contains("is not running")), (409, true));
    }
}
