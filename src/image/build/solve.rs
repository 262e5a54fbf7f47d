//! A build from its request to its image: stages run concurrently, the instructions of a stage in order.

mod attesting;
mod base;
mod copying;
mod dockerfile_source;
mod instructions;
mod run;
mod sources;
mod variables;

use super::cache::{self, StepResult};
use super::copy::{self, Copy, ModeChange};
use super::dockerfile::{self, Instruction, MalformedDockerfile, json_form, pairs, words};
use super::expand::{self};
use super::files::Tree;
use super::git::GitRef;
use super::given_up::Waiting;
use super::ignore::{self, Patterns};
use super::lint::{self, Checks};
use super::stages::{self, Needs, Stages};
use super::{BuildEvent, BuildReport, BuildRequest, GivenDockerfile, Host};
use crate::image::attest::Predicate;
use crate::image::documents::{ConfigDocument, HistoryEntry};
use crate::image::store::{KeepImage, Layer, LayerDraft};
use crate::image::{ChainId, Digest, Image, ImageError, ImageRef, is_native};
use crate::sys::foreign_disk::ask;
use attesting::BuildFacts;
use dockerfile_source::{DockerfileSource, check_out, read_dockerfile};
use futures::future::{BoxFuture, FutureExt, try_join_all};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;

/// The image of a build.
#[derive(Debug, Clone)]
pub struct Built {
    /// The configuration's digest.
    pub id: Digest,
    /// The manifest's.
    pub manifest: Digest,
}

/// Repositories that a build fetches at the same time.
const CHECKOUTS_AT_ONCE: usize = 4;

/// Builds an image.
///
/// # Errors
/// With the position in the Dockerfile, and the last lines of a command that has failed. Nothing is tagged then.
pub async fn build(host: Arc<dyn Host>, request: BuildRequest, report: BuildReport) -> Result<Built, ImageError> {
    if let Some(platform) = request.platform.as_deref().filter(|platform| !is_native(platform)) {
        return Err(ImageError::Build(format!(
            "this machine is linux/{} and cannot build for {platform}; build on such a machine, or leave `platform` out",
            crate::image::architecture()
        )));
    }
    let mut request = request;
    // What was checked out goes when the build has ended.
    let (_checked_out, facts) = match check_out(&host, &mut request).await? {
        Some((draft, url, commit)) => (Some(draft), BuildFacts::new(Some((url, commit)))),
        None => (None, BuildFacts::new(None)),
    };
    let names: Vec<ImageRef> = request.tags.iter().map(|tag| tag.parse().map_err(ImageError::from)).collect::<Result<_, _>>()?;
    let context = ask(|| Tree::directory(&request.context))
        .map_err(ImageError::store(format!("opening the build context {}", request.context.display())))?;
    let foreign = request.unpacked || facts.has_repository();
    let (text, shown, ignored) = ask(|| Ok(read_dockerfile(&request, &context, foreign)))
        .map_err(ImageError::store("reading the Dockerfile".into()))??;
    let source = DockerfileSource { text, shown };
    let parsed = dockerfile::parse(&source.text).map_err(|m| source.at(m))?;
    let checks = Checks::of(&parsed, &request.args).map_err(ImageError::Build)?;
    let findings = lint::lint(&source.text, &parsed, &checks, &|image| host.store().environment(image));
    if checks.is_error && !findings.is_empty() {
        return Err(ImageError::Build(lint::violation(&findings)));
    }
    for finding in findings.iter().filter(|_| request.checked) {
        report(BuildEvent::Warning(finding.short()));
    }
    let stages = stages::split(parsed).map_err(|m| source.at(m))?;
    let target = target_stage(request.target.as_deref(), &stages, &source)?;
    let needs = Needs::of(&stages, |name| is_replaced(&request, name)).map_err(|m| source.at(m))?;
    let created = match request.epoch {
        Some(seconds) => jiff::Timestamp::from_second(seconds).unwrap_or_default(),
        None => jiff::Timestamp::now(),
    };
    let solver = Solver {
        learned: Mutex::default(),
        repositories: Mutex::default(),
        checkouts: Semaphore::new(CHECKOUTS_AT_ONCE),
        cells: stages.stages.iter().map(|_| OnceCell::new()).collect(),
        created: created.to_string(),
        context: Arc::new(context),
        steps: AtomicU32::new(0),
        global: BTreeMap::new(),
        ignored,
        host,
        request,
        report,
        source,
        stages,
        needs: Mutex::new(needs),
        facts,
        kept: AtomicUsize::new(0),
    };
    let solver = Arc::new(solver.with_globals()?);
    solver.learn().await;
    let finished = solver.clone().stage(target).await;
    let predicates = match &finished {
        Ok(finished) => solver.predicates(target, finished).await,
        Err(_) => Ok(Vec::new()),
    };
    let store = solver.host.store();
    match finished.and_then(|finished| Ok((finished, predicates?))) {
        Ok((finished, predicates)) => solver.store_image(&names, &finished, predicates).await,
        Err(error) => {
            // What was built is kept for the next try.
            let _ = blocking(move || store.confirm()).await;
            Err(error)
        }
    }
}

