//! Making a container: its volumes and networks, its directories, its record.

use super::registry::{Containers, NameReservation};
use super::verify::verify;
use crate::engine::error::EngineError;
use crate::engine::networks::DEFAULT_NETWORK;
use crate::engine::record::{
    ContainerRecord, ContainerSpec, EndpointSpec, FileSpec, HealthSpec, ImageConfig, MountKind, MountSpec, NetworkMode,
    Replacement, clean_target,
};
use crate::engine::recovery::RecordKind;
use crate::engine::state::directories::{Draft, manifest_of, write_manifest};
use crate::engine::volumes::NewVolume;
use crate::engine::{Container, Engine, new_id};
use crate::image::Image;
use crate::runtime::quota;
use std::fs;
use std::path::Path;
use std::sync::Arc;

impl Engine {
    /// Creates a container.
    ///
    /// # Errors
    /// When the name is taken, the image is missing, or the disk refuses. Nothing is left then.
    pub fn create(&self, name: &str, spec: ContainerSpec) -> Result<Arc<Container>, EngineError> {
        self.create_in_place(name, spec, None, None)
    }

    /// Creates a container that takes another's place: anonymous volumes of `inherit_from` are taken over.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub(in crate::engine) fn create_in_place(
        &self,
        name: &str,
        mut spec: ContainerSpec,
        inherit_from: Option<&ContainerRecord>,
        replaces: Option<Replacement>,
    ) -> Result<Arc<Container>, EngineError> {
        check_name(name)?;
        verify(&spec).map_err(EngineError::Invalid)?;
        let mut binds = spec.mounts.iter().filter(|mount| mount.kind == MountKind::Bind);
        if let Some(why) = binds.find_map(|mount| self.config.refusal_of_bind(&mount.source)) {
            return Err(EngineError::Invalid(why));
        }
        let reserved = self.containers.reserve(name)?;
        self.state.refuse_unknown(RecordKind::Container, name)?;
        spec.layer_size().map_err(EngineError::Invalid)?;
        let (_, image) = self.images.find(&spec.image)?;
        check_size(&image)?;
        inherit_labels(&mut spec, &image);
        let volumes = image.config.config().as_ref().and_then(|c| c.volumes().clone()).unwrap_or_default();
        spec.clean_targets();
        spec.mount_volumes_of_image(&volumes);
        // Until the container is in the registry, nothing else shows that they are in use.
        let mut announced = Vec::new();
        let many = spec.mounts.len() > MANY_VOLUMES;
        for mount in spec.mounts.iter_mut().filter(|m| m.anonymous && m.source.is_empty()) {
            let same = |old: &&MountSpec| old.anonymous && clean_target(&old.target) == mount.target;
            let earlier = inherit_from.and_then(|old| old.spec.mounts.iter().find(same));
            mount.source = match earlier {
                Some(earlier) => earlier.source.clone(),
                None => {
                    let id = new_id().map_err(EngineError::io("making an id"))?;
                    announced.push(self.volumes.uses.announce(&id));
                    let mut labels = mount.labels.clone();
                    labels.insert("com.docker.volume.anonymous".into(), String::new());
                    let new = NewVolume { name: id, labels, anonymous: true, ..NewVolume::default() };
                    aside_if(many, || self.volumes.create(new))?.name
                }
            };
        }
        for mount in spec.mounts.iter().filter(|m| m.kind == MountKind::Volume) {
            announced.push(self.volumes.uses.announce(&mount.source));
            if !mount.anonymous {
                self.volumes.create(NewVolume { name: mount.source.clone(), ..NewVolume::default() })?;
            }
        }
        announced.push(self.networks.uses.announce(DEFAULT_NETWORK));
        if spec.network_mode == NetworkMode::Bridge && spec.networks.is_empty() {
            spec.networks.push(EndpointSpec { network: DEFAULT_NETWORK.into(), ..EndpointSpec::default() });
        }
        if spec.networks.iter().any(|endpoint| endpoint.network == DEFAULT_NETWORK) {
            self.networks.make_default()?;
        }
        if spec.as_created.publish_all_ports {
            spec.publish_exposed(&image.facts().exposed_ports);
        }
        for mount in spec.mounts.iter_mut().filter(|m| m.kind == MountKind::Image) {
            mount.layers = self.images.find(&mount.source)?.1.layers;
        }
        let id = new_id().map_err(EngineError::io("making an id"))?;
        let record = ContainerRecord {
            image_id: Some(image.id.clone()),
            endpoints: inherit_from.map(|old| old.endpoints.clone()).unwrap_or_default(),
            replaces,
            image: image.facts(),
            ..ContainerRecord::new(id, name.into(), spec, image.layers)
        };
        let container = self.containers.keep(record, reserved, || format!("making the container {name}"))?;
        self.containers.emit(&container, "create", &[]);
        Ok(container)
    }
}

/// Does what takes long. Other requests of the thread go on elsewhere: that costs a further thread, and its memory.
pub(super) fn aside_if<T>(long: bool, work: impl FnOnce() -> T) -> T {
    if long { tokio::task::block_in_place(work) } else { work() }
}

