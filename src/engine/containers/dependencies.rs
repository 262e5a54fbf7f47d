//! Dependencies at run time: what an engine brings back comes back in their order, and who says so (`x-runtime`) is restarted with
//! what it depends on.

use super::registry::Containers;
use crate::compose::model::{Condition, Dependency};
use crate::engine::containers::health::health_spec;
use crate::engine::projects::is_one_off;
use crate::engine::record::{ContainerRecord, HealthStatus, Status};
use crate::engine::{Container, Engine};
use crate::labels::{LABEL_DEPENDS_ON, LABEL_PROJECT, LABEL_SERVICE};
use crate::plan::depends_on_label;
use indexmap::IndexMap;
use jiff::Timestamp;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// A container without a health check has been restarted when it has run for so long.
const STAYS_UP: Duration = Duration::from_millis(500);

/// Whether a container that an engine brings back is still to come to what a condition asks for. What has failed, or is not going
/// to run, is not waited for: the restart policy of who depends on it does the rest.
pub(in crate::engine) fn is_to_come(record: &ContainerRecord, condition: Condition) -> bool {
    let state = &record.state;
    match (state.status(), condition) {
        (Status::Restarting, _) => true,
        (status, Condition::ServiceCompletedSuccessfully) => status.has_process(),
        (Status::Running, Condition::ServiceHealthy) => {
            let starting = |health: &crate::engine::record::Health| health.status == HealthStatus::Starting;
            state.health.as_ref().map_or_else(|| health_spec(record).is_some(), starting)
        }
        _ => false,
    }
}

/// Whether a container that was restarted has come to what a condition asks for; `None` where it is to be waited for.
fn has_come(record: &ContainerRecord, condition: Condition) -> Option<bool> {
    match record.state.status() {
        _ if is_to_come(record, condition) && record.state.status() != Status::Restarting => None,
        Status::Running => {
            let unhealthy = record.state.health.as_ref().is_some_and(|health| health.status == HealthStatus::Unhealthy);
            Some(condition != Condition::ServiceHealthy || !unhealthy)
        }
        _ => Some(false),
    }
}

/// Waits until a container is as a condition asks for; `false` where it has ended or failed: its next restart is another
/// occasion.
async fn comes_back(container: &Container, condition: Condition) -> bool {
    let mut come = None;
    container
        .wait_until(|record| {
            come = has_come(record, condition);
            come.is_some()
        })
        .await;
    if come != Some(true) || condition != Condition::ServiceStarted {
        return come == Some(true);
    }
    let ended = container.wait_until(|record| record.state.status() != Status::Running);
    tokio::time::timeout(STAYS_UP, ended).await.is_err()
}

impl Containers {
    /// Dependencies of a container's service: as the last `up` has them, else as the container was made.
    fn dependencies_of(&self, record: &ContainerRecord) -> IndexMap<String, Dependency> {
        let label = |key: &str| record.spec.labels.get(key).map_or("", String::as_str);
        let outline = self.state.outline(label(LABEL_PROJECT));
        let known = outline.and_then(|mut outline| outline.services.swap_remove(label(LABEL_SERVICE)));
        known.map_or_else(|| depends_on_label(label(LABEL_DEPENDS_ON)), |service| service.depends_on)
    }

    fn service_containers(&self, project: &str, service: &str) -> Vec<Arc<Container>> {
        let mut containers = self.of_project(project);
        containers.retain(|c| c.has_label(LABEL_SERVICE, service) && !is_one_off(c));
        containers
    }

    /// Waits until what a container depends on is as its conditions ask for, as far as it is going to be. `ps` tells for whom.
    pub(in crate::engine) async fn await_dependencies(&self, container: &Arc<Container>) {
        let _ = self.adopted.subscribe().wait_for(|adopted| *adopted).await;
        let record = container.record();
        let Some(project) = record.spec.labels.get(LABEL_PROJECT) else { return };
        let mut waited = false;
        for (service, dependency) in self.dependencies_of(&record) {
            for other in self.service_containers(project, &service) {
                if other.with_record(|record| is_to_come(record, dependency.condition)) {
                    let whom = format!("{service} ({})", dependency.condition.as_str());
                    self.update(container, |record| record.state.waits_for = Some(whom));
                    waited = true;
                    other.wait_until(|record| !is_to_come(record, dependency.condition)).await;
                }
            }
        }
        if waited {
            self.update(container, |record| record.state.waits_for = None);
        }
    }
}

