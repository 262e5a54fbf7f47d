//! The container of a job's run.

use super::execute::execute;
use super::queue::Change;
use super::{Origin, ProgressSender, StepContext, is_one_off, steps, warn};
use crate::compose::model::Project;
use crate::engine::error::EngineError;
use crate::engine::{Container, Engine};
use crate::labels::{LABEL_ONEOFF, LABEL_SERVICE};
use crate::plan::{self, Operation, UpOptions};
use indexmap::IndexMap;
use std::collections::HashSet;
use std::sync::Arc;

/// A container that a run of a job is to have.
pub(in crate::engine) struct JobContainer {
    pub job: String,
    pub name: String,
    pub labels: IndexMap<String, String>,
    pub project: Project,
    pub options: UpOptions,
    pub origin: Origin,
}

impl Engine {
    /// Starts what a job depends on, waits for its conditions, and makes the container of a run. It is not started. Nothing is made
    /// once the run is not wanted any more. What the run waits for may never come: other commands of the project go on meanwhile.
    ///
    /// # Errors
    /// As [`Engine::up`].
    pub(in crate::engine) async fn make_job_container(
        self: &Arc<Self>,
        container: JobContainer,
        progress: ProgressSender,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Arc<Container>, EngineError> {
        let JobContainer { job, name, labels, project, options, origin } = container;
        let missing = || EngineError::NoSuch { what: "job", name: job.clone() };
        let project = plan::with_job_as_service(&project, &job).ok_or_else(missing)?;
        let images: HashSet<String> = project.services.values().flat_map(|s| s.images()).map(str::to_string).collect();
        let guard = self.projects.take(&project.name, Change::Job, &progress).await?;
        // Under the lock: `down` asks runs to end before it takes it.
        if !wanted() {
            return Err(EngineError::Cancelled);
        }
        let observed = self.observe(&project.name, images.into_iter())?;
        let mut plan = plan::one_off(&project, &observed, &options, &job)?;
        steps::check_resources(self, &project, &plan)?;
        warn(&plan, &progress);
        let awaits = plan.split_off_awaits(&job);
        let context =
            |guard| StepContext { origin: origin.clone(), ..StepContext::new(self, project.clone(), progress.clone(), guard) };
        execute(Arc::new(context(Some(guard))), plan).await?;
        if !awaits.is_empty() {
            let waiting = context(None);
            futures::future::try_join_all(awaits.iter().map(|awaited| await_in_turn(&waiting, awaited))).await?;
        }
        let _guard = self.projects.take(&project.name, Change::Job, &progress).await?;
        if !wanted() {
            return Err(EngineError::Cancelled);
        }
        let mut spec = self.service_spec(&project, &job, 1, &origin)?;
        spec.labels.extend(labels);
        spec.labels.insert(LABEL_ONEOFF.into(), "True".into());
        self.create(&name, spec)
    }
}

/// Waits for a condition. A container that another command replaces meanwhile is waited for no more: the one in its place is.
async fn await_in_turn(context: &StepContext, awaited: &Operation) -> Result<(), EngineError> {
    let Operation::Await { service, .. } = awaited else { return Ok(()) };
    let containers = || -> HashSet<String> {
        let all = context.engine.containers.of_project(&context.project.name).into_iter();
        all.filter(|c| c.has_label(LABEL_SERVICE, service) && !is_one_off(c)).map(|c| c.id.clone()).collect()
    };
    loop {
        let before = containers();
        let failed = match steps::perform(context, awaited).await {
            Err(failed @ EngineError::Conflict(_)) => failed,
            other => return other,
        };
        // The command that has ended it may be about to put another in its place.
        drop(context.engine.projects.take(&context.project.name, Change::Job, &context.progress).await?);
        if containers().is_subset(&before) {
            return Err(failed);
        }
    }
}
