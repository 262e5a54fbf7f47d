//! `wharf kubernetes diff`: the server says what an apply would make of each object, and the difference is shown.

use super::apply::{all_right, meta, pruned, require_own};
use super::cluster::{ApplyOptions, Cluster};
use super::kubeconfig::ClusterChoice;
use super::made;
use crate::cli::output::Steps;
use crate::cli::{Failure, Global, Outcome};
use crate::compose::Loaded;
use crate::kubernetes::difference::{difference, without_secrets};
use crate::kubernetes::{Object, Options};
use crate::printable;
use futures::stream::{self, StreamExt};
use serde_json::Value as Json;
use std::collections::BTreeSet;

/// How many objects are asked for at once.
const AT_ONCE: usize = 8;

#[derive(clap::Args, Debug)]
pub struct DiffCommand {
    #[command(flatten)]
    cluster: ClusterChoice,
    /// Show what would become of fields that others have set, as `apply --force-conflicts` does.
    #[arg(long)]
    force_conflicts: bool,
}

pub async fn run(global: &Global, command: &DiffCommand) -> Outcome {
    let failed = |failure: Failure| failure.or_code(2);
    match differences(global, command).await.map_err(failed)? {
        true => Err(Failure::Code(1)),
        false => Ok(()),
    }
}

/// Shows the differences, and tells whether there are any.
async fn differences(global: &Global, command: &DiffCommand) -> Result<bool, Failure> {
    let cluster = Cluster::of(&command.cluster).await?;
    let version = cluster.version().await?;
    let loaded = made::load(global, &[])?;
    let options = Options { namespace: Some(cluster.namespace.clone()), version, ..Options::default() };
    let objects = made::objects(&loaded, options)?;
    let built = built(&loaded);
    let how = ApplyOptions { force: command.force_conflicts, dry_run: true };
    let project = loaded.project.name.as_str();
    let mut texts = stream::iter(objects.iter().map(|object| one(&cluster, project, object, &built, how))).buffered(AT_ONCE);
    let (mut any, mut failures) = (false, Vec::new());
    while let Some(text) = texts.next().await {
        match text {
            Ok(Some(text)) => {
                any = true;
                print!("{}", printable::lines(&text));
            }
            Ok(None) => {}
            Err(failure) => failures.push(failure),
        }
    }
    all_right(failures)?;
    for found in pruned(&cluster, &objects, project, &Steps::new(false)).await?.deleted {
        let path = cluster.object(found.served, &found.meta.name);
        let doing = format!("reading the {} `{}`", found.served.kind, found.meta.name);
        let live = cluster.get(&path).await.map_err(|error| error.while_doing(&doing, found.served.kind))?;
        let name = format!("{}/{}", found.served.kind, found.meta.name);
        if let Some(text) = difference(&name, live.as_ref(), None) {
            any = true;
            print!("{}", printable::lines(&text));
        }
    }
    Ok(any)
}

/// Services whose images have no digest before `apply` has built them.
fn built(loaded: &Loaded) -> BTreeSet<String> {
    let jobs = loaded.project.jobs.iter().map(|(name, job)| (name, &job.service));
    let all = loaded.project.services.iter().chain(jobs);
    all.filter(|(_, service)| service.build.is_some()).map(|(name, _)| name.clone()).collect()
}

/// The difference of one object; `None` where there is none. What `apply` refuses is refused here.
async fn one(
    cluster: &Cluster,
    project: &str,
    object: &Object,
    built: &BTreeSet<String>,
    how: ApplyOptions,
) -> Result<Option<String>, Failure> {
    let (served, name, mut json) = (object.served(), object.name(), object.for_server());
    let doing = format!("comparing the {} `{name}`", served.kind);
    let live = cluster.get(&cluster.object(served, name)).await.map_err(|error| error.while_doing(&doing, served.kind))?;
    if let Some(live) = &live {
        require_own(cluster, project, how, object, Some(&meta(live)))?;
        keep_images(&mut json, live, built);
    }
    let title = format!("{}/{name}", served.kind);
    match cluster.apply(served, name, &json, how).await {
        Ok(applied) => Ok(difference(&title, live.as_ref(), Some(&applied))),
        // `apply` replaces it.
        Err(error) if served.kind == "Job" && error.is_immutable() => Ok(difference(&title, live.as_ref(), Some(&json))),
        // Everything in a namespace that does not exist is new.
        Err(error) if error.code() == 404 && live.is_none() => Ok(difference(&title, None, Some(&json))),
        Err(error) => Err(match error.while_doing(&doing, served.kind) {
            Failure::Message(text) => Failure::Message(without_secrets(&json, text)),
            other => other,
        }),
    }
}

/// Leaves the images that are built here as they are on the cluster.
fn keep_images(json: &mut Json, live: &Json, built: &BTreeSet<String>) {
    for template in ["/spec/template/spec/containers", "/spec/jobTemplate/spec/template/spec/containers"] {
        let known = live.pointer(template).and_then(Json::as_array);
        for container in json.pointer_mut(template).and_then(Json::as_array_mut).into_iter().flatten() {
            let is_same = |other: &&Json| other["name"] == container["name"];
            let name = container["name"].as_str().unwrap_or_default();
            if let (true, Some(known)) = (built.contains(name), known.and_then(|known| known.iter().find(is_same))) {
                container["image"] = known["image"].clone();
            }
        }
    }
}
