//! Waits until what was applied is ready, and says what it waits for and why.

use super::apply::{Applied, say};
use super::away::AwayServer;
use super::cluster::{Cluster, labelled};
use super::cluster_error::ClusterError;
use crate::cli::output::Steps;
use crate::cli::{Failure, Outcome};
use crate::kubernetes::ServedKind;
use crate::kubernetes::live::{LiveEvent, LiveObject, LivePod};
use crate::kubernetes::ownership::pod_selector;
use crate::kubernetes::pods::{PodReport, refusals, report};
use crate::kubernetes::progress::{RolloutState, rollout};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How often the cluster is asked.
const INTERVAL: Duration = Duration::from_millis(700);

/// The label of a workload's name, which its Pods have too.
const NAME: &str = "app.kubernetes.io/name";

/// The project's workloads and Pods at one moment.
pub struct ClusterState {
    pub workloads: Vec<(ServedKind, LiveObject)>,
    pub pods: Vec<LivePod>,
    /// Warnings of the namespace; read where something is not well.
    pub events: Vec<LiveEvent>,
    /// Kinds that the user may not list, and the server's word.
    pub unlisted: Vec<(ServedKind, ClusterError)>,
}

impl ClusterState {
    /// `kinds` are those of the workloads.
    ///
    /// # Errors
    /// The server's.
    pub async fn of(cluster: &Cluster, project: &str, kinds: impl Iterator<Item = ServedKind>) -> Result<Self, ClusterError> {
        let query = labelled(&pod_selector(project));
        let (mut workloads, mut unlisted) = (Vec::new(), Vec::new());
        for served in kinds {
            let list: Vec<LiveObject> = match cluster.list(&served.path(&cluster.namespace), &query).await {
                Err(error) if error.code() == 403 => {
                    unlisted.push((served, error));
                    continue;
                }
                list => list?,
            };
            // The Jobs of a CronJob are its runs.
            let own = list.into_iter().filter(|object| object.metadata.owner_references.is_empty());
            workloads.extend(own.map(|object| (served, object)));
        }
        let pods = cluster.pods(project).await?;
        let is_well = |pod: &LivePod| report(pod, &[]).is_well;
        let made = |object: &LiveObject| object.status.replicas > 0 || object.status.succeeded > 0;
        let events = if pods.iter().all(is_well) && workloads.iter().all(|(_, object)| made(object)) {
            Vec::new()
        } else {
            let list =
                cluster.list(&format!("/api/v1/namespaces/{}/events", cluster.namespace), "fieldSelector=type%3DWarning").await;
            match list {
                // Without them less is said.
                Err(error) if error.code() == 403 => Vec::new(),
                other => other?,
            }
        };
        Ok(ClusterState { workloads, pods, events, unlisted })
    }

    /// The Pods of a workload.
    pub fn pods_of<'s>(&'s self, object: &'s LiveObject) -> impl Iterator<Item = &'s LivePod> {
        let name = object.metadata.labels.get(NAME);
        self.pods.iter().filter(move |pod| name.is_some() && pod.metadata.labels.get(NAME) == name)
    }

    pub fn report(&self, pod: &LivePod) -> PodReport {
        let own: Vec<LiveEvent> =
            self.events.iter().filter(|event| event.involved_object.uid == pod.metadata.uid).cloned().collect();
        report(pod, &own)
    }

    pub fn state(&self, served: ServedKind, object: &LiveObject) -> RolloutState {
        rollout(served.kind, object, &self.pods_of(object).collect::<Vec<_>>())
    }

    /// Why a workload is not ready: its Pods' reasons, and its own where it could make none.
    pub fn reasons(&self, object: &LiveObject) -> Vec<String> {
        let mut reasons = refusals(&self.events, &object.metadata.uid);
        for pod in self.pods_of(object) {
            let report = self.report(pod);
            let own = report.reasons.iter().map(|reason| format!("{} ({}): {reason}", pod.metadata.name, report.state));
            reasons.extend(own);
        }
        reasons
    }
}