/// Checks a Dockerfile before its context is there.
///
/// # Errors
/// With the position in it.
pub fn check(given: &GivenDockerfile, target: Option<&str>) -> Result<(), ImageError> {
    let source = DockerfileSource { text: given.text.clone(), shown: given.shown.clone() };
    let parsed = dockerfile::parse(&source.text).map_err(|m| source.at(m))?;
    let stages = stages::split(parsed).map_err(|m| source.at(m))?;
    target_stage(target, &stages, &source).map(drop)
}

/// The number of the stage that is built: the named one, or the last.
fn target_stage(target: Option<&str>, stages: &Stages, source: &DockerfileSource) -> Result<usize, ImageError> {
    let Some(name) = target else { return Ok(stages.stages.len() - 1) };
    stages.find(name).ok_or_else(|| {
        let known: Vec<&str> = stages.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
        let known =
            if known.is_empty() { "none of its stages has a name".into() } else { format!("it has {}", known.join(", ")) };
        ImageError::Build(format!("target stage \"{name}\" could not be found in {}: {known}", source.shown))
    })
}

/// Whether `--from=NAME` is a further context of the build, whatever stages there are.
fn is_replaced(request: &BuildRequest, name: &str) -> bool {
    request.contexts.get(name).is_some_and(|context| !context.contains("://") || GitRef::parse(context).is_some())
}

/// The field of an image's configuration that has the inline cache.
const INLINE_CACHE: &str = "dev.wharf.cache";

/// A finished step: its key, and the index of its layer in the image.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Trod {
    key: Digest,
    layer: Option<usize>,
    bytes: u64,
    tar_bytes: u64,
    created: String,
}

/// A Git repository that was checked out, as long as the build lasts.
struct Repository {
    tree: Arc<Tree>,
    commit: String,
    /// Holds its files.
    _draft: LayerDraft,
}

struct Solver {
    /// Steps of the images that `cache_from` names: this build's alone, since whoever made such an image chose both the keys and
    /// the layers.
    learned: Mutex<HashMap<Digest, StepResult>>,
    /// Repositories that are sources.
    repositories: Mutex<HashMap<String, Repository>>,
    /// A Dockerfile may name any number of repositories.
    checkouts: Semaphore,
    host: Arc<dyn Host>,
    request: BuildRequest,
    report: BuildReport,
    source: DockerfileSource,
    stages: Stages,
    needs: Mutex<Needs>,
    context: Arc<Tree>,
    ignored: Patterns,
    cells: Vec<OnceCell<Arc<StageState>>>,
    steps: AtomicU32,
    created: String,
    /// ARGs before the first FROM, with their values.
    global: BTreeMap<String, String>,
    facts: BuildFacts,
    /// Bytes that are kept of variables and configurations.
    kept: AtomicUsize,
}

/// Bytes that the variables of all instructions, and the configurations of all stages, may have together: a Dockerfile of some
/// lines can make any number of them.
const MAX_KEPT: usize = 8 << 20;

