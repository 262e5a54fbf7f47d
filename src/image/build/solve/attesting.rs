//! The attestations of a build: provenance, and a bill of materials.

use super::variables::PREDEFINED;
use super::*;
use crate::image::attest::{PROVENANCE, Predicate, Provenance, SPDX, purl};
use crate::image::build::RunProcess;
use crate::image::build::mounts::MadeMount;
use crate::image::documents::ImageSettings;
use crate::printable::without_login;
use crate::sys::regular::read_regular;
use base64::Engine as _;
use std::sync::atomic::AtomicBool;

/// Paths that a generator of bills of materials reads and writes, as in BuildKit.
const SCANNED: &str = "/run/src/core/sbom";
const EXTRAS: &str = "/run/src/extras";
const WRITTEN: &str = "/run/out";

/// Bytes that all bills of materials of an image may have.
const LARGEST: u64 = crate::image::attest::MAX_BYTES;

/// Facts of a build that its provenance states.
pub(super) struct BuildFacts {
    begun: jiff::Timestamp,
    /// URIs of what was not in the context, with its digests.
    sources: Mutex<BTreeMap<String, Value>>,
    networked: AtomicBool,
    /// The repository that is the context, and its commit.
    repository: Option<(String, String)>,
}

impl BuildFacts {
    pub(super) fn new(repository: Option<(String, String)>) -> Self {
        let facts = BuildFacts {
            begun: jiff::Timestamp::now(),
            sources: Mutex::default(),
            networked: AtomicBool::new(false),
            repository: repository.map(|(url, commit)| (without_login(&url).into_owned(), commit)),
        };
        if let Some((url, commit)) = &facts.repository {
            facts.used_repository(url, commit);
        }
        facts
    }

    /// Whether the context is a repository's.
    pub(super) fn has_repository(&self) -> bool {
        self.repository.is_some()
    }

    fn used(&self, uri: String, digest: Value) {
        self.sources.lock().unwrap_or_else(|e| e.into_inner()).insert(uri, digest);
    }

    pub(super) fn used_image(&self, name: &ImageRef, image: &Image) {
        self.used(purl(name), json!({image.manifest.algorithm().name(): image.manifest.hex()}));
    }

    pub(super) fn used_repository(&self, url: &str, commit: &str) {
        self.used(without_login(url).into_owned(), json!({"sha1": commit}));
    }

    pub(super) fn used_file(&self, url: &str, digest: &Digest) {
        let algorithm = digest.as_str().split(':').next().unwrap_or_default();
        self.used(without_login(url).into_owned(), json!({algorithm: digest.hex()}));
    }

    pub(super) fn ran_with_network(&self) {
        self.networked.store(true, Ordering::Relaxed);
    }
}

impl Solver {
    /// The attestations that the request asks for.
    pub(super) async fn predicates(self: &Arc<Self>, target: usize, finished: &StageState) -> Result<Vec<Predicate>, ImageError> {
        let mut predicates = Vec::new();
        if let Some(generator) = &self.request.attest.sbom {
            predicates.extend(self.bill_of_materials(generator, target, finished).await?);
        }
        if let Some(wanted) = &self.request.attest.provenance {
            predicates.push(self.provenance(wanted)?);
        }
        Ok(predicates)
    }

