//! Profiles: which services take part, and which a selection of services on the command line activates.

use super::model::{Project, Service};
use indexmap::IndexMap;

/// Takes the services out of the project that no selected profile activates, and returns them.
pub fn select(project: &mut Project, profiles: &[String]) -> IndexMap<String, Service> {
    let active = |service: &Service| {
        service.profiles.is_empty() || service.profiles.iter().any(|p| profiles.iter().any(|wanted| wanted == p || wanted == "*"))
    };
    let (kept, left_out): (IndexMap<_, _>, IndexMap<_, _>) =
        std::mem::take(&mut project.services).into_iter().partition(|(_, service)| active(service));
    project.services = kept;
    left_out
}

/// Puts named services and what they depend on back into the project: naming a service activates it.
pub fn activate(project: &mut Project, inactive: &mut IndexMap<String, Service>, names: &[String]) {
    let mut wanted: Vec<String> = names.to_vec();
    while let Some(name) = wanted.pop() {
        if let Some(service) = inactive.shift_remove(&name) {
            wanted.extend(service.depends_on.iter().filter(|(_, d)| d.required).map(|(name, _)| name.clone()));
            project.services.insert(name, service);
        }
    }
}