impl Engine {
    /// Restarts who depends on a container with `x-runtime: true`, and has started before `since`, once that container is as they
    /// ask for. Whether somebody does is looked up first: most have nobody.
    pub(in crate::engine) fn restart_dependents(self: &Arc<Self>, container: &Arc<Container>, since: Timestamp) {
        let label = |key: &str| container.with_record(|record| record.spec.labels.get(key).cloned());
        let (Some(project), Some(service)) = (label(LABEL_PROJECT), label(LABEL_SERVICE)) else { return };
        let Some(outline) = self.state.outline(&project) else { return };
        let of = |service: &str| -> Vec<(String, Condition)> {
            let depends = outline.services.iter().filter_map(|(name, other)| Some((name, other.depends_on.get(service)?)));
            depends.filter(|(_, dependency)| dependency.runtime).map(|(name, d)| (name.clone(), d.condition)).collect()
        };
        let direct = of(&service);
        if direct.is_empty() {
            return;
        }
        let mut seen = HashSet::from([service.clone()]);
        let mut chain: Vec<(String, String, Condition)> =
            direct.into_iter().map(|(name, condition)| (service.clone(), name, condition)).collect();
        let mut next = 0;
        while next < chain.len() {
            let name = chain[next].1.clone();
            if seen.insert(name.clone()) {
                chain.extend(of(&name).into_iter().map(|(dependent, condition)| (name.clone(), dependent, condition)));
            }
            next += 1;
        }
        let (engine, first) = (self.clone(), container.clone());
        tokio::spawn(async move {
            for (dependency, dependent, condition) in chain {
                // The first is the container itself; of those that were restarted for it, all.
                let awaited = if dependency == service {
                    vec![first.clone()]
                } else {
                    engine.containers.service_containers(&project, &dependency)
                };
                for other in awaited {
                    if !comes_back(&other, condition).await {
                        return;
                    }
                }
                for other in engine.containers.service_containers(&project, &dependent) {
                    let started_before = |record: &ContainerRecord| {
                        record.state.status().is_alive()
                            && !record.stopped_by_user
                            && record.state.started_at.is_none_or(|start| start < since)
                    };
                    if other.with_record(started_before) {
                        tracing::info!("{} is restarted, since {dependency} was", other.name());
                        if let Err(error) = engine.restart(&other, None, None).await {
                            tracing::warn!("restarting {} after {dependency}: {error}", other.name());
                        }
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::{ContainerSpec, Health, HealthSpec, Transition, Verdict};
    use crate::runtime::launch::Exit;

    #[test]
    fn what_is_going_to_be_is_waited_for() {
        use Condition::{ServiceCompletedSuccessfully as Completed, ServiceHealthy as Healthy, ServiceStarted as Started};
        let created = || ContainerRecord::new("id".into(), "db".into(), ContainerSpec::default(), Vec::new());
        let running = || {
            let mut record = created();
            record.apply(&Transition::Started { pid: 1, at: Timestamp::UNIX_EPOCH });
            record
        };
        let checked = |status: Option<HealthStatus>| {
            let mut record = running();
            record.spec.health = Some(HealthSpec { test: vec!["true".into()], ..HealthSpec::default() });
            record.state.health = status.map(|status| Health { status, ..Health::default() });
            record
        };
        let ended = |verdict| {
            let mut record = checked(Some(HealthStatus::Healthy));
            let exit = Exit { code: 0, oom_killed: false, finished_at: Timestamp::UNIX_EPOCH, started_at: None };
            record.apply(&Transition::Ended { exit: &exit, verdict });
            record
        };
        let restarting = || ended(Verdict::Restart { after: Duration::ZERO, attempt: 1 });
        // What there is, the condition, whether an engine that brings things back waits, whether a restart has come to its end.
        let table = [
            (created(), Started, false, Some(false)),
            (running(), Started, false, Some(true)),
            (running(), Healthy, false, Some(true)),
            (running(), Completed, true, None),
            (checked(None), Healthy, true, None),
            (checked(Some(HealthStatus::Starting)), Healthy, true, None),
            (checked(Some(HealthStatus::Healthy)), Healthy, false, Some(true)),
            (checked(Some(HealthStatus::Unhealthy)), Healthy, false, Some(false)),
            (restarting(), Started, true, Some(false)),
            (restarting(), Healthy, true, Some(false)),
            (restarting(), Completed, true, Some(false)),
            (ended(Verdict::Stay), Completed, false, Some(false)),
        ];
        for (n, (record, condition, to_come, come)) in table.into_iter().enumerate() {
            assert_eq!(is_to_come(&record, condition), to_come, "{n}");
            assert_eq!(has_come(&record, condition), come, "{n}");
        }
    }
}