    /// SLSA's form, with BuildKit's names for what SLSA leaves open.
    fn provenance(&self, wanted: &Provenance) -> Result<Predicate, ImageError> {
        let request = &self.request;
        let mut args = BTreeMap::new();
        if let Some(target) = &request.target {
            args.insert("target".to_string(), target.clone());
        }
        let told = request.args.iter().filter(|(name, _)| !PREDEFINED.contains(&name.as_str()));
        let told = told.map(|(name, value)| (format!("build-arg:{name}"), value.clone()));
        let labels = request.labels.iter().map(|(name, value)| (format!("label:{name}"), value.clone()));
        let details: Vec<(String, String)> = told.chain(labels).collect();
        // Provenance that leaves arguments out is not complete.
        let complete = wanted.max || details.is_empty();
        let mut asked = json!({"frontend": "dockerfile.v0"});
        if wanted.max {
            args.extend(details);
            asked["secrets"] = request.secrets.keys().map(|id| json!({"id": id, "optional": true})).collect();
            asked["ssh"] = request.ssh.keys().map(|id| json!({"id": id, "optional": true})).collect();
        }
        asked["args"] = json!(args);
        // One that is not in the context tells nobody where else it is on this machine.
        let shown = Path::new(&self.source.shown);
        let shown =
            if shown.is_absolute() { shown.file_name().unwrap_or_default().to_string_lossy() } else { shown.to_string_lossy() };
        let mut source = json!({"path": shown});
        match &self.facts.repository {
            Some((url, commit)) => {
                source["uri"] = json!(url);
                source["digest"] = json!({"sha1": commit});
            }
            None => asked["locals"] = json!([{"name": "context"}, {"name": "dockerfile"}]),
        }
        let mut details = json!({});
        if wanted.max {
            let text = base64::engine::general_purpose::STANDARD.encode(&self.source.text);
            details["source"] = json!({"infos": [{"filename": shown, "language": "Dockerfile", "data": text}]});
        }
        let sources = self.facts.sources.lock().unwrap_or_else(|e| e.into_inner());
        let sources: Vec<Value> = sources.iter().map(|(uri, digest)| json!({"uri": uri, "digest": digest})).collect();
        let predicate = json!({
            "buildDefinition": {
                "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
                "externalParameters": {"configSource": source, "request": asked},
                "internalParameters": {"builderPlatform": format!("linux/{}", crate::image::architecture())},
                "resolvedDependencies": sources,
            },
            "runDetails": {
                "builder": {"id": wanted.builder_id},
                "metadata": {
                    "invocationId": crate::random::hex::<16>().unwrap_or_else(|_| "0".repeat(32)),
                    "startedOn": self.facts.begun.to_string(),
                    "finishedOn": jiff::Timestamp::now().to_string(),
                    "buildkit_hermetic": !self.facts.networked.load(Ordering::Relaxed),
                    // Files of a directory here are named nowhere.
                    "buildkit_completeness": {
                        "request": complete, "resolvedDependencies": self.facts.repository.is_some(),
                    },
                    "buildkit_reproducible": wanted.reproducible,
                    "buildkit_metadata": details,
                },
            },
        });
        let predicate = serde_json::value::to_raw_value(&predicate)
            .map_err(|e| ImageError::Malformed { what: "provenance", why: e.to_string() })?;
        Ok(Predicate { predicate_type: PROVENANCE.into(), predicate })
    }

