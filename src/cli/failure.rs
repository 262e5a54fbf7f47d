//! How a command ends.

use std::process::ExitCode;

/// Why a command ends without success: its message has been shown, or is to be.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Load(#[from] crate::compose::diagnostic::LoadError),
    #[error("error: {0}")]
    Client(#[from] crate::api::client::ClientError),
    #[error("error: {0}")]
    Message(String),
    /// Everything has been printed; the exit code remains.
    #[error("")]
    Code(u8),
    /// A message with an exit code of its own.
    #[error("{why}")]
    WithCode { why: Box<Failure>, code: u8 },
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::Code(code) | Failure::WithCode { code, .. } => *code,
            Failure::Client(crate::api::client::ClientError::Refused { exit_code: Some(code), .. }) => *code as u8,
            _ => 1,
        }
    }

    /// The same with another exit code, unless it has one of its own: that of a container's process, 126 or 127.
    pub fn or_code(self, code: u8) -> Self {
        match self.code() {
            1 | 128 if !matches!(self, Failure::Code(_) | Failure::WithCode { .. }) => {
                Failure::WithCode { why: Box::new(self), code }
            }
            _ => self,
        }
    }
}

/// The end of a command.
pub type Outcome = Result<(), Failure>;

/// Shows what is not shown yet; the exit code.
pub(super) fn finish(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                eprintln!("{}", crate::printable::lines(&text));
            }
            ExitCode::from(failure.code())
        }
    }
}
