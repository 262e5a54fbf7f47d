//! The engine's part of builds: images, and containers that run one command and leave their files.

use crate::engine::containers::registry::Containers;
use crate::engine::error::EngineError;
use crate::engine::events::Watch;
use crate::engine::networks::NewNetwork;
use crate::engine::record::{ContainerRecord, ContainerSpec, EndpointSpec, MountKind, MountSpec, NetworkMode};
use crate::engine::{Container, Engine, locked};
use crate::image::build::mounts::MadeMount;
use crate::image::build::{BuildReport, BuildRequest, Host, Later, Ran, RunProcess, files::ContentDigests, solve};
use crate::image::credentials::Logins;
use crate::image::keyed_mutex::KeyedMutex;
use crate::image::registry::Registry;
use crate::image::{ChainId, Image, ImageError, ImageRef, Store};
use crate::logs::reader::{LineSelection, Reader};
use std::sync::{Arc, Mutex};

/// The end of the ids of builds' containers and of their network (`wharf-build` and a zero). These are in no list and in no event,
/// and a new engine removes what an old one has left: their directories' own names tell it, whatever else is lost.
const ID_END: &str = "77686172662d6275696c6400";

/// The network of every RUN that names no other. It is there as long as a build uses it. Nobody else's begins with a dot.
const NETWORK: &str = ".wharf-build";

/// Whether an id is that of a build's container or network.
pub fn is_build_id(id: &str) -> bool {
    id.len() == 64 && id.ends_with(ID_END)
}

/// A new id of a build's container or network.
pub(in crate::engine) fn new_build_id() -> std::io::Result<String> {
    Ok(crate::random::hex::<20>()? + ID_END)
}

/// State that builds share.
#[derive(Default)]
pub(super) struct Builds {
    /// Held by whoever makes a step that another build may want as well.
    steps: KeyedMutex,
    /// Digests of what builds have copied.
    contents: ContentDigests,
    /// How many steps are on the builds' network.
    network_users: Mutex<usize>,
}

impl Engine {
    /// Builds an image. What it starts from is pulled with the logins.
    ///
    /// # Errors
    /// An error in the Dockerfile, or the step that failed.
    pub async fn build(
        self: &Arc<Self>,
        request: BuildRequest,
        logins: Logins,
        report: BuildReport,
    ) -> Result<solve::Built, EngineError> {
        let registry = self.images.registry.with_logins(logins);
        let host = Arc::new(BuildHost { engine: self.clone(), registry });
        Ok(solve::build(host, request, report).await?)
    }

    /// Removes the steps of builds that died with an earlier engine.
    pub(in crate::engine) async fn remove_build_steps(self: &Arc<Self>) {
        for container in self.containers.all().into_iter().filter(|container| container.is_build_step()) {
            if let Err(error) = self.remove(&container, true, true).await {
                tracing::warn!("removing the step of a build: {error}");
            }
        }
        let _ = self.networks.remove(NETWORK);
    }

    /// Counts a user of the builds' network in, and makes it for the first.
    fn enter_build_network(self: &Arc<Self>) -> Result<NetworkUse, EngineError> {
        let mut users = locked(&self.images.builds.network_users);
        if *users == 0 && self.networks.find(NETWORK).is_err() {
            self.networks.create(&NewNetwork { name: NETWORK.into(), of_builds: true, ..NewNetwork::default() })?;
        }
        *users += 1;
        Ok(NetworkUse { engine: self.clone() })
    }
}

/// The builds' network is removed with its last user.
struct NetworkUse {
    engine: Arc<Engine>,
}

impl Drop for NetworkUse {
    fn drop(&mut self) {
        let mut users = locked(&self.engine.images.builds.network_users);
        *users -= 1;
        if *users == 0 {
            let _ = self.engine.networks.remove(NETWORK);
        }
    }
}

/// Bytes of one line of a step's output. What is longer is several: the log has it in parts of 16 KiB at most, and the last of them
/// is on top of this.
const MAX_LINE: usize = 16 << 10;

struct BuildHost {
    engine: Arc<Engine>,
    registry: Registry,
}

impl Host for BuildHost {
    fn store(&self) -> Arc<Store> {
        self.engine.images.store.clone()
    }

    fn contents(&self) -> &ContentDigests {
        &self.engine.images.builds.contents
    }

    fn keyed_mutex(&self) -> &KeyedMutex {
        &self.engine.images.builds.steps
    }

    fn image<'a>(&'a self, name: &'a ImageRef, newest: bool) -> Later<'a, Image> {
        Box::pin(async move {
            if !newest && let Some((_, image)) = self.engine.images.store.find_loosely(&name.familiar())? {
                return Ok(image);
            }
            let (sender, _ignored) = tokio::sync::mpsc::unbounded_channel();
            match self.engine.images.pull_from(&self.registry, &name.familiar(), sender).await {
                Ok(()) => {}
                // What is here serves where the registry does not answer.
                Err(error) => match self.engine.images.store.find(name)? {
                    Some(image) => return Ok(image),
                    None => return Err(ImageError::Build(error.to_string())),
                },
            }
            self.engine
                .images
                .store
                .find(name)?
                .ok_or_else(|| ImageError::Build(format!("the image {} is gone again", name.familiar())))
        })
    }

    fn run<'a>(&'a self, step: RunProcess) -> Later<'a, Ran> {
        Box::pin(async move { self.engine.run_step(step).await.map_err(|e| ImageError::Build(e.to_string())) })
    }
}

