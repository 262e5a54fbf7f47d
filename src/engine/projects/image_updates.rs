//! `x-update`: images of services whose tag names another digest by now are pulled, and the services updated with them, by a schedule.
//!
//! The tag is moved only when the update has succeeded: until then the new image is known by its digest, so that `up` brings no image
//! that has failed. A digest that has failed is not tried again.

use super::execute::execute;
use super::queue::Change;
use super::update::Tallies;
use super::{Origin, Progress, ProgressSender, StepContext};
use crate::compose::model::{AutoUpdate, Service, WaitFor};
use crate::cron::Cron;
use crate::engine::containers::incarnations::Leaves;
use crate::engine::error::{EngineError, state_error};
use crate::engine::images::Cache;
use crate::engine::record::ProjectRecord;
use crate::engine::{Container, Engine, locked};
use crate::image::keyed_mutex::KeyedMutex;
use crate::image::{Digest, ImageRef};
use crate::labels::LABEL_SERVICE;
use crate::plan::{self, PullPolicy, UpOptions};
use crate::wire::{ImageUpdate, UpdateEvent};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::unbounded_channel;

/// Digests that have failed, events, and replaced images that are remembered of a service.
const REMEMBERED: usize = 10;
/// How long the receiver of a notification may take.
const NOTIFY_MAY_TAKE: Duration = Duration::from_secs(10);
/// Characters of a message in a notification and in the state.
const LONGEST_MESSAGE: usize = 2000;

/// Keeps updates with the same image apart.
#[derive(Default)]
pub(in crate::engine) struct ImageUpdates {
    /// Held from the pull of an image until it has its tag or loses its name.
    images: KeyedMutex,
    /// Projects that are being looked at by schedule.
    by_schedule: Mutex<HashSet<String>>,
}

/// A project that is being looked at, until this is dropped.
struct LookByProject<'a> {
    updates: &'a ImageUpdates,
    project: &'a str,
}

impl Drop for LookByProject<'_> {
    fn drop(&mut self) {
        locked(&self.updates.by_schedule).remove(self.project);
    }
}

/// What has become of a service that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ImageUpdateOutcome {
    Updated,
    UpToDate,
    Pinned,
    FailedBefore,
    NotRunning,
    /// Somebody has brought up another definition meanwhile.
    Changed,
}

impl ImageUpdateOutcome {
    /// In the words of progress.
    fn as_str(self) -> &'static str {
        match self {
            ImageUpdateOutcome::Updated => "Is updated",
            ImageUpdateOutcome::UpToDate => "Is up to date",
            ImageUpdateOutcome::Pinned => "Has a pinned digest",
            ImageUpdateOutcome::FailedBefore => "Is not updated: this digest has failed before",
            ImageUpdateOutcome::NotRunning => "Does not run",
            ImageUpdateOutcome::Changed => "Has another definition by now",
        }
    }
}

/// What is known of a service's updates.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Known {
    checked_at: Option<Timestamp>,
    /// What the registry had under the tag then.
    seen: Option<Digest>,
    /// What the containers are of.
    current: Option<Digest>,
    failed: Vec<Digest>,
    events: Vec<UpdateEvent>,
    /// Ids of images that were replaced.
    replaced: Vec<String>,
}

fn remember<T: PartialEq>(list: &mut Vec<T>, item: T) {
    list.retain(|known| *known != item);
    list.push(item);
    let beyond = list.len().saturating_sub(REMEMBERED);
    list.drain(..beyond);
}

/// What a registry's answer asks for.
#[derive(Debug, PartialEq, Eq)]
enum Todo {
    Nothing,
    /// It was tried, and has failed.
    FailedBefore,
    Update,
}

fn todo(known: &Known, found: &Digest) -> Todo {
    match () {
        () if known.failed.contains(found) => Todo::FailedBefore,
        () if known.current.as_ref() == Some(found) => Todo::Nothing,
        () => Todo::Update,
    }
}

fn key(project: &str) -> String {
    format!("updates/{project}")
}

/// A service that is looked at.
struct Subject {
    project: String,
    service: String,
    name: ImageRef,
    policy: AutoUpdate,
}

impl Engine {
    fn known_updates(&self, project: &str) -> IndexMap<String, Known> {
        self.state.journal.get(&key(project)).unwrap_or_default()
    }

    fn note_update(&self, subject: &Subject, change: impl FnOnce(&mut Known)) -> Result<(), EngineError> {
        let mut all = self.known_updates(&subject.project);
        change(all.entry(subject.service.clone()).or_default());
        self.state.journal.put(&key(&subject.project), &all).map_err(state_error)
    }