/// The state of a stage between two instructions.
#[derive(Clone)]
struct StageState {
    /// The key of the file system: the chain of the steps that made it.
    key: String,
    layers: Vec<Layer>,
    config: ConfigDocument,
    /// Declared ARGs that have a value.
    args: BTreeMap<String, String>,
    cmd_is_own: bool,
    /// Nothing of this stage is taken from the cache.
    fresh: bool,
    /// How it came here.
    trail: Vec<Trod>,
    /// The time of its last change, in RFC 3339.
    created: String,
}

impl StageState {
    fn top(&self) -> Option<&ChainId> {
        self.layers.last().map(|layer| &layer.chain)
    }

    fn lookup(&self, name: &str) -> Option<String> {
        self.config.config.variable(name).or_else(|| self.args.get(name).cloned())
    }
}

/// One instruction that is carried out.
struct SolveStep<'a> {
    instruction: &'a Instruction,
    stage: usize,
    escape: char,
    id: u32,
}

impl Solver {
    /// Stores the image of the target stage under the request's names.
    async fn store_image(
        &self,
        names: &[ImageRef],
        finished: &StageState,
        predicates: Vec<Predicate>,
    ) -> Result<Built, ImageError> {
        let mut config = finished.config.clone();
        config.created = Some(finished.created.clone());
        config.config.labels.extend(self.request.labels.iter().map(|(name, value)| (name.clone(), value.clone())));
        if self.request.inline_cache {
            config.set_other(INLINE_CACHE, json!(finished.trail));
        }
        let (bytes, layers, tagged) = (config.to_bytes()?, finished.layers.clone(), names.to_vec());
        let keep = if self.request.passing { KeepImage::Passing } else { KeepImage::Listed };
        let store = self.host.store();
        let built = blocking(move || store.tag_built(&tagged, &bytes, &layers, &predicates, keep)).await?;
        let names: Vec<String> = names.iter().map(ImageRef::familiar).collect();
        (self.report)(BuildEvent::Built { id: built.id.clone(), names, manifest: built.manifest.clone() });
        Ok(built)
    }

