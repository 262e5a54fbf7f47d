//! Images from Dockerfiles.
//!
//! [`dockerfile`] reads the text, [`stages`] finds which stages a target needs, [`solve`] goes through their instructions:
//! [`expand`] for variables, [`copy`] for COPY and ADD, the engine for RUN, [`config`] for what only changes the image's
//! configuration. [`cache`] knows what was built before. [`tarball`] gives a layer its digest, [`lint`] says what is rarely meant.

mod agent;
pub mod cache;
pub mod copy;
pub mod dockerfile;
pub mod expand;
pub mod files;
pub mod first_names;
pub mod flags;
pub mod git;
pub mod given_up;
pub mod grammar;
pub mod ignore;
pub mod lint;
pub mod mounts;
pub mod outline;
pub mod solve;
pub mod stages;
pub mod tarball;
pub mod walk;

use super::keyed_mutex::KeyedMutex;
use super::{ChainId, Digest, Image, ImageError, ImageRef, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

/// A build request. Paths are absolute.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildRequest {
    /// The directory that COPY reads from.
    pub context: PathBuf,
    /// The context was sent as an archive: nothing that it names is this machine's. Not the client's to say.
    #[serde(skip)]
    pub unpacked: bool,
    /// Relative to the context, or absolute; `Dockerfile` where it is absent.
    pub dockerfile: Option<PathBuf>,
    /// The Dockerfile's text itself.
    pub inline: Option<String>,
    /// A Dockerfile that was fetched apart from the context. Not the client's to say.
    #[serde(skip)]
    pub given: Option<GivenDockerfile>,
    /// Who has the secrets and agents that are not named here.
    #[serde(skip)]
    pub lender: Option<Arc<dyn Lender>>,
    /// The stage to build; the last one where it is absent.
    pub target: Option<String>,
    pub args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// The image's names.
    pub tags: Vec<String>,
    /// The image is made for its files alone, and is in no list.
    #[serde(default)]
    pub passing: bool,
    pub no_cache: bool,
    /// Ask the registries for newer bases.
    pub pull: bool,
    /// `default`, `host` or `none`: of every RUN.
    pub network: Option<String>,
    pub extra_hosts: Vec<String>,
    /// Bytes of /dev/shm.
    pub shm_size: Option<u64>,
    /// `os/arch`; this machine's is the only one that can be built.
    pub platform: Option<String>,
    /// Other contexts by name: a directory, `docker-image://NAME`.
    pub contexts: BTreeMap<String, String>,
    /// Contexts that are images which were built, by their manifests. Not the client's to say.
    #[serde(skip)]
    pub built: BTreeMap<String, Digest>,
    /// Secrets by id: where each is on this machine.
    pub secrets: BTreeMap<String, Secret>,
    /// A Git repository to build from instead of the directory: `URL#REF:DIRECTORY`.
    pub git: Option<String>,
    /// Images whose layers may be taken instead of building them, where they were built with `inline_cache`.
    pub cache_from: Vec<String>,
    /// The image carries its inline cache: other builds can use its steps.
    pub inline_cache: bool,
    /// Stages of which every step is made anew.
    pub no_cache_filter: Vec<String>,
    /// Sockets of SSH agents on this machine, by their ids.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// Entitlements of RUN beyond a container's confinement: `security.insecure`.
    pub entitlements: Vec<String>,
    /// SOURCE_DATE_EPOCH: the time of everything that is made.
    pub epoch: Option<i64>,
    /// The attestations to make.
    pub attest: super::attest::WantedAttestations,
    /// What the checks of the Dockerfile find is told as warnings.
    pub checked: bool,
}

/// A build request of another machine. What it names there comes with it: the directories as an archive, each below a directory of
/// the archive's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SentRequest {
    pub request: BuildRequest,
    pub dockerfile: Option<GivenDockerfile>,
    /// The context's directory in the archive; absent for a Git repository.
    pub context: Option<SentDirectory>,
    /// Those of other contexts, by their names.
    pub contexts: BTreeMap<String, SentDirectory>,
}

/// A directory at the top of an archive: a number, and no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentDirectory(pub u32);

impl std::fmt::Display for SentDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A Dockerfile's text, its name for messages, and what it leaves out of the context.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GivenDockerfile {
    pub text: String,
    pub shown: String,
    /// The text of its `.dockerignore`; the context's own where it is absent.
    pub ignored: Option<String>,
}

