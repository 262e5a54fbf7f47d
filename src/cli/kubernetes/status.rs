//! `wharf kubernetes status`: workloads, their Pods, and why they are not ready.

use super::apply::tell_unlisted;
use super::cluster::Cluster;
use super::kubeconfig::ClusterChoice;
use super::rollout::ClusterState;
use crate::cli::output::Steps;
use crate::cli::output::format::{Column, RowFormat};
use crate::cli::{Global, Outcome, project};
use crate::kubernetes::live::LiveMeta;
use crate::kubernetes::progress::RolloutState;
use crate::kubernetes::{SERVED, ServedKind};
use crate::printable;
use jiff::Timestamp;
use serde_json::{Value as Json, json};

#[derive(clap::Args, Debug)]
pub struct StatusCommand {
    #[command(flatten)]
    cluster: ClusterChoice,
    /// table, json, or a template such as '{{.Pod}}'.
    #[arg(long, default_value = "table")]
    format: RowFormat,
}

const COLUMNS: [Column; 7] = [
    ("Workload", "WORKLOAD"),
    ("Pod", "POD"),
    ("State", "STATE"),
    ("Ready", "READY"),
    ("Restarts", "RESTARTS"),
    ("Age", "AGE"),
    ("Reason", "REASON"),
];

pub async fn run(global: &Global, command: &StatusCommand) -> Outcome {
    let (name, _) = project::name(global)?;
    let cluster = Cluster::of(&command.cluster).await?;
    let kinds = SERVED.iter().copied().filter(ServedKind::is_workload);
    let state = ClusterState::of(&cluster, &name, kinds).await;
    let state = state.map_err(|error| error.while_doing("reading the status", "workloads and pods"))?;
    tell_unlisted(&state.unlisted, "what the project has of them is not shown", &Steps::new(false));
    if state.workloads.is_empty() && state.pods.is_empty() {
        eprintln!(
            "nothing of the project `{name}` is in the namespace `{}` of the context `{}`",
            cluster.namespace, cluster.context
        );
    }
    command.format.print(&COLUMNS, &rows(&state))
}

fn rows(state: &ClusterState) -> Vec<Json> {
    let mut rows = Vec::new();
    for (served, object) in &state.workloads {
        let workload = shown(&format!("{}/{}", served.kind, object.metadata.name));
        let (word, lacks) = match state.state(*served, object) {
            RolloutState::Complete(word) => (word, String::new()),
            RolloutState::Lacks(what) => ("Waiting", what),
            RolloutState::Failed(why) => ("Failed", why),
        };
        let own = crate::kubernetes::pods::refusals(&state.events, &object.metadata.uid).pop();
        let reason = if word == "Waiting" { own.unwrap_or(lacks) } else { lacks };
        rows.push(row(&workload, "", word, "", "", &object.metadata, &reason));
        for pod in state.pods_of(object) {
            let report = state.report(pod);
            let ready = format!("{}/{}", report.ready, report.containers);
            let reason = report.reasons.join("; ");
            rows.push(row(
                &workload,
                &pod.metadata.name,
                &report.state,
                &ready,
                &report.restarts.to_string(),
                &pod.metadata,
                &reason,
            ));
        }
    }
    rows
}

fn row(workload: &str, pod: &str, state: &str, ready: &str, restarts: &str, meta: &LiveMeta, reason: &str) -> Json {
    json!({
        "Workload": workload,
        "Pod": shown(pod),
        "State": shown(state),
        "Ready": ready,
        "Restarts": restarts,
        "Age": age(meta),
        "Reason": shown(reason),
    })
}

fn shown(text: &str) -> String {
    printable::line(text).into_owned()
}

/// `12s`, `5m`, `3h`, `2d`.
fn age(meta: &LiveMeta) -> String {
    let Some(since) = meta.creation_timestamp.as_deref().and_then(|text| text.parse::<Timestamp>().ok()) else {
        return String::new();
    };
    match Timestamp::now().as_second().saturating_sub(since.as_second()).max(0) {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ ..7200 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}
