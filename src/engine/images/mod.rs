//! The images of the engine: pulled, removed, pruned. What a build needs of it: [`build`].

pub(super) mod build;

use super::containers::registry::Containers;
use super::error::EngineError;
use super::events::Events;
use super::record::ContainerRecord;
use super::record::revision::Revisions;
use super::state::StateStore;
use crate::engine::Container;
use crate::image::keyed_mutex::KeyedMutex;
use crate::image::prune::CachedStep;
use crate::image::registry::Registry;
use crate::image::{ChainId, Digest, Image, ImageError, ImageRef, PullProgress, Store};
use crate::wire::Progress;
use build::Builds;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// The store of images, and the way to registries.
pub struct Images {
    pub store: Arc<Store>,
    pub registry: Registry,
    state: Arc<StateStore>,
    events: Arc<Events>,
    containers: Arc<Containers>,
    /// Held by whoever pulls an image: another who wants the same one waits, and finds it there.
    pulls: KeyedMutex,
    builds: Builds,
}

impl Images {
    /// Opens the store.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn open(state: Arc<StateStore>, events: Arc<Events>, containers: Arc<Containers>) -> Result<Self, EngineError> {
        Ok(Images {
            store: Arc::new(Store::open(&state.config.data_root.join("images"))?),
            registry: Registry::new()?,
            state,
            events,
            containers,
            pulls: KeyedMutex::default(),
            builds: Builds::default(),
        })
    }

    /// The image that a reference means here.
    ///
    /// # Errors
    /// When it is not here.
    pub fn find(&self, reference: &str) -> Result<(Option<ImageRef>, Image), EngineError> {
        self.store.find_loosely(reference)?.ok_or_else(|| EngineError::NoSuch { what: "image", name: reference.into() })
    }

    /// Pulls an image with the engine's own logins; two who want the same one wait for each other.
    ///
    /// # Errors
    /// The registry's or the disk's.
    pub async fn pull(&self, image: &str, progress: UnboundedSender<Progress>) -> Result<(), EngineError> {
        self.pull_from(&self.registry, image, progress).await
    }

    /// The same with a registry's client of its own.
    ///
    /// # Errors
    /// As [`Images::pull`].
    pub async fn pull_from(
        &self,
        registry: &Registry,
        image: &str,
        progress: UnboundedSender<Progress>,
    ) -> Result<(), EngineError> {
        let name: ImageRef = image.parse().map_err(ImageError::from)?;
        let _guard = self.pulls.take(&name.to_string()).await;
        let shown = image.to_string();
        let report = Arc::new(move |event: PullProgress| {
            let PullProgress::Layer { id, status, current, total } = event;
            let _ = progress.send(Progress::Layer { image: shown.clone(), id, status: status.into(), current, total });
        });
        registry.pull(&self.store, &name, report).await?;
        self.events.emit("image", "pull", &name.familiar(), [("name".to_string(), name.familiar_name())].into());
        Ok(())
    }

    /// Removes an image's name, and its content where nothing else needs it. With `force`, an image that a container uses loses its
    /// name all the same, and stays without one while the container runs.
    ///
    /// # Errors
    /// When it is not here, or is the last name of what a container uses.
    pub fn remove(&self, reference: &str, force: bool) -> Result<Removed, EngineError> {
        let mut removed = Removed::default();
        if let Ok(name) = reference.parse::<ImageRef>()
            && self.store.forget_left_out(&name)?
        {
            self.events.emit("image", "untag", &name.familiar(), [("name".to_string(), name.familiar())].into());
            removed.untagged.push(name);
            return Ok(removed);
        }
        let (name, image) = self.find(reference)?;
        let users: Vec<_> = self.containers.all().into_iter().filter(|c| c.with_record(|record| uses(record, &image))).collect();
        let is_last = !self.store.list()?.iter().any(|(other, known)| known.id == image.id && Some(other) != name.as_ref());
        let running = users.iter().find(|user| user.status().is_alive());
        let conflict = |what: String, user: &Container| {
            EngineError::Conflict(format!(
                "conflict: {what} - container {} is using its referenced image {}: it is in use by the container {}",
                &user.id[..12],
                &image.id.hex()[..12],
                user.name()
            ))
        };
        match (&name, running, users.first()) {
            (None, Some(user), _) => {
                return Err(conflict(format!("unable to delete {} (cannot be forced)", &image.id.hex()[..12]), user));
            }
            (_, _, Some(user)) if is_last && !force => {
                return Err(conflict(format!("unable to remove repository reference \"{reference}\" (must force)"), user));
            }
            _ => {}
        }
        let layers: HashSet<ChainId> = self
            .containers
            .all()
            .iter()
            .flat_map(|c| c.with_record(|record| record.all_layers().cloned().collect::<Vec<_>>()))
            .collect();
        // Where it is unknown what needs them, every layer stays.
        let uncertain = self.state.check_prunable().is_err();
        let is_used = |layer: &ChainId| uncertain || layers.contains(layer);
        match &name {
            Some(name) if running.is_some() => self.store.untag(name)?,
            Some(name) => self.store.remove(name, &is_used)?,
            None => self.store.remove_unnamed(&image, &is_used)?,
        }
        if let Some(name) = name {
            self.events.emit_image("untag", &image.id, &name);
            removed.untagged.push(name);
        }
        if is_last && running.is_none() {
            self.events.emit_image_id("delete", &image.id);
            removed.deleted.push(image.id);
        }
        Ok(removed)
    }

    /// Removes the images that are `meant` and that no container uses, and what no image, container or build step needs then.
    ///
    /// # Errors
    /// The disk's.
    pub async fn prune(&self, meant: impl Fn(Option<&ImageRef>, &Image) -> bool, builds: Cache) -> Result<Removed, EngineError> {
        self.state.check_prunable()?;
        let mut used_layers = HashSet::new();
        let containers = self.containers.all();
        for container in &containers {
            container.with_record(|record| used_layers.extend(record.all_layers().cloned()));
        }
        // A rollback needs the images of revisions.
        let revisions = self.state.journal.all::<Revisions>("revisions/").into_iter().filter_map(|(_, known)| known.ok());
        let kept: HashSet<Digest> =
            revisions.flat_map(|known| known.into_values().flatten()).filter_map(|revision| revision.image_id).collect();
        let is_kept = |image: &Image| kept.contains(&image.id);
        let all = self.store.list()?.into_iter().map(|(_, image)| image).chain(self.store.unnamed()?);
        used_layers.extend(all.filter(is_kept).flat_map(|image| image.layers));
        let is_used = |image: &Image| is_kept(image) || containers.iter().any(|c| c.with_record(|record| uses(record, image)));
        let mut removed = Removed::default();
        let named = self.store.list()?.into_iter().map(|(name, image)| (Some(name), image));
        let unnamed = self.store.unnamed()?.into_iter().map(|image| (None, image));
        let going: Vec<(Option<ImageRef>, Image)> =
            named.chain(unnamed).filter(|(name, image)| meant(name.as_ref(), image) && !is_used(image)).collect();
        let mut layers: HashMap<ChainId, u64> = HashMap::new();
        for (name, image) in going {
            layers.extend(image.layers.iter().map(|layer| (layer.clone(), self.store.has_layer(layer).unwrap_or(0))));
            match &name {
                Some(name) => self.store.remove(name, &|layer| used_layers.contains(layer))?,
                None => self.store.remove_unnamed(&image, &|layer| used_layers.contains(layer))?,
            }
            if let Some(name) = name {
                self.events.emit_image("untag", &image.id, &name);
                removed.untagged.push(name);
            }
            if !removed.deleted.contains(&image.id) {
                removed.deleted.push(image.id);
            }
        }
        let (named, unnamed) = (self.store.list()?, self.store.unnamed()?);
        removed.deleted.retain(|id| !named.iter().map(|(_, image)| image).chain(&unnamed).any(|image| image.id == *id));
        removed.deleted.iter().for_each(|id| self.events.emit_image_id("delete", id));
        removed.bytes = layers.iter().filter(|(layer, _)| self.store.has_layer(layer).is_none()).map(|(_, bytes)| bytes).sum();
        let store = self.store.clone();
        let pruned = tokio::task::spawn_blocking(move || {
            match builds {
                Cache::Keep => {}
                Cache::ForgetAll => store.forget_builds()?,
                Cache::Forget(steps) => store.forget_steps(&steps)?,
            }
            store.prune(&used_layers)
        });
        let pruned = pruned.await.map_err(EngineError::from)??;
        removed.bytes += pruned.bytes;
        (removed.layers, removed.blobs) = (pruned.layers, pruned.blobs);
        Ok(removed)
    }
}

/// Whether a container is of an image, or has it mounted.
fn uses(record: &ContainerRecord, image: &Image) -> bool {
    record.image_id.as_ref() == Some(&image.id)
        || record.spec.mounts.iter().any(|m| !m.layers.is_empty() && m.layers == image.layers)
}

/// Treatment of the build cache while images are pruned.
pub enum Cache {
    Keep,
    ForgetAll,
    Forget(Vec<CachedStep>),
}

/// The removed images and layers.
#[derive(Default)]
pub struct Removed {
    pub untagged: Vec<ImageRef>,
    /// Images of which nothing is left.
    pub deleted: Vec<Digest>,
    pub layers: u64,
    pub blobs: u64,
    /// Of the disk.
    pub bytes: u64,
}
