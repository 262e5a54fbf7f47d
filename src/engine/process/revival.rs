//! Settings that an engine which a monitor has started takes over from the engine before it.
//!
//! A monitor has an empty environment, no streams, the engine's raised limit of open files and an oom_score_adj of its own: an
//! engine that inherited those would find no proxy and no `git`, lose its log, and give containers another `ulimit -n`.

use super::surroundings::Starters;
use crate::engine::{Config, EngineError};
use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The flag of an engine that keeps the limits which its monitor has from the engine before.
const KEPT: &str = "--keep-limits";

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// How an engine was started.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Surroundings {
    /// Bytes, since neither a name nor a value need be UTF-8.
    environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// The limit of open files: soft, hard.
    nofile: (u64, u64),
    oom_score_adj: String,
    /// Whether the limits and the scheduling are a service manager's, which a monitor has from its engine.
    #[serde(default)]
    kept: bool,
}

fn file(run_root: &Path) -> PathBuf {
    run_root.join("engine.start")
}

/// Where an engine that nobody looks at writes its log.
pub fn log_path(run_root: &Path) -> PathBuf {
    run_root.join("engine.log")
}

/// Keeps how this engine was started, for the one that a monitor may have to start. The environment may hold secrets: only
/// root can read the file, and the run root is a tmpfs.
///
/// # Errors
/// The file system's.
pub(in crate::engine) fn keep(config: &Config, nofile: (u64, u64), starters: Starters) -> Result<(), EngineError> {
    // What an argument has said is not in the environment, and a monitor does not know it.
    let settings = config.listening.variables();
    let variables = std::env::vars_os().filter(|(name, _)| settings.iter().all(|(known, _)| name != known));
    let said = settings.iter().filter_map(|(name, value)| Some((OsString::from(name), value.clone()?)));
    let environment = variables.chain(said).map(|(name, value)| (name.into_vec(), value.into_vec())).collect();
    let oom_score_adj = fs::read_to_string(OOM_SCORE_ADJ).unwrap_or_default().trim().to_string();
    let path = file(&config.run_root);
    let write = || -> io::Result<()> {
        let text = serde_json::to_vec(&Surroundings { environment, nofile, oom_score_adj, kept: starters == Starters::Kept })?;
        // A run root that somebody else has filled keeps no engine from coming back.
        if fs::read(&path).is_ok_and(|known| known == text) {
            return Ok(());
        }
        let temporary = path.with_extension("tmp");
        let mut to = File::options().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        to.write_all(&text)?;
        fs::rename(&temporary, &path)
    };
    write().map_err(EngineError::io(format!("writing {}", path.display())))
}

/// Executes this program again as the engine before it was started: a process cannot change its own environment while it has
/// threads, and the image is in memory. Returns where that cannot be done, and why.
pub fn take_over(run_root: &Path, flag: &str) -> io::Error {
    let known = fs::read(file(run_root)).and_then(|text| Ok(serde_json::from_slice::<Surroundings>(&text)?));
    let known = match known {
        Ok(known) => known,
        Err(error) => return error,
    };
    let _ = fs::write(OOM_SCORE_ADJ, &known.oom_score_adj);
    let _ = setrlimit(Resource::RLIMIT_NOFILE, known.nofile.0, known.nofile.1);
    let mut command = Command::new("/proc/self/exe");
    command.arg0("wharf").args(std::env::args_os().skip(1).filter(|argument| argument.as_bytes() != flag.as_bytes()));
    command.env_clear();
    command.envs(known.environment.into_iter().map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value))));
    command.args(known.kept.then_some(KEPT));
    match File::options().create(true).append(true).open(log_path(run_root)) {
        Ok(log) => command.stderr(log).exec(),
        Err(_) => command.exec(),
    }
}