    /// A stage's result; built once, whoever needs it. Each stage is a task of its own: in a chain of hundreds, futures inside of
    /// one another would exhaust the stack. The task ends with who waits for it.
    fn stage(self: Arc<Self>, index: usize) -> BoxFuture<'static, Result<Arc<StageState>, ImageError>> {
        async move {
            if let Some(known) = self.cells[index].get() {
                return Ok(known.clone());
            }
            let mut task = JoinSet::new();
            task.spawn(async move {
                let this = self.clone();
                self.cells[index].get_or_try_init(move || this.build_stage(index)).await.cloned()
            });
            match task.join_next().await {
                Some(Ok(result)) => result,
                Some(Err(e)) => Err(ImageError::Build(format!("the build ended early: {e}"))),
                None => Err(ImageError::Build("the build ended early".into())),
            }
        }
        .boxed()
    }

    /// A stage that an instruction of another one needs.
    async fn needed(self: &Arc<Self>, by: usize, line: usize, stage: usize) -> Result<Arc<StageState>, ImageError> {
        let noted = self.needs.lock().unwrap_or_else(|e| e.into_inner()).note(&self.stages, by, stage, line);
        noted.map_err(|malformed| self.source.at(malformed))?;
        self.clone().stage(stage).await
    }

    fn build_stage(self: Arc<Self>, index: usize) -> BoxFuture<'static, Result<Arc<StageState>, ImageError>> {
        async move {
            // What is copied from is needed in any case: it is built beside the base.
            let copied = self.stages.copied_from(index, |name| is_replaced(&self.request, name));
            let needed = copied.into_keys().map(|other| self.clone().stage(other));
            let stage = &self.stages.stages[index];
            let first = self.stages.number_of(index);
            self.report_instruction(first, &stage.from_text(), 0);
            let (mut state, _) = futures::future::try_join(self.base(index), try_join_all(needed)).await?;
            self.report_done(first, false, &state);
            let filtered = |name: &String| self.request.no_cache_filter.contains(name);
            state.fresh = self.request.no_cache || stage.name.as_ref().is_some_and(filtered);
            let mut instructions = triggers(&mut state.config, stage.line, &self.source)?;
            instructions.extend(stage.instructions.iter().cloned());
            let count = instructions.len() + 1;
            let label = stage
                .name
                .clone()
                .unwrap_or_else(|| if self.stages.stages.len() > 1 { format!("stage-{index}") } else { String::new() });
            for (i, instruction) in instructions.iter().enumerate() {
                let begun = Instant::now();
                let mut step = SolveStep { instruction, stage: index, escape: self.stages.escape, id: 0 };
                if has_work(&instruction.keyword) {
                    step.id = self.begin(&format!(
                        "[{}{}/{count}] {}",
                        if label.is_empty() { String::new() } else { format!("{label} ") },
                        i + 2,
                        instruction.text
                    ));
                }
                // Triggers of the base are no instructions of this file.
                let number = (i + stage.instructions.len()).checked_sub(instructions.len()).map(|at| first + 1 + at);
                if let Some(number) = number {
                    self.report_instruction(number, &instruction.text, step.id);
                }
                let result = self.perform(&mut state, &step).await;
                if let (Some(number), Ok(cached)) = (number, &result) {
                    self.report_done(number, *cached && step.id > 0, &state);
                }
                if step.id > 0 {
                    let (id, seconds) = (step.id, begun.elapsed().as_secs_f64());
                    match &result {
                        Ok(true) => (self.report)(BuildEvent::Cached { id }),
                        Ok(false) => (self.report)(BuildEvent::Done { id, seconds }),
                        Err(error) => (self.report)(BuildEvent::Failed { id, why: error.reason() }),
                    }
                }
                result?;
            }
            Ok(Arc::new(state))
        }
        .boxed()
    }

    fn report_instruction(&self, number: usize, text: &str, step: u32) {
        (self.report)(BuildEvent::Instruction { number, count: self.stages.count(), text: text.to_string(), step });
    }

    fn report_done(&self, number: usize, cached: bool, state: &StageState) {
        let id = state.top().map_or_else(String::new, |chain| chain.hex().chars().take(12).collect());
        (self.report)(BuildEvent::InstructionDone { number, cached, id });
    }

    fn begin(&self, name: &str) -> u32 {
        let id = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        (self.report)(BuildEvent::Step { id, name: name.to_string() });
        id
    }

    /// A step that writes into its layer from outside: found in the cache, or made by `work` on the overlay's root, which says whether
    /// it made what the key is of. Otherwise nobody finds it again, by a key that is returned.
    async fn make(
        self: &Arc<Self>,
        state: &StageState,
        key: &Digest,
        work: impl FnOnce(std::os::fd::OwnedFd, &Solver) -> Result<bool, ImageError> + Send + 'static,
    ) -> Result<(Digest, (StepResult, bool)), ImageError> {
        let store = self.host.store();
        let _turn = self.host.keyed_mutex().take(key.as_str()).await;
        if !state.fresh
            && let Some(made) = self.known(key)
        {
            return Ok((key.clone(), (made, true)));
        }
        let this = self.clone();
        let (layers, top, key) = (self.layer_paths(&state.layers), state.top().cloned(), key.clone());
        let epoch = self.request.epoch;
        let made = blocking(move || {
            let draft = store.draft()?;
            let lower = if layers.is_empty() { vec![empty_directory(&draft)?] } else { layers };
            let root = crate::runtime::overlay::mount_inert(&lower, Some((&draft.diff(), &draft.work())))
                .map_err(ImageError::store("mounting the layers of the build".into()))?;
            let is_of_key = work(root, &this)?;
            let made = StepResult { layer: store.keep(&draft, top.as_ref(), epoch)?, created: this.created.clone() };
            if !is_of_key {
                return Ok((cache::key(&changed_meanwhile(key.as_str())?, &[]), made));
            }
            cache::remember(&store, &key, &made);
            Ok((key, made))
        })
        .await?;
        Ok((made.0, (made.1, false)))
    }

    /// A step that was made before, or that an image which this build may take steps from was made by.
    fn known(&self, key: &Digest) -> Option<StepResult> {
        let store = self.host.store();
        cache::find(&store, key).or_else(|| {
            let made = self.learned.lock().unwrap_or_else(|e| e.into_inner()).get(key).cloned()?;
            made.layer.as_ref().is_none_or(|layer| store.is_usable(&layer.chain)).then_some(made)
        })
    }

    fn layer_paths(&self, layers: &[Layer]) -> Vec<PathBuf> {
        let store = self.host.store();
        layers.iter().map(|layer| store.layer(&layer.chain)).collect()
    }

    /// Puts what a step made on top of a stage.
    fn finish(
        &self,
        state: &mut StageState,
        key: Digest,
        (made, cached): (StepResult, bool),
        by: &str,
    ) -> Result<bool, ImageError> {
        state.trail.push(Trod {
            key: key.clone(),
            layer: made.layer.as_ref().map(|_| state.layers.len()),
            bytes: made.layer.as_ref().map_or(0, |layer| layer.bytes),
            tar_bytes: made.layer.as_ref().map_or(0, |layer| layer.tar_bytes),
            created: made.created.clone(),
        });
        state.created = state.created.clone().max(made.created);
        record(state, by, made.layer.is_some());
        state.key = key.to_string();
        if let Some(layer) = made.layer {
            // What comes next is on this layer, and on none that the same step made another time.
            state.key = cache::key(&state.key, &[layer.chain.as_str()]).to_string();
            state.config.add_layer(&layer.diff_id);
            state.layers.push(layer);
        }
        Ok(cached)
    }
}

