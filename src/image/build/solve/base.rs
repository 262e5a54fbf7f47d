//! The base of a stage: another stage, an image, or nothing.

use super::{Solver, StageState};
use crate::image::build::BuildEvent;
use crate::image::build::dockerfile::MalformedDockerfile;
use crate::image::build::expand::{self};
use crate::image::documents::{ConfigDocument, HistoryEntry};
use crate::image::store::Layer;
use crate::image::{Image, ImageError, ImageRef, is_native};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

impl Solver {
    /// The base of a stage.
    pub(super) async fn base(self: &Arc<Self>, index: usize) -> Result<StageState, ImageError> {
        let stage = &self.stages.stages[index];
        let wrong = |message: String| self.source.at(MalformedDockerfile::new(stage.line, message));
        let name = expand::word(&stage.base, self.stages.escape, &|n| self.global_value(n)).map_err(|e| wrong(e.0))?;
        if name.is_empty() {
            return Err(wrong(format!("`{}` is empty: an ARG before the first FROM needs a value", stage.base)));
        }
        if let Some(platform) = &stage.platform {
            let platform = expand::word(platform, self.stages.escape, &|n| self.global_value(n)).map_err(|e| wrong(e.0))?;
            if !is_native(&platform) {
                return Err(wrong(format!(
                    "this machine is linux/{} and cannot build for {platform}",
                    crate::image::architecture()
                )));
            }
        }
        if let Some(earlier) = self.stages.base_of(index, &name) {
            let state = self.needed(index, stage.line, earlier).await?;
            let args: usize = state.args.iter().map(|(name, value)| name.len() + value.len()).sum();
            self.keep(args + state.config.to_bytes()?.len()).map_err(wrong)?;
            let mut state = StageState::clone(&state);
            state.cmd_is_own = false;
            return Ok(state);
        }
        let beginning = jiff::Timestamp::from_second(self.request.epoch.unwrap_or(0)).unwrap_or_default().to_string();
        let empty = StageState {
            key: "scratch".into(),
            layers: Vec::new(),
            config: ConfigDocument::scratch(),
            args: BTreeMap::new(),
            cmd_is_own: false,
            fresh: false,
            trail: Vec::new(),
            created: beginning,
        };
        if name == "scratch" {
            return Ok(empty);
        }
        let image = self.image(&name).await.map_err(|e| match e {
            ImageError::Dockerfile { .. } => e,
            other => wrong(other.to_string()),
        })?;
        let store = self.host.store();
        let mut config = ConfigDocument::parse(&store.configuration(&image)?)?;
        let created = config.created.as_ref().and_then(|c| c.parse::<jiff::Timestamp>().ok()).unwrap_or_default().to_string();
        // Every layer has an entry in the history, also where the base's own history is incomplete.
        let listed = config.history.iter().filter(|entry| !entry.empty_layer).count();
        let unlisted = image.layers.len().saturating_sub(listed);
        config.history.extend((0..unlisted).map(|_| HistoryEntry::new(&created, &name)));
        let layers = image.layers.iter().zip(&image.diff_ids).map(|(chain, diff_id)| Layer {
            chain: chain.clone(),
            diff_id: diff_id.clone(),
            bytes: store.has_layer(chain).unwrap_or(0),
            tar_bytes: 0,
        });
        let layers: Vec<Layer> = layers.collect();
        let key = layers.last().map_or_else(|| "scratch".to_string(), |layer| layer.chain.to_string());
        config.config.have_path();
        Ok(StageState { key, layers, config, created, ..empty })
    }

    /// An image by the name that FROM or --from gives, or that a named context replaces it with.
    pub(super) async fn image(&self, name: &str) -> Result<Image, ImageError> {
        if let Some(digest) = self.request.built.get(name) {
            let gone = || ImageError::Build(format!("the context `{name}` is the result of a build that is not here any more"));
            return self.host.store().by_manifest(digest).ok_or_else(gone);
        }
        let name = match self.request.contexts.get(name).and_then(|context| context.strip_prefix("docker-image://")) {
            Some(replaced) => replaced,
            None => name,
        };
        let reference: ImageRef = name.parse().map_err(ImageError::from)?;
        let id = self.begin(&format!("FROM {}", reference.familiar()));
        let begun = Instant::now();
        let result = self.host.image(&reference, self.request.pull).await;
        match &result {
            Ok(image) => {
                self.facts.used_image(&reference, image);
                (self.report)(BuildEvent::Done { id, seconds: begun.elapsed().as_secs_f64() });
            }
            Err(error) => (self.report)(BuildEvent::Failed { id, why: error.reason() }),
        }
        result
    }
}