/// Waits until every workload that was applied is ready.
///
/// # Errors
/// When one has failed, or when the time is over: what each lacks has been shown.
pub async fn wait(cluster: &Cluster, project: &str, applied: Vec<Applied>, longest: Duration, steps: &mut Steps) -> Outcome {
    let mut waiting: Vec<Applied> = applied.into_iter().filter(|one| one.served.is_workload()).collect();
    let begun = Instant::now();
    let mut away = AwayServer::default();
    let mut said: BTreeMap<String, String> = BTreeMap::new();
    let doing = "waiting for the roll-out, which goes on in the cluster";
    while !waiting.is_empty() {
        // What the project does not have is not asked for: the user may have no right to it.
        let kinds: BTreeSet<ServedKind> = waiting.iter().map(|one| one.served).collect();
        let mut state = match ClusterState::of(cluster, project, kinds.into_iter()).await {
            Ok(state) => state,
            Err(error) => {
                away.wait(error, steps).await.map_err(|error| error.while_doing(doing, "workloads"))?;
                continue;
            }
        };
        away = AwayServer::default();
        if let Some((served, error)) = state.unlisted.pop() {
            return Err(error.while_doing(doing, served.plural));
        }
        let mut failed = Vec::new();
        waiting.retain(|one| look(one, &state, steps, &mut said, &mut failed));
        let is_late = begun.elapsed() > longest && !waiting.is_empty();
        if !failed.is_empty() || is_late {
            return Err(given_up(&waiting, &state, failed, longest));
        }
        if !waiting.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = steps.go_on() => {}
            }
        }
    }
    Ok(())
}

/// Looks at one workload and shows what it lacks. False where it is ready.
fn look(
    one: &Applied,
    state: &ClusterState,
    steps: &mut Steps,
    said: &mut BTreeMap<String, String>,
    failed: &mut Vec<String>,
) -> bool {
    let (kind, name) = (one.served.kind, &one.name);
    let found = state.workloads.iter().find(|(served, object)| *served == one.served && object.metadata.name == *name);
    let Some((_, object)) = found else {
        failed.push(format!("the {kind} `{name}` has been deleted by somebody"));
        return true;
    };
    let lacks = match state.state(one.served, object) {
        RolloutState::Complete(word) if object.metadata.generation >= one.generation => {
            say(steps, kind, name, word, true);
            return false;
        }
        RolloutState::Complete(_) => "not seen by its controller yet".into(),
        RolloutState::Failed(why) => {
            failed.push(format!("the {kind} `{name}` has failed: {why}"));
            failed.extend(state.reasons(object).into_iter().map(|reason| format!("  {reason}")));
            return true;
        }
        RolloutState::Lacks(what) => what,
    };
    let reasons = state.reasons(object);
    let text = reasons.first().map_or_else(|| lacks.clone(), |reason| format!("{lacks}: {reason}"));
    // Into a pipe each line is there to be read once.
    let key = format!("{kind} {name}");
    if said.get(&key) != Some(&text) {
        say(steps, kind, name, &text, false);
        said.insert(key, text);
    }
    true
}

fn given_up(waiting: &[Applied], state: &ClusterState, mut lines: Vec<String>, longest: Duration) -> Failure {
    let is_late = lines.is_empty();
    for one in waiting {
        let found = state.workloads.iter().find(|(served, object)| *served == one.served && object.metadata.name == one.name);
        let Some((served, object)) = found else { continue };
        let RolloutState::Lacks(what) = state.state(*served, object) else { continue };
        lines.push(format!("the {} `{}`: {what}", served.kind, one.name));
        lines.extend(state.reasons(object).into_iter().map(|reason| format!("  {reason}")));
    }
    let head = match is_late {
        true => format!("not everything was ready within {} s (--timeout):", longest.as_secs()),
        false => "the roll-out has failed:".to_string(),
    };
    let lines = lines.iter().map(|line| crate::printable::line(line)).collect::<Vec<_>>().join("\n");
    Failure::Message(format!("{head}\n{lines}\n`wharf kubernetes logs` shows what the containers say"))
}
