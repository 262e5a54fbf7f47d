//! A container's health check.

use super::invalid;
use crate::api::types::HealthConfig;
use crate::engine::EngineError;
use crate::engine::record::HealthSpec;
use crate::units::Nanos;

/// Nanoseconds: Docker's shortest duration.
const SHORTEST: i64 = 1_000_000;

/// The check; `None` where nothing is asked for.
pub(super) fn of(check: &HealthConfig) -> Result<Option<HealthSpec>, EngineError> {
    let duration = |name: &str, value: i64| match value {
        0 => Ok(Nanos::default()),
        SHORTEST.. => Ok(Nanos(value as u64)),
        _ => Err(invalid(format!("{name} in Healthcheck cannot be less than 1ms"))),
    };
    let retries = u32::try_from(check.retries).map_err(|_| invalid("Retries in Healthcheck cannot be negative"))?;
    match check.test.first().map(String::as_str) {
        None | Some("") | Some("NONE" | "CMD" | "CMD-SHELL") => {}
        Some(other) => {
            return Err(invalid(format!("unknown type of test in Healthcheck: `{other}`: write CMD, CMD-SHELL or NONE")));
        }
    }
    let spec = HealthSpec {
        test: check.test.iter().filter(|word| !(check.test.len() == 1 && word.is_empty())).cloned().collect(),
        interval: duration("Interval", check.interval)?,
        timeout: duration("Timeout", check.timeout)?,
        start_period: duration("StartPeriod", check.start_period)?,
        start_interval: duration("StartInterval", check.start_interval)?,
        retries,
    };
    Ok((spec != HealthSpec::default()).then_some(spec))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{refused, spec_of};
    use crate::units::Nanos;
    use serde_json::json;

    #[test]
    fn a_check_is_read_or_refused() {
        let check = json!({"Test": ["CMD", "true"], "Interval": 1_000_000, "Retries": 3});
        let health = spec_of(json!({"Healthcheck": check})).expect("a body").health.expect("a check");
        assert_eq!((health.test.len(), health.interval, health.timeout, health.retries), (2, Nanos(1_000_000), Nanos(0), 3));
        // Only the times differ from the image's.
        let health = spec_of(json!({"Healthcheck": {"Interval": 5_000_000_000_i64}})).expect("a body").health.expect("a check");
        assert_eq!((health.test.len(), health.interval), (0, Nanos(5_000_000_000)));
        assert!(spec_of(json!({"Healthcheck": {}})).expect("a body").health.is_none());
        let of = |key: &str, value: i64| json!({"Healthcheck": {"Test": ["NONE"], key: value}});
        refused(vec![
            (of("Interval", 5), "Interval in Healthcheck cannot be less than 1ms"),
            (of("Timeout", -1), "Timeout in Healthcheck cannot be less than 1ms"),
            (of("StartPeriod", 999_999), "StartPeriod in Healthcheck"),
            (of("StartInterval", 1), "StartInterval in Healthcheck"),
            (of("Retries", -1), "Retries in Healthcheck cannot be negative"),
            (json!({"Healthcheck": {"Test": ["curl"]}}), "unknown type of test"),
        ]);
    }
}