/// Stops and removes a step's container when its build is given up.
struct StepGuard {
    engine: Arc<Engine>,
    container: Arc<Container>,
    network: Option<NetworkUse>,
}

impl Drop for StepGuard {
    fn drop(&mut self) {
        let (engine, container, network) = (self.engine.clone(), self.container.clone(), self.network.take());
        tokio::spawn(async move {
            let _ = engine.remove(&container, true, true).await;
            drop(network);
        });
    }
}

/// Reports the lines of a container's output until it has ended.
async fn report_output(
    container: &Container,
    reader: &mut Reader,
    watch: &Watch<'_>,
    output: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), EngineError> {
    let mut changes = container.changed.subscribe();
    let mut partial = String::new();
    loop {
        let grown = watch.changed.notified();
        let ended = !container.status().is_alive();
        while let Some(line) = reader.next_line().map_err(EngineError::io("reading a step's output"))? {
            partial.push_str(&String::from_utf8_lossy(line.text));
            if line.complete || partial.len() >= MAX_LINE {
                output(&std::mem::take(&mut partial));
            }
        }
        if ended {
            break;
        }
        tokio::select! {
            () = grown => {}
            _ = changes.changed() => {}
        }
    }
    if !partial.is_empty() {
        output(&partial);
    }
    Ok(())
}

impl Engine {
    async fn run_step(self: &Arc<Self>, mut step: RunProcess) -> Result<Ran, EngineError> {
        let layers = std::mem::take(&mut step.layers);
        let output = step.output.clone();
        let (spec, network) = self.spec_of_step(step)?;
        let container = self.containers.create_step(spec, layers)?;
        let guard = StepGuard { engine: self.clone(), container: container.clone(), network };
        let log = self.config.log_path(&container.id);
        let directory = log.parent().unwrap_or(&log).to_path_buf();
        let watch = self.events.logs.watch(&directory).map_err(|e| EngineError::Invalid(format!("watching a log: {e}")))?;
        let mut reader = Reader::open(&log, &LineSelection::default()).map_err(EngineError::io("reading a step's output"))?;
        // A build that is given up meanwhile must not leave a process that nobody knows.
        let starting = {
            let (engine, container) = (self.clone(), container.clone());
            tokio::spawn(async move { engine.start(&container).await })
        };
        starting.await.map_err(EngineError::from)??;
        report_output(&container, &mut reader, &watch, &*output).await?;
        let code = container.record().state.exit_code;
        let draft = self.images.store.draft()?;
        draft
            .take(&self.config.container_directory(&container.id).join("upper"))
            .map_err(EngineError::io("taking a step's files"))?;
        drop(watch);
        drop(guard);
        Ok(Ran { code, draft })
    }

    /// The specification of a step's container, and the network of builds where it is on that.
    fn spec_of_step(self: &Arc<Self>, step: RunProcess) -> Result<(ContainerSpec, Option<NetworkUse>), EngineError> {
        let network_mode = match step.network.as_deref() {
            Some("host") => NetworkMode::Host,
            Some("none") => NetworkMode::None,
            Some(other) if other.starts_with("container:") => {
                let name = other.trim_start_matches("container:");
                NetworkMode::Container(self.containers.find(name)?.id.clone())
            }
            _ => NetworkMode::Bridge,
        };
        // A network of the user's, by its name or id.
        let named = match step.network.as_deref() {
            Some(name) if network_mode == NetworkMode::Bridge && !matches!(name, "" | "default" | "bridge") => {
                Some(self.networks.find(name)?.name)
            }
            _ => None,
        };
        let own = network_mode == NetworkMode::Bridge && named.is_none();
        let network = own.then(|| self.enter_build_network()).transpose()?;
        let mut spec = ContainerSpec {
            command: Some(step.args),
            env: step.env,
            user: Some(step.user),
            working_dir: Some(step.working_dir),
            hostname: Some("wharf-build".into()),
            extra_hosts: step.extra_hosts,
            shm_size: step.shm_size,
            ulimits: step.ulimits,
            privileged: step.privileged,
            network_mode,
            ..ContainerSpec::default()
        };
        if let Some(network) = named.or_else(|| network.is_some().then(|| NETWORK.into())) {
            spec.networks.push(EndpointSpec { network, ..EndpointSpec::default() });
        }
        for mount in step.mounts {
            match mount {
                MadeMount::Bind { source, target, read_only } => spec.mounts.push(MountSpec {
                    kind: MountKind::Bind,
                    source: source.to_string_lossy().into_owned(),
                    target,
                    read_only,
                    ..MountSpec::default()
                }),
                MadeMount::Tmpfs { target, options } => spec.tmpfs.push((target, options)),
                MadeMount::Layers { layers, target } => {
                    spec.mounts.push(MountSpec {
                        kind: MountKind::Image,
                        layers,
                        target,
                        read_only: true,
                        ..MountSpec::default()
                    });
                }
            }
        }
        Ok((spec, network))
    }
}

impl Containers {
    /// The container of a step: on layers that need not be an image's.
    fn create_step(self: &Arc<Self>, spec: ContainerSpec, layers: Vec<ChainId>) -> Result<Arc<Container>, EngineError> {
        let id = new_build_id().map_err(EngineError::io("making an id"))?;
        let name = format!("wharf-build-{}", &id[..12]);
        let record = ContainerRecord::new(id, name, spec, layers);
        let name = self.reserve(&record.name)?;
        self.keep(record, name, || "making the container of a step".into())
    }
}
