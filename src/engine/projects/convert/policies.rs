//! Restart policy, health check, hooks and log of a service.

use crate::compose::model::{Hook, RestartCondition, RestartPolicy, Service};
use crate::engine::record::{HealthSpec, HookSpec, LogSpec, PreStartSpec};
use crate::units::Nanos;

/// Delay and window of `deploy.restart_policy`.
pub(super) fn restart_times(service: &Service) -> (Option<Nanos>, Option<Nanos>) {
    let policy = service.deploy.as_ref().and_then(|d| d.restart_policy.as_ref());
    let positive = |time: Option<Nanos>| time.and_then(Nanos::positive);
    (positive(policy.and_then(|p| p.delay)), positive(policy.and_then(|p| p.window)))
}

/// `max_attempts` of `deploy.restart_policy` for the conditions whose policy has no number of its own; 0 is without end.
pub(super) fn restart_attempts(service: &Service) -> Option<u32> {
    let policy = service.deploy.as_ref().and_then(|d| d.restart_policy.as_ref())?;
    match policy.condition? {
        RestartCondition::Any | RestartCondition::Always | RestartCondition::UnlessStopped => {
            policy.max_attempts.filter(|max| *max > 0)
        }
        _ => None,
    }
}

/// `pre_start`: hooks that run in a container of their own.
pub(super) fn pre_start(service: &Service) -> Vec<PreStartSpec> {
    let of = |h: &Hook| PreStartSpec { hook: hook(h), image: h.image.clone(), per_replica: h.per_replica };
    service.pre_start.iter().map(of).collect()
}

/// The restart policy: `deploy.restart_policy` before `restart`, as Docker Compose has it.
pub(super) fn restart_policy(service: &Service) -> RestartPolicy {
    let deployed = service.deploy.as_ref().and_then(|d| d.restart_policy.as_ref());
    match deployed.and_then(|policy| Some((policy, policy.condition?))) {
        Some((_, RestartCondition::None | RestartCondition::No)) => RestartPolicy::No,
        Some((_, RestartCondition::Any | RestartCondition::Always)) => RestartPolicy::Always,
        Some((_, RestartCondition::UnlessStopped)) => RestartPolicy::UnlessStopped,
        Some((policy, RestartCondition::OnFailure)) => RestartPolicy::OnFailure { max: policy.max_attempts.unwrap_or(0) },
        None => service.restart.unwrap_or_default(),
    }
}

pub(super) fn health(name: &str, service: &Service) -> Result<Option<HealthSpec>, String> {
    let Some(check) = service.healthcheck.as_ref() else { return Ok(None) };
    if check.start_interval.is_some() && check.start_period.is_none() && !check.disable {
        return Err(format!("`services.{name}`: healthcheck.start_interval requires healthcheck.start_period to be set"));
    }
    Ok(Some(HealthSpec {
        test: if check.disable { vec!["NONE".into()] } else { check.test.clone().unwrap_or_default() },
        interval: check.interval.unwrap_or_default(),
        timeout: check.timeout.unwrap_or_default(),
        start_period: check.start_period.unwrap_or_default(),
        start_interval: check.start_interval.unwrap_or_default(),
        retries: check.retries.unwrap_or(0),
    }))
}

pub(super) fn hook(hook: &Hook) -> HookSpec {
    let variable = |(name, value): (&String, &Option<String>)| Some(format!("{name}={}", value.as_ref()?));
    HookSpec {
        command: hook.command.clone().unwrap_or_default(),
        env: hook.environment.iter().filter_map(variable).collect(),
        user: hook.user.clone(),
        working_dir: hook.working_dir.clone(),
        privileged: hook.privileged,
    }
}

pub(super) fn log(name: &str, service: &Service) -> Result<LogSpec, String> {
    let logging = service.logging.clone().unwrap_or_default();
    LogSpec::of(logging.driver.as_deref(), &logging.options).map_err(|why| format!("`services.{name}.logging.options.{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_are_composes() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        let table = [
            ("{}", No),
            ("{restart: unless-stopped}", UnlessStopped),
            ("{restart: 'on-failure:3'}", OnFailure { max: 3 }),
            ("{deploy: {restart_policy: {condition: any}}}", Always),
            ("{deploy: {restart_policy: {condition: always}}}", Always),
            ("{deploy: {restart_policy: {condition: unless-stopped}}}", UnlessStopped),
            ("{deploy: {restart_policy: {condition: on-failure, max_attempts: 2}}}", OnFailure { max: 2 }),
            ("{restart: always, deploy: {restart_policy: {condition: none}}}", No),
            ("{restart: always, deploy: {restart_policy: {delay: 5s}}}", Always),
        ];
        for (yaml, expected) in table {
            let service: Service = serde_yaml::from_str(yaml).expect("service");
            assert_eq!(restart_policy(&service), expected, "{yaml}");
        }
    }

    #[test]
    fn start_interval_needs_start_period() {
        for (yaml, fits) in [
            ("{healthcheck: {test: [CMD, 'true'], start_interval: 1s}}", false),
            ("{healthcheck: {test: [CMD, 'true'], start_interval: 1s, start_period: 5s}}", true),
            ("{healthcheck: {test: [CMD, 'true']}}", true),
        ] {
            let service: Service = serde_yaml::from_str(yaml).expect("service");
            assert_eq!(health("a", &service).is_ok(), fits, "{yaml}");
        }
    }
}
