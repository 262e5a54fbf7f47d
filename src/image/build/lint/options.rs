//! Which rules hold for a file: its directive `check`, or an argument of the build.

use crate::image::build::dockerfile::Dockerfile;
use std::collections::{BTreeMap, BTreeSet};

/// Which rules are looked at: `# check=skip=NAME,...;error=true` of the file, or the argument BUILDKIT_DOCKERFILE_CHECK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    skip: BTreeSet<String>,
    pub(super) skip_all: bool,
    /// A finding is an error.
    pub is_error: bool,
}

/// The argument of a build that stands for the directive.
const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

impl Checks {
    /// Those of a file that is built with some arguments.
    ///
    /// # Errors
    /// As [`Checks::parse`].
    pub fn of(file: &Dockerfile, arguments: &BTreeMap<String, String>) -> Result<Self, String> {
        Checks::parse(arguments.get(ARGUMENT).or(file.check.as_ref()).map_or("", String::as_str))
    }

    /// # Errors
    /// An option that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut checks = Checks::default();
        for part in text.trim().split(';').filter(|part| !part.trim().is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("invalid check option \"{}\"", part.trim()))?;
            match (key.trim(), value.trim()) {
                ("skip" | "experimental", "all") if key.trim() == "skip" => checks.skip_all = true,
                ("skip", names) => checks.skip.extend(names.split(',').map(|name| name.trim().to_string())),
                // None of them is there.
                ("experimental", _) => {}
                ("error", value) => {
                    let failed = || format!("failed to parse check option \"{}\": it is true or false", part.trim());
                    checks.is_error = crate::units::boolean(value).ok_or_else(failed)?;
                }
                (key, _) => return Err(format!("invalid check option \"{key}\"")),
            }
        }
        Ok(checks)
    }

    pub(super) fn allows(&self, rule: &str) -> bool {
        !self.skip_all && !self.skip.contains(rule)
    }
}
