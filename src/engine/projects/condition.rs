//! Waiting for the containers of a service to fulfil a condition.

use super::steps::superseded;
use super::{StepContext, is_one_off};
use crate::compose::model::Condition;
use crate::engine::Container;
use crate::engine::error::EngineError;
use crate::engine::record::{ContainerRecord, HealthStatus, Status};
use crate::wire::Progress;
use std::sync::Arc;
use std::time::Duration;

/// A container without a health check may end at once: Docker Compose looks for the first time after so long.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// A container that ends and is started again so often is not going to stay up.
const MOST_RESTARTS: u32 = 3;

/// The condition that is waited for.
pub(super) struct AwaitedCondition<'a> {
    pub service: &'a str,
    pub condition: Condition,
    /// The service that waits; the command itself otherwise.
    pub dependent: Option<&'a str>,
    pub required: bool,
}

/// A container's state with regard to a condition.
#[derive(Debug, PartialEq)]
enum ConditionVerdict {
    /// It fulfils the condition, and is so.
    Fulfilled(&'static str),
    /// It never will.
    Failed(String),
    /// It has no health check.
    Unchecked,
    /// It runs, has no health check, and nobody needs one.
    Running,
    NotYet,
}

/// Waits for every container of a service.
///
/// # Errors
/// Of one that cannot fulfil the condition any more; an optional dependency is warned of instead.
pub(super) async fn await_condition(context: &StepContext, awaited: &AwaitedCondition<'_>) -> Result<(), EngineError> {
    let is_own = |c: &Arc<Container>| c.has_label(crate::labels::LABEL_SERVICE, awaited.service) && !is_one_off(c);
    let containers = context.engine.containers.of_project(&context.project.name).into_iter().filter(is_own);
    for container in containers {
        let object = format!("Container {}", container.name());
        let waiting = async {
            context.step(&object, "Waiting", false);
            one(&container, awaited).await
        };
        let outcome = tokio::select! {
            outcome = waiting => outcome,
            error = superseded(context, &object) => return Err(error),
            // `--wait` of a client that has left. A dependent may have been stopped for this, and is started yet.
            () = context.progress.closed(), if awaited.dependent.is_none() => return Err(EngineError::Cancelled),
        };
        match outcome {
            Ok(status) => context.step(&object, status, true),
            Err(why) if !awaited.required => {
                let text = format!("optional dependency \"{}\" failed to start: {why}", awaited.service);
                context.progress.send(Progress::Warning(text));
                context.step(&object, "Skipped", true);
                return Ok(());
            }
            Err(why) => return Err(EngineError::Conflict(why)),
        }
    }
    Ok(())
}

/// Waits for one container: its state, or why it never will fulfil the condition.
async fn one(container: &Container, awaited: &AwaitedCondition<'_>) -> Result<&'static str, String> {
    let restarts = container.with_record(|record| record.restart_count);
    let mut judged = ConditionVerdict::NotYet;
    loop {
        container
            .wait_until(|record| {
                judged = judge(record, awaited, restarts);
                judged != ConditionVerdict::NotYet
            })
            .await;
        let time = match judged {
            ConditionVerdict::Unchecked => FIRST_LOOK,
            // What has run for so long before is not waited for again.
            ConditionVerdict::Running => FIRST_LOOK.saturating_sub(container.with_record(running_for)),
            _ => break,
        };
        let before = std::mem::replace(&mut judged, ConditionVerdict::NotYet);
        let changes = container.wait_until(|record| {
            judged = judge(record, awaited, restarts);
            judged != before
        });
        if tokio::time::timeout(time, changes).await.is_err() {
            break;
        }
    }
    let prefix = match (awaited.dependent, awaited.condition) {
        (Some(_), Condition::ServiceHealthy | Condition::ServiceStarted) => "dependency failed to start: ",
        _ => "",
    };
    match judged {
        ConditionVerdict::Fulfilled(status) => Ok(status),
        ConditionVerdict::Running => Ok("Healthy"),
        ConditionVerdict::Failed(why) => Err(format!("{prefix}{why}")),
        ConditionVerdict::Unchecked => Err(format!(
            "{prefix}container {} has no healthcheck configured\ngive it a `healthcheck`, or depend on it with `condition: service_started`",
            container.name()
        )),
        ConditionVerdict::NotYet => Err(EngineError::no_container(&container.name()).to_string()),
    }
}

/// How long a container has run.
fn running_for(record: &ContainerRecord) -> Duration {
    let started = record.state.started_at.unwrap_or_else(jiff::Timestamp::now);
    jiff::Timestamp::now().duration_since(started).unsigned_abs()
}

/// `restarts` is how often it had been restarted before.
fn judge(record: &ContainerRecord, awaited: &AwaitedCondition<'_>, restarts: u32) -> ConditionVerdict {
    let state = &record.state;
    let name = &record.name;
    // One that could not be started has an error, and stays as it was.
    let ended = matches!(state.status(), Status::Exited | Status::Removing)
        || (state.status() == Status::Created && !state.error.is_empty());
    let exited = || ConditionVerdict::Failed(format!("container {name} exited ({})", state.exit_code));
    match (awaited.condition, &state.health) {
        (Condition::ServiceCompletedSuccessfully, _) if ended && state.exit_code == 0 => ConditionVerdict::Fulfilled("Exited"),
        (Condition::ServiceCompletedSuccessfully, _) if ended => ConditionVerdict::Failed(format!(
            "service \"{}\" didn't complete successfully: exit {}\n`wharf logs {}` may tell why",
            awaited.service, state.exit_code, awaited.service
        )),
        (Condition::ServiceCompletedSuccessfully, _) => ConditionVerdict::NotYet,
        _ if ended => exited(),
        (Condition::ServiceStarted, None) if record.restart_count.saturating_sub(restarts) >= MOST_RESTARTS => {
            ConditionVerdict::Failed(format!(
                "container {name} does not stay up: it exited ({}) {MOST_RESTARTS} times",
                state.exit_code
            ))
        }
        (_, Some(health)) if health.status == HealthStatus::Healthy => ConditionVerdict::Fulfilled("Healthy"),
        (_, Some(health)) if health.status == HealthStatus::Unhealthy => {
            let last = health.log.last().map(|probe| probe.output.trim()).filter(|text| !text.is_empty());
            let check = last.map(|text| format!("\nits check says: {text}")).unwrap_or_default();
            ConditionVerdict::Failed(format!("container {name} is unhealthy{check}"))
        }
        (_, Some(_)) => ConditionVerdict::NotYet,
        (_, None) if state.status() != Status::Running => ConditionVerdict::NotYet,
        // Only a command awaits a mere start.
        (Condition::ServiceStarted, None) => ConditionVerdict::Running,
        (_, None) => ConditionVerdict::Unchecked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::ContainerSpec;

    #[test]
    fn what_is_restarted_again_and_again_is_not_waited_for_for_ever() {
        let mut record = ContainerRecord::new("id".into(), "p-a-1".into(), ContainerSpec::default(), Vec::new());
        let wait = AwaitedCondition { service: "a", condition: Condition::ServiceStarted, dependent: None, required: true };
        for (count, failed) in [(7, false), (9, false), (10, true)] {
            record.restart_count = count;
            assert_eq!(matches!(judge(&record, &wait, 7), ConditionVerdict::Failed(_)), failed, "{count}");
        }
        let healthy = AwaitedCondition { condition: Condition::ServiceHealthy, ..wait };
        assert_eq!(judge(&record, &healthy, 7), ConditionVerdict::NotYet);
    }
}
