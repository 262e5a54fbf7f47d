//! The container of a job's run.

use super::execute::execute;
use super::queue::Change;
use super::{Context, Origin, ProgressSender, steps, warn};
use crate::compose::model::Project;
use crate::engine::error::EngineError;
use crate::engine::{Container, Engine};
use crate::labels::LABEL_ONEOFF;
use crate::plan::{self, UpOptions};
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
    /// once the run is not wanted any more.
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
        let plan = plan::one_off(&project, &observed, &options, &job)?;
        steps::check_resources(self, &project, &plan)?;
        warn(&plan, &progress);
        let context = Arc::new(Context { origin, ..Context::new(self, project, progress, Some(guard)) });
        execute(context.clone(), plan).await?;
        if !wanted() {
            return Err(EngineError::Cancelled);
        }
        let mut spec = self.service_spec(&context.project, &job, 1, &context.origin)?;
        spec.labels.extend(labels);
        spec.labels.insert(LABEL_ONEOFF.into(), "True".into());
        self.create(&name, spec)
    }
}
