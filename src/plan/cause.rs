//! Why a container is replaced.

use super::ObservedContainer;
use super::up::Planner;
use crate::compose::model::Service;

impl Planner<'_> {
    /// Why a container must be replaced; `None` where it may stay.
    pub(super) fn recreate_cause(
        &self,
        name: &str,
        service: &Service,
        container: &ObservedContainer,
        hash: &str,
    ) -> Option<String> {
        let options = self.options;
        if options.no_recreate {
            return None;
        }
        let named = options.services.is_empty() || options.services.iter().any(|s| s == name);
        if named && options.force_recreate {
            return Some("--force-recreate".into());
        }
        if named && options.renew_anon_volumes {
            return Some("--renew-anon-volumes".into());
        }
        if options.always_recreate_deps && !named {
            return Some("--always-recreate-deps".into());
        }
        if container.lost.is_some() {
            return container.lost.clone();
        }
        if container.config_hash != hash {
            return Some("its configuration has changed".into());
        }
        if let Some(image) = &service.image
            && let Some(id) = self.observed.images.get(image).filter(|id| **id != container.image_id)
        {
            let short: String = id.trim_start_matches("sha256:").chars().take(12).collect();
            return Some(format!("the image {image} is now {short}"));
        }
        self.missing_resource(service, container).or_else(|| self.recreated_donor(service))
    }

    /// A network that the container is to be on, or a volume that it is to have.
    fn missing_resource(&self, service: &Service, container: &ObservedContainer) -> Option<String> {
        let is_missing = |name: &&String| {
            let is_mode = matches!(name.as_str(), "host" | "none");
            // One that does not run may have been taken off its networks to be looked at.
            container.state.is_alive() && !container.networks.contains(name) && !(is_mode && container.networks.is_empty())
        };
        let mut networks = service.networks.keys().filter_map(|key| self.project.networks.get(key)).map(|network| &network.name);
        let mut volumes = service.volume_keys().filter_map(|key| self.project.volumes.get(key)).map(|volume| &volume.name);
        let network = networks.find(is_missing);
        let volume = volumes.find(|name| !container.volumes.contains(name));
        let network = network.map(|name| format!("it is not on the network {name}"));
        network.or_else(|| volume.map(|name| format!("it does not have the volume {name}")))
    }

    fn recreated_donor(&self, service: &Service) -> Option<String> {
        let recreated = |other: &&str| self.services.get(*other).is_some_and(|s| s.recreated);
        let shared = service.shares_with().find(recreated);
        let shared = shared.map(|other| format!("it shares a namespace of {other}, which is recreated"));
        shared.or_else(|| {
            service.takes_volumes_of().find(recreated).map(|other| format!("it has the volumes of {other}, which is recreated"))
        })
    }

    /// Why a container that stays is restarted.
    pub(super) fn restart_cause(&self, service: &Service) -> Option<String> {
        let recreated = |name: &str| self.services.get(name).is_some_and(|s| s.recreated);
        let dependency = service.depends_on.iter().find(|(name, dependency)| dependency.restart && recreated(name));
        if let Some((name, _)) = dependency {
            return Some(format!("{name} is recreated, and `restart: true`"));
        }
        let donor = service.shares_with().find(|other| self.services.get(*other).is_some_and(|s| s.restarted));
        donor.map(|other| format!("it shares a namespace of {other}, which is restarted"))
    }
}