    pub(super) fn forget_updates(&self, project: &str) -> Result<(), EngineError> {
        self.schedules.look_again(false);
        let known: Option<IndexMap<String, Known>> = self.state.journal.get(&key(project));
        known.map_or(Ok(()), |_| self.state.journal.delete(&key(project)).map_err(state_error))
    }

    /// The services with `x-update` of every project.
    pub(super) fn update_schedules(&self) -> Vec<(String, String, Cron)> {
        let records = self.state.journal.all::<ProjectRecord>("project/");
        let known = records.into_iter().filter_map(|(name, record)| Some((name, record.ok()?)));
        let of = |(name, record): (String, ProjectRecord)| {
            let services = record.project.services.into_iter();
            let scheduled = services.filter_map(|(service, definition)| Some((service, definition.auto_update?.schedule)));
            scheduled.map(move |(service, schedule)| (name.clone(), service, schedule)).collect::<Vec<_>>()
        };
        known.flat_map(of).collect()
    }

    /// Looks at the images of services: those of a project one after the other, and no project waits for another's registry. One that
    /// is still looked at is left out.
    pub(super) fn update_by_schedule(self: &Arc<Self>, due: Vec<(String, String)>) {
        let mut projects: BTreeMap<String, Vec<String>> = BTreeMap::new();
        due.into_iter().for_each(|(project, service)| projects.entry(project).or_default().push(service));
        for (project, services) in projects {
            if !locked(&self.image_updates.by_schedule).insert(project.clone()) {
                tracing::warn!("the images of {project} are due, and the last look at them goes on: this one is left out");
                continue;
            }
            let this = self.clone();
            tokio::spawn(async move {
                let _look = LookByProject { updates: &this.image_updates, project: &project };
                for service in services {
                    // Somebody has to listen, or it is cancelled.
                    let (progress, _listener) = unbounded_channel();
                    if let Err(error) = this.update_images(&project, std::slice::from_ref(&service), progress.into()).await {
                        tracing::warn!("updating {service} of {project}: {error}");
                    }
                }
            });
        }
    }

    /// What `wharf updates` shows.
    pub fn image_updates_of(&self, project: &str) -> Vec<ImageUpdate> {
        let known = self.known_updates(project);
        let services = self.state.project_record(project).map(|record| record.project.services).unwrap_or_default();
        let row = |(service, definition): (String, Service)| {
            let policy = definition.auto_update?;
            let known = known.get(&service).cloned().unwrap_or_default();
            let is_other = known.seen.is_some() && known.seen != known.current;
            Some(ImageUpdate {
                service,
                image: definition.image.unwrap_or_default(),
                schedule: policy.schedule.to_string(),
                next: policy.schedule.next(Timestamp::now()),
                checked_at: known.checked_at,
                current: known.current.map(|digest| digest.to_string()),
                available: known.seen.filter(|_| is_other).map(|digest| digest.to_string()),
                events: known.events,
            })
        };
        services.into_iter().filter_map(row).collect()
    }

