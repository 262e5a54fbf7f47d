//! How the containers of a service are replaced: `deploy.update_config`, and what the command asks for beside it.

use super::UpOptions;
use crate::compose::model::{Service, UpdateConfig};
use crate::units::Nanos;
use std::time::Duration;

/// Docker's: a container that has run for so long without a health check is good.
const MONITOR: Duration = Duration::from_secs(5);

/// The consequence when more containers of a service have failed than may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureAction {
    /// The others stay as they are.
    #[default]
    Pause,
    /// The others are replaced all the same.
    Continue,
    /// Those that were replaced get their earlier definition back.
    Rollback,
}

/// Whether the old container ends before the new one starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateOrder {
    #[default]
    StopFirst,
    StartFirst,
}

/// `deploy.update_config` (compose-spec, "deploy"), with Docker's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdatePolicy {
    pub order: UpdateOrder,
    /// So many are replaced at once; 0 is all.
    pub parallelism: usize,
    /// Between one and the next that waits for it.
    pub delay: Duration,
    pub monitor: Duration,
    pub on_failure: FailureAction,
    pub max_failure_ratio: f64,
    /// With `stop-first`: the file says what is good or what follows a failure, so each container is looked at before the next.
    pub watched: bool,
}

impl UpdatePolicy {
    /// That of a service. Nothing said, all are replaced at once, each stopped first, as Docker Compose does.
    pub fn of(service: &Service, options: &UpOptions) -> Self {
        let none = UpdateConfig::default();
        let deploy = service.deploy.as_ref();
        let config = deploy.and_then(|deploy| match options.rolling_back {
            true => deploy.rollback_config.as_ref().or(deploy.update_config.as_ref()),
            false => deploy.update_config.as_ref(),
        });
        let config = config.unwrap_or(&none);
        let order = match config.order.as_deref() {
            _ if options.start_first => UpdateOrder::StartFirst,
            Some("start-first") => UpdateOrder::StartFirst,
            _ => UpdateOrder::StopFirst,
        };
        let time = |nanos: Option<Nanos>| nanos.map(Nanos::duration);
        UpdatePolicy {
            order,
            // Docker's 1 would make a plain `up` of several replicas slow.
            parallelism: config.parallelism.map_or(usize::from(order == UpdateOrder::StartFirst), |n| n as usize),
            delay: time(config.delay).unwrap_or_default(),
            monitor: time(config.monitor).unwrap_or(MONITOR),
            on_failure: match config.failure_action.as_deref() {
                _ if options.roll_back && !options.rolling_back => FailureAction::Rollback,
                Some("continue") => FailureAction::Continue,
                Some("rollback") if !options.rolling_back => FailureAction::Rollback,
                _ => FailureAction::Pause,
            },
            max_failure_ratio: config.max_failure_ratio.unwrap_or(0.0),
            watched: options.watched
                || config.delay.is_some()
                || config.monitor.is_some()
                || config.failure_action.is_some()
                || config.max_failure_ratio.is_some(),
        }
    }

    /// The action once `failed` of `all` containers have failed; `None` while the update goes on.
    pub fn after(&self, failed: usize, all: usize) -> Option<FailureAction> {
        let too_many = failed > 0 && failed as f64 / all.max(1) as f64 > self.max_failure_ratio;
        Some(self.on_failure).filter(|action| too_many && *action != FailureAction::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(config: &str, options: &UpOptions) -> UpdatePolicy {
        let yaml = format!("{{image: a, deploy: {{update_config: {config}}}}}");
        UpdatePolicy::of(&serde_yaml::from_str(&yaml).expect("service"), options)
    }

    #[test]
    fn what_is_not_said_is_dockers() {
        use UpdateOrder::{StartFirst, StopFirst};
        let asked = UpOptions { start_first: true, ..UpOptions::default() };
        // Configuration, options, order, parallelism, milliseconds of the monitor, whether stop-first looks at each.
        let table = [
            ("{}", &UpOptions::default(), StopFirst, 0, 5000, false),
            ("{parallelism: 2}", &UpOptions::default(), StopFirst, 2, 5000, false),
            ("{order: start-first}", &UpOptions::default(), StartFirst, 1, 5000, false),
            ("{order: start-first, parallelism: 0, monitor: 1s500ms}", &UpOptions::default(), StartFirst, 0, 1500, true),
            ("{order: stop-first, monitor: 0s}", &asked, StartFirst, 1, 0, true),
            ("{delay: 1s}", &UpOptions::default(), StopFirst, 0, 5000, true),
            ("{failure_action: rollback}", &UpOptions::default(), StopFirst, 0, 5000, true),
            ("{max_failure_ratio: 0.5, parallelism: 1}", &UpOptions::default(), StopFirst, 1, 5000, true),
        ];
        for (config, options, order, parallelism, monitor, watched) in table {
            let got = policy(config, options);
            assert_eq!(
                (got.order, got.parallelism, got.monitor.as_millis(), got.watched),
                (order, parallelism, monitor, watched),
                "{config}"
            );
        }
    }

    #[test]
    fn what_follows_a_failure() {
        use FailureAction::{Pause, Rollback};
        // Configuration, failed, all, what follows.
        let table = [
            ("{}", 0, 3, None),
            ("{}", 1, 3, Some(Pause)),
            ("{max_failure_ratio: 0.4}", 1, 3, None),
            ("{max_failure_ratio: 0.4}", 2, 3, Some(Pause)),
            ("{failure_action: rollback}", 1, 3, Some(Rollback)),
            ("{failure_action: rollback, max_failure_ratio: 1}", 3, 3, None),
            ("{failure_action: continue}", 3, 3, None),
        ];
        for (config, failed, all, expected) in table {
            assert_eq!(policy(config, &UpOptions::default()).after(failed, all), expected, "{config} {failed} of {all}");
        }
    }
}
