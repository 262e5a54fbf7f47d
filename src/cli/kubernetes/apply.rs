//! `wharf kubernetes apply`: the project's objects are applied on the server's side, what the project no longer has is pruned, and the roll-out
//! is waited for.

use super::cluster::{ApplyOptions, Cluster};
use super::cluster_error::ClusterError;
use super::kubeconfig::ClusterChoice;
use super::{images, made, rollout};
use crate::cli::output::Steps;
use crate::cli::{Failure, Global, Outcome};
use crate::kubernetes::difference::without_secrets;
use crate::kubernetes::live::LiveMeta;
use crate::kubernetes::ownership::{Belongs, FoundObject, PrunePlan, belongs, prune, selector};
use crate::kubernetes::{Object, Options, SERVED, ServedKind};
use crate::wire::Progress;
use futures::stream::{self, StreamExt};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How many objects are applied at once.
const AT_ONCE: usize = 8;

/// How long a Job that is replaced may take to go.
const GOING: Duration = Duration::from_secs(60);

#[derive(clap::Args, Debug)]
pub struct Apply {
    #[command(flatten)]
    cluster: ClusterChoice,
    /// Build the images of services that have a `build`, push them to this registry, and name them by digest.
    #[arg(long, value_name = "REGISTRY")]
    push: Option<String>,
    /// Create the namespace where it does not exist.
    #[arg(long)]
    create_namespace: bool,
    /// Take over fields that others have set, and objects that are not this project's.
    #[arg(long)]
    force_conflicts: bool,
    /// Keep objects that the project no longer has.
    #[arg(long)]
    no_prune: bool,
    /// Do not wait until everything is ready.
    #[arg(long)]
    no_wait: bool,
    /// Seconds to wait until everything is ready.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

impl Apply {
    pub fn pushes(&self) -> bool {
        self.push.is_some()
    }
}

pub async fn run(global: &Global, command: &Apply) -> Outcome {
    let cluster = Cluster::of(&command.cluster).await?;
    let version = cluster.version().await?;
    let mut loaded = made::load(global, &[])?;
    match &command.push {
        // What is built has no digest before it is.
        Some(registry) if !global.dry_run => images::push_all(global, &mut loaded, registry).await?,
        Some(_) => {}
        None => images::require_pushed(&loaded)?,
    }
    let options = Options { namespace: Some(cluster.namespace.clone()), version, ..Options::default() };
    let objects = made::objects(&loaded, options)?;
    let project = loaded.project.name.as_str();
    let mut steps = Steps::new(false);
    let namespace_exists = require_namespace(&cluster, command.create_namespace, global.dry_run, &mut steps).await?;
    if !namespace_exists {
        objects.iter().for_each(|object| say(&mut steps, object.kind(), object.name(), "would be created", true));
        return Ok(());
    }
    let applier = ObjectApplier {
        cluster: &cluster,
        project,
        how: ApplyOptions { force: command.force_conflicts, dry_run: global.dry_run },
    };
    let applied = applier.all(&objects, &mut steps).await?;
    let is_pruned = command.no_prune || applier.prune(&objects, &mut steps).await?;
    if !command.no_wait && !global.dry_run {
        rollout::wait(&cluster, project, applied, Duration::from_secs(command.timeout), &mut steps).await?;
    }
    if is_pruned { Ok(()) } else { Err(Failure::Code(1)) }
}

pub fn say(steps: &mut Steps, kind: &str, name: &str, status: &str, done: bool) {
    steps.show(&Progress::Step { object: format!("{kind} {name}"), status: status.into(), done });
}

/// Whether the namespace exists; with `create`, it does afterwards.
async fn require_namespace(cluster: &Cluster, create: bool, dry_run: bool, steps: &mut Steps) -> Result<bool, Failure> {
    let name = &cluster.namespace;
    match cluster.get(&format!("/api/v1/namespaces/{name}")).await {
        Ok(Some(_)) => return Ok(true),
        Ok(None) => {}
        // Who may use a namespace need not be allowed to look at it.
        Err(error) if error.code() == 403 => return Ok(true),
        Err(error) => return Err(error.while_doing(&format!("looking for the namespace `{name}`"), "namespaces")),
    }
    if !create {
        return Err(Failure::Message(format!(
            "the cluster of the context `{}` has no namespace `{name}`: choose another with --namespace, or create it with --create-namespace",
            cluster.context
        )));
    }
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let made = cluster.create_namespace(&object, dry_run).await;
    made.map_err(|error| error.while_doing(&format!("creating the namespace `{name}`"), "namespaces"))?;
    say(steps, "Namespace", name, if dry_run { "would be created" } else { "Created" }, true);
    Ok(!dry_run)
}

/// An object that was applied, and the generation of its specification then.
#[derive(Clone, Debug)]
pub struct Applied {
    pub served: ServedKind,
    pub name: String,
    pub generation: i64,
}

struct ObjectApplier<'a> {
    cluster: &'a Cluster,
    project: &'a str,
    how: ApplyOptions,
}

