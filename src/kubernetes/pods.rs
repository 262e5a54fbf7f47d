//! What a Pod's state says, and why it is not ready.

use super::live::{LiveContainerStatus, LiveEvent, LivePod};
use std::collections::BTreeSet;

/// A Pod as a table shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodReport {
    /// One word: `Running`, `Init:0/1`, `ImagePullBackOff`.
    pub state: String,
    pub ready: usize,
    pub containers: usize,
    pub restarts: u64,
    /// Whether there is nothing to wait for.
    pub is_well: bool,
    /// Why it is not well, most telling first; empty where the cluster does not say.
    pub reasons: Vec<String>,
}

/// Reasons of events that tell why a container has no process yet.
const PREPARING: [&str; 7] = [
    "FailedMount",
    "FailedAttachVolume",
    "FailedMapVolume",
    "FailedCreatePodSandBox",
    "FailedCreatePodContainer",
    "NetworkNotReady",
    "Failed",
];

/// The most reasons that are told of one Pod.
const MOST: usize = 4;

/// `events` are those of this Pod.
pub fn report(pod: &LivePod, events: &[LiveEvent]) -> PodReport {
    let statuses = &pod.status.container_statuses;
    let init = &pod.status.init_container_statuses;
    let mut report = PodReport {
        state: state(pod),
        ready: statuses.iter().filter(|status| status.ready).count(),
        containers: pod.spec.containers.len().max(statuses.len()),
        restarts: statuses.iter().chain(init).map(|status| status.restart_count).sum(),
        ..PodReport::default()
    };
    let phase = pod.status.phase.as_str();
    report.is_well = phase == "Succeeded" || (phase == "Running" && report.ready == report.containers);
    if !report.is_well && pod.metadata.deletion_timestamp.is_none() {
        report.reasons = reasons(pod, events);
    }
    report
}

fn state(pod: &LivePod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "Terminating".into();
    }
    let init = &pod.status.init_container_statuses;
    let is_done = |status: &LiveContainerStatus| status.state.terminated.as_ref().is_some_and(|end| end.exit_code == 0);
    if let Some(current) = init.iter().find(|status| !is_done(status))
        && !matches!(pod.status.phase.as_str(), "Running" | "Succeeded")
    {
        return match word(current) {
            Some(word) if word != "PodInitializing" => format!("Init:{word}"),
            _ => format!("Init:{}/{}", init.iter().filter(|status| is_done(status)).count(), init.len()),
        };
    }
    let telling = pod.status.container_statuses.iter().filter(|status| status.state.running.is_none()).find_map(word);
    let phase = if pod.status.phase.is_empty() { "Unknown" } else { &pod.status.phase };
    match telling {
        _ if !pod.status.reason.is_empty() => pod.status.reason.clone(),
        Some(word) => word,
        None => phase.to_string(),
    }
}

/// Why a container does not run, in a word.
fn word(status: &LiveContainerStatus) -> Option<String> {
    if let Some(waiting) = &status.state.waiting {
        return Some(waiting.reason.clone()).filter(|reason| !reason.is_empty());
    }
    let end = status.state.terminated.as_ref()?;
    Some(if end.reason.is_empty() { format!("ExitCode:{}", end.exit_code) } else { end.reason.clone() })
}

fn reasons(pod: &LivePod, events: &[LiveEvent]) -> Vec<String> {
    let mut reasons = Vec::new();
    if !pod.status.message.is_empty() {
        reasons.push(pod.status.message.clone());
    }
    let unscheduled = |kind: &str, status: &str| kind == "PodScheduled" && status == "False";
    for condition in pod.status.conditions.iter().filter(|condition| unscheduled(&condition.kind, &condition.status)) {
        reasons.push(format!("no node takes it: {}", condition.message));
    }
    for status in &pod.status.init_container_statuses {
        match status.state.running {
            Some(_) => reasons.push(format!("{}: has not ended yet", status.name)),
            None => container(status, events, &mut reasons),
        }
    }
    for status in &pod.status.container_statuses {
        container(status, events, &mut reasons);
    }
    let mut seen = BTreeSet::new();
    reasons.retain(|reason| seen.insert(reason.clone()));
    reasons.truncate(MOST);
    reasons
}

fn container(status: &LiveContainerStatus, events: &[LiveEvent], reasons: &mut Vec<String>) {
    let name = &status.name;
    if let Some(waiting) = &status.state.waiting {
        let word = waiting.reason.as_str();
        match word {
            "ContainerCreating" | "PodInitializing" | "" => reasons.extend(newest(events, &PREPARING)),
            "ImagePullBackOff" | "ErrImagePull" => {
                // The event has the registry's answer, where the state only says that it is tried again.
                let pulls = newest(events, &["Failed"]).filter(|text| text.contains("pull"));
                let own = format!("{word}: {}", waiting.message);
                reasons.push(format!("{name}: {}", pulls.max_by_key(String::len).unwrap_or(own)));
            }
            "CrashLoopBackOff" => {
                reasons.push(format!("{name}: ended again and again, {}", ended(status)));
                reasons.extend(newest(events, &["Unhealthy"]));
            }
            _ => reasons.push(format!("{name}: {word}: {}", waiting.message)),
        }
        return;
    }
    if let Some(end) = status.state.terminated.as_ref().filter(|end| end.exit_code != 0) {
        reasons.push(format!("{name}: {}", exit(end.exit_code, &end.reason, &end.message)));
    }
    if status.state.running.is_some() && !status.ready {
        let before = reasons.len();
        reasons.extend(newest(events, &["Unhealthy", "FailedPostStartHook"]));
        if status.restart_count > 0 {
            reasons.push(format!("{name}: restarted {} times, {}", status.restart_count, ended(status)));
        } else if reasons.len() == before {
            reasons.push(format!("{name}: runs, and its readiness probe has not succeeded yet"));
        }
    }
}

