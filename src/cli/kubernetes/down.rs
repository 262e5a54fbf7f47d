//! `wharf kubernetes down`: deletes what wharf has applied of the project, and waits until it is gone.

use super::apply::{all_right, say, tell_foreign, tell_unlisted};
use super::away::AwayServer;
use super::cluster::{Cluster, labelled};
use super::cluster_error::ClusterError;
use super::kubeconfig::ClusterChoice;
use super::read;
use crate::cli::output::Steps;
use crate::cli::{Failure, Global, Outcome, project};
use crate::compose::Loaded;
use crate::kubernetes::live::LiveObject;
use crate::kubernetes::ownership::{FoundObject, prune, selector};
use crate::kubernetes::{self, Options, SERVED, ServedKind};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// After how long the cluster is asked whether all is gone, at first and at last: half as long again each time.
const FIRST: Duration = Duration::from_millis(500);
const LAST: Duration = Duration::from_secs(5);

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
    let (name, loaded) = project::name(global)?;
    let cluster = Cluster::of(&command.cluster).await?;
    let mut steps = Steps::new(false);
    let known = cluster.found(&selector(&name), SERVED).await?;
    let (mut failures, others) = unlisted(known.unlisted, loaded.as_ref());
    tell_unlisted(&others, "what the project has of them is left", &steps);
    // What another `down` has begun to delete is waited for, too.
    let going: Vec<FoundObject> = known.found.iter().filter(|one| one.meta.deletion_timestamp.is_some()).cloned().collect();
    let plan = prune(known.found, &BTreeSet::new(), &name, command.volumes);
    tell_foreign(&plan, &steps);
    if plan.deleted.is_empty() && going.is_empty() {
        let (namespace, context) = (&cluster.namespace, &cluster.context);
        steps.line(&format!("nothing of the project `{name}` is in the namespace `{namespace}` of the context `{context}`"));
    }
    let mut waited = going;
    for found in &plan.deleted {
        let (kind, name) = (found.served.kind, &found.meta.name);
        match cluster.delete(found, global.dry_run).await {
            Ok(_) => {
                say(&mut steps, kind, name, if global.dry_run { "would be deleted" } else { "Deleting" }, global.dry_run);
                waited.push(found.clone());
            }
            Err(error) => {
                let is_away = error.is_away();
                failures.push(error.while_doing(&format!("deleting the {kind} `{name}`"), kind));
                // The others would fail alike.
                if is_away {
                    break;
                }
            }
        }
    }
    if !plan.kept.is_empty() {
        let names: Vec<&str> = plan.kept.iter().map(|found| found.meta.name.as_str()).collect();
        steps.line(&format!("the claims of volumes are kept with their data: {} (-v deletes them)", names.join(", ")));
    }
    if !global.dry_run {
        let waited = gone(&cluster, &name, waited, Duration::from_secs(command.timeout), &mut steps).await;
        failures.extend(waited.err());
    }
    all_right(failures)
}

/// Failures for the kinds that the user may not list and that the project's files have, and the other kinds. Without files nobody knows.
fn unlisted(kinds: Vec<(ServedKind, ClusterError)>, loaded: Option<&Loaded>) -> (Vec<Failure>, Vec<(ServedKind, ClusterError)>) {
    let (Some(loaded), false) = (loaded, kinds.is_empty()) else { return (Vec::new(), kinds) };
    let options = Options { files: read::all(kubernetes::needed(&loaded.project)), ..Options::default() };
    let made: BTreeSet<ServedKind> = kubernetes::export(loaded, &options).objects.iter().map(|object| object.served()).collect();
    let (own, others): (Vec<_>, Vec<_>) = kinds.into_iter().partition(|(served, _)| made.contains(served));
    let failed =
        |(served, error): (ServedKind, ClusterError)| error.while_doing(&format!("listing {}", served.plural), served.plural);
    (own.into_iter().map(failed).collect(), others)
}

/// Waits until objects, and the Pods that they have made, are gone.
async fn gone(cluster: &Cluster, project: &str, mut waiting: Vec<FoundObject>, longest: Duration, steps: &mut Steps) -> Outcome {
    let begun = Instant::now();
    let (mut away, mut interval) = (AwayServer::default(), FIRST);
    let had_workloads = waiting.iter().any(|found| found.served.is_workload());
    loop {
        let (left, pods) = match left(cluster, project, &waiting, had_workloads).await {
            Ok(known) => known,
            Err(error) => {
                let doing = "waiting for what is deleted, which goes on in the cluster";
                away.wait(error, steps).await.map_err(|error| error.while_doing(doing, "its objects"))?;
                continue;
            }
        };
        away = AwayServer::default();
        for found in waiting.iter().filter(|found| !left.contains(found)) {
            say(steps, found.served.kind, &found.meta.name, "Deleted", true);
        }
        waiting = left;
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
            () = tokio::time::sleep(interval) => interval = (interval * 3 / 2).min(LAST),
            () = steps.go_on() => {}
        }
    }
}

/// What there still is of some objects, and the project's Pods that are going, where there may be some. Kinds that nothing is left of are not
/// asked for.
async fn left(
    cluster: &Cluster,
    project: &str,
    waiting: &[FoundObject],
    has_pods: bool,
) -> Result<(Vec<FoundObject>, Vec<String>), ClusterError> {
    let kinds: BTreeSet<ServedKind> = waiting.iter().map(|found| found.served).collect();
    let query = labelled(&selector(project));
    let lists = kinds.into_iter().map(|served| {
        let query = &query;
        async move {
            let list: Vec<LiveObject> = cluster.list(&served.path(&cluster.namespace), query).await?;
            Ok::<_, ClusterError>(list.into_iter().map(move |object| (served, object.metadata.uid)))
        }
    });
    let known: BTreeSet<(ServedKind, String)> = futures::future::try_join_all(lists).await?.into_iter().flatten().collect();
    let left = waiting.iter().filter(|found| known.contains(&(found.served, found.meta.uid.clone()))).cloned().collect();
    // Pods that run on are somebody else's.
    let pods = if has_pods { cluster.pods(project).await? } else { Vec::new() };
    let going = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).map(|pod| pod.metadata.name);
    Ok((left, going.collect()))
}
