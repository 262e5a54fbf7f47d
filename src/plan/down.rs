//! The plan of `down`: containers in the reverse order of their dependencies, then what only they used.

use super::lifecycle::Relations;
use super::{Before, DesiredOutline, DownOptions, Observed, ObservedContainer, Operation, Plan, RemoveImages};
use petgraph::graph::NodeIndex;
use std::collections::{BTreeSet, HashMap};

/// Plans `down` of a project. `outline` is the file's, or what is known of the last `up`.
pub fn down(project: &str, observed: &Observed, outline: Option<&DesiredOutline>, options: &DownOptions) -> Plan {
    let mut plan = Plan::default();
    let relations = Relations::new(observed, outline);
    let known = |service: &str| options.outline.as_ref().is_none_or(|outline| outline.knows(service));
    let mut doomed: Vec<&ObservedContainer> = Vec::new();
    let mut orphans: Vec<&ObservedContainer> = Vec::new();
    for container in &observed.containers {
        let is_asked = options.services.is_empty() || options.services.contains(&container.service);
        // Nothing of a job is left: neither what runs nor what is kept of the last runs.
        let is_own = container.of_job || known(&container.service) && (!container.one_off || options.remove_orphans);
        if is_own && is_asked {
            doomed.push(container);
        } else if container.is_orphan(known) {
            // Docker Compose's `down` does not warn of them.
            if options.remove_orphans {
                orphans.push(container);
            }
        }
    }
    let mut steps: HashMap<&str, Vec<NodeIndex>> = HashMap::new();
    for container in doomed {
        let step = plan.add(remove(container, options.volumes), "down", &Before::default());
        steps.entry(&container.service).or_default().push(step);
    }
    relations.dependents_first(&mut plan, &steps);
    for container in orphans {
        plan.add(remove(container, false), "it is of no service", &Before::default());
    }
    let mut jobs: Vec<&String> = observed.jobs.keys().collect();
    jobs.retain(|job| options.services.is_empty() || options.services.contains(job));
    jobs.sort();
    for job in jobs {
        plan.add(Operation::DeregisterJob { job: job.clone() }, "down", &Before::default());
    }
    if options.services.is_empty() {
        resources(&mut plan, project, observed, outline, options);
    }
    plan
}

fn remove(container: &ObservedContainer, volumes: bool) -> Operation {
    Operation::RemoveContainer { id: container.id.clone(), name: container.name.clone(), stop: true, volumes }
}

/// Networks, volumes and images, once all containers are gone.
fn resources(plan: &mut Plan, project: &str, observed: &Observed, outline: Option<&DesiredOutline>, options: &DownOptions) {
    let all = Before::needs(&plan.graph.node_indices().collect::<Vec<NodeIndex>>());
    let is_own = |label: &Option<String>| label.as_deref() == Some(project);
    let networks: BTreeSet<&String> =
        observed.networks.iter().filter(|(_, network)| is_own(&network.project)).map(|(name, _)| name).collect();
    for name in networks {
        plan.add(Operation::RemoveNetwork { name: name.clone(), unless_used: true }, "down", &all);
    }
    if options.volumes {
        // A volume that is no longer in the file keeps its data.
        let in_file = |name: &String| options.outline.as_ref().is_none_or(|outline| outline.volumes.contains(name));
        let own = observed.volumes.iter().filter(|(name, volume)| is_own(&volume.project) && in_file(name));
        let volumes: BTreeSet<&String> = own.map(|(name, _)| name).collect();
        for name in volumes {
            plan.add(Operation::RemoveVolume { name: name.clone(), unless_used: true }, "down --volumes", &all);
        }
    }
    let Some(which) = options.rmi else { return };
    let services = || outline.into_iter().flat_map(|outline| &outline.services);
    let named = services().filter(|(_, service)| which == RemoveImages::All || service.unnamed);
    let mut images: BTreeSet<&String> =
        named.filter_map(|(_, service)| service.image.as_ref()).filter(|image| observed.images.contains_key(*image)).collect();
    let is_known = |service: &Option<String>| match (service, outline) {
        (Some(service), Some(outline)) => outline.services.contains_key(service),
        _ => true,
    };
    let built = observed.built.iter().filter(|(_, service)| options.remove_orphans || is_known(service));
    // What was built is listed with its tag.
    let named: Vec<String> = images.iter().map(|image| format!("{image}:latest")).collect();
    images.extend(built.map(|(image, _)| image).filter(|image| !named.contains(image)));
    let cause = if which == RemoveImages::All { "down --rmi all" } else { "down --rmi local" };
    for image in images {
        plan.add(Operation::RemoveImage { image: image.clone() }, cause, &all);
    }
}
