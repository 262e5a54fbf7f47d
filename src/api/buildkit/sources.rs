//! What a build reads: its Dockerfile, its context and further ones, which come from the client.

use super::attributes::{self, Attributes, Files, Source};
use super::filesync::{self, Selection};
use super::grpc::{Code, GrpcStatus};
use super::jobs::SolveJob;
use super::progress::ProgressStep;
use super::session::Session;
use crate::engine::EngineError;
use crate::image::build::files::Tree;
use crate::image::build::lint::{self, Checks};
use crate::image::build::{BuildRequest, GivenDockerfile, dockerfile, ignore, solve};
use crate::image::chunks::ChunkReader;
use crate::image::store::{LayerDraft, Passing, Store};
use crate::image::{compression, unpack};
use bollard_buildkit_proto::moby::buildkit::v1::VertexWarning;
use bollard_buildkit_proto::moby::upload::v1::BytesMessage;
use bollard_buildkit_proto::pb::{Position, Range, SourceInfo};
use hyper::header::{HeaderName, HeaderValue};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Findings that are shown, each with the text of the Dockerfile.
const MAX_WARNINGS: usize = 50;

/// The files of a build, which go when it has ended.
pub(super) struct Fetched {
    _drafts: Vec<Passing>,
}

/// Fetches the files, and names them in the request.
///
/// # Errors
/// When the client does not have them, or leaves.
pub(super) async fn fetch(
    job: &SolveJob,
    store: &Arc<Store>,
    files: Files,
    attributes: &Attributes,
    request: &mut BuildRequest,
) -> Result<Fetched, GrpcStatus> {
    let mut drafts = Vec::new();
    let mut ignored = None;
    if let Some(directory) = &files.dockerfile {
        let given = load_dockerfile(job, store, directory, &files.filename, attributes).await?;
        solve::check(&given, request.target.as_deref()).map_err(|error| job.status_of(EngineError::Image(error)))?;
        ignored.clone_from(&given.ignored);
        request.given = Some(given);
    } else {
        request.dockerfile = Some(files.filename.clone().into());
    }
    match &files.context {
        Source::Git(url) => request.git = Some(url.clone()),
        Source::Upload(id) => {
            let draft = Passing::new(store.draft().map_err(GrpcStatus::internal)?);
            let step = job.progress.begin(&format!("{}/context", job.reference), "[internal] load remote build context");
            let session = job.own_session().await?;
            step.result(upload(&session, id, draft.diff()).await)?;
            if request.given.is_none() {
                let tree = Tree::directory(&draft.diff()).map_err(GrpcStatus::internal)?;
                let text = optional(&tree, &files.filename, dockerfile::MAX_FILE)?;
                text.as_deref().and_then(attributes::syntax).map_or(Ok(()), attributes::check_syntax)?;
            }
            request.context = draft.diff();
            drafts.push(draft);
        }
        Source::Local(directory) => {
            let ignored = match ignored {
                Some(text) => text,
                None => load_ignored(job, store, directory, attributes).await?,
            };
            let selection = Selection { exclude: ignore::lines(&ignored), ..Selection::default() };
            let draft = Passing::new(store.draft().map_err(GrpcStatus::internal)?);
            let step = job.progress.begin(&format!("{}/context", job.reference), "[internal] load build context");
            let session = job.session(attributes, directory).await;
            let received = match session {
                Ok(session) => filesync::receive(&session, directory, &selection, draft.diff()).await,
                Err(status) => Err(status),
            };
            if let Ok(entries) = &received {
                step.status(&format!("transferring context: {entries} files"));
            }
            step.result(received)?;
            if let Some(given) = &mut request.given {
                given.ignored = Some(ignored);
            }
            request.context = draft.diff();
            drafts.push(draft);
        }
    }
    for (name, directory) in &files.contexts {
        let draft = Passing::new(store.draft().map_err(GrpcStatus::internal)?);
        let step =
            job.progress.begin(&format!("{}/context/{name}", job.reference), &format!("[context {name}] load from client"));
        let session = job.session(attributes, directory).await?;
        step.result(filesync::receive(&session, directory, &Selection::default(), draft.diff()).await)?;
        request.contexts.insert(name.clone(), draft.diff().to_string_lossy().into_owned());
        drafts.push(draft);
    }
    Ok(Fetched { _drafts: drafts })
}

