//! Health checks: a command in the container, at Docker's times and with Docker's states.

use super::exec::{Excerpt, Execs, NewExec};
use crate::compose::model::OnUnhealthy;
use crate::engine::record::{ContainerRecord, Health, HealthSpec, HealthStatus, Probe, Status};
use crate::engine::{Container, locked};
use crate::units::Nanos;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
const KEPT_PROBES: usize = 5;
/// Bytes that are kept of a probe's output, as Docker does; the rest is read and dropped.
const KEPT_OUTPUT: usize = 4096;

/// The check of a container: its own over the image's, attribute by attribute. `None` where there is none.
pub(in crate::engine) fn health_spec(record: &ContainerRecord) -> Option<HealthSpec> {
    let mut spec = record.spec.health.clone().unwrap_or_default();
    if spec.test.is_empty() {
        let of_image = record.image.health.clone()?;
        let or = |own: Nanos, image: Nanos| own.positive().unwrap_or(image);
        spec = HealthSpec {
            test: of_image.test,
            interval: or(spec.interval, of_image.interval),
            timeout: or(spec.timeout, of_image.timeout),
            start_period: or(spec.start_period, of_image.start_period),
            start_interval: or(spec.start_interval, of_image.start_interval),
            retries: if spec.retries == 0 { of_image.retries } else { spec.retries },
        };
    }
    (spec.test.first().is_some_and(|first| first != "NONE")).then_some(spec)
}

/// A change of health that the engine acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum HealthNews {
    /// It is unhealthy, and its service says what is to be done.
    Unhealthy(OnUnhealthy),
    /// It was unhealthy, and is healthy.
    Recovered,
}

/// The engine's handler of a change of health.
pub(in crate::engine) type Act = Box<dyn Fn(&Arc<Container>, HealthNews) + Send + Sync>;

impl Execs {
    /// Begins to probe a container that has just started, or goes on where an earlier engine did. By a name that others have as
    /// well it is found once it is healthy.
    pub(in crate::engine) fn watch_health(self: &Arc<Self>, container: &Arc<Container>, known: Option<Health>, act: Act) {
        let Some(spec) = health_spec(&container.record()) else {
            self.names.set_fit(&container.id, true);
            if container.record().state.health.is_some() {
                self.containers.update(container, |record| record.state.health = None);
            }
            return;
        };
        let health = known.unwrap_or_default();
        self.names.set_fit(&container.id, health.status == HealthStatus::Healthy);
        self.containers.update(container, |record| record.state.health = Some(health));
        let (this, watched) = (self.clone(), container.clone());
        let task = tokio::spawn(async move { this.probe_forever(&watched, &spec, &act).await });
        if let Some(old) = locked(&container.live).health.replace(task.abort_handle()) {
            old.abort();
        }
    }

    async fn probe_forever(self: &Arc<Self>, container: &Arc<Container>, spec: &HealthSpec, act: &Act) {
        let or = |time: Nanos, default: Duration| time.positive().map_or(default, Nanos::duration);
        let (interval, timeout) = (or(spec.interval, INTERVAL), or(spec.timeout, TIMEOUT));
        let start_period = spec.start_period.duration();
        let start_interval = or(spec.start_interval, START_INTERVAL);
        let retries = if spec.retries == 0 { RETRIES } else { spec.retries };
        let begun = Instant::now();
        let is_unhealthy =
            |record: &ContainerRecord| record.state.health.as_ref().is_some_and(|h| h.status == HealthStatus::Unhealthy);
        // An engine has died in between.
        if container.with_record(is_unhealthy)
            && let Some(todo) = container.with_record(ContainerRecord::on_unhealthy)
        {
            act(container, HealthNews::Unhealthy(todo));
        }
        loop {
            let health = container.record().state.health.unwrap_or_default();
            let starting = health.status == HealthStatus::Starting && begun.elapsed() < start_period;
            tokio::time::sleep(if starting { start_interval.min(interval) } else { interval }).await;
            if container.status() == Status::Paused {
                continue;
            }
            let start = Timestamp::now();
            let (exit_code, output) = match tokio::time::timeout(timeout, self.probe(container, &spec.test)).await {
                Ok(Some(result)) => result,
                Ok(None) => return,
                Err(_) => (-1, format!("the health check took longer than its timeout of {} s", timeout.as_secs_f64())),
            };
            let probe = Probe { start, end: Timestamp::now(), exit_code, output };
            let in_start_period = health.status == HealthStatus::Starting && begun.elapsed() < start_period;
            let changed = self
                .containers
                .update(container, |record| judge(record.state.health.get_or_insert_default(), probe, retries, in_start_period));
            if let Some(status) = changed {
                self.names.set_fit(&container.id, status == HealthStatus::Healthy);
                let todo = container.with_record(ContainerRecord::on_unhealthy).filter(|_| status == HealthStatus::Unhealthy);
                let reason = container.with_record(|record| record.state.health.as_ref().and_then(Health::last_words));
                let attributes = todo.map(|todo| [("action", todo.as_str().to_string()), ("reason", reason.unwrap_or_default())]);
                let attributes = attributes.as_ref().map_or(&[][..], |attributes| &attributes[..]);
                self.containers.emit(container, &format!("health_status: {}", status.as_str()), attributes);
                match todo {
                    Some(todo) => act(container, HealthNews::Unhealthy(todo)),
                    None if health.status == HealthStatus::Unhealthy => act(container, HealthNews::Recovered),
                    None => {}
                }
            }
        }
    }

    /// Runs the check once; `None` when the container is gone.
    async fn probe(self: &Arc<Self>, container: &Arc<Container>, test: &[String]) -> Option<(i32, String)> {
        let args = match test.split_first() {
            Some((kind, rest)) if kind == "CMD" => rest.to_vec(),
            Some((kind, rest)) if kind == "CMD-SHELL" => vec!["/bin/sh".into(), "-c".into(), rest.join(" ")],
            _ => test.to_vec(),
        };
        self.run(container, NewExec { args, ..NewExec::default() }, Excerpt::first(KEPT_OUTPUT)).await
    }
}

/// Notes a probe, and returns the status when it is another one.
fn judge(health: &mut Health, probe: Probe, retries: u32, in_start_period: bool) -> Option<HealthStatus> {
    let before = health.status;
    if probe.exit_code == 0 {
        health.failing_streak = 0;
        health.status = HealthStatus::Healthy;
    } else if !in_start_period {
        health.failing_streak += 1;
        if health.failing_streak >= retries {
            health.status = HealthStatus::Unhealthy;
        }
    }
    health.log.push(probe);
    if health.log.len() > KEPT_PROBES {
        health.log.remove(0);
    }
    (health.status != before).then_some(health.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_follow_dockers_rules() {
        let mut health = Health::default();
        let probe =
            |exit_code| Probe { start: Timestamp::UNIX_EPOCH, end: Timestamp::UNIX_EPOCH, exit_code, output: String::new() };
        assert_eq!(judge(&mut health, probe(1), 2, true), None, "failures in the start period do not count");
        assert_eq!(health.failing_streak, 0);
        assert_eq!(judge(&mut health, probe(1), 2, false), None);
        assert_eq!(judge(&mut health, probe(1), 2, false), Some(HealthStatus::Unhealthy));
        assert_eq!(judge(&mut health, probe(0), 2, false), Some(HealthStatus::Healthy));
        assert_eq!(judge(&mut health, probe(1), 2, false), None, "one failure does not make it unhealthy");
        for _ in 0..10 {
            judge(&mut health, probe(0), 2, false);
        }
        assert_eq!(health.log.len(), KEPT_PROBES);
    }
}