/// How a container's run before this one has ended.
fn ended(status: &LiveContainerStatus) -> String {
    match &status.last_state.terminated {
        Some(end) => format!("last with {}", exit(end.exit_code, &end.reason, &end.message)),
        None => "and its node does not say how".into(),
    }
}

fn exit(code: i64, reason: &str, message: &str) -> String {
    let reason = if matches!(reason, "" | "Error") { String::new() } else { format!(" ({reason})") };
    let message = if message.trim().is_empty() { String::new() } else { format!(": {}", message.trim()) };
    format!("exit code {code}{reason}{message}")
}

/// The newest warning of each reason.
fn newest<'e>(events: &'e [LiveEvent], reasons: &'e [&str]) -> impl Iterator<Item = String> + 'e {
    reasons.iter().filter_map(|reason| {
        let of = events.iter().filter(|event| event.is_warning() && event.reason == *reason);
        of.max_by_key(|event| event.when()).map(|event| event.message.clone()).filter(|message| !message.is_empty())
    })
}

/// The warnings of an object that makes Pods, where it has made none: a quota, an account that is missing.
pub fn refusals(events: &[LiveEvent], uid: &str) -> Vec<String> {
    let own: Vec<LiveEvent> = events.iter().filter(|event| event.involved_object.uid == uid).cloned().collect();
    newest(&own, &["FailedCreate", "FailedBinding", "ProvisioningFailed"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn warning(reason: &str, message: &str, when: &str) -> LiveEvent {
        let event = json!({"type": "Warning", "reason": reason, "message": message, "lastTimestamp": when});
        serde_json::from_value(event).expect("an event")
    }

    fn of(status: Json, events: &[LiveEvent]) -> PodReport {
        let pod = json!({"spec": {"containers": [{"name": "web"}]}, "status": status});
        report(&serde_json::from_value(pod).expect("a Pod"), events)
    }

    #[test]
    fn states_and_reasons() {
        let waiting = |reason: &str, message: &str| {
            json!({"phase": "Pending", "containerStatuses": [
                {"name": "web", "state": {"waiting": {"reason": reason, "message": message}}}]})
        };
        let running = |ready: bool, restarts: u64| {
            json!({"phase": "Running", "containerStatuses": [{"name": "web", "ready": ready, "restartCount": restarts,
                "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]})
        };
        let unscheduled = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}]});
        let crashing = json!({"phase": "Running", "containerStatuses": [{"name": "web", "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}}]});
        let init = json!({"phase": "Pending", "initContainerStatuses": [{"name": "wait-for-db", "state": {"running": {}}}],
            "containerStatuses": [{"name": "web", "state": {"waiting": {"reason": "PodInitializing"}}}]});
        let old = warning("Unhealthy", "Readiness probe failed: old", "2026-01-01T00:00:00Z");
        let new = warning("Unhealthy", "Readiness probe failed: HTTP 500", "2026-01-01T00:01:00Z");
        let pull = warning("Failed", "Failed to pull image \"x\": not found", "2026-01-01T00:00:00Z");
        let mount = warning("FailedMount", "configmap \"c\" not found", "2026-01-01T00:00:00Z");
        type Case = (Json, Vec<LiveEvent>, &'static str, &'static [&'static str]);
        let table: Vec<Case> = vec![
            (running(true, 0), vec![], "Running", &[]),
            (running(false, 0), vec![new.clone(), old], "Running", &["Readiness probe failed: HTTP 500"]),
            (running(false, 2), vec![], "Running", &["web: restarted 2 times, last with exit code 137 (OOMKilled)"]),
            (unscheduled, vec![], "Pending", &["no node takes it: 0/1 nodes are available"]),
            (
                waiting("ImagePullBackOff", "Back-off"),
                vec![pull],
                "ImagePullBackOff",
                &["web: Failed to pull image \"x\": not found"],
            ),
            (waiting("ErrImagePull", "denied"), vec![], "ErrImagePull", &["web: ErrImagePull: denied"]),
            (waiting("ContainerCreating", ""), vec![mount], "ContainerCreating", &["configmap \"c\" not found"]),
            (
                waiting("CreateContainerConfigError", "no key"),
                vec![],
                "CreateContainerConfigError",
                &["web: CreateContainerConfigError: no key"],
            ),
            (crashing, vec![], "CrashLoopBackOff", &["web: ended again and again, last with exit code 1"]),
            (init, vec![], "Init:0/1", &["wait-for-db: has not ended yet"]),
            (json!({"phase": "Failed", "reason": "Evicted", "message": "disk"}), vec![], "Evicted", &["disk"]),
            (json!({"phase": "Succeeded"}), vec![], "Succeeded", &[]),
        ];
        for (status, events, state, reasons) in table {
            let shown = status.to_string();
            let report = of(status, &events);
            assert_eq!(report.state, state, "{shown}");
            assert_eq!(report.reasons, reasons, "{shown}");
        }
    }

    #[test]
    fn one_that_goes_has_no_reasons() {
        let pod = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        let report = report(&serde_json::from_value(pod).expect("a Pod"), &[]);
        assert_eq!((report.state.as_str(), report.reasons.len()), ("Terminating", 0));
    }
}
