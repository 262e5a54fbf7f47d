//! The observed state of a project, which plans compare with the desired one.

use super::convert::MAX_COPIED;
use super::is_one_off;
use crate::engine::Config;
use crate::engine::containers::incarnations::describe;
use crate::engine::containers::registry::Containers;
use crate::engine::error::EngineError;
use crate::engine::images::Images;
use crate::engine::record::{ContainerRecord, MountKind, MountSpec, NetworkMode, Status};
use crate::engine::{Container, Engine};
use crate::labels::{LABEL_DEPENDS_ON, LABEL_HASH, LABEL_JOB, LABEL_NETWORK, LABEL_NUMBER, LABEL_PROJECT, LABEL_SERVICE};
use crate::plan::{ContainerState, Observed, ObservedContainer, ObservedNetwork, ObservedVolume, depends_on_label};
use crate::sys::foreign_disk::ask;
use crate::sys::regular::read_regular_file;
use crate::wire::Incarnation;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

impl Engine {
    /// The observed state of a project, with its images.
    ///
    /// # Errors
    /// When the image store is damaged.
    pub fn observe(&self, project: &str, images: impl Iterator<Item = String>) -> Result<Observed, EngineError> {
        let networks = self.networks.all();
        let names: HashMap<&str, &str> = networks.iter().map(|n| (n.id.as_str(), n.name.as_str())).collect();
        let observe = |container: Arc<Container>| {
            let record = container.record();
            ObservedContainer {
                lost: self.lost_by(&record, &names),
                one_off: is_one_off(&container),
                ..observe_container(&record)
            }
        };
        let mut observed = Observed {
            containers: self.containers.of_project(project).into_iter().map(observe).collect(),
            jobs: self.state.job_hashes(project),
            ..Observed::default()
        };
        for network in &networks {
            let label = |key: &str| network.labels.get(key).cloned();
            let found = ObservedNetwork { project: label(LABEL_PROJECT), key: label(LABEL_NETWORK), hash: label(LABEL_HASH) };
            observed.networks.insert(network.name.clone(), found);
        }
        for volume in self.volumes.all() {
            let label = |key: &str| volume.labels.get(key).cloned();
            let found = ObservedVolume { project: label(LABEL_PROJECT), hash: label(LABEL_HASH) };
            observed.volumes.insert(volume.name, found);
        }
        let now = jiff::Timestamp::now();
        for image in images {
            if let Some((name, found)) = self.images.store.find_loosely(&image)? {
                let age = name.and_then(|name| self.images.store.pulled_at(&name)).map(|then| now.duration_since(then).as_secs());
                observed.image_ages.extend(age.and_then(|age| u64::try_from(age).ok()).map(|age| (image.clone(), age)));
                observed.images.insert(image, found.id.to_string());
            }
        }
        Ok(observed)
    }

    /// Things of a container that are gone or out of date: a network that it runs on, a container whose namespace it shares, the
    /// file that it has a copy of.
    fn lost_by(&self, record: &ContainerRecord, networks: &HashMap<&str, &str>) -> Option<String> {
        if record.state.status().is_alive() && record.endpoints.keys().any(|id| !networks.contains_key(id.as_str())) {
            return Some("a network that it is on is gone".into());
        }
        let network = if let NetworkMode::Container(id) = &record.spec.network_mode { Some(id.as_str()) } else { None };
        let shared = [network, record.spec.ipc.container(), record.spec.pid.container()];
        let mut gone = shared.into_iter().flatten();
        if gone.any(|id| !self.containers.contains(id)) {
            return Some("a container whose namespace it shares is gone".into());
        }
        let changed = |mount: &&MountSpec| {
            let found = self.images.find(&mount.source);
            mount.kind == MountKind::Image && found.is_ok_and(|(_, image)| image.layers != mount.layers)
        };
        if let Some(mount) = record.spec.mounts.iter().find(changed) {
            return Some(format!("the image {} that it mounts has changed", mount.source));
        }
        self.config.changed_copy(record).map(|target| format!("the file that it has a copy of as {target} has changed"))
    }

    /// The containers of a project's services, those first that are gone.
    pub fn incarnations_of(&self, project: &str) -> Vec<Incarnation> {
        let mut all = self.incarnations.of_project(project, |id| self.containers.contains(id));
        let own = self.containers.of_project(project).into_iter().filter(|container| !is_one_off(container));
        all.extend(own.map(|container| container.with_record(describe)));
        all
    }
}

impl Containers {
    /// The containers with a project's label.
    pub fn of_project(&self, project: &str) -> Vec<Arc<Container>> {
        self.all().into_iter().filter(|c| c.has_label(LABEL_PROJECT, project)).collect()
    }
}

impl Images {
    /// The images that were built for a project, by their labels, each with its service.
    pub(super) fn built_for(&self, project: &str) -> Result<Vec<(String, Option<String>)>, EngineError> {
        let mut built = Vec::new();
        for (name, image) in self.store.list()? {
            let Some(labels) = image.config.config().as_ref().and_then(|config| config.labels().clone()) else { continue };
            if labels.get(LABEL_PROJECT).is_some_and(|label| label == project) {
                built.push((name.familiar(), labels.get(LABEL_SERVICE).cloned()));
            }
        }
        Ok(built)
    }
}

impl Config {
    /// The config or secret of a container that is a copy of a file which has another content by now. One that cannot be read is
    /// said by whoever makes the container anew.
    fn changed_copy<'a>(&self, record: &'a ContainerRecord) -> Option<&'a str> {
        let own = self.container_directory(&record.id).join("files");
        let differs = |copy: &Path, from: &str| {
            let size = |path: &Path| ask(|| std::fs::metadata(path)).map(|file| file.len()).ok();
            let read = |path: &Path| ask(|| read_regular_file(path, MAX_COPIED)).ok();
            size(copy) != size(Path::new(from)) || read(copy) != read(Path::new(from))
        };
        let copies = record.spec.files.iter().enumerate().filter_map(|(n, file)| Some((n, file, file.copied_from.as_deref()?)));
        let mut changed = copies.filter(|(n, _, from)| differs(&own.join(n.to_string()), from));
        changed.next().map(|(_, file, _)| file.target.as_str())
    }
}

fn observe_container(record: &ContainerRecord) -> ObservedContainer {
    let label = |key: &str| record.spec.labels.get(key).cloned().unwrap_or_default();
    let mounts = record.spec.mounts.iter().filter(|mount| mount.kind == MountKind::Volume && !mount.anonymous);
    ObservedContainer {
        id: record.id.clone(),
        name: record.name.clone(),
        service: label(LABEL_SERVICE),
        number: label(LABEL_NUMBER).parse().unwrap_or(1),
        config_hash: label(LABEL_HASH),
        image_id: record.image_id_text(),
        state: match record.state.status() {
            Status::Created => ContainerState::Created,
            Status::Running => ContainerState::Running,
            Status::Paused => ContainerState::Paused,
            Status::Restarting => ContainerState::Restarting,
            Status::Exited | Status::Removing => ContainerState::Exited,
        },
        of_job: record.spec.labels.contains_key(LABEL_JOB),
        prepared: record.prepared,
        depends_on: depends_on_label(&label(LABEL_DEPENDS_ON)),
        networks: record.spec.networks.iter().map(|endpoint| endpoint.network.clone()).collect(),
        volumes: mounts.map(|mount| mount.source.clone()).collect(),
        one_off: false,
        lost: None,
    }
}