impl ObjectApplier<'_> {
    /// Looks at every object that there is, and applies what others refer to first. Objects of one rank that are refused are all told of; the
    /// next rank is not begun then.
    async fn all(&self, objects: &[Object], steps: &mut Steps) -> Result<Vec<Applied>, Failure> {
        let mut applied = Vec::new();
        let before = self.known(objects).await?;
        for rank in 0..=4 {
            let of_rank = objects.iter().zip(&before).filter(|(object, _)| object.served().rank() == rank);
            let mut outcomes = stream::iter(of_rank.map(|(object, before)| self.one(object, before.as_ref()))).buffered(AT_ONCE);
            let mut failures = Vec::new();
            while let Some(outcome) = outcomes.next().await {
                match outcome {
                    Ok((one, status)) => {
                        say(steps, one.served.kind, &one.name, status, true);
                        applied.push(one);
                    }
                    Err(failure) => failures.push(failure),
                }
            }
            all_right(failures)?;
        }
        Ok(applied)
    }

    /// What there is by the objects' names. Nothing is applied where one of them is somebody else's.
    async fn known(&self, objects: &[Object]) -> Result<Vec<Option<LiveMeta>>, Failure> {
        let looked = objects.iter().map(|object| async {
            let (served, name) = (object.served(), object.name());
            let live = self.cluster.get(&self.cluster.object(served, name)).await;
            let failed =
                |error: ClusterError| error.while_doing(&format!("looking for the {} `{name}`", served.kind), served.kind);
            let before = live.map_err(failed)?.map(|live| meta(&live));
            require_own(self.cluster, self.project, self.how, object, before.as_ref())?;
            Ok(before)
        });
        let (mut known, mut failures) = (Vec::new(), Vec::new());
        let mut looked = stream::iter(looked).buffered(AT_ONCE);
        while let Some(one) = looked.next().await {
            match one {
                Ok(before) => known.push(before),
                Err(failure) => failures.push(failure),
            }
        }
        all_right(failures).map(|()| known)
    }

    async fn one(&self, object: &Object, before: Option<&LiveMeta>) -> Result<(Applied, &'static str), Failure> {
        let (served, name, json) = (object.served(), object.name(), object.for_server());
        let doing = format!("applying the {} `{name}`", served.kind);
        let failed = |error: ClusterError| match error.while_doing(&doing, served.kind) {
            Failure::Message(text) => Failure::Message(without_secrets(&json, text)),
            other => other,
        };
        let after = match self.cluster.apply(served, name, &json, self.how).await {
            Ok(after) => after,
            Err(error) if served.kind == "Job" && error.is_immutable() && before.is_some() => {
                self.replace(served, before.cloned().unwrap_or_default(), &json).await?;
                return Ok((Applied { served, name: name.into(), generation: 0 }, self.worded("Replaced", "would be replaced")));
            }
            Err(error) if error.code() == 404 => return Err(self.unserved(served)),
            Err(error) => return Err(failed(error)),
        };
        let meta = meta(&after);
        let status = match before {
            None => self.worded("Created", "would be created"),
            Some(before) if before.generation != meta.generation || before.resource_version != meta.resource_version => {
                self.worded("Configured", "would be configured")
            }
            Some(_) => "Unchanged",
        };
        Ok((Applied { served, name: name.into(), generation: meta.generation }, status))
    }

    fn worded(&self, done: &'static str, foreseen: &'static str) -> &'static str {
        if self.how.dry_run { foreseen } else { done }
    }

    fn unserved(&self, served: ServedKind) -> Failure {
        Failure::Message(format!(
            "the cluster of the context `{}` does not serve {} of {}, or the namespace `{}` has gone",
            self.cluster.context, served.plural, served.api_version, self.cluster.namespace
        ))
    }

    /// A Job's template never changes: what has changed is another run.
    async fn replace(&self, served: ServedKind, meta: LiveMeta, json: &Json) -> Outcome {
        if self.how.dry_run {
            return Ok(());
        }
        let name = meta.name.clone();
        let doing = format!("replacing the {} `{name}`", served.kind);
        let found = FoundObject { served, meta };
        self.cluster.delete(&found, false).await.map_err(|error| error.while_doing(&doing, served.kind))?;
        let path = self.cluster.object(served, &name);
        let begun = Instant::now();
        loop {
            let live = self.cluster.get(&path).await.map_err(|error| error.while_doing(&doing, served.kind))?;
            // Another apply may have made the new one already.
            if live.is_none_or(|live| self::meta(&live).uid != found.meta.uid) {
                break;
            }
            if begun.elapsed() > GOING {
                return Err(Failure::Message(format!(
                    "{doing}: its Pods have not gone within {} s; apply again when they have",
                    GOING.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let applied = self.cluster.apply(served, &name, json, self.how).await;
        applied.map(drop).map_err(|error| error.while_doing(&doing, served.kind))
    }

    /// False where something could not be deleted, which has been told.
    async fn prune(&self, objects: &[Object], steps: &mut Steps) -> Result<bool, Failure> {
        let plan = pruned(self.cluster, objects, self.project, steps).await?;
        let mut is_pruned = true;
        for found in &plan.deleted {
            let (kind, name) = (found.served.kind, &found.meta.name);
            match self.cluster.delete(found, self.how.dry_run).await {
                Ok(true) => say(steps, kind, name, self.worded("Pruned", "would be pruned"), true),
                Ok(false) => {}
                Err(error) => {
                    let is_away = error.is_away();
                    steps.line(&error.while_doing(&format!("pruning the {kind} `{name}`"), kind).to_string());
                    is_pruned = false;
                    if is_away {
                        break;
                    }
                }
            }
        }
        for found in &plan.kept {
            let name = &found.meta.name;
            steps.line(&format!(
                "warning: the project no longer has the claim `{name}`; it is kept with its data: `kubectl delete pvc {name}` deletes both"
            ));
        }
        tell_foreign(&plan, steps);
        Ok(is_pruned)
    }
}

pub fn tell_foreign(plan: &PrunePlan, steps: &Steps) {
    for (found, who) in &plan.foreign {
        steps.line(&format!(
            "warning: the {} `{}` has the project's labels and was not applied by wharf ({who}): it is left alone",
            found.served.kind, found.meta.name
        ));
    }
}

/// All of some failures as one.
pub fn all_right(failures: Vec<Failure>) -> Outcome {
    let mut texts: Vec<String> =
        failures.iter().map(|failure| failure.to_string().trim_start_matches("error: ").to_string()).collect();
    texts.dedup();
    if texts.is_empty() { Ok(()) } else { Err(Failure::Message(texts.join("\nerror: "))) }
}

/// Refuses an object of this name that is somebody else's: it would be changed, and pruned later.
///
/// # Errors
/// With whose it is.
pub fn require_own(cluster: &Cluster, project: &str, how: ApplyOptions, object: &Object, before: Option<&LiveMeta>) -> Outcome {
    let Some(before) = before.filter(|_| !how.force) else { return Ok(()) };
    let whose = match belongs(before, project) {
        // Its fields are still their owners', which the server sees to.
        Belongs::Ours | Belongs::LabelledOnly(_) => return Ok(()),
        Belongs::OtherProject(other) => format!("the project `{other}`"),
        Belongs::Stranger(who) => format!("somebody else ({who})"),
    };
    Err(Failure::Message(format!(
        "the {} `{}` of the namespace `{}` belongs to {whose}: choose another namespace for this project, or take it over with --force-conflicts",
        object.kind(),
        object.name(),
        cluster.namespace
    )))
}

/// What the project no longer has of what is on the cluster. Kinds that the user may not list, and that the project does not have either, are
/// left out, with a warning.
///
/// # Errors
/// The server's.
pub async fn pruned(cluster: &Cluster, objects: &[Object], project: &str, steps: &Steps) -> Result<PrunePlan, Failure> {
    let desired: BTreeSet<(&str, &str)> = objects.iter().map(|object| (object.kind(), object.name())).collect();
    let known = cluster.found(&selector(project), SERVED).await?;
    let (own, others): (Vec<_>, Vec<_>) =
        known.unlisted.into_iter().partition(|(served, _)| objects.iter().any(|object| object.served() == *served));
    if let Some((served, error)) = own.into_iter().next() {
        let doing = format!("listing {} for what is to be pruned (--no-prune lists nothing)", served.plural);
        return Err(error.while_doing(&doing, served.plural));
    }
    tell_unlisted(&others, "what the project had of them once is not pruned", steps);
    Ok(prune(known.found, &desired, project, false))
}

/// Warns of kinds that the user may not list.
pub fn tell_unlisted(unlisted: &[(ServedKind, ClusterError)], so: &str, steps: &Steps) {
    if !unlisted.is_empty() {
        let kinds: Vec<&str> = unlisted.iter().map(|(served, _)| served.plural).collect();
        steps.line(&format!("warning: the user of this context may not list {}: {so}", kinds.join(", ")));
    }
}

/// The metadata of an object that the server has sent; empty where it has none.
pub fn meta(live: &Json) -> LiveMeta {
    serde_json::from_value(live["metadata"].clone()).unwrap_or_default()
}