/// In the place of a key's text for files that were changed between the look at them and their copy: no other step has it.
fn changed_meanwhile(of: &str) -> Result<String, ImageError> {
    let once = crate::random::hex::<16>().map_err(ImageError::store("making a key".into()))?;
    Ok(format!("{of} changed meanwhile {once}"))
}

/// ONBUILD's triggers of a base image, as instructions of the stage.
fn triggers(config: &mut ConfigDocument, line: usize, source: &DockerfileSource) -> Result<Vec<Instruction>, ImageError> {
    let all = std::mem::take(&mut config.config.on_build);
    let parse = |text: &String| dockerfile::instruction(text, line).map_err(|m| source.at(m));
    all.iter().map(parse).collect()
}

/// A line of the history. A step without a layer says so.
fn record(state: &mut StageState, by: &str, layer: bool) {
    let comment = Some("wharf".to_string());
    let entry = HistoryEntry { comment, empty_layer: !layer, ..HistoryEntry::new(&state.created, by) };
    state.config.history.push(entry);
}

fn has_work(keyword: &str) -> bool {
    matches!(keyword, "RUN" | "COPY" | "ADD" | "WORKDIR")
}

/// A path of the image: relative ones are below the working directory; `.` and `..` are resolved.
fn absolute(path: &str, working_dir: &str) -> String {
    let joined = if path.starts_with('/') { path.to_string() } else { format!("{working_dir}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// overlayfs wants something below: an empty directory, which goes with the draft.
fn empty_directory(draft: &LayerDraft) -> Result<PathBuf, ImageError> {
    let path = draft.diff().with_file_name("empty");
    std::fs::create_dir_all(&path).map_err(ImageError::store("preparing a layer".into()))?;
    Ok(path)
}

/// Threads that the steps of all builds may have at once: those of one with hundreds of stages leave some to other commands.
static STEPS: Semaphore = Semaphore::const_new(64);

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ImageError> + Send + 'static) -> Result<T, ImageError> {
    let permit = STEPS.acquire().await.map_err(|e| ImageError::Build(format!("the build ended early: {e}")))?;
    let waiting = Waiting::default();
    let step = waiting.step(move || {
        let _permit = permit;
        work()
    });
    tokio::task::spawn_blocking(step).await.map_err(|e| ImageError::Build(format!("the build ended early: {e}")))?
}
