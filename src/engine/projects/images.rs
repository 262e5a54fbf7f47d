//! Images of projects: pulled and removed.

use super::{Progress, ProgressSender};
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::record::ContainerRecord;
use crate::image::{ImageRef, Progress as PullProgress};
use indexmap::IndexMap;
use std::collections::HashSet;
use std::sync::Arc;

impl Engine {
    /// Pulls an image; two who want the same one wait for each other.
    ///
    /// # Errors
    /// The registry's or the disk's.
    pub async fn pull(self: &Arc<Self>, image: &str, progress: ProgressSender) -> Result<(), EngineError> {
        let name: ImageRef = image.parse().map_err(crate::image::ImageError::from)?;
        let _turn = self.pulls.take(&name.to_string()).await;
        let shown = image.to_string();
        let report = Arc::new(move |event: PullProgress| {
            let PullProgress::Layer { id, status, current, total } = event;
            let _ = progress.send(Progress::Layer { image: shown.clone(), id, status: status.into(), current, total });
        });
        self.registry.pull(&self.images, &name, report).await?;
        self.emit("image", "pull", &name.familiar(), IndexMap::new());
        Ok(())
    }

    /// Removes an image's name, and its content where nothing else needs it.
    ///
    /// # Errors
    /// When it is not here, or is the last name of what a container uses.
    pub fn remove_image(&self, reference: &str) -> Result<(), EngineError> {
        if let Ok(name) = reference.parse::<ImageRef>()
            && self.images.forget_left_out(&name)?
        {
            self.emit("image", "delete", &name.familiar(), IndexMap::new());
            return Ok(());
        }
        let (name, image) = self.image(reference)?;
        let uses = |record: &ContainerRecord| {
            record.image_id == image.id.as_str()
                || record.spec.mounts.iter().any(|m| !m.layers.is_empty() && m.layers == image.layers)
        };
        let user = self.containers().into_iter().find(|c| c.with_record(uses));
        if let Some(user) = user
            && !self.images.list()?.iter().any(|(other, known)| known.id == image.id && Some(other) != name.as_ref())
        {
            return Err(EngineError::Conflict(format!("the image {reference} is in use by the container {}", user.name())));
        }
        let layers: HashSet<crate::image::ChainId> = self
            .containers()
            .iter()
            .flat_map(|c| c.with_record(|record| record.all_layers().cloned().collect::<Vec<_>>()))
            .collect();
        // Where it cannot be told what needs them, every layer stays.
        let uncertain = self.check_prunable().is_err();
        let is_used = |layer: &crate::image::ChainId| uncertain || layers.contains(layer);
        match &name {
            Some(name) => self.images.remove(name, &is_used)?,
            None => self.images.remove_unnamed(&image, &is_used)?,
        }
        self.emit("image", "delete", &name.map_or_else(|| image.id.to_string(), |name| name.familiar()), IndexMap::new());
        Ok(())
    }
}
