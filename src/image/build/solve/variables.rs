//! Variables of a build: predefined and global arguments, and their expansion.

use super::{MAX_KEPT, SolveStep, Solver, StageState};
use crate::image::ImageError;
use crate::image::build::dockerfile::{MalformedDockerfile, words};
use crate::image::build::expand::{self, Unexpandable};
use std::sync::atomic::Ordering;

/// Arguments that every build has without declaring them, and that change no cache key.
pub(super) const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

impl Solver {
    /// Evaluates the ARGs before the first FROM.
    pub(super) fn with_globals(mut self) -> Result<Self, ImageError> {
        for instruction in self.stages.global.clone() {
            for word in words(&instruction.rest, self.stages.escape) {
                let (name, default) = word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
                let value = match (self.request.args.get(name), default) {
                    (Some(given), _) => Some(given.clone()),
                    (None, Some(default)) => Some(
                        expand::word(default, self.stages.escape, &|n| self.global_value(n))
                            .map_err(|e| self.source.at(MalformedDockerfile::new(instruction.line, e.0)))?,
                    ),
                    (None, None) => None,
                };
                if let Some(value) = value {
                    self.keep(value.len()).map_err(|e| self.source.at(MalformedDockerfile::new(instruction.line, e)))?;
                    self.global.insert(name.to_string(), value);
                }
            }
        }
        Ok(self)
    }

    pub(super) fn global_value(&self, name: &str) -> Option<String> {
        self.global.get(name).cloned().or_else(|| platform_argument(name))
    }

    pub(super) fn wrong(&self, step: &SolveStep<'_>, message: impl Into<String>) -> ImageError {
        self.source.at(MalformedDockerfile::new(step.instruction.line, message))
    }

    pub(super) fn expand(&self, step: &SolveStep<'_>, state: &StageState, text: &str) -> Result<String, ImageError> {
        let expanded =
            expand::word(text, step.escape, &|name| state.lookup(name)).map_err(|Unexpandable(why)| self.wrong(step, why))?;
        self.keep(expanded.len()).map_err(|why| self.wrong(step, why)).map(|()| expanded)
    }

    /// Counts what is kept for the time of the build.
    pub(super) fn keep(&self, bytes: usize) -> Result<(), String> {
        let before = self.kept.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > MAX_KEPT {
            return Err(format!("the variables and stages of this Dockerfile make more than {MAX_KEPT} bytes together"));
        }
        Ok(())
    }

    pub(super) fn expand_words(&self, step: &SolveStep<'_>, state: &StageState, text: &str) -> Result<Vec<String>, ImageError> {
        let expanded =
            expand::words(text, step.escape, &|name| state.lookup(name)).map_err(|Unexpandable(why)| self.wrong(step, why))?;
        let bytes = expanded.iter().map(String::len).sum();
        self.keep(bytes).map_err(|why| self.wrong(step, why)).map(|()| expanded)
    }
}

fn platform_argument(name: &str) -> Option<String> {
    let architecture = crate::image::architecture();
    Some(match name {
        "TARGETPLATFORM" | "BUILDPLATFORM" => format!("linux/{architecture}"),
        "TARGETOS" | "BUILDOS" => "linux".into(),
        "TARGETARCH" | "BUILDARCH" => architecture.into(),
        "TARGETVARIANT" | "BUILDVARIANT" => String::new(),
        _ => return None,
    })
}
