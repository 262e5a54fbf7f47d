//! Revisions of services, noted after each `up`, and the way back to one.

use super::execute::execute;
use super::queue::Change;
use super::{Origin, Progress, ProgressSender, StepContext, is_one_off};
use crate::compose::model::Service;
use crate::engine::Engine;
use crate::engine::containers::registry::Containers;
use crate::engine::error::{EngineError, state_error};
use crate::engine::locked;
use crate::engine::record::ProjectRecord;
use crate::engine::record::revision::{PendingRollbacks, Revision, Revisions, before_failure, note, target};
use crate::engine::state::StateStore;
use crate::image::Digest;
use crate::labels::{LABEL_HASH, LABEL_SERVICE};
use crate::plan::{self, PullPolicy, UpOptions, config_hash};
use crate::wire::RollbackRequest;
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc::unbounded_channel;

fn key(project: &str) -> String {
    format!("revisions/{project}")
}

/// Before the names of projects, in the journal.
const OWED: &str = "rollback/";

fn owed_key(project: &str) -> String {
    format!("{OWED}{project}")
}

impl StateStore {
    /// The revisions of a project's services.
    pub fn revisions(&self, project: &str) -> Revisions {
        self.journal.get(&key(project)).unwrap_or_default()
    }

    pub(super) fn forget_revisions(&self, project: &str) -> Result<(), EngineError> {
        let known: Option<Revisions> = self.journal.get(&key(project));
        known.map_or(Ok(()), |_| self.journal.delete(&key(project)).map_err(state_error))
    }

    fn keep_revisions(&self, project: &str, revisions: &Revisions) -> Result<(), EngineError> {
        self.journal.put(&key(project), revisions).map_err(state_error)
    }
}

impl Containers {
    /// Hash and image of all containers of each service; `None` where they differ.
    fn made_of(&self, project: &str) -> HashMap<String, Option<(String, Option<Digest>)>> {
        let mut made: HashMap<String, Option<(String, Option<Digest>)>> = HashMap::new();
        for container in self.of_project(project).iter().filter(|container| !is_one_off(container)) {
            container.with_record(|record| {
                let label = |key: &str| record.spec.labels.get(key).cloned().unwrap_or_default();
                let own = (label(LABEL_HASH), record.image_id.clone());
                let known = made.entry(label(LABEL_SERVICE)).or_insert_with(|| Some(own.clone()));
                if known.as_ref() != Some(&own) {
                    *known = None;
                }
            });
        }
        made
    }
}

