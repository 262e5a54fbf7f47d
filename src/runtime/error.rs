//! Why a container's process could not be set up or run.

use crate::printable;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt::Display;
use std::io;

/// A step of a container's set-up, or of a further process in it. Exit codes follow from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetupStep {
    /// The monitor's own: its launch file, its sockets, the log. Of earlier versions' failures nothing else is known.
    #[default]
    Monitor,
    ControlGroup,
    Namespaces,
    Network,
    Mounts,
    Sysctls,
    HostName,
    User,
    Streams,
    Limits,
    WorkingDirectory,
    WorkingDirectoryMissing,
    NotADirectory,
    /// Capabilities, system call filter, mandatory access control.
    Privileges,
    ProgramMissing,
    ProgramNotExecutable,
    /// Executing the program failed in another way.
    Program,
    /// Another OCI runtime has failed.
    OtherRuntime,
}

impl SetupStep {
    /// Docker's exit code: 127 where the program is missing, 126 where it cannot be executed, 128 otherwise.
    pub fn exit_code(self) -> i32 {
        match self {
            SetupStep::ProgramMissing | SetupStep::WorkingDirectoryMissing => 127,
            SetupStep::ProgramNotExecutable | SetupStep::NotADirectory => 126,
            _ => 128,
        }
    }

    /// The step of a monitor of an earlier version, which reports the code alone.
    pub fn of_code(code: i32) -> Self {
        match code {
            127 => SetupStep::ProgramMissing,
            126 => SetupStep::ProgramNotExecutable,
            _ => SetupStep::Monitor,
        }
    }

    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            SetupStep::Monitor => "monitor",
            SetupStep::ControlGroup => "control_group",
            SetupStep::Namespaces => "namespaces",
            SetupStep::Network => "network",
            SetupStep::Mounts => "mounts",
            SetupStep::Sysctls => "sysctls",
            SetupStep::HostName => "host_name",
            SetupStep::User => "user",
            SetupStep::Streams => "streams",
            SetupStep::Limits => "limits",
            SetupStep::WorkingDirectory => "working_directory",
            SetupStep::WorkingDirectoryMissing => "working_directory_missing",
            SetupStep::NotADirectory => "not_a_directory",
            SetupStep::Privileges => "privileges",
            SetupStep::ProgramMissing => "program_missing",
            SetupStep::ProgramNotExecutable => "program_not_executable",
            SetupStep::Program => "program",
            SetupStep::OtherRuntime => "other_runtime",
        }
    }
}

/// A failure on its way from the container's process to its monitor.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReport {
    pub step: SetupStep,
    pub message: String,
}

/// A step that this version does not know is as good as none.
pub fn known_step<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SetupStep>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

/// A step of the set-up that failed: what was being done, to what, and the kernel's answer.
#[derive(Debug, thiserror::Error)]
#[error("{}", printable::line(&format!("{doing}: {source}")))]
pub struct StepFailed {
    pub step: SetupStep,
    pub doing: String,
    #[source]
    pub source: io::Error,
}

impl StepFailed {
    pub fn new(doing: impl Into<String>, source: io::Error) -> Self {
        StepFailed { step: SetupStep::default(), doing: doing.into(), source }
    }

    /// A failure that is not the kernel's, in words.
    pub fn because(doing: impl Into<String>, why: impl Into<String>) -> Self {
        StepFailed::new(doing, io::Error::other(why.into()))
    }

    pub fn exit_code(&self) -> i32 {
        self.step.exit_code()
    }
}

/// Names the step that a part of the set-up belongs to.
pub trait InStep {
    /// The step of a failure, unless it has one.
    #[must_use]
    fn in_step(self, step: SetupStep) -> Self;
}

impl InStep for StepFailed {
    fn in_step(self, step: SetupStep) -> Self {
        match self.step {
            SetupStep::Monitor => StepFailed { step, ..self },
            _ => self,
        }
    }
}

impl<T> InStep for Result<T, StepFailed> {
    fn in_step(self, step: SetupStep) -> Self {
        self.map_err(|failure| failure.in_step(step))
    }
}

/// Says of a kernel call what it was for.
pub trait Doing<T> {
    /// # Errors
    /// The same failure, with the step's name.
    fn doing(self, what: impl Display) -> Result<T, StepFailed>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl Display) -> Result<T, StepFailed> {
        self.map_err(|source| StepFailed::new(what.to_string(), source))
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, what: impl Display) -> Result<T, StepFailed> {
        self.map_err(|errno| StepFailed::new(what.to_string(), errno.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_named_once_and_gives_the_exit_code() {
        let failed = || StepFailed::because("looking", "no");
        for (step, code) in [(SetupStep::ProgramMissing, 127), (SetupStep::NotADirectory, 126), (SetupStep::Mounts, 128)] {
            let failure = failed().in_step(step).in_step(SetupStep::Network);
            assert_eq!((failure.step, failure.exit_code()), (step, code));
            assert_eq!(serde_json::to_value(step).expect("JSON"), step.as_str());
        }
        #[derive(Deserialize)]
        struct StepMessage {
            #[serde(default, deserialize_with = "known_step")]
            step: Option<SetupStep>,
        }
        for (text, expected) in
            [("{}", None), (r#"{"step":"of a later version"}"#, None), (r#"{"step":"mounts"}"#, Some(SetupStep::Mounts))]
        {
            assert_eq!(serde_json::from_str::<StepMessage>(text).expect(text).step, expected, "{text}");
        }
    }
}
