//! Where a build gets what it does not make: steps of other images, repositories, the files of contexts, stages and images.

use super::*;

impl Solver {
    /// Learns the steps of the images that the build may take them from. One that is not to be had is no failure.
    pub(super) async fn learn(&self) {
        for source in &self.request.cache_from {
            let fields: Vec<(&str, &str)> = source.split(',').filter_map(|field| field.split_once('=')).collect();
            let field = |key: &str| fields.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
            let name = match field("type") {
                None => source.as_str(),
                Some("registry") => field("ref").unwrap_or_default(),
                Some(other) => {
                    (self.report)(BuildEvent::Warning(format!("a cache of type `{other}` is not supported: its steps are made")));
                    continue;
                }
            };
            if let Err(error) = self.learn_from(name).await {
                (self.report)(BuildEvent::Warning(format!("taking no steps from {name}: {error}")));
            }
        }
    }

    async fn learn_from(&self, name: &str) -> Result<(), ImageError> {
        let reference: ImageRef = name.parse()?;
        let image = self.host.image(&reference, true).await?;
        let store = self.host.store();
        let config = ConfigDocument::parse(&store.configuration(&image)?)?;
        let no_cache = || ImageError::Build("it was not built with an inline cache (`cache_to: [type=inline]`)".into());
        let trail = config.other(INLINE_CACHE).ok_or_else(no_cache)?;
        let trail: Vec<Trod> = serde_json::from_value(trail.clone())
            .map_err(|e| ImageError::Malformed { what: "inline cache", why: e.to_string() })?;
        for step in trail {
            let layer = step.layer.and_then(|n| Some((image.layers.get(n)?, image.diff_ids.get(n)?)));
            if step.layer.is_some() && layer.is_none() {
                continue;
            }
            let layer = layer.map(|(chain, diff_id)| Layer {
                chain: chain.clone(),
                diff_id: diff_id.clone(),
                bytes: store.has_layer(chain).unwrap_or(0),
                // As of a base: a push counts it.
                tar_bytes: 0,
            });
            let created = step.created.parse::<jiff::Timestamp>().unwrap_or_default().to_string();
            let made = StepResult { layer, created };
            self.learned.lock().unwrap_or_else(|e| e.into_inner()).entry(step.key).or_insert(made);
        }
        Ok(())
    }

    /// A Git repository's files and the commit; checked out once for a build.
    pub(super) async fn repository(&self, text: &str, git: GitRef, keep_git: bool) -> Result<(Arc<Tree>, String), ImageError> {
        let id = format!("{text} {keep_git}");
        let locked = || self.repositories.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(known) = locked().get(&id) {
            return Ok((known.tree.clone(), known.commit.clone()));
        }
        let _permit = self.checkouts.acquire().await;
        let draft = self.host.store().draft()?;
        let (commit, directory) = git.check_out(&draft.diff(), keep_git).await?;
        let tree = Tree::directory(&directory).map_err(ImageError::store("opening what git has checked out".into()))?;
        let tree = Arc::new(tree);
        self.facts.used_repository(text, &commit);
        locked().insert(id, Repository { tree: tree.clone(), commit: commit.clone(), _draft: draft });
        Ok((tree, commit))
    }

    /// What COPY and mounts read from, as messages name it.
    pub(super) fn name_of_tree(&self, from: Option<&str>) -> String {
        let Some(from) = from else { return "the build context".into() };
        let context = self.request.contexts.get(from);
        if context.is_some_and(|context| GitRef::parse(context).is_some() || !context.contains("://")) {
            return format!("the context `{from}`");
        }
        let kind = if self.stages.find(from).is_some() { "stage" } else { "image" };
        format!("the {kind} `{from}`")
    }

    /// Where COPY and mounts read from: the context, a stage, a named context, an image.
    pub(super) async fn tree(
        self: &Arc<Self>,
        from: Option<&str>,
        step: &SolveStep<'_>,
    ) -> Result<(Arc<Tree>, Patterns), ImageError> {
        let Some(from) = from else { return Ok((self.context.clone(), self.ignored.clone())) };
        if let Some(text) = self.request.contexts.get(from)
            && let Some(git) = GitRef::parse(text)
        {
            let (tree, _) = self.repository(text, git, false).await.map_err(|e| self.wrong(step, e.to_string()))?;
            return Ok((tree, Patterns::default()));
        }
        if let Some(directory) = self.request.contexts.get(from).filter(|context| !context.contains("://")) {
            let directory = PathBuf::from(directory);
            let tree = Tree::directory(&directory)
                .map_err(|e| self.wrong(step, format!("the context `{from}`, {}: {e}", directory.display())))?;
            let text = match tree.read_text(Path::new(".dockerignore"), ignore::MAX_FILE) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
                other => other.map_err(|e| self.wrong(step, format!("the .dockerignore of the context `{from}`: {e}")))?,
            };
            let ignored = Patterns::parse(&text);
            return Ok((Arc::new(tree), ignored));
        }
        let layers: Vec<PathBuf> = match self.stages.find(from) {
            Some(stage) => {
                let state = self.needed(step.stage, step.instruction.line, stage).await?;
                self.layer_paths(&state.layers)
            }
            None => {
                let image = self.image(from).await.map_err(|e| self.wrong(step, e.to_string()))?;
                let store = self.host.store();
                image.layers.iter().map(|chain| store.layer(chain)).collect()
            }
        };
        let store = self.host.store();
        let tree =
            blocking(move || store.tree(&layers).map_err(ImageError::store("opening the layers of a stage".into()))).await?;
        Ok((Arc::new(tree), Patterns::default()))
    }
}