impl Containers {
    /// Makes a new container's directories and its journal record, or leaves nothing.
    ///
    /// # Errors
    /// The disk's.
    pub(in crate::engine) fn keep(
        &self,
        record: ContainerRecord,
        name: NameReservation<'_>,
        doing: impl FnOnce() -> String,
    ) -> Result<Arc<Container>, EngineError> {
        let id = record.id.clone();
        let size = record.spec.layer_size().map_err(EngineError::Invalid)?;
        let keep = || {
            let draft = Draft::new(&self.state.config.data_root.join("containers"), &id)?;
            let own = ["upper", "work", "etc"].map(|name| draft.path().join(name));
            own.iter().try_for_each(fs::create_dir)?;
            let made = (|| {
                if let Some(size) = size {
                    quota::limit(&own.each_ref().map(|path| path.as_path()), size)?;
                }
                write_files(&draft.path().join("files"), &record.spec.files)?;
                write_manifest(&manifest_of(draft.path()), &record)?;
                self.state.journal.put(&format!("container/{id}"), &record)
            })();
            if made.is_err() && size.is_some() {
                quota::release(&own[0]);
            }
            made?;
            draft.finish().inspect_err(|_| drop(self.state.journal.delete(&format!("container/{id}"))))
        };
        if let Err(error) = keep() {
            return Err(match error.kind() {
                std::io::ErrorKind::Unsupported => EngineError::Invalid(format!(
                    "the layer of {} cannot have a size in {}: {error}",
                    record.name,
                    self.state.config.data_root.display()
                )),
                _ => EngineError::Io { doing: doing(), source: error },
            });
        }
        let container = Container::new(record);
        self.insert(container.clone(), name);
        Ok(container)
    }
}

/// Refuses what cannot be a container's name.
pub(super) fn check_name(name: &str) -> Result<(), EngineError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(EngineError::Invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

/// Bytes of an image's labels and variables. Each container's record has them, and each list and event of containers the labels.
const MAX_INHERITED: usize = 256 << 10;
/// So many volumes are made and removed within milliseconds.
pub(super) const MANY_VOLUMES: usize = 16;
/// Volumes that an image may declare.
const MAX_VOLUMES: usize = 1000;

/// Refuses an image whose every container would take megabytes of the engine's memory and of its journal.
fn check_size(image: &Image) -> Result<(), EngineError> {
    let config = image.config.config().as_ref();
    let labels = config.and_then(|config| config.labels().as_ref()).into_iter().flatten();
    let variables = config.and_then(|config| config.env().as_ref()).into_iter().flatten();
    let bytes = labels.map(|(name, value)| name.len() + value.len()).sum::<usize>() + variables.map(String::len).sum::<usize>();
    let volumes = config.and_then(|config| config.volumes().as_ref()).map_or(0, |volumes| volumes.len());
    if volumes > MAX_VOLUMES {
        return Err(EngineError::Invalid(format!(
            "the image {} declares {volumes} volumes, each of which is a directory and a mount of every container, and may declare \
             {MAX_VOLUMES}: build one without them",
            image.id.short()
        )));
    }
    if bytes <= MAX_INHERITED {
        return Ok(());
    }
    Err(EngineError::Invalid(format!(
        "the labels and variables of the image {} have {bytes} bytes, and may have {MAX_INHERITED}: build one from it in which \
         the large ones are empty (`LABEL name=`, `ENV name=`)",
        image.id.short()
    )))
}

/// The image's labels are the container's, under its own. Those by which a project knows its containers are not the image's to give.
fn inherit_labels(spec: &mut ContainerSpec, image: &Image) {
    let labels = image.config.config().as_ref().and_then(|config| config.labels().clone()).unwrap_or_default();
    let is_ours = |name: &str| name.starts_with("com.docker.compose.") || name.starts_with("dev.wharf.");
    let mut labels: Vec<_> = labels.into_iter().filter(|(name, _)| !is_ours(name)).collect();
    labels.sort_unstable();
    let own = std::mem::replace(&mut spec.labels, labels.into_iter().collect());
    spec.labels.extend(own);
}

/// Writes the configs and secrets that are a container's own. Nobody else on the host can enter the directory.
fn write_files(directory: &Path, files: &[FileSpec]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
    let own: Vec<_> = files.iter().enumerate().filter_map(|(n, file)| Some((n, file, file.content.as_ref()?))).collect();
    if own.is_empty() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for (n, file, content) in own {
        let mut to =
            fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(directory.join(n.to_string()))?;
        to.write_all(content)?;
        fchown(&to, Some(file.uid), Some(file.gid))?;
        to.set_permissions(fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

impl Image {
    /// The image's defaults for its containers.
    pub fn facts(&self) -> ImageConfig {
        let config = self.config.config().clone().unwrap_or_default();
        let check = self.healthcheck.as_ref().filter(|check| !check.test.is_empty());
        ImageConfig {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            command: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone(),
            health: check.map(|check| HealthSpec {
                test: check.test.clone(),
                interval: check.interval.unwrap_or_default(),
                timeout: check.timeout.unwrap_or_default(),
                start_period: check.start_period.unwrap_or_default(),
                start_interval: check.start_interval.unwrap_or_default(),
                retries: check.retries.unwrap_or(0),
            }),
            exposed_ports: config.exposed_ports().iter().flatten().filter_map(|text| text.parse().ok()).collect(),
        }
    }
}
