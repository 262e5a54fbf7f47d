//! `wharf kubernetes down`: deletes what wharf has applied of the project, and waits until it is gone.

use super::apply::{say, tell_foreign};
use super::cluster::Cluster;
use super::kubeconfig::ClusterChoice;
use crate::cli::output::Steps;
use crate::cli::{Failure, Global, Outcome, project};
use crate::kubernetes::ownership::{FoundObject, prune, selector};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often the cluster is asked whether all is gone.
const INTERVAL: Duration = Duration::from_millis(500);

#[derive(clap::Args, Debug)]
pub struct ClusterDown {
    #[command(flatten)]
    cluster: ClusterChoice,
    /// Delete the claims of volumes as well, and their data.
    #[arg(short, long)]
    volumes: bool,
    /// Seconds to wait until everything is gone.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

pub async fn run(global: &Global, command: &ClusterDown) -> Outcome {
    let (name, _) = project::name(global)?;
    let cluster = Cluster::of(&command.cluster).await?;
    let mut steps = Steps::new(false);
    let found = cluster.found(&selector(&name)).await?;
    // What another `down` has begun to delete is waited for, too.
    let going: Vec<FoundObject> = found.iter().filter(|one| one.meta.deletion_timestamp.is_some()).cloned().collect();
    let plan = prune(found, &BTreeSet::new(), &name, command.volumes);
    tell_foreign(&plan, &steps);
    if plan.deleted.is_empty() && going.is_empty() {
        let (namespace, context) = (&cluster.namespace, &cluster.context);
        steps.line(&format!("nothing of the project `{name}` is in the namespace `{namespace}` of the context `{context}`"));
    }
    for found in &plan.deleted {
        let (kind, name) = (found.served.kind, &found.meta.name);
        let deleted = cluster.delete(found, global.dry_run).await;
        deleted.map_err(|error| error.while_doing(&format!("deleting the {kind} `{name}`"), kind))?;
        say(&mut steps, kind, name, if global.dry_run { "would be deleted" } else { "Deleting" }, global.dry_run);
    }
    if !plan.kept.is_empty() {
        let names: Vec<&str> = plan.kept.iter().map(|found| found.meta.name.as_str()).collect();
        steps.line(&format!("the claims of volumes are kept with their data: {} (-v deletes them)", names.join(", ")));
    }
    if global.dry_run {
        return Ok(());
    }
    let waited = plan.deleted.into_iter().chain(going).collect();
    gone(&cluster, &name, waited, Duration::from_secs(command.timeout), &mut steps).await
}

/// Waits until objects, and the Pods that they have made, are gone.
async fn gone(cluster: &Cluster, project: &str, mut waiting: Vec<FoundObject>, longest: Duration, steps: &mut Steps) -> Outcome {
    let begun = Instant::now();
    let had_workloads = waiting.iter().any(|found| found.served.is_workload());
    loop {
        let mut left = cluster.found(&selector(project)).await?;
        left.retain(|found| waiting.iter().any(|one| one.meta.uid == found.meta.uid && one.served == found.served));
        for found in &waiting {
            if !left.iter().any(|one| one.meta.uid == found.meta.uid) {
                say(steps, found.served.kind, &found.meta.name, "Deleted", true);
            }
        }
        waiting = left;
        let pods = if had_workloads { pods(cluster, project).await? } else { Vec::new() };
        if waiting.is_empty() && pods.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > longest {
            let objects = waiting.iter().map(|found| format!("the {} `{}`", found.served.kind, found.meta.name));
            let left: Vec<String> = objects.chain(pods.iter().map(|pod| format!("the Pod `{pod}`"))).collect();
            return Err(Failure::Message(format!(
                "not everything was gone within {} s (--timeout); the cluster goes on deleting {}",
                longest.as_secs(),
                left.join(", ")
            )));
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = steps.go_on() => {}
        }
    }
}

/// The project's Pods that are going. Those that run on are somebody else's.
async fn pods(cluster: &Cluster, project: &str) -> Result<Vec<String>, Failure> {
    let pods = cluster.pods(project).await.map_err(|error| error.while_doing("waiting for the Pods to end", "pods"))?;
    Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).map(|pod| pod.metadata.name).collect())
}