    /// Looks at the images of services with `x-update`, all where none is named, and updates those that have another digest.
    ///
    /// # Errors
    /// When a named service has no `x-update`, a registry does not answer, or an update has failed.
    pub async fn update_images(
        self: &Arc<Self>,
        project: &str,
        services: &[String],
        progress: ProgressSender,
    ) -> Result<(), EngineError> {
        let record = self
            .state
            .project_record(project)
            .ok_or_else(|| EngineError::Conflict(format!("the project {project} was not brought up")))?;
        if let Some(other) =
            services.iter().find(|name| record.project.services.get(*name).is_none_or(|s| s.auto_update.is_none()))
        {
            return Err(EngineError::Conflict(format!(
                "the service {other} has no `x-update`, as `wharf up` has it: write it, and bring it up"
            )));
        }
        let mut failures = Vec::new();
        for (service, definition) in record.project.services {
            let Some(policy) = definition.auto_update.filter(|_| services.is_empty() || services.contains(&service)) else {
                continue;
            };
            let object = format!("Service {service}");
            let name: ImageRef = match definition.image.as_deref().unwrap_or_default().parse() {
                Ok(name) => name,
                Err(error) => {
                    failures.push(format!("{service}: {error}"));
                    continue;
                }
            };
            let subject = Subject { project: project.into(), service, name, policy };
            let outcome = self.update_image(&subject, &progress).await;
            match outcome {
                Ok(outcome) => progress.send(Progress::Step { object, status: outcome.as_str().into(), done: true }),
                Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
                Err(error) => {
                    progress.send(Progress::Error { object, message: error.to_string() });
                    failures.push(error.to_string());
                }
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(EngineError::Several(failures)) }
    }

    /// Looks at one image, and updates its service.
    async fn update_image(
        self: &Arc<Self>,
        subject: &Subject,
        progress: &ProgressSender,
    ) -> Result<ImageUpdateOutcome, EngineError> {
        if subject.name.digest.is_some() {
            return Ok(ImageUpdateOutcome::Pinned);
        }
        let inspected = self.images.registry.inspect(&subject.name).await;
        let now = Timestamp::now();
        let found = inspected.inspect_err(|error| {
            let noted = self.note_update(subject, |known| {
                known.checked_at = Some(now);
                remember(&mut known.events, event(None, "unknown", Some(error.to_string())));
            });
            noted.unwrap_or_else(|error| tracing::warn!("{error}"));
        })?;
        self.note_update(subject, |known| (known.checked_at, known.seen) = (Some(now), Some(found.digest.clone())))?;
        let pinned = ImageRef { tag: None, digest: Some(found.digest.clone()), ..subject.name.clone() };
        let held = self.image_updates.images.take(&pinned.to_string()).await;
        let known = self.known_updates(&subject.project).swap_remove(&subject.service).unwrap_or_default();
        match todo(&known, &found.digest) {
            Todo::Nothing => return Ok(ImageUpdateOutcome::UpToDate),
            Todo::FailedBefore => return Ok(ImageUpdateOutcome::FailedBefore),
            Todo::Update => {}
        }
        // Somebody may have given it this name before.
        let had_name = self.images.store.find(&pinned)?.is_some();
        let result = async {
            let pulled = self.images.pull(&pinned.to_string(), progress.plain()).await;
            pulled.inspect_err(|error| {
                let failed = event(Some(&found.digest), "failed", Some(error.to_string()));
                let noted = self.note_update(subject, |known| remember(&mut known.events, failed));
                noted.unwrap_or_else(|error| tracing::warn!("{error}"));
            })?;
            let _guard = self.projects.take(&subject.project, Change::Update, progress).await?;
            self.bring_image(subject, &pinned, &found.digest, progress).await
        };
        let result = result.await;
        if !had_name {
            self.images.store.untag(&pinned)?;
        }
        drop(held);
        if matches!(result, Ok(ImageUpdateOutcome::Updated)) && subject.policy.cleanup {
            self.clean_up(subject).await;
        }
        let synced = self.state.sync_and_trim().await;
        match &result {
            Ok(ImageUpdateOutcome::Updated) => self.tell(subject, &found.digest, "updated", None).await,
            Err(error) if !matches!(error, EngineError::Cancelled) => {
                self.tell(subject, &found.digest, "failed", Some(error.to_string())).await;
            }
            _ => {}
        }
        let outcome = result?;
        synced?;
        Ok(outcome)
    }

    /// Updates a service's containers with an image that is here.
    async fn bring_image(
        self: &Arc<Self>,
        subject: &Subject,
        pinned: &ImageRef,
        digest: &Digest,
        progress: &ProgressSender,
    ) -> Result<ImageUpdateOutcome, EngineError> {
        let (_, image) = self.images.find(&pinned.to_string())?;
        let image_id = image.id.to_string();
        let Some(record) = self.state.project_record(&subject.project) else { return Ok(ImageUpdateOutcome::Changed) };
        let asked =
            record.project.services.get(&subject.service).and_then(|definition| definition.image.clone()).unwrap_or_default();
        if asked.parse::<ImageRef>().ok().as_ref() != Some(&subject.name) {
            return Ok(ImageUpdateOutcome::Changed);
        }
        let own = |container: &Arc<Container>| container.has_label(LABEL_SERVICE, &subject.service);
        let containers: Vec<_> =
            self.containers.of_project(&subject.project).into_iter().filter(|c| own(c) && !super::is_one_off(c)).collect();
        if !containers.iter().any(|container| container.status().is_alive()) {
            return Ok(ImageUpdateOutcome::NotRunning);
        }
        let earlier: Vec<String> =
            containers.iter().map(|container| container.with_record(|record| record.image_id_text())).collect();
        if earlier.iter().any(|id| *id != image_id) {
            let options = UpOptions {
                services: vec![subject.service.clone()],
                no_deps: true,
                ignore_orphans: true,
                pull: Some(PullPolicy::Never),
                scale: [(subject.service.clone(), containers.len() as u32)].into(),
                watched: subject.policy.wait == WaitFor::Healthy,
                roll_back: subject.policy.rollback,
                ..UpOptions::default()
            };
            let mut observed = self.observe(&subject.project, std::iter::once(asked.clone()))?;
            observed.images.insert(asked, image_id.clone());
            let plan = plan::up(&record.project, &observed, &options)?;
            let mut causes = plan.causes();
            self.note_earlier(Some(&record), &causes)?;
            causes.values_mut().for_each(|cause| *cause = "x-update".into());
            let context = Arc::new(StepContext {
                origin: Origin { config_files: record.config_files, working_dir: record.working_dir, ..Origin::default() },
                tallies: Tallies::new(plan.updates()),
                images: HashMap::from([(subject.service.clone(), image_id)]),
                leaves: Leaves::Log("replaced"),
                options,
                ..StepContext::new(self, record.project, progress.clone(), None)
            });
            let result = execute(context.clone(), plan).await;
            self.note_revisions_if_it_can(&context, &causes);
            if let Err(error) = result {
                if context.progress.is_closed() {
                    return Err(EngineError::Cancelled);
                }
                let why = context.tallies.why(&subject.service).unwrap_or_else(|| error.to_string());
                let is_of_image = context.tallies.is_of_image(&subject.service);
                self.note_update(subject, |known| {
                    if is_of_image {
                        remember(&mut known.failed, digest.clone());
                    }
                    remember(&mut known.events, event(Some(digest), "failed", Some(why.clone())));
                })?;
                self.roll_back_failed(&context).await;
                return Err(EngineError::Conflict(format!("{}: the update to {digest} has failed: {why}", subject.service)));
            }
        }
        self.images.store.tag(&image, &subject.name)?;
        let changed = earlier.iter().any(|id| *id != image.id.to_string());
        self.note_update(subject, |known| {
            known.current = Some(digest.clone());
            if changed {
                remember(&mut known.events, event(Some(digest), "updated", None));
                earlier.into_iter().for_each(|id| remember(&mut known.replaced, id));
            }
        })?;
        Ok(if changed { ImageUpdateOutcome::Updated } else { ImageUpdateOutcome::UpToDate })
    }

    /// Removes images that updates have replaced, and that neither a container nor a revision needs.
    async fn clean_up(&self, subject: &Subject) {
        let known = self.known_updates(&subject.project).swap_remove(&subject.service).unwrap_or_default();
        let replaced = |id: &Digest| known.replaced.iter().any(|known| *known == id.to_string());
        if let Err(error) = self.images.prune(|name, image| name.is_none() && replaced(&image.id), Cache::Keep).await {
            tracing::warn!("removing earlier images of {}: {error}", subject.service);
        }
    }

    /// Tells whoever the service names. An address may have a password, so it is in no message.
    async fn tell(&self, subject: &Subject, digest: &Digest, outcome: &str, message: Option<String>) {
        let Some(url) = &subject.policy.notify else { return };
        let body = json!({
            "project": subject.project,
            "service": subject.service,
            "image": subject.name.familiar(),
            "digest": digest.to_string(),
            "outcome": outcome,
            "message": message.map(shortened),
            "at": Timestamp::now().to_string(),
        });
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(NOTIFY_MAY_TAKE).build();
        let answer = match client {
            Ok(client) => client.post(url).json(&body).send().await,
            Err(error) => Err(error),
        };
        let failure = match answer.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => return,
            Ok(status) => status.to_string(),
            Err(error) => error.without_url().to_string(),
        };
        tracing::warn!("telling of the update of {} in {}: {failure}", subject.service, subject.project);
        let noted =
            self.note_update(subject, |known| remember(&mut known.events, event(Some(digest), "not told", Some(failure))));
        noted.unwrap_or_else(|error| tracing::warn!("{error}"));
    }
}

fn shortened(text: String) -> String {
    text.chars().take(LONGEST_MESSAGE).collect()
}

fn event(digest: Option<&Digest>, outcome: &str, message: Option<String>) -> UpdateEvent {
    let digest = digest.map(Digest::to_string);
    UpdateEvent { at: Timestamp::now(), digest, outcome: outcome.into(), message: message.map(shortened) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_tried_once() {
        let digest = |n: u8| Digest::of(&[n]);
        let mut known = Known::default();
        assert_eq!(todo(&known, &digest(1)), Todo::Update);
        known.current = Some(digest(1));
        assert_eq!(todo(&known, &digest(1)), Todo::Nothing);
        for n in 2..20 {
            remember(&mut known.failed, digest(n));
            remember(&mut known.failed, digest(2));
        }
        assert_eq!(known.failed.len(), REMEMBERED);
        assert_eq!((todo(&known, &digest(2)), todo(&known, &digest(19))), (Todo::FailedBefore, Todo::FailedBefore));
        assert_eq!(todo(&known, &digest(3)), Todo::Update, "the oldest is forgotten");
        known.failed.push(digest(1));
        assert_eq!(todo(&known, &digest(1)), Todo::FailedBefore);
    }
}
