//! Prerequisites of containers: images, networks and volumes, made anew where their definitions have changed.

use super::up::Planner;
use super::{
    Before, ChangedVolumes, ObservedContainer, ObservedNetwork, Operation, PlanError, PullPolicy, network_hash, volume_hash,
};
use crate::compose::model::{Network, Service};
use petgraph::graph::NodeIndex;

impl Planner<'_> {
    /// Plans the networks and volumes of the services that are acted on. First of all, since containers stop for them.
    pub(super) fn resources<'s>(&mut self, services: impl Iterator<Item = &'s str>) -> Result<(), PlanError> {
        for name in services {
            let service = &self.project.services[name];
            for key in service.networks.keys() {
                self.network(key)?;
            }
            for key in service.volume_keys() {
                self.volume(key)?;
            }
        }
        Ok(())
    }

    /// The steps for what a new container of the service needs: image, networks, volumes, containers of others.
    pub(super) fn prepare(&mut self, name: &str, service: &Service, needs: &mut Option<Before>) -> Result<Before, PlanError> {
        if let Some(known) = needs {
            return Ok(known.clone());
        }
        if let Some(provider) = &service.provider {
            return Err(PlanError::Provider { service: name.into(), kind: provider.kind.clone() });
        }
        let Some(image) = &service.image else { return Err(PlanError::NoImage { service: name.into() }) };
        let mut before = Before::default();
        before.need(self.image(image, service));
        let others = service.pre_start.iter().filter_map(|hook| hook.image.as_deref());
        for other in others.chain(service.mounted_images()) {
            before.need(self.image(other, &Service::default()));
        }
        for key in service.networks.keys() {
            before.need(self.network(key)?);
        }
        for key in service.volume_keys() {
            before.need(self.volume(key)?);
        }
        for other in service.shares_with().chain(service.takes_volumes_of()) {
            before.need(self.services.get(other).iter().flat_map(|steps| steps.starts.iter().copied()));
        }
        *needs = Some(before.clone());
        Ok(before)
    }

    /// Namespaces and volumes that a service shares must be there, or come with this plan.
    pub(super) fn check_donors(&self, service: &Service) -> Result<(), PlanError> {
        let shared =
            [("network namespace", &service.network_mode), ("IPC namespace", &service.ipc), ("PID namespace", &service.pid)];
        let namespaces = shared.into_iter().filter_map(|(what, mode)| Some((what, mode.as_ref()?.service()?)));
        for (what, other) in namespaces.chain(service.takes_volumes_of().map(|other| ("volume", other))) {
            let is_there = self.observed.containers.iter().any(|c| c.service == other && !c.one_off);
            if !is_there && !self.services.contains_key(other) {
                return Err(PlanError::MissingDonor { what, other: other.into() });
            }
        }
        Ok(())
    }

    pub(super) fn image(&mut self, image: &str, service: &Service) -> Option<NodeIndex> {
        if let Some(step) = self.images.get(image) {
            return *step;
        }
        let policy = self.options.pull.or(service.pull_policy).unwrap_or_default();
        let here = self.observed.images.contains_key(image);
        let bound = match policy {
            PullPolicy::Older(seconds) => Some(seconds),
            PullPolicy::Refresh => Some(service.pull_refresh_after.map_or(0, |after| after.duration().as_secs())),
            _ => None,
        };
        let old = bound.is_some_and(|bound| self.observed.image_ages.get(image).is_none_or(|age| *age >= bound));
        let cause = match policy {
            // Whoever builds has seen to it already.
            _ if here && service.build.is_some() => None,
            PullPolicy::Always => Some("pull_policy is always"),
            _ if here && old => Some("it was pulled too long ago"),
            PullPolicy::Never | PullPolicy::Build => None,
            _ if here => None,
            _ => Some("not found"),
        };
        let step = cause.map(|cause| self.plan.add(Operation::PullImage { image: image.into() }, cause, &Before::default()));
        self.images.insert(image.into(), step);
        step
    }

    pub(super) fn network(&mut self, key: &str) -> Result<Option<NodeIndex>, PlanError> {
        if let Some(step) = self.networks.get(key) {
            return Ok(*step);
        }
        let (project, observed) = (self.project, self.observed);
        let Some(network) = project.networks.get(key) else { return Ok(None) };
        let found = observed.networks.get(&network.name);
        // Docker's own networks of these names are modes, not networks; `bridge` is there as long as a container is on it.
        let is_mode = matches!(network.name.as_str(), "host" | "none");
        let create = Operation::CreateNetwork { key: key.into() };
        let step = match found {
            _ if is_mode && network.external => None,
            None if is_mode || network.name == "bridge" && !network.external => {
                return Err(PlanError::StrangeNetwork { name: network.name.clone(), found: String::new(), key: key.into() });
            }
            None if network.external => return Err(PlanError::MissingNetwork { name: network.name.clone() }),
            Some(_) if network.external => None,
            None => {
                let cause = self.renamed(key).map_or("not found".into(), |earlier| format!("{earlier} is renamed"));
                Some(self.plan.add(create, cause, &Before::default()))
            }
            Some(found) => {
                self.warn_of_strange_network(network, found);
                let found_key = found.key.clone().unwrap_or_default();
                if found_key != key {
                    return Err(PlanError::StrangeNetwork { name: network.name.clone(), found: found_key, key: key.into() });
                }
                let own = found.project.as_ref() == Some(&project.name);
                let changed = own && found.hash.as_ref().is_some_and(|hash| *hash != network_hash(network));
                changed.then(|| self.replace_network(network, create))
            }
        };
        self.networks.insert(key.into(), step);
        Ok(step)
    }

    /// The network that had the key when the project was brought up the last time.
    fn renamed(&mut self, key: &str) -> Option<String> {
        let own = |network: &ObservedNetwork| {
            network.project.as_ref() == Some(&self.project.name) && network.key.as_deref() == Some(key)
        };
        let mut names: Vec<&String> = self.observed.networks.iter().filter(|(_, n)| own(n)).map(|(name, _)| name).collect();
        names.sort_unstable();
        let used = |name: &str| self.project.networks.values().any(|network| network.name == name);
        let earlier = names.into_iter().find(|name| !used(name))?.clone();
        self.renamed_networks.push(earlier.clone());
        Some(earlier)
    }

    fn warn_of_strange_network(&mut self, network: &Network, found: &ObservedNetwork) {
        let name = &network.name;
        let whose = match &found.project {
            Some(project) if *project == self.project.name => return,
            Some(_) => format!("for project \"{}\"", self.project.name),
            None => "by compose".into(),
        };
        self.plan.warnings.push(format!(
            "a network with name {name} exists but was not created {whose}.\nSet `external: true` to use an existing network"
        ));
    }

    /// Stops the containers on a network, and makes it anew; they are started again later.
    fn replace_network(&mut self, network: &Network, create: Operation) -> NodeIndex {
        let name = &network.name;
        let observed = self.observed;
        let on_it = |c: &&ObservedContainer| c.state.is_alive() && c.networks.contains(name);
        let cause = format!("the definition of network {name} has changed");
        let mut stops = Before::default();
        for container in observed.containers.iter().filter(on_it) {
            let stop = Operation::StopContainer { id: container.id.clone(), name: container.name.clone() };
            let step = *self.stopped.entry(container.id.clone()).or_insert_with(|| {
                // Who shares its network namespace has none when that is gone.
                self.plan.add(stop, cause.clone(), &Before::default())
            });
            stops.need([step]);
        }
        let remove = Operation::RemoveNetwork { name: name.clone(), unless_used: false };
        let removed = self.plan.add(remove, cause.clone(), &stops);
        self.plan.add(create, cause, &Before::needs(&[removed]))
    }

    /// Stops who depends on a service with `restart: true`, before the service is recreated.
    pub(super) fn stop_dependents(&mut self, name: &str) -> Vec<NodeIndex> {
        let (observed, project) = (self.observed, self.project);
        let restarts = |dependent: &Service| dependent.depends_on.get(name).is_some_and(|dependency| dependency.restart);
        let runs = |c: &&ObservedContainer| !c.one_off && c.state.is_alive();
        let mut stops = Vec::new();
        for container in observed.containers.iter().filter(runs) {
            let is_dependent = project.services.get(&container.service).is_some_and(restarts);
            if !is_dependent || !self.selected.contains(&container.service) || self.removed.contains_key(&container.id) {
                continue;
            }
            let plan = &mut self.plan;
            stops.push(*self.stopped.entry(container.id.clone()).or_insert_with(|| {
                let operation = Operation::StopContainer { id: container.id.clone(), name: container.name.clone() };
                plan.add(operation, format!("{name} is recreated, and `restart: true`"), &Before::default())
            }));
        }
        stops
    }

    pub(super) fn volume(&mut self, key: &str) -> Result<Option<NodeIndex>, PlanError> {
        if let Some(step) = self.volumes.get(key) {
            return Ok(*step);
        }
        let (project, observed) = (self.project, self.observed);
        let Some(volume) = project.volumes.get(key) else { return Ok(None) };
        let create = Operation::CreateVolume { key: key.into() };
        let name = &volume.name;
        let step = match observed.volumes.get(name) {
            None if volume.external => return Err(PlanError::MissingVolume { name: name.clone() }),
            None => Some(self.plan.add(create, "not found", &Before::default())),
            Some(_) if volume.external => None,
            Some(found) if found.project.as_ref() != Some(&project.name) => {
                self.plan.warnings.push(match &found.project {
                    Some(other) => format!(
                        "volume \"{name}\" already exists but was created for project \"{other}\" (expected \"{}\"). Use `external: true` to use an existing volume",
                        project.name
                    ),
                    None => format!(
                        "volume \"{name}\" already exists but was not created by Docker Compose. Use `external: true` to use an existing volume"
                    ),
                });
                None
            }
            Some(found) if found.hash.as_ref().is_some_and(|hash| *hash != volume_hash(volume)) => {
                (!self.used_by_bystander(name) && self.changed_volume(name)).then(|| self.replace_volume(name, create))
            }
            Some(_) => None,
        };
        self.volumes.insert(key.into(), step);
        Ok(step)
    }

    /// Whether a container that is left alone has a volume that would be made anew.
    fn used_by_bystander(&mut self, name: &str) -> bool {
        let uses = |c: &&ObservedContainer| c.volumes.iter().any(|volume| volume == name);
        let is_bystander = |c: &ObservedContainer| c.one_off || !self.selected.contains(&c.service);
        let Some(user) = self.observed.containers.iter().filter(uses).find(|c| is_bystander(c)) else { return false };
        self.plan.warnings.push(format!(
            "Volume \"{name}\" exists but doesn't match configuration in compose file; it is left as it is, since the container {} uses it",
            user.name
        ));
        true
    }

    /// Whether a volume whose definition has changed is made anew.
    fn changed_volume(&mut self, name: &str) -> bool {
        match &self.options.changed_volumes {
            ChangedVolumes::RecreateAll => return true,
            ChangedVolumes::Recreate(names) if names.iter().any(|known| known == name) => return true,
            ChangedVolumes::Recreate(_) => return false,
            ChangedVolumes::Ask => self.plan.changed_volumes.push(name.into()),
            ChangedVolumes::Keep => {}
        }
        self.plan.warnings.push(format!(
            "Volume \"{name}\" exists but doesn't match configuration in compose file; it is left as it is, and `up --yes` recreates it without its data"
        ));
        false
    }

    /// Removes the containers that mount a volume, and makes it anew; they are made again later.
    fn replace_volume(&mut self, name: &str, create: Operation) -> NodeIndex {
        let cause = format!("the definition of volume {name} has changed");
        let observed = self.observed;
        let mut removals = Before::default();
        for container in observed.containers.iter().filter(|c| c.volumes.iter().any(|volume| volume == name)) {
            let (id, container_name) = (container.id.clone(), container.name.clone());
            let remove = Operation::RemoveContainer { id, name: container_name, stop: true, volumes: false };
            let before: Vec<NodeIndex> = self.stopped.get(&container.id).copied().into_iter().collect();
            let step = *self
                .removed
                .entry(container.id.clone())
                .or_insert_with(|| self.plan.add(remove, cause.clone(), &Before::needs(&before)));
            removals.need([step]);
        }
        let remove = Operation::RemoveVolume { name: name.into(), unless_used: false };
        let removed = self.plan.add(remove, cause.clone(), &removals);
        self.plan.add(create, cause, &Before::needs(&[removed]))
    }
}
