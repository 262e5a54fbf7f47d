//! Builds, from a client's request to what it exports.
//!
//! Docker's clients make two calls for a build: `Control.Solve`, which has the reference, the exporters and the session, and lasts as
//! long as the build; and `LLBBridge.Solve` with the frontend and its attributes, for the same reference. `LLBBridge.Return` ends the
//! second part and lets the first one export. Older clients send the frontend with `Control.Solve`.

use super::attributes::{self, Attributes};
use super::exporters::{self, is_image};
use super::grpc::{Code, GrpcStatus};
use super::inputs::{self, Inputs};
use super::lender::{SessionLender, SessionLogins};
use super::progress::SolveProgress;
use super::session::{self, Session};
use super::sources;
use super::subrequests::Subrequest;
use crate::engine::{Engine, EngineError};
use crate::image::ImageError;
use crate::image::build::dockerfile::MalformedDockerfile;
use crate::image::build::solve::Built;
use crate::image::build::{BuildReport, DockerfileLine, GivenDockerfile};
use crate::image::credentials::Logins;
use bollard_buildkit_proto::google::protobuf::Any;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::result::Result as Returned;
use bollard_buildkit_proto::moby::buildkit::v1::{Exporter, SolveRequest};
use bollard_buildkit_proto::pb::Definition;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Builds at once. Some of them may have ended a moment ago.
const MAX_JOBS: usize = 128;
const MAX_REFERENCE: usize = 128;
/// How long a call waits for the build that it is about: a client begins its calls at once.
const APPEARS: Duration = Duration::from_secs(6);
/// How long a build is known after its end, for a client that asks late for its progress.
const KNOWN_AFTER: Duration = Duration::from_secs(5);
/// Bytes of a Dockerfile that an error shows.
const MAX_SHOWN: usize = 16 << 10;

static JOBS: LazyLock<watch::Sender<BTreeMap<String, Arc<SolveJob>>>> = LazyLock::new(|| watch::Sender::new(BTreeMap::new()));

/// A build by its reference.
pub(super) struct SolveJob {
    pub reference: String,
    pub progress: SolveProgress,
    session: String,
    exporters: Vec<Exporter>,
    entitlements: Vec<String>,
    inline_cache: bool,
    /// The images that were built, by the ids that the client has for them.
    built: Mutex<HashMap<String, Built>>,
    /// What the client has made of its results: one of those images, or none.
    returned: watch::Sender<Option<Result<Option<String>, GrpcStatus>>>,
    ended: watch::Sender<bool>,
}

/// A build's registration, which ends with the call that has made it.
struct Registered(Arc<SolveJob>);

impl Drop for Registered {
    fn drop(&mut self) {
        self.0.progress.end();
        self.0.ended.send_replace(true);
        let job = self.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(KNOWN_AFTER).await;
            JOBS.send_modify(|jobs| drop(jobs.remove(&job.reference)));
        });
    }
}

/// The build with a reference.
///
/// # Errors
/// When there is none, and none comes.
pub(super) async fn find(reference: &str) -> Result<Arc<SolveJob>, GrpcStatus> {
    let missing = || GrpcStatus::new(Code::NotFound, format!("no such build: {reference}"));
    if reference.is_empty() {
        return Err(missing());
    }
    let mut jobs = JOBS.subscribe();
    let found = tokio::time::timeout(APPEARS, jobs.wait_for(|jobs| jobs.contains_key(reference))).await;
    let found = found.ok().and_then(Result::ok).and_then(|jobs| jobs.get(reference).cloned());
    found.ok_or_else(missing)
}

/// Builds, and exports what was built.
///
/// # Errors
/// The build's, or why there can be none.
pub(super) async fn solve(engine: &Arc<Engine>, request: SolveRequest) -> Result<HashMap<String, String>, GrpcStatus> {
    // It is known before it is refused: its client asks for its progress at the same time.
    let job = register(&request)?;
    let job = &job.0;
    check(&request)?;
    exporters::check(&job.exporters)?;
    let id = if request.frontend.is_empty() {
        let mut returned = job.returned.subscribe();
        let returned = returned.wait_for(Option::is_some).await.map(|returned| returned.clone());
        returned.ok().flatten().unwrap_or(Ok(None))?
    } else {
        Some(job.build(engine, &request.frontend, &request.frontend_attrs, &request.frontend_inputs).await?)
    };
    let Some(id) = id else { return Ok(HashMap::new()) };
    let built = job.find_built(&id)?;
    exporters::export(job, engine, &job.exporters, &built).await
}

/// Whether a call brings a build graph.
pub(super) fn has_graph(definition: &Definition) -> bool {
    !definition.def.is_empty()
}