/// Unpacks an archive that the client uploads.
async fn upload(session: &Session, id: &str, into: PathBuf) -> Result<(), GrpcStatus> {
    const METHOD: &str = "/moby.upload.v1.Upload/Pull";
    let value = |text: &str| HeaderValue::from_str(text).map_err(GrpcStatus::internal);
    let metadata = vec![
        (HeaderName::from_static("urlpath"), vec![value(&format!("/{id}"))?]),
        (HeaderName::from_static("urlhost"), vec![value("buildkit-session")?]),
    ];
    let (_kept, nothing) = mpsc::channel::<BytesMessage>(1);
    let mut incoming = session.channel.stream(METHOD, metadata, nothing).await?;
    let (chunks, reader) = ChunkReader::channel(16);
    let unpacking = tokio::task::spawn_blocking(move || -> Result<(), String> {
        let directory = File::open(&into).map_err(|e| e.to_string())?;
        let plain = compression::plain_of_any(reader).map_err(|e| e.to_string())?;
        unpack::extract(plain, directory.as_fd(), None).map(drop).map_err(|e| e.to_string())
    });
    let pump = async {
        while let Some(part) = incoming.next::<BytesMessage>().await? {
            if chunks.send(Ok(part.data.into())).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let sent: Result<(), GrpcStatus> = pump.await;
    if let Err(status) = &sent {
        let _ = chunks.send(Err(io::Error::other(status.to_string()))).await;
    }
    drop(chunks);
    let unpacked = unpacking.await.map_err(GrpcStatus::internal)?;
    sent?;
    unpacked.map_err(|why| GrpcStatus::new(Code::InvalidArgument, format!("the build context: {why}")))
}

/// Some files of a client's directory.
async fn load(
    job: &SolveJob,
    store: &Arc<Store>,
    directory: &str,
    names: Vec<String>,
    attributes: &Attributes,
) -> Result<(LayerDraft, Tree), GrpcStatus> {
    let draft = store.draft().map_err(GrpcStatus::internal)?;
    let session = job.session(attributes, directory).await?;
    let selection = Selection { follow: names, ..Selection::default() };
    filesync::receive(&session, directory, &selection, draft.diff()).await?;
    let tree = Tree::directory(&draft.diff()).map_err(GrpcStatus::internal)?;
    Ok((draft, tree))
}

/// A text that may be missing.
fn optional(tree: &Tree, name: &str, limit: u64) -> Result<Option<String>, GrpcStatus> {
    match tree.read_text(Path::new(name), limit) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(GrpcStatus::new(Code::InvalidArgument, format!("{name} cannot be read: {error}"))),
    }
}

/// The Dockerfile of a client's directory alone, for who builds nothing.
///
/// # Errors
/// When there is none; of other sources it would have to be fetched with all else.
pub(super) async fn dockerfile_alone(
    job: &SolveJob,
    store: &Arc<Store>,
    attributes: &Attributes,
) -> Result<GivenDockerfile, GrpcStatus> {
    let files = attributes::files(attributes, &mut BuildRequest::default())?;
    let Some(directory) = &files.dockerfile else {
        let message = "wharf checks Dockerfiles of a directory of the client: give the repository as a directory, or the Dockerfile with `-f`";
        return Err(GrpcStatus::new(Code::Unimplemented, message));
    };
    load_dockerfile(job, store, directory, &files.filename, attributes).await
}

async fn load_dockerfile(
    job: &SolveJob,
    store: &Arc<Store>,
    directory: &str,
    filename: &str,
    attributes: &Attributes,
) -> Result<GivenDockerfile, GrpcStatus> {
    let step = job
        .progress
        .begin(&format!("{}/dockerfile", job.reference), &format!("[internal] load build definition from {filename}"));
    let own = format!("{filename}.dockerignore");
    let loaded = async {
        let (_draft, tree) = load(job, store, directory, vec![filename.to_string(), own.clone()], attributes).await?;
        let text = optional(&tree, filename, dockerfile::MAX_FILE)?;
        let missing =
            || GrpcStatus::new(Code::NotFound, format!("failed to read dockerfile: open {filename}: no such file or directory"));
        let text = text.ok_or_else(missing)?;
        attributes::syntax(&text).map_or(Ok(()), attributes::check_syntax)?;
        Ok(GivenDockerfile { text, shown: filename.to_string(), ignored: optional(&tree, &own, ignore::MAX_FILE)? })
    };
    let loaded: Result<GivenDockerfile, GrpcStatus> = loaded.await;
    if let Ok(given) = &loaded {
        step.status(&format!("transferring dockerfile: {}B", given.text.len()));
        if !attributes.contains_key("requestid") {
            warn(&step, store, given, attributes);
        }
    }
    step.result(loaded)
}

/// What the checks of a Dockerfile find, on the vertex that has loaded it. What is wrong with it is said by the build.
fn warn(step: &ProgressStep<'_>, store: &Store, given: &GivenDockerfile, attributes: &Attributes) {
    let Ok(file) = dockerfile::parse(&given.text) else { return };
    let Ok(checks) = Checks::of(&file, &attributes::below(attributes, "build-arg:")) else { return };
    let info = SourceInfo {
        filename: given.shown.clone(),
        data: given.text.clone().into_bytes(),
        language: "Dockerfile".into(),
        definition: None,
    };
    for finding in lint::lint(&given.text, &file, &checks, &|image| store.environment(image)).iter().take(MAX_WARNINGS) {
        let position = |line: usize| Some(Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 });
        step.warn(VertexWarning {
            level: 1,
            short: finding.short().into_bytes(),
            detail: vec![finding.description().as_bytes().to_vec()],
            url: finding.url(),
            info: Some(info.clone()),
            ranges: vec![Range { start: position(finding.lines.0), end: position(finding.lines.1) }],
            ..VertexWarning::default()
        });
    }
}

/// The `.dockerignore` of a context.
async fn load_ignored(
    job: &SolveJob,
    store: &Arc<Store>,
    directory: &str,
    attributes: &Attributes,
) -> Result<String, GrpcStatus> {
    const NAME: &str = ".dockerignore";
    let step = job.progress.begin(&format!("{}/dockerignore", job.reference), "[internal] load .dockerignore");
    let loaded = async {
        let (_draft, tree) = load(job, store, directory, vec![NAME.to_string()], attributes).await?;
        Ok::<_, GrpcStatus>(optional(&tree, NAME, ignore::MAX_FILE)?.unwrap_or_default())
    };
    step.result(loaded.await)
}
