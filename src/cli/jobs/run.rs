//! `wharf run JOB`: a run of a job as the file has it, with its output and its exit code.

use super::ended_by;
use crate::api::client::{Client, ClientError};
use crate::api::reply::escape;
use crate::cli::project::{attach, up};
use crate::cli::signals::or_cancelled;
use crate::cli::{Failure, Global, Outcome};
use crate::compose::Loaded;
use crate::plan::PullPolicy;
use crate::wire::{JobRun, JobRunRequest, Progress};
use serde_json::Value;
use std::borrow::Cow;

/// How a job is run.
#[derive(Debug, Default)]
pub struct RunOptions {
    pub detach: bool,
    pub quiet: bool,
    pub build: bool,
    pub quiet_build: bool,
    pub no_deps: bool,
    pub pull: Option<String>,
    pub remove_orphans: bool,
    /// Standard input is the container's.
    pub stdin: bool,
    /// Its container goes, however it has ended.
    pub rm: bool,
}

/// The project in which jobs are services: for the steps before the engine that look at services, builds and the contents of files.
pub fn with_jobs_as_services(loaded: &Loaded) -> Cow<'_, Loaded> {
    if loaded.project.jobs.is_empty() {
        return Cow::Borrowed(loaded);
    }
    let mut with = loaded.clone();
    with.project.services.extend(std::mem::take(&mut with.project.jobs).into_iter().map(|(name, job)| (name, job.service)));
    Cow::Owned(with)
}

pub async fn run(global: &Global, client: &Client, loaded: &Loaded, job: &str, options: RunOptions) -> Outcome {
    let named = [job.to_string()];
    let starting = up::selected(&with_jobs_as_services(loaded), &named, options.no_deps);
    let pull: Option<PullPolicy> = up::pull_policy(options.pull.as_deref())?;
    let build = if options.build { &named[..] } else { &[] };
    let quiet_build = options.quiet_build || options.quiet;
    or_cancelled(up::build_what_is_missing(client, loaded, &starting, pull, build, quiet_build)).await?;
    let how = up::UpOutput {
        no_deps: options.no_deps,
        remove_orphans: options.remove_orphans,
        pull: options.pull,
        ..up::UpOutput::default()
    };
    let mut request = up::request(global, loaded, named.to_vec(), how, false)?;
    request.options.services.clear();
    let request = JobRunRequest { up: request, detach: options.detach };
    let (mut container, mut run) = (None, None);
    let each = |progress: &Progress| match progress {
        Progress::Created(id) => container = Some(id.clone()),
        Progress::Run(id) => run = Some(id.clone()),
        _ => {}
    };
    let path = up::path(loaded, &format!("jobs/{}/run", escape(job)));
    let begun = up::follow_with(client, &path, &request, up::OnSignal::Cancel, options.quiet, each).await;
    let name = format!("{}.{job}", loaded.project.name);
    let (Ok(()), Some(container), Some(run)) = (&begun, container, run) else {
        begun?;
        return Err(Failure::Message("the engine left before the run began; run the command again".into()));
    };
    if options.detach {
        println!("{run}");
        return Ok(());
    }
    let stay = attach::Stay { which: attach::Which::output(options.stdin), keep: true, ..attach::Stay::default() };
    let stayed = attach::start_and_stay(client, &container, stay).await;
    let path = format!("/jobs/{}/wait?run={}", escape(&name), escape(&run));
    let ended: Result<JobRun, _> = client.ask_again(async || client.post(&path, &Value::Null).await).await;
    if options.rm {
        match client.delete(&format!("/containers/{container}?force=1&v=1")).await {
            // The engine removes those of runs that have succeeded.
            Ok(()) | Err(ClientError::Refused { status: 404 | 409, .. }) => {}
            Err(error) => eprintln!("warning: removing the container of the run: {error}"),
        }
    }
    match (stayed, ended) {
        (_, Ok(ended)) => ended_by(&ended),
        (stayed, Err(_)) => stayed,
    }
}