    /// Runs a generator of bills of materials on the image, by BuildKit's protocol. What it wrote is kept as a step's layer is.
    async fn bill_of_materials(
        self: &Arc<Self>,
        generator: &str,
        target: usize,
        finished: &StageState,
    ) -> Result<Vec<Predicate>, ImageError> {
        let image = self.image(generator).await?;
        let store = self.host.store();
        let mut config = ConfigDocument::parse(&store.configuration(&image)?)?.config;
        config.have_path();
        let mut scanned = vec![(SCANNED.to_string(), finished)];
        let others: Vec<(String, Arc<StageState>)> = self.stages_to_scan(target);
        scanned.extend(others.iter().map(|(name, state)| (format!("{EXTRAS}/sbom-{name}"), state.as_ref())));
        let context = self.scans("BUILDKIT_SBOM_SCAN_CONTEXT", finished, "context");
        let keys: Vec<(&String, &String)> = scanned.iter().map(|(target, state)| (target, &state.key)).collect();
        let key = cache::key(image.id.as_str(), &["SBOM", &json!(keys).to_string()]);
        let id = self.begin(&format!("SBOM by {generator}"));
        let begun = Instant::now();
        let _turn = self.host.keyed_mutex().take(key.as_str()).await;
        // A context has no key of its own.
        let known = if self.request.no_cache || context { None } else { cache::find(&store, &key) };
        let cached = known.is_some();
        let made = match known {
            Some(made) => Ok(made),
            None => {
                let mut mounts: Vec<MadeMount> = scanned
                    .iter()
                    .map(|(target, state)| MadeMount::Layers {
                        layers: state.layers.iter().map(|layer| layer.chain.clone()).collect(),
                        target: target.clone(),
                    })
                    .collect();
                if context {
                    let (source, target) = (self.request.context.clone(), format!("{EXTRAS}/sbom-context"));
                    mounts.push(MadeMount::Bind { source, target, read_only: true });
                }
                self.generate(generator, &image, &config, mounts, id, &key).await
            }
        };
        (self.report)(match &made {
            Err(error) => BuildEvent::Failed { id, why: error.reason() },
            Ok(_) if cached => BuildEvent::Cached { id },
            Ok(_) => BuildEvent::Done { id, seconds: begun.elapsed().as_secs_f64() },
        });
        let wrote_nothing = || {
            ImageError::Build(format!(
                "the generator {generator} wrote no bill of materials: it is to write {WRITTEN}/*.spdx.json (BuildKit's protocol)"
            ))
        };
        let layer = made?.layer.ok_or_else(wrote_nothing)?;
        let generator = generator.to_string();
        let found = blocking(move || read_bills(&store.layer(&layer.chain), &generator)).await?;
        if found.is_empty() { Err(wrote_nothing()) } else { Ok(found) }
    }

    async fn generate(
        &self,
        generator: &str,
        image: &Image,
        config: &ImageSettings,
        mounts: Vec<MadeMount>,
        id: u32,
        key: &Digest,
    ) -> Result<StepResult, ImageError> {
        let mut args = config.entrypoint.clone().unwrap_or_default();
        args.extend(config.cmd.iter().flatten().cloned());
        let mut env = config.env.clone();
        env.push(format!("BUILDKIT_SCAN_DESTINATION={WRITTEN}"));
        env.push(format!("BUILDKIT_SCAN_SOURCE={SCANNED}"));
        if mounts.len() > 1 {
            env.push(format!("BUILDKIT_SCAN_SOURCE_EXTRAS={EXTRAS}/"));
        }
        let (output, last) = self.output_of(id);
        let ran = self.host.run(RunProcess {
            layers: image.layers.clone(),
            args,
            env,
            user: config.user.clone(),
            working_dir: config.directory(),
            network: self.request.network.clone().filter(|network| network != "default"),
            extra_hosts: self.request.extra_hosts.clone(),
            shm_size: None,
            ulimits: Vec::new(),
            privileged: false,
            mounts,
            output,
        });
        let ran = ran.await?;
        if ran.code != 0 {
            let code = ran.code;
            return Err(ImageError::Build(format!(
                "the generator {generator} of the bill of materials ended with exit code {code}{last}"
            )));
        }
        let (store, key, created) = (self.host.store(), key.clone(), self.created.clone());
        blocking(move || {
            let made = StepResult { layer: store.keep(&ran.draft, None, None)?, created };
            cache::remember(&store, &key, &made);
            Ok(made)
        })
        .await
    }

    /// Stages besides the target that their Dockerfile wants to be scanned, of those that were built.
    fn stages_to_scan(&self, target: usize) -> Vec<(String, Arc<StageState>)> {
        let built = self.cells.iter().enumerate().filter_map(|(n, cell)| Some((n, cell.get()?.clone())));
        let named = built.filter(|(n, _)| *n != target).map(|(n, state)| {
            let name = self.stages.stages[n].name.clone();
            (name.unwrap_or_else(|| format!("stage-{n}")), state)
        });
        named.filter(|(name, state)| self.scans("BUILDKIT_SBOM_SCAN_STAGE", state, name)).collect()
    }

