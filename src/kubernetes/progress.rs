//! What a roll-out lacks.

use super::live::{LiveObject, LivePod};

/// How far an object has come to what was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutState {
    /// What is to be said of it.
    Complete(&'static str),
    /// What it waits for.
    Lacks(String),
    /// It does not go on by itself.
    Failed(String),
}

use RolloutState::{Complete, Failed, Lacks};

/// The state of a workload. `pods` are its own. Kinds that make no Pods are complete.
pub fn rollout(kind: &str, object: &LiveObject, pods: &[&LivePod]) -> RolloutState {
    let seen = object.status.observed_generation >= object.metadata.generation;
    match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" if !seen => Lacks("not seen by its controller yet".into()),
        "Deployment" => deployment(object),
        "StatefulSet" => stateful_set(object),
        "DaemonSet" => daemon_set(object),
        "Job" => job(object, pods),
        "CronJob" => Complete("Scheduled"),
        _ => Complete("Applied"),
    }
}

fn deployment(object: &LiveObject) -> RolloutState {
    let (status, wanted) = (&object.status, object.spec.replicas.unwrap_or(1));
    let stopped = status.conditions.iter().find(|condition| condition.reason == "ProgressDeadlineExceeded");
    if let Some(condition) = stopped.filter(|condition| condition.kind == "Progressing") {
        return Failed(condition.message.clone());
    }
    if status.updated_replicas < wanted {
        return Lacks(format!("{} of {wanted} updated", status.updated_replicas) + &refused(object));
    }
    if status.replicas > status.updated_replicas {
        return Lacks(format!("{} old to end", status.replicas - status.updated_replicas));
    }
    if status.available_replicas < status.updated_replicas {
        return Lacks(format!("{} of {wanted} ready", status.available_replicas) + &refused(object));
    }
    Complete("Ready")
}

/// Why no Pods are made, such as a quota.
fn refused(object: &LiveObject) -> String {
    object.status.holds("ReplicaFailure").map(|condition| format!(": {}", condition.message)).unwrap_or_default()
}

fn stateful_set(object: &LiveObject) -> RolloutState {
    let (status, wanted) = (&object.status, object.spec.replicas.unwrap_or(1));
    if status.ready_replicas < wanted {
        return Lacks(format!("{} of {wanted} ready", status.ready_replicas));
    }
    let by_itself = object.spec.update_strategy.kind != "OnDelete";
    if by_itself && status.update_revision != status.current_revision {
        return Lacks(format!("{} of {wanted} updated", status.updated_replicas));
    }
    Complete("Ready")
}

fn daemon_set(object: &LiveObject) -> RolloutState {
    let (status, wanted) = (&object.status, object.status.desired_number_scheduled);
    if object.spec.update_strategy.kind != "OnDelete" && status.updated_number_scheduled < wanted {
        return Lacks(format!("{} of {wanted} updated", status.updated_number_scheduled));
    }
    if status.number_available < wanted {
        return Lacks(format!("{} of {wanted} ready", status.number_available));
    }
    Complete("Ready")
}

/// A Job has begun well when it has succeeded or a Pod of it runs: some of them run for ever.
fn job(object: &LiveObject, pods: &[&LivePod]) -> RolloutState {
    if object.spec.suspend == Some(true) {
        return Complete("Suspended");
    }
    if object.status.holds("Complete").is_some() {
        return Complete("Succeeded");
    }
    if let Some(failed) = object.status.holds("Failed") {
        return Failed(format!("{}: {}", failed.reason, failed.message));
    }
    let is_running = |pod: &&LivePod| pod.status.phase == "Running" && pod.metadata.deletion_timestamp.is_none();
    let ready = |pod: &&LivePod| pod.status.container_statuses.iter().all(|status| status.state.running.is_some());
    if pods.iter().copied().any(|pod| is_running(&pod) && ready(&pod)) {
        return Complete("Running");
    }
    let wanted = object.spec.completions.unwrap_or(1);
    Lacks(format!("{} of {wanted} succeeded", object.status.succeeded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state(kind: &str, object: serde_json::Value) -> RolloutState {
        rollout(kind, &serde_json::from_value(object).expect("an object"), &[])
    }

    fn lacks(text: &str) -> RolloutState {
        Lacks(text.into())
    }

    #[test]
    fn deployments() {
        let of = |replicas: i64, status: serde_json::Value| {
            state("Deployment", json!({"metadata": {"generation": 2}, "spec": {"replicas": replicas}, "status": status}))
        };
        assert_eq!(of(2, json!({"observedGeneration": 1, "updatedReplicas": 2})), lacks("not seen by its controller yet"));
        assert_eq!(of(2, json!({"observedGeneration": 2, "updatedReplicas": 1})), lacks("1 of 2 updated"));
        let old = json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 3, "availableReplicas": 3});
        assert_eq!(of(2, old), lacks("1 old to end"));
        let unready = json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 1});
        assert_eq!(of(2, unready), lacks("1 of 2 ready"));
        let ready = json!({"observedGeneration": 3, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 2});
        assert_eq!(of(2, ready), Complete("Ready"));
        assert_eq!(of(0, json!({"observedGeneration": 2})), Complete("Ready"));
        let quota = json!({"observedGeneration": 2, "conditions": [
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}]});
        assert_eq!(of(1, quota), lacks("0 of 1 updated: exceeded quota"));
        let late = json!({"observedGeneration": 2, "updatedReplicas": 1, "conditions": [
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too late"}]});
        assert_eq!(of(1, late), Failed("too late".into()));
    }

    #[test]
    fn stateful_and_daemon_sets() {
        let set = |ready: i64, current: &str| {
            let status =
                json!({"observedGeneration": 1, "readyReplicas": ready, "currentRevision": current, "updateRevision": "b"});
            state("StatefulSet", json!({"metadata": {"generation": 1}, "spec": {"replicas": 1}, "status": status}))
        };
        assert_eq!(set(0, "b"), lacks("0 of 1 ready"));
        assert_eq!(set(1, "a"), lacks("0 of 1 updated"));
        assert_eq!(set(1, "b"), Complete("Ready"));
        let daemons = |updated: i64, available: i64| {
            let status = json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": updated, "numberAvailable": available});
            state("DaemonSet", json!({"metadata": {"generation": 1}, "status": status}))
        };
        assert_eq!(daemons(1, 2), lacks("1 of 2 updated"));
        assert_eq!(daemons(2, 1), lacks("1 of 2 ready"));
        assert_eq!(daemons(2, 2), Complete("Ready"));
    }

    #[test]
    fn jobs() {
        let with = |status: serde_json::Value| state("Job", json!({"status": status}));
        assert_eq!(with(json!({})), lacks("0 of 1 succeeded"));
        assert_eq!(with(json!({"conditions": [{"type": "Complete", "status": "True"}]})), Complete("Succeeded"));
        let failed =
            json!({"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "no more"}]});
        assert_eq!(with(failed), Failed("BackoffLimitExceeded: no more".into()));
        assert_eq!(state("Job", json!({"spec": {"suspend": true}})), Complete("Suspended"));
        let pod: LivePod = serde_json::from_value(json!({"status": {"phase": "Running", "containerStatuses": [
            {"name": "a", "state": {"running": {}}}]}}))
        .expect("a Pod");
        assert_eq!(rollout("Job", &LiveObject::default(), &[&pod]), Complete("Running"));
    }
}