/// Refuses what a client wants built by a graph of its own.
///
/// # Errors
/// Where there is one.
pub(super) fn refuse_graphs(definition: Option<&Definition>) -> Result<(), GrpcStatus> {
    if definition.is_some_and(has_graph) {
        return Err(GrpcStatus::new(Code::Unimplemented, "wharf builds Dockerfiles, and no build graphs (LLB) of its clients"));
    }
    Ok(())
}

/// Refuses what is not there.
fn check(request: &SolveRequest) -> Result<(), GrpcStatus> {
    refuse_graphs(request.definition.as_ref())?;
    for export in request.cache.iter().flat_map(|cache| &cache.exports) {
        if export.r#type != "inline" {
            let message = format!("wharf exports no cache of type {}: use `type=inline`", export.r#type);
            return Err(GrpcStatus::new(Code::Unimplemented, message));
        }
    }
    Ok(())
}

fn register(request: &SolveRequest) -> Result<Registered, GrpcStatus> {
    let reference = request.r#ref.clone();
    if reference.is_empty() || reference.len() > MAX_REFERENCE {
        return Err(GrpcStatus::new(Code::InvalidArgument, "the build has no reference"));
    }
    let exporters = match request.exporters.as_slice() {
        [] if request.exporter_deprecated.is_empty() => Vec::new(),
        [] => vec![Exporter { r#type: request.exporter_deprecated.clone(), attrs: request.exporter_attrs_deprecated.clone() }],
        exporters => exporters.to_vec(),
    };
    let job = Arc::new(SolveJob {
        reference: reference.clone(),
        progress: SolveProgress::default(),
        session: request.session.clone(),
        exporters,
        entitlements: request.entitlements.clone(),
        inline_cache: request.cache.as_ref().is_some_and(|cache| !cache.exports.is_empty()),
        built: Mutex::default(),
        returned: watch::Sender::new(None),
        ended: watch::Sender::new(false),
    });
    let mut refused = None;
    JOBS.send_if_modified(|jobs| {
        if jobs.contains_key(&reference) {
            refused = Some(GrpcStatus::new(Code::AlreadyExists, format!("there is a build {reference} already")));
        } else if jobs.len() >= MAX_JOBS {
            refused = Some(GrpcStatus::new(Code::ResourceExhausted, "too many builds at once: try it again later"));
        } else {
            jobs.insert(reference, job.clone());
        }
        refused.is_none()
    });
    refused.map_or(Ok(Registered(job)), Err)
}

/// The result of a build, whichever it was.
fn result_of_any(id: &str) -> Result<Built, GrpcStatus> {
    let jobs: Vec<Arc<SolveJob>> = JOBS.borrow().values().cloned().collect();
    let missing = || GrpcStatus::new(Code::NotFound, format!("no such result: {id}: its build has ended"));
    jobs.iter().find_map(|job| job.find_built(id).ok()).ok_or_else(missing)
}

impl SolveJob {
    /// Comes back when the build has ended, or was given up.
    async fn ended(&self) {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Builds by a frontend's attributes. Gives the client's id of the image.
    ///
    /// # Errors
    /// The build's, with the place in the Dockerfile.
    pub async fn build(
        &self,
        engine: &Arc<Engine>,
        frontend: &str,
        attributes: &Attributes,
        inputs: &Inputs,
    ) -> Result<String, GrpcStatus> {
        tokio::select! {
            built = self.build_image(engine, frontend, attributes, inputs) => {
                let built = built.map_err(GrpcStatus::without_code)?;
                let id = crate::random::hex::<12>().map_err(GrpcStatus::internal)?;
                self.built.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), built);
                Ok(id)
            }
            () = self.ended() => Err(GrpcStatus::new(Code::Cancelled, "context canceled")),
        }
    }

    /// Answers a question about the client's Dockerfile, as the metadata of a result.
    ///
    /// # Errors
    /// When there is no Dockerfile, or it is not understood.
    pub async fn answer(
        &self,
        engine: &Arc<Engine>,
        subrequest: Subrequest,
        attributes: &Attributes,
    ) -> Result<HashMap<String, Vec<u8>>, GrpcStatus> {
        let answered = async {
            let store = &engine.images.store;
            let given = match subrequest {
                Subrequest::Describe => GivenDockerfile::default(),
                _ => sources::dockerfile_alone(self, store, attributes).await?,
            };
            let failed = |wrong: MalformedDockerfile| {
                let place = DockerfileLine {
                    shown: given.shown.clone(),
                    source: given.text.clone(),
                    line: wrong.line,
                    what: wrong.message,
                    help: wrong.help,
                };
                Self::status_at(&place, place.message())
            };
            subrequest.answer(&given, attributes, store).map_err(failed)
        };
        tokio::select! {
            answered = answered => answered.map_err(GrpcStatus::without_code),
            () = self.ended() => Err(GrpcStatus::new(Code::Cancelled, "context canceled")),
        }
    }

    async fn build_image(
        &self,
        engine: &Arc<Engine>,
        frontend: &str,
        attributes: &Attributes,
        inputs: &Inputs,
    ) -> Result<Built, GrpcStatus> {
        attributes::check_frontend(frontend, attributes)?;
        let (mut request, files) = attributes::read(attributes)?;
        for (name, key) in &files.inputs {
            let missing =
                || GrpcStatus::new(Code::InvalidArgument, format!("the context `{name}` is input:{key}, which did not come"));
            let result = inputs::result_of(inputs.get(key).ok_or_else(missing)?)?;
            request.built.insert(name.clone(), result_of_any(&result)?.manifest);
        }
        let images = self.exporters.iter().filter(|exporter| is_image(exporter));
        request.tags = images.flat_map(exporters::names).map(str::to_string).collect();
        // Without an image to export it is made for its files alone.
        request.passing = !self.exporters.iter().any(is_image);
        request.inline_cache |= self.inline_cache;
        request.entitlements.clone_from(&self.entitlements);
        let session = self.own_session().await?;
        request.lender = Some(Arc::new(SessionLender::new(session.clone(), engine.images.store.clone())));
        let logins = Logins::Asked(Arc::new(SessionLogins { session, runtime: tokio::runtime::Handle::current() }));
        let fetched = sources::fetch(self, &engine.images.store, files, attributes, &mut request).await?;
        let report: BuildReport = {
            // Whoever reports after the end of the call reports to nobody.
            let jobs = JOBS.borrow().get(&self.reference).cloned();
            Arc::new(move |event| jobs.iter().for_each(|job| job.progress.event(&job.reference, event.clone())))
        };
        let result = engine.build(request, logins, report).await;
        drop(fetched);
        result.map_err(|error| self.status_of(error))
    }

    /// The session of a directory of the client: another than the build's, where several builds share one.
    pub async fn session(&self, attributes: &Attributes, directory: &str) -> Result<Arc<Session>, GrpcStatus> {
        session::find(attributes.get(&format!("local-sessionid:{directory}")).unwrap_or(&self.session)).await
    }

    /// The build's own session.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn own_session(&self) -> Result<Arc<Session>, GrpcStatus> {
        session::find(&self.session).await
    }

    fn find_built(&self, id: &str) -> Result<Built, GrpcStatus> {
        let built = self.built.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        built.ok_or_else(|| GrpcStatus::new(Code::NotFound, format!("no such result: {id}")))
    }

    /// Whether the client has such a result.
    ///
    /// # Errors
    /// When it has not.
    pub fn check_built(&self, id: &str) -> Result<(), GrpcStatus> {
        if id.is_empty() { Ok(()) } else { self.find_built(id).map(drop) }
    }

    /// Takes what the client makes of its results: that it has failed, or the image to export.
    ///
    /// # Errors
    /// When it names more than one.
    pub fn take_returned(&self, returned: Result<Option<Returned>, GrpcStatus>) -> Result<(), GrpcStatus> {
        let several = || GrpcStatus::new(Code::Unimplemented, "wharf exports one result of a build");
        let one = |ids: Vec<String>| if ids.len() > 1 { Err(several()) } else { Ok(ids.into_iter().next()) };
        let id = match returned {
            Err(status) => Err(status),
            Ok(None) => Ok(None),
            Ok(Some(Returned::Ref(result))) => Ok(Some(result.id)),
            Ok(Some(Returned::RefDeprecated(id))) => Ok(Some(id)),
            Ok(Some(Returned::Refs(results))) => one(results.refs.into_values().map(|result| result.id).collect()),
            Ok(Some(Returned::RefsDeprecated(results))) => one(results.refs.into_values().collect()),
        };
        self.returned.send_replace(Some(id.map(|id| id.filter(|id| !id.is_empty()))));
        Ok(())
    }

    /// A build's error as BuildKit's clients show it: in its words for a command that has failed, and with the lines of the
    /// Dockerfile around it.
    pub fn status_of(&self, error: EngineError) -> GrpcStatus {
        let EngineError::Image(ImageError::Dockerfile { place, .. }) = &error else {
            return GrpcStatus::new(Code::Unknown, error.to_string());
        };
        Self::status_at(place, self.progress.returned().unwrap_or_else(|| place.message()))
    }

    /// An error with the lines of the Dockerfile that it is about.
    fn status_at(place: &DockerfileLine, message: String) -> GrpcStatus {
        let mut status = GrpcStatus::new(Code::Unknown, message);
        if place.source.len() <= MAX_SHOWN {
            let range = json!({"start": {"line": place.line}, "end": {"line": place.line}});
            let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &place.source);
            let info = json!({"filename": place.shown, "data": data, "language": "Dockerfile"});
            status.details.push(Any {
                type_url: "github.com/moby/buildkit/errdefs.Source+json".into(),
                value: json!({"info": info, "ranges": [range]}).to_string().into_bytes(),
            });
        }
        status
    }
}
