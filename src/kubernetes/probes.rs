//! A health check as three probes.
//!
//! Docker calls a container unhealthy after `retries` failures in a row, one every `interval`; failures within `start_period` do not count,
//! and checks come every `start_interval` until the first success. The startup probe has all of that time; the liveness and the readiness probe begin
//! with its success. Seconds are whole in Kubernetes and at least one: times are rounded up, so that a container never has less.

use super::context::Context;
use super::quantity::seconds;
use super::workload::Workload;
use super::{kompose, names};
use crate::compose::model::{Healthcheck, OnUnhealthy};
use crate::units::Nanos;
use k8s_openapi::api::core::v1::{ExecAction, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

const SECOND: u64 = 1_000_000_000;
/// Docker's defaults.
const INTERVAL: Nanos = Nanos(30 * SECOND);
const TIMEOUT: Nanos = Nanos(30 * SECOND);
const START_INTERVAL: Nanos = Nanos(5 * SECOND);
const RETRIES: u32 = 3;

/// A container's probes, made of a service's health check and hooks.
#[derive(Default)]
pub struct Probes {
    pub startup: Option<Probe>,
    pub liveness: Option<Probe>,
    pub readiness: Option<Probe>,
}

/// The times of a check.
struct Times {
    interval: i32,
    timeout: i32,
    retries: i32,
}

pub fn probes(context: &Context<'_>, workload: &Workload<'_>) -> Probes {
    let check = workload.service.healthcheck.clone().unwrap_or_default();
    if check.disable || check.test.as_ref().is_some_and(|test| test.first().is_some_and(|kind| kind == "NONE")) {
        return Probes::default();
    }
    let own = workload.service.healthcheck.is_some().then(|| command(context, workload, &check)).flatten();
    let network = |probe: &str| of_network(context, workload, probe);
    let times = times(&check);
    let liveness = network("liveness").or_else(|| own.clone());
    let mut readiness =
        network("readiness").or_else(|| own_readiness(context, workload)).or_else(|| own.clone()).or_else(|| liveness.clone());
    if workload.label("service.healthcheck.readiness.disable").is_some_and(|text| text == "true") {
        readiness = None;
    }
    if check.on_failure == Some(OnUnhealthy::Stop) {
        let path = workload.path(&["healthcheck", "x-on-failure"]);
        context.warn(&path, "Kubernetes restarts a container that is unhealthy, and cannot leave it stopped", "");
    }
    let every = |action: Probe| Probe {
        period_seconds: Some(times.interval),
        timeout_seconds: Some(times.timeout),
        failure_threshold: Some(times.retries),
        ..action
    };
    Probes {
        startup: liveness.clone().map(|action| startup(&check, action, &times)),
        readiness: readiness.map(|action| with_readiness_times(context, workload, every(action))),
        liveness: liveness.map(every),
    }
}

fn times(check: &Healthcheck) -> Times {
    Times {
        interval: seconds(check.interval.and_then(Nanos::positive).unwrap_or(INTERVAL)),
        timeout: seconds(check.timeout.and_then(Nanos::positive).unwrap_or(TIMEOUT)),
        retries: i32::try_from(check.retries.filter(|retries| *retries > 0).unwrap_or(RETRIES)).unwrap_or(i32::MAX),
    }
}

/// All of `start_period`, and `retries` intervals more.
fn startup(check: &Healthcheck, action: Probe, times: &Times) -> Probe {
    let start = check.start_period.and_then(Nanos::positive);
    let period = match start {
        Some(_) => seconds(check.start_interval.and_then(Nanos::positive).unwrap_or(START_INTERVAL)),
        None => times.interval,
    };
    let budget = start.map_or(0, |start| i64::from(seconds(start))) + i64::from(times.retries) * i64::from(times.interval);
    let threshold = budget.div_euclid(i64::from(period)) + i64::from(budget.rem_euclid(i64::from(period)) != 0);
    Probe {
        period_seconds: Some(period),
        timeout_seconds: Some(times.timeout),
        failure_threshold: Some(i32::try_from(threshold).unwrap_or(i32::MAX).max(1)),
        ..action
    }
}

fn command(context: &Context<'_>, workload: &Workload<'_>, check: &Healthcheck) -> Option<Probe> {
    let test = check.test.as_deref().unwrap_or_default();
    let command = match test.split_first() {
        Some((kind, rest)) if kind == "CMD" && !rest.is_empty() => rest.to_vec(),
        Some((kind, [text, ..])) if kind == "CMD-SHELL" => vec!["/bin/sh".into(), "-c".into(), text.clone()],
        _ => {
            let message = "the health check that the image has is not known here: Kubernetes has no probe without a `test`";
            context.warn(&workload.path(&["healthcheck"]), message, "write the image's HEALTHCHECK as `test`");
            return None;
        }
    };
    Some(exec(&command))
}

fn exec(command: &[String]) -> Probe {
    Probe { exec: Some(ExecAction { command: Some(names::literals(command)) }), ..Probe::default() }
}

/// kompose's labels for a probe that asks a port.
fn of_network(context: &Context<'_>, workload: &Workload<'_>, probe: &str) -> Option<Probe> {
    let label = |name: &str| format!("service.healthcheck.{probe}.{name}");
    let port = |name: &str| -> Option<u16> {
        kompose::parsed(context, &workload.path(&[]), workload.service, &label(name), "a port from 1 to 65535")
            .filter(|port| *port > 0)
    };
    if let Some(port) = port("http_get_port") {
        let path = workload.label(&label("http_get_path")).unwrap_or("/").to_string();
        let action = HTTPGetAction { path: Some(path), port: IntOrString::Int(port.into()), ..HTTPGetAction::default() };
        return Some(Probe { http_get: Some(action), ..Probe::default() });
    }
    let port = port("tcp_port")?;
    Some(Probe { tcp_socket: Some(TCPSocketAction { host: None, port: IntOrString::Int(port.into()) }), ..Probe::default() })
}

/// kompose's `readiness.test`: a list in JSON, or a command for a shell.
fn own_readiness(context: &Context<'_>, workload: &Workload<'_>) -> Option<Probe> {
    let text = workload.label("service.healthcheck.readiness.test")?;
    let list: Vec<String> = if text.trim_start().starts_with('[') {
        let Ok(list) = serde_json::from_str(text) else {
            let path = workload.path(&["labels", "kompose.service.healthcheck.readiness.test"]);
            context.refuse(&path, format!("`{text}` is no list of texts"), "write it as `[\"CMD\", \"program\", \"argument\"]`");
            return None;
        };
        list
    } else {
        vec!["CMD-SHELL".into(), text.into()]
    };
    command(context, workload, &Healthcheck { test: Some(list), ..Healthcheck::default() })
}

fn with_readiness_times(context: &Context<'_>, workload: &Workload<'_>, probe: Probe) -> Probe {
    let time = |name: &str| -> Option<i32> {
        let label = format!("service.healthcheck.readiness.{name}");
        let time: Option<Nanos> =
            kompose::parsed(context, &workload.path(&[]), workload.service, &label, "a duration such as 10s");
        time.map(seconds)
    };
    let retries: Option<i32> = kompose::parsed(
        context,
        &workload.path(&[]),
        workload.service,
        "service.healthcheck.readiness.retries",
        "a number above 0",
    );
    Probe {
        period_seconds: time("interval").or(probe.period_seconds),
        timeout_seconds: time("timeout").or(probe.timeout_seconds),
        failure_threshold: retries.or(probe.failure_threshold),
        initial_delay_seconds: time("start_period"),
        ..probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(interval: &str, retries: u32, start_period: &str, start_interval: &str) -> Healthcheck {
        let time = |text: &str| text.parse().ok();
        Healthcheck {
            interval: time(interval),
            retries: Some(retries),
            start_period: time(start_period),
            start_interval: time(start_interval),
            ..Healthcheck::default()
        }
    }

    /// (interval, retries, start_period, start_interval) and the startup probe's period and failures.
    #[test]
    fn a_slow_start_has_all_of_its_time() {
        let table = [
            (check("", 0, "", ""), (30, 3)),
            (check("1s", 120, "", ""), (1, 120)),
            (check("500ms", 4, "", ""), (1, 4)),
            (check("10s", 3, "60s", "2s"), (2, 45)),
            (check("10s", 3, "60s", ""), (5, 18)),
            (check("10s", 3, "1s", "7s"), (7, 5)),
            (check("5s", 1, "10s", "100ms"), (1, 15)),
            (check("400h", 4000000, "", ""), (1440000, 4000000)),
        ];
        for (check, (period, failures)) in table {
            let probe = startup(&check, Probe::default(), &times(&check));
            assert_eq!((probe.period_seconds, probe.failure_threshold), (Some(period), Some(failures)), "{check:?}");
        }
    }
}