/// A line of a Dockerfile that an error is about.
#[derive(Clone, Debug)]
pub struct DockerfileLine {
    /// The Dockerfile's name, and its text.
    pub shown: String,
    pub source: String,
    pub line: usize,
    /// What is wrong there, without the line itself.
    pub what: String,
    pub help: Option<String>,
}

impl DockerfileLine {
    /// The error for who shows the line in a way of his own.
    pub fn message(&self) -> String {
        let help = self.help.as_ref().map(|help| format!("\n  help: {help}")).unwrap_or_default();
        format!("{}:{}: {}{help}", self.shown, self.line, self.what)
    }
}

/// A secret, and what the file that RUN sees is like where RUN does not say it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Secret {
    pub content: SecretContent,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: Option<u32>,
}

impl From<SecretContent> for Secret {
    fn from(content: SecretContent) -> Self {
        Secret { content, uid: None, gid: None, mode: None }
    }
}

/// Where a secret comes from. Its content is read when it is mounted, and is in no cache key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretContent {
    File(PathBuf),
    /// A value that the client has taken from its environment.
    Value(String),
    /// Bytes that are no text, in base64.
    Encoded(String),
}

/// Progress of a build.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildEvent {
    /// A step begins: its number, and how it is shown.
    Step {
        id: u32,
        name: String,
    },
    /// It was built before.
    Cached {
        id: u32,
    },
    /// A line of its output.
    Output {
        id: u32,
        line: String,
    },
    Done {
        id: u32,
        seconds: f64,
    },
    /// With the reason, without its place.
    Failed {
        id: u32,
        #[serde(default)]
        why: String,
    },
    Warning(String),
    /// An instruction of the Dockerfile begins: its number among all, and the step that it is; 0 where it has no work.
    Instruction {
        number: usize,
        count: usize,
        text: String,
        step: u32,
    },
    /// It is done: with what is there of the image by then, and whether it was built before.
    InstructionDone {
        number: usize,
        cached: bool,
        id: String,
    },
    /// A command has failed; the build's error follows.
    Returned {
        #[serde(default)]
        id: u32,
        command: String,
        code: i32,
    },
    /// The image is there: its id, its names, and its manifest's digest, by which it is found without a name.
    Built {
        id: Digest,
        names: Vec<String>,
        manifest: Digest,
    },
}

/// The receiver of a build's events.
pub type BuildReport = Arc<dyn Fn(BuildEvent) + Send + Sync>;

/// The receiver of a command's output, line by line.
pub type CommandOutput = Arc<dyn Fn(&str) + Send + Sync>;

/// A future without a type of its own, for [`Host`].
pub type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T, ImageError>> + Send + 'a>>;

/// The engine, as builds need it.
pub trait Host: Send + Sync {
    fn store(&self) -> Arc<Store>;

    fn contents(&self) -> &files::ContentDigests;

    /// Which steps are being made, by any build.
    fn keyed_mutex(&self) -> &KeyedMutex;

    /// An image that is here, or is pulled: always, where `newest` asks for it.
    fn image<'a>(&'a self, name: &'a ImageRef, newest: bool) -> Later<'a, Image>;

    /// Runs a command on layers. Its output goes to the step's `output`, line by line.
    fn run<'a>(&'a self, step: RunProcess) -> Later<'a, Ran>;
}

/// The client of a build, which is asked for what a step needs when it needs it.
pub trait Lender: Send + Sync + std::fmt::Debug {
    /// A secret by its id; nothing where the client has none.
    fn secret<'a>(&'a self, id: &'a str) -> Later<'a, Option<Vec<u8>>>;

    /// The socket of an SSH agent by its id; nothing where the client has none.
    fn agent<'a>(&'a self, id: &'a str) -> Later<'a, Option<PathBuf>>;
}

/// A RUN instruction as a process.
pub struct RunProcess {
    /// The lowest first.
    pub layers: Vec<ChainId>,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub network: Option<String>,
    pub extra_hosts: Vec<String>,
    pub shm_size: Option<u64>,
    pub ulimits: Vec<(String, i64, i64)>,
    pub privileged: bool,
    pub mounts: Vec<mounts::MadeMount>,
    pub output: CommandOutput,
}

/// How a RUN ended, and the files that it has left.
pub struct Ran {
    pub code: i32,
    pub draft: super::store::LayerDraft,
}
