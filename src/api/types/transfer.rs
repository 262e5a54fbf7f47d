//! Docker's progress of pulls, pushes, builds and loads, an object a line; and logins.

use crate::image::build::BuildEvent;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A line of a build in wharf's own form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BuildLine {
    Error {
        error: String,
    },
    Event(BuildEvent),
    /// One that this version does not know.
    #[serde(skip_serializing)]
    Later(IgnoredAny),
}

wire! {
    "camelCase"
    /// A line. What it does not have is absent.
    pub struct ProgressLine {
        #[serde(skip_serializing_if = "Option::is_none")]
        pub id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub status: Option<String>,
        /// A build's output.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub stream: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub progress_detail: Option<ProgressDetail>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub error_detail: Option<ErrorDetail>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub error: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub aux: Option<Value>,
    }

    /// Bytes.
    pub struct ProgressDetail {
        #[serde(skip_serializing_if = "Option::is_none")]
        pub current: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub total: Option<u64>,
    }

    /// `errorDetail` of a stream of progress.
    pub struct ErrorDetail {
        /// 401, or the exit code of a build's command.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub code: Option<i64>,
        pub message: String,
    }
}

impl ProgressLine {
    pub fn status(text: impl Into<String>) -> Self {
        ProgressLine { status: Some(text.into()), ..ProgressLine::default() }
    }

    /// A build's output.
    pub fn stream(text: impl Into<String>) -> Self {
        ProgressLine { stream: Some(text.into()), ..ProgressLine::default() }
    }

    pub fn failed(message: &str, code: Option<i64>) -> Self {
        let detail = ErrorDetail { code, message: message.into() };
        ProgressLine { error_detail: Some(detail), error: Some(message.into()), ..ProgressLine::default() }
    }

    /// A layer's progress.
    pub fn layer(id: String, status: impl Into<String>, current: u64, total: u64) -> Self {
        let detail = ProgressDetail { current: Some(current), total: Some(total) };
        ProgressLine { id: Some(id), status: Some(status.into()), progress_detail: Some(detail), ..ProgressLine::default() }
    }

    /// As JSON, with its end.
    pub fn to_line(&self) -> String {
        format!("{}\n", serde_json::to_string(self).unwrap_or_default())
    }
}

wire! {
    /// `aux` of the last line of a push.
    pub struct PushedDigest {
        pub tag: String,
        pub digest: String,
        /// Bytes of the manifest.
        pub size: usize,
    }

    /// `aux` of a build.
    pub struct BuiltId {
        #[serde(rename = "ID")]
        pub id: String,
    }

    /// The answer to `/auth`.
    pub struct LoginAnswer {
        pub status: String,
        pub identity_token: String,
    }
}

wire! {
    "lowercase"
    /// `POST /auth`.
    pub struct LoginRequest {
        #[serde(rename = "serveraddress")]
        pub server_address: String,
        pub username: String,
        pub password: String,
    }
}