impl Engine {
    /// Notes what services were made of before the first `up` that keeps revisions: as the last `up` had them.
    pub(super) fn note_earlier(
        &self,
        earlier: Option<&ProjectRecord>,
        causes: &HashMap<String, String>,
    ) -> Result<(), EngineError> {
        let Some(earlier) = earlier else { return Ok(()) };
        let mut revisions = self.state.revisions(&earlier.project.name);
        let unknown: Vec<&String> = causes.keys().filter(|service| !revisions.contains_key(*service)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let made_of = self.containers.made_of(&earlier.project.name);
        let mut noted = false;
        for service in unknown {
            let Some(definition) = earlier.project.services.get(service) else { continue };
            let hash = config_hash(&earlier.project, definition);
            let Some((_, image_id)) = made_of.get(service).cloned().flatten().filter(|(made, _)| *made == hash) else { continue };
            let revision = new_revision("as it was".into(), hash, image_id, definition, None);
            note(revisions.entry(service.clone()).or_default(), revision);
            noted = true;
        }
        if noted { self.state.keep_revisions(&earlier.project.name, &revisions) } else { Ok(()) }
    }

    /// As [`Engine::note_revisions`]. What was done is done: a full disk keeps nobody from what comes after it.
    pub(super) fn note_revisions_if_it_can(&self, context: &StepContext, causes: &HashMap<String, String>) {
        if let Err(error) = self.note_revisions(context, causes) {
            context.progress.send(Progress::Warning(format!("what services are made of is not noted for `rollback`: {error}")));
        }
    }

    /// Notes what the services are made of whose containers a plan has made, and what has failed.
    fn note_revisions(&self, context: &StepContext, causes: &HashMap<String, String>) -> Result<(), EngineError> {
        if causes.is_empty() {
            return Ok(());
        }
        let project = &context.project;
        let mut revisions = self.state.revisions(&project.name);
        let all_made_of = self.containers.made_of(&project.name);
        for (service, cause) in causes {
            let Some(definition) = project.services.get(service) else { continue };
            let hash = config_hash(project, definition);
            let failed = context.tallies.why(service);
            let made_of = all_made_of.get(service).cloned().flatten().filter(|(made, _)| *made == hash && failed.is_none());
            let image_id = match made_of {
                Some((_, image_id)) => image_id,
                None => match failed.as_ref().and_then(|_| self.image_of(context, service, definition)) {
                    None => continue,
                    known => known,
                },
            };
            note(revisions.entry(service.clone()).or_default(), new_revision(cause.clone(), hash, image_id, definition, failed));
        }
        self.state.keep_revisions(&project.name, &revisions)
    }

    /// Brings a service back to an earlier revision: its definition, and its image by digest.
    ///
    /// # Errors
    /// When there is none, its image is gone, or it cannot be done; failures of steps are told and counted.
    pub(super) async fn roll_back_to(
        self: &Arc<Self>,
        context: &StepContext,
        service: &str,
        to: Option<u32>,
    ) -> Result<u32, EngineError> {
        let known = self.state.revisions(&context.project.name);
        let of_service = known.get(service).map(Vec::as_slice).unwrap_or_default();
        let Revision { number, image_id, service: definition, .. } =
            target(service, of_service, to).map_err(EngineError::Conflict)?;
        let unknown = || EngineError::Conflict(format!("the image of revision {number} of the service {service} is unknown"));
        let image_id = image_id.ok_or_else(unknown)?.to_string();
        self.images.find(&image_id)?;
        let mut project = context.project.clone();
        let image = definition.image.clone().unwrap_or_default();
        project.services.insert(service.to_string(), definition);
        let mut observed = self.observe(&project.name, std::iter::once(image.clone()))?;
        observed.images.insert(image, image_id.clone());
        let options = UpOptions {
            services: vec![service.to_string()],
            no_deps: true,
            ignore_orphans: true,
            rolling_back: true,
            pull: Some(PullPolicy::Never),
            compatible_names: context.options.compatible_names,
            start_first: context.options.start_first,
            timeout: context.options.timeout,
            wait_timeout: context.options.wait_timeout,
            scale: context.options.scale.clone(),
            ..UpOptions::default()
        };
        let plan = plan::up(&project, &observed, &options)?;
        let cause = format!("rollback to {number}");
        let mut causes = plan.causes();
        causes.values_mut().for_each(|other| other.clone_from(&cause));
        // An engine that has died in it may have left nothing to do but to note it.
        if of_service.last().is_some_and(|last| last.failed.is_some()) {
            causes.entry(service.to_string()).or_insert(cause);
        }
        let back = StepContext {
            origin: context.origin.clone(),
            timeout: context.timeout,
            tallies: super::update::Tallies::new(plan.updates()),
            images: HashMap::from([(service.to_string(), image_id)]),
            options,
            ..StepContext::new(self, project, context.progress.clone(), None)
        };
        let back = Arc::new(back);
        let result = Box::pin(execute(back.clone(), plan)).await;
        self.note_revisions_if_it_can(&back, &causes);
        result.map(|()| number)
    }

    /// Notes that a service is to be brought back, and to what.
    pub(super) fn note_pending_rollback(&self, context: &StepContext, service: &str) {
        let project = &context.project;
        let mut owed = self.pending_rollbacks(&project.name);
        let Some(definition) = project.services.get(service) else { return };
        let image_id = self.image_of(context, service, definition);
        let known = self.state.revisions(&project.name);
        let of_service = known.get(service).map(Vec::as_slice).unwrap_or_default();
        let Some(earlier) = before_failure(of_service, &config_hash(project, definition), image_id.as_ref()) else {
            let message = "it has no earlier revision that was good, and cannot be rolled back".to_string();
            return context.progress.send(Progress::Error { object: format!("Service {service}"), message });
        };
        if owed.to.contains_key(service) {
            return;
        }
        owed.to.insert(service.to_string(), earlier.number);
        owed.options = context.options.clone();
        if let Err(error) = self.state.journal.put(&owed_key(&project.name), &owed) {
            // It is done all the same, but by no other engine.
            tracing::warn!("noting the rollback of {service}: {error}");
            locked(&context.unnoted_rollbacks).extend(owed.to);
        }
    }

    /// The image of a service's new containers: the one that the command names by its id, else that of the definition.
    fn image_of(&self, context: &StepContext, service: &str, definition: &Service) -> Option<Digest> {
        let given = context.images.get(service).and_then(|id| id.parse().ok());
        let by_name = || Some(self.images.find(definition.image.as_deref().unwrap_or_default()).ok()?.1.id);
        given.or_else(by_name)
    }

    fn pending_rollbacks(&self, project: &str) -> PendingRollbacks {
        self.state.journal.get(&owed_key(project)).unwrap_or_default()
    }

    /// The projects with rollbacks that an earlier engine has not ended.
    pub(super) fn projects_with_rollbacks(&self) -> Vec<String> {
        self.state.journal.all::<PendingRollbacks>(OWED).into_iter().map(|(project, _)| project).collect()
    }

    /// Forgets the owed rollbacks: they are done, or a later command has overtaken them.
    pub(super) fn clear_pending_rollbacks(&self, project: &str) -> Result<(), EngineError> {
        let known: Option<PendingRollbacks> = self.state.journal.get(&owed_key(project));
        known.map_or(Ok(()), |_| self.state.journal.delete(&owed_key(project)).map_err(state_error))
    }

    /// Brings the services back whose update has failed and says `failure_action: rollback`.
    pub(super) async fn roll_back_failed(self: &Arc<Self>, context: &StepContext) {
        let mut owed = self.pending_rollbacks(&context.project.name).to;
        owed.extend(std::mem::take(&mut *locked(&context.unnoted_rollbacks)));
        for (service, number) in owed {
            let progress = match self.roll_back_to(context, &service, Some(number)).await {
                Ok(number) => Progress::Warning(format!("{service} is rolled back to its revision {number}")),
                Err(error) => Progress::Error {
                    object: format!("Service {service}"),
                    message: format!("it could not be rolled back: {error}"),
                },
            };
            context.progress.send(progress);
        }
        if let Err(error) = self.clear_pending_rollbacks(&context.project.name) {
            tracing::warn!("{error}");
        }
    }

    /// Ends the rollbacks that an earlier engine has begun. The caller holds the project's lock.
    pub(super) async fn recover_rollbacks(self: &Arc<Self>, name: &str) {
        let owed = self.pending_rollbacks(name);
        let Some(record) = self.state.project_record(name).filter(|_| !owed.to.is_empty()) else { return };
        tracing::warn!("ending the rollback of {} in the project {name}", owed.to.keys().cloned().collect::<Vec<_>>().join(", "));
        // Somebody has to listen, or it is cancelled.
        let (progress, _listener) = unbounded_channel();
        let context = StepContext {
            origin: Origin { config_files: record.config_files, working_dir: record.working_dir, ..Origin::default() },
            timeout: owed.options.timeout.map(u64::from),
            options: owed.options,
            ..StepContext::new(self, record.project, progress.into(), None)
        };
        self.roll_back_failed(&context).await;
    }

    /// `wharf rollback`.
    ///
    /// # Errors
    /// As [`Engine::up`].
    pub async fn rollback(
        self: &Arc<Self>,
        name: &str,
        request: RollbackRequest,
        progress: ProgressSender,
    ) -> Result<(), EngineError> {
        let guard = self.projects.take(name, Change::Up, &progress).await?;
        let record = self
            .state
            .project_record(name)
            .ok_or_else(|| EngineError::Conflict(format!("the project {name} was not brought up: `wharf up` does that")))?;
        let options = UpOptions { start_first: request.start_first, timeout: request.timeout, ..UpOptions::default() };
        let context = StepContext {
            origin: Origin { config_files: record.config_files, working_dir: record.working_dir, ..Origin::default() },
            timeout: request.timeout.map(u64::from),
            options,
            ..StepContext::new(self, record.project, progress, Some(guard))
        };
        let number = self.roll_back_to(&context, &request.service, request.to).await?;
        context.progress.send(Progress::Step {
            object: format!("Service {}", request.service),
            status: format!("Is at its revision {number}"),
            done: true,
        });
        self.state.sync_and_trim().await
    }
}

fn new_revision(
    cause: String,
    config_hash: String,
    image_id: Option<Digest>,
    service: &Service,
    failed: Option<String>,
) -> Revision {
    Revision { number: 0, at: Timestamp::now(), cause, config_hash, image_id, service: service.clone(), failed }
}
