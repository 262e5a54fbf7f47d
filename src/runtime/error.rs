//! Why a container's process could not be set up or run.

use crate::printable;
use std::fmt::Display;
use std::io;

/// A step of the set-up that failed: what was being done, to what, and the kernel's answer.
#[derive(Debug, thiserror::Error)]
#[error("{}", printable::line(&format!("{doing}: {source}")))]
pub struct StepFailed {
    pub doing: String,
    #[source]
    pub source: io::Error,
    /// Docker's exit code for it: 127 where the program is missing, 126 where it cannot be executed, 128 otherwise.
    pub code: i32,
}

impl StepFailed {
    pub fn new(doing: impl Into<String>, source: io::Error) -> Self {
        StepFailed { doing: doing.into(), source, code: 128 }
    }

    /// A failure that is not the kernel's, in words.
    pub fn because(doing: impl Into<String>, why: impl Into<String>) -> Self {
        StepFailed::new(doing, io::Error::other(why.into()))
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