    /// The value of BuildKit's ARG: a boolean, or the names of the stages to scan.
    fn scans(&self, argument: &str, state: &StageState, name: &str) -> bool {
        match state.args.get(argument).or_else(|| self.global.get(argument)).map(String::as_str) {
            None | Some("false" | "0" | "") => false,
            Some("true" | "1") => true,
            Some(list) => list.split(',').any(|listed| listed.trim() == name),
        }
    }
}

/// Bills of materials that a generator wrote. Symlinks are not followed out of its layer.
fn read_bills(layer: &Path, generator: &str) -> Result<Vec<Predicate>, ImageError> {
    let failed = || ImageError::store(format!("reading what {generator} wrote"));
    let tree = Tree::directory(layer).map_err(failed())?;
    let (mut found, mut room) = (Vec::new(), LARGEST);
    let none = Patterns::default();
    // A generator that wrote nothing need not have made the directory.
    for file in tree.walk(Path::new(WRITTEN.trim_start_matches('/')), &none).into_iter().flatten() {
        let file = file.map_err(failed())?;
        if file.is_directory() || !file.path.to_string_lossy().ends_with(".spdx.json") {
            continue;
        }
        // One byte more than all may have is too much, whichever file it is in.
        let text = read_regular(tree.root(), &file.path, room).map_err(|e| {
            let bound = LARGEST >> 20;
            ImageError::Build(format!(
                "{}, which {generator} wrote, cannot be kept: {e}; its bills of materials may have {bound} MiB together",
                file.path.display()
            ))
        })?;
        room -= text.len() as u64;
        let predicate = serde_json::from_slice(&text).map_err(|e| {
            ImageError::Build(format!("what {generator} wrote to {} is no SPDX in JSON: {e}", file.path.display()))
        })?;
        found.push(Predicate { predicate_type: SPDX.into(), predicate });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generators_links_lead_nowhere_else() {
        let layer = tempfile::tempdir().unwrap();
        let written = layer.path().join(WRITTEN.trim_start_matches('/'));
        std::fs::create_dir_all(&written).unwrap();
        std::fs::write(written.join("a.spdx.json"), r#"{"name": "a"}"#).unwrap();
        assert_eq!(read_bills(layer.path(), "g").unwrap()[0].predicate.get(), r#"{"name": "a"}"#);
        let large = format!("\"{}\"", "x".repeat((LARGEST / 2) as usize));
        ["b", "c"].iter().for_each(|name| std::fs::write(written.join(format!("{name}.spdx.json")), &large).unwrap());
        let said = read_bills(layer.path(), "g").unwrap_err().to_string();
        assert!(said.contains("c.spdx.json") && said.contains("24 MiB together"), "{said}");
        ["b", "c"].iter().for_each(|name| std::fs::remove_file(written.join(format!("{name}.spdx.json"))).unwrap());
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(outside.path(), r#"{"of": "the host"}"#).unwrap();
        for link in [outside.path().to_path_buf(), Path::new("../../../../..").join(outside.path().strip_prefix("/").unwrap())] {
            std::os::unix::fs::symlink(link, written.join("b.spdx.json")).unwrap();
            assert!(read_bills(layer.path(), "g").is_err());
            std::fs::remove_file(written.join("b.spdx.json")).unwrap();
        }
    }

    #[test]
    fn passwords_of_urls_are_not_told() {
        for (url, told) in [
            ("https://me:secret@host/x.git#main", "https://host/x.git#main"),
            ("ssh://git@host/x.git", "ssh://host/x.git"),
            ("https://host/a@b", "https://host/a@b"),
            ("git@host:x.git", "git@host:x.git"),
        ] {
            assert_eq!(without_login(url).into_owned(), told);
        }
    }
}
