//! The end of a step's output.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Lines of a failed command that its error shows.
const SHOWN_LINES: usize = 20;

/// The last lines of a step's output, for when it fails.
#[derive(Clone, Default)]
pub(in crate::image::build::solve) struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    pub(super) fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if lines.len() == SHOWN_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_string());
    }
}

impl std::fmt::Display for LastLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).iter().try_for_each(|line| write!(f, "\n      {line}"))
    }
}
