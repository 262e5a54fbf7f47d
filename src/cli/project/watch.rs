//! `wharf watch`: what changes on this machine takes effect in running containers (`develop.watch`).
//!
//! The kernel tells of changes (inotify); what comes within a few milliseconds is one batch. Directories that are ignored are
//! not even watched: a `node_modules` costs nothing.

use super::{exec, ps, up};
use crate::api::client::{Client, ClientError};
use crate::api::reply::escape;
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::compose::Loaded;
use crate::compose::model::{Hook, Trigger};
use crate::image::build::files::Tree;
use crate::image::build::ignore::{self, Patterns};
use crate::image::pack::Packer;
use crate::image::tar_paths::write_archive;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

#[derive(clap::Args, Debug)]
pub struct WatchArgs {
    /// Services to watch for; all that have a `develop.watch` by default.
    services: Vec<String>,
    /// Do not build and start the services before.
    #[arg(long)]
    no_up: bool,
    /// Leave the layers that a rebuild has made useless.
    #[arg(long)]
    no_prune: bool,
    /// Remove the images that rebuilds leave without a name; `--prune=false` does not.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    prune: bool,
    /// Print no build output.
    #[arg(long)]
    quiet: bool,
}

/// A batch ends when nothing has changed for so long; editors write a file in several steps.
const QUIET: Duration = Duration::from_millis(15);
/// However much goes on changing, a batch is no longer than this.
const LONGEST: Duration = Duration::from_millis(500);

/// Names of editors' temporary files.
const EPHEMERAL: &str =
    "**/.git\n**/*.swp\n**/*.swx\n**/.#*\n**/#*#\n**/*~\n**/4913\n**/___jb_*___\n**/.goutputstream-*\n**/.DS_Store\n";

/// One entry of `develop.watch`.
struct Watched {
    service: String,
    trigger: Trigger,
    root: PathBuf,
    ignore: Patterns,
    include: Option<Patterns>,
    /// The build context's `.dockerignore`, from its directory.
    dockerignore: Option<(PathBuf, Patterns)>,
}

impl Watched {
    /// The path below the root, where a change of it matters. The root itself is the empty path.
    fn matching<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let inside = path.strip_prefix(&self.root).ok()?;
        if self.ignores(path) {
            return None;
        }
        let name = if inside == Path::new("") { Path::new(path.file_name()?) } else { inside };
        self.include.as_ref().is_none_or(|include| include.excludes(name)).then_some(inside)
    }

    fn ignores(&self, path: &Path) -> bool {
        let by_context = self.dockerignore.as_ref().is_some_and(|(context, patterns)| {
            path.strip_prefix(context).is_ok_and(|inside| inside != Path::new("") && patterns.excludes(inside))
        });
        by_context || path.strip_prefix(&self.root).is_ok_and(|inside| inside != Path::new("") && self.ignore.excludes(inside))
    }

    fn target(&self, inside: &Path) -> Option<PathBuf> {
        let target = Path::new(self.trigger.target.as_ref()?);
        Some(if inside == Path::new("") { target.to_path_buf() } else { target.join(inside) })
    }

    fn syncs(&self) -> bool {
        matches!(self.trigger.action.as_str(), "sync" | "sync+restart" | "sync+exec")
    }
}

/// The actions of a batch for a service.
#[derive(Default)]
struct Work {
    rebuild: bool,
    restart: bool,
    /// Paths of this machine, and where they are in the container.
    changed: BTreeSet<(PathBuf, PathBuf)>,
    gone: BTreeSet<PathBuf>,
    exec: Vec<Hook>,
}

pub async fn run(global: &Global, command: WatchArgs) -> Outcome {
    let loaded = project::load(global, &command.services)?;
    ps::check_services(Some(&loaded), &command.services)?;
    let watched = all_watched(&loaded, &command.services)?;
    let client = connect::engine(global).await?;
    if !command.no_up {
        let services: Vec<String> = watched.iter().map(|w| w.service.clone()).collect::<BTreeSet<_>>().into_iter().collect();
        let starting = up::selected(&loaded, &services, false);
        up::build_what_is_missing(&client, &loaded, &starting, None, &services, command.quiet).await?;
        let request = up::request(global, &loaded, services, up::UpOutput::default(), false)?;
        up::follow(&client, &up::path(&loaded, "up"), &request, command.quiet).await?;
    }
    let session = WatchSession {
        global,
        client: &client,
        loaded: &loaded,
        watched,
        quiet: command.quiet,
        prune: command.prune && !command.no_prune,
    };
    tokio::select! {
        result = session.follow() => result,
        signal = crate::cli::signals::signalled() => Err(signal.failure()),
    }
}

/// Watches beside `up`, until it is dropped.
///
/// # Errors
/// When nothing is to be watched, or the kernel has no watches left.
pub async fn beside_up(global: &Global, client: &Client, loaded: &Loaded, services: &[String]) -> Outcome {
    let watched = all_watched(loaded, services)?;
    let session = WatchSession { global, client, loaded, watched, quiet: false, prune: true };
    session.follow().await
}

/// Whether a service has anything to watch.
pub fn is_configured(loaded: &Loaded, services: &[String]) -> bool {
    let mut named = loaded.project.services.iter().filter(|(name, _)| services.is_empty() || services.contains(name));
    named.any(|(_, service)| service.develop.as_ref().is_some_and(|develop| !develop.watch.is_empty()))
}

fn all_watched(loaded: &Loaded, services: &[String]) -> Result<Vec<Watched>, Failure> {
    let mut all = Vec::new();
    for (name, service) in &loaded.project.services {
        if !services.is_empty() && !services.contains(name) {
            continue;
        }
        for trigger in service.develop.iter().flat_map(|develop| &develop.watch) {
            let sync = trigger.action.starts_with("sync");
            if sync && trigger.target.is_none() {
                return Err(Failure::Message(format!(
                    "`services.{name}.develop.watch` syncs {} and says no `target`",
                    trigger.path
                )));
            }
            if trigger.action == "rebuild" && service.build.is_none() {
                return Err(Failure::Message(format!(
                    "`services.{name}.develop.watch` rebuilds, and the service has no `build`"
                )));
            }
            let context = service.build.as_ref().and_then(|build| build.context.as_ref()).map(|c| loaded.directory.join(c));
            let dockerignore = context.and_then(|context| {
                let text = Tree::directory(&context).ok()?.read_text(Path::new(".dockerignore"), ignore::MAX_FILE).ok()?;
                Some((context, Patterns::parse(&text)))
            });
            let mut trigger = trigger.clone();
            if let Some(wanted) = trigger.x_initial_sync {
                eprintln!("warning: x-initialSync is DEPRECATED, please use the official `initial_sync` attribute");
                trigger.initial_sync = wanted;
            }
            all.push(Watched {
                service: name.clone(),
                root: loaded.directory.join(&trigger.path),
                ignore: Patterns::parse(&format!("{EPHEMERAL}{}", trigger.ignore.join("\n"))),
                include: (!trigger.include.is_empty()).then(|| Patterns::parse(&anywhere(&trigger.include))),
                dockerignore,
                trigger,
            });
        }
    }
    if all.is_empty() {
        return Err(Failure::Message("nothing to watch: no service has a `develop.watch`".into()));
    }
    Ok(all)
}

/// `*.js` means those in every directory, as Docker Compose has it for `include`.
fn anywhere(patterns: &[String]) -> String {
    patterns.iter().map(|p| if p.contains('/') { format!("{p}\n") } else { format!("**/{p}\n") }).collect()
}

struct WatchSession<'a> {
    client: &'a Client,
    global: &'a Global,
    loaded: &'a Loaded,
    watched: Vec<Watched>,
    quiet: bool,
    prune: bool,
}

impl WatchSession<'_> {
    async fn follow(&self) -> Outcome {
        let (sender, mut changes) = mpsc::unbounded_channel::<PathBuf>();
        let tell = move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let reads = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
            for path in event.paths.into_iter().filter(|_| !reads) {
                let _ = sender.send(path);
            }
        };
        let mut watcher = notify::recommended_watcher(tell).map_err(|e| unwatchable(&self.loaded.directory, &e))?;
        for watched in &self.watched {
            if watched.root.is_dir() {
                self.watch_tree(&mut watcher, &watched.root, &mut Vec::new())?;
            } else {
                // A file may be replaced by another of its name: its directory is what lasts.
                let parent = watched.root.parent().unwrap_or(Path::new("/"));
                watcher.watch(parent, RecursiveMode::NonRecursive).map_err(|e| unwatchable(parent, &e))?;
            }
        }
        for watched in self.watched.iter().filter(|w| w.trigger.initial_sync && w.syncs()) {
            let mut files = Vec::new();
            files_below(&watched.root, &|path| watched.ignores(path), &mut files);
            self.handle(&files.into_iter().collect()).await;
        }
        eprintln!("Watch enabled");
        while let Some(first) = changes.recv().await {
            let begun = tokio::time::Instant::now();
            let mut batch = BTreeSet::from([first]);
            while begun.elapsed() < LONGEST {
                match tokio::time::timeout(QUIET, changes.recv()).await {
                    Ok(Some(path)) => drop(batch.insert(path)),
                    _ => break,
                }
            }
            // A directory that has come is watched from now on, and what came with it has changed as well.
            for path in batch.clone() {
                if path.is_dir() && !path.is_symlink() {
                    let mut found = Vec::new();
                    self.watch_tree(&mut watcher, &path, &mut found)?;
                    batch.extend(found);
                }
            }
            let acted = self.handle(&batch).await;
            if acted && self.global.verbose {
                eprintln!("batch complete: duration[{:?}] count[{}]", begun.elapsed(), batch.len());
            }
        }
        Ok(())
    }

    /// Watches a directory and those below it that somebody does not ignore; gives the files in them.
    fn watch_tree(&self, watcher: &mut RecommendedWatcher, directory: &Path, files: &mut Vec<PathBuf>) -> Outcome {
        let wanted = |path: &Path| self.watched.iter().any(|w| path.starts_with(&w.root) && !w.ignores(path));
        if !wanted(directory) {
            return Ok(());
        }
        match watcher.watch(directory, RecursiveMode::NonRecursive) {
            // It is gone again.
            Err(e) if matches!(&e.kind, notify::ErrorKind::PathNotFound) => return Ok(()),
            other => other.map_err(|e| unwatchable(directory, &e))?,
        }
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.watch_tree(watcher, &path, files)?;
            }
            files.push(path);
        }
        Ok(())
    }

    /// Carries out a batch of changes; whether there was anything to do. An error is printed, and watching goes on.
    async fn handle(&self, batch: &BTreeSet<PathBuf>) -> bool {
        let mut services: Vec<(&str, Work)> = Vec::new();
        for watched in &self.watched {
            for path in batch {
                let Some(inside) = watched.matching(path) else { continue };
                let at = services.iter().position(|(name, _)| *name == watched.service).unwrap_or_else(|| {
                    services.push((&watched.service, Work::default()));
                    services.len() - 1
                });
                let work = &mut services[at].1;
                match watched.trigger.action.as_str() {
                    "rebuild" => work.rebuild = true,
                    "restart" | "sync+restart" => work.restart = true,
                    "sync+exec" => {
                        if let Some(hook) = watched.trigger.exec.as_ref().filter(|hook| !work.exec.contains(hook)) {
                            work.exec.push(hook.clone());
                        }
                    }
                    _ => {}
                }
                if let Some(target) = watched.target(inside).filter(|_| watched.syncs()) {
                    match path.symlink_metadata() {
                        Ok(_) => drop(work.changed.insert((path.clone(), target))),
                        Err(_) => drop(work.gone.insert(target)),
                    }
                }
            }
        }
        let acts = !services.is_empty();
        for (service, work) in services {
            if let Err(failure) = self.perform(service, work).await {
                eprintln!("{failure}");
            }
        }
        acts
    }

    async fn perform(&self, service: &str, work: Work) -> Outcome {
        if work.rebuild {
            eprintln!("Rebuilding service(s) [\"{service}\"] after changes were detected...");
            let names = [service.to_string()];
            let flags = super::build::BuildFlags::quiet(self.quiet);
            super::build::build_services(self.client, self.loaded, &names, &flags).await?;
            let how = up::UpOutput { no_deps: true, ..up::UpOutput::default() };
            let request = up::request(self.global, self.loaded, names.to_vec(), how, false)?;
            let path = up::path(self.loaded, "up");
            up::follow_with(self.client, &path, &request, up::OnSignal::Leave, true, |_| ()).await?;
            if self.prune {
                self.client.post::<Value>("/images/prune", &Value::Null).await?;
            }
            eprintln!("service(s) [\"{service}\"] successfully built");
            // The new container has everything.
            return Ok(());
        }
        // A restart starts what has ended as well.
        let mut list = ps::containers(self.client, &self.loaded.project.name, &[service.to_string()], work.restart).await?;
        list.retain(|container| !container.is_one_off());
        let count = work.changed.len() + work.gone.len();
        if count > 0 {
            for container in &list {
                self.sync(&container.id, &work).await?;
            }
            eprintln!("Syncing service \"{service}\" after {count} changes were detected");
        }
        for container in list.iter().filter(|_| work.restart) {
            self.client.post::<Value>(&format!("/containers/{}/restart", container.id), &Value::Null).await?;
        }
        if work.restart {
            eprintln!("service(s) [\"{service}\"] restarted");
        }
        for (container, hook) in list.iter().flat_map(|container| work.exec.iter().map(move |hook| (container, hook))) {
            let request = exec::ExecRequest {
                command: hook.command.clone().unwrap_or_default(),
                env: hook.environment.iter().filter_map(|(k, v)| Some(format!("{k}={}", v.as_ref()?))).collect(),
                user: hook.user.clone(),
                workdir: hook.working_dir.clone(),
                privileged: hook.privileged,
                ..exec::ExecRequest::default()
            };
            exec::in_container(self.client, &container.id, request, false, "").await.map_err(|failure| match failure {
                Failure::Code(code) => Failure::Message(format!(
                    "`{}` in {} ended with exit code {code}",
                    hook.command.clone().unwrap_or_default().join(" "),
                    container.name()
                )),
                other => other,
            })?;
        }
        Ok(())
    }

    /// Brings a container's files to what this machine's are.
    async fn sync(&self, id: &str, work: &Work) -> Result<(), Failure> {
        for path in &work.gone {
            let path = format!("/containers/{id}/archive?path={}", escape(&path.to_string_lossy()));
            match self.client.delete(&path).await {
                Ok(()) | Err(ClientError::Refused { status: 404, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if work.changed.is_empty() {
            return Ok(());
        }
        let changed: Vec<(PathBuf, PathBuf)> = work.changed.iter().cloned().collect();
        let failed = |e: io::Error| Failure::Message(format!("reading what has changed: {e}"));
        // The files are the container's user's, who is to work with them.
        let path = format!("/containers/{id}/archive?path=%2F&copyUIDGID=1");
        self.client.put_written(&path, move |writer| pack(&changed, writer)).await?.map_err(failed)
    }
}

fn pack(changed: &[(PathBuf, PathBuf)], writer: impl io::Write) -> io::Result<()> {
    write_archive(io::BufWriter::with_capacity(1 << 17, writer), |builder| {
        let mut packer = Packer::of_client(builder);
        for (path, target) in changed {
            let name = target.strip_prefix("/").unwrap_or(target);
            if let Ok(metadata) = path.symlink_metadata()
                && (metadata.is_dir() || metadata.is_file() || metadata.is_symlink())
            {
                // It is gone again, or another, perhaps: that is another change.
                packer.add_path(path, name)?;
            }
        }
        Ok(())
    })
}

fn files_below(path: &Path, ignored: &dyn Fn(&Path) -> bool, files: &mut Vec<PathBuf>) {
    if ignored(path) {
        return;
    }
    files.push(path.to_path_buf());
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            files_below(&entry.path(), ignored, files);
        }
    }
}

fn unwatchable(path: &Path, error: &notify::Error) -> Failure {
    let hint = match error.kind {
        notify::ErrorKind::MaxFilesWatch => {
            "; the kernel has no watches left: raise fs.inotify.max_user_watches, or ignore large directories"
        }
        notify::ErrorKind::PathNotFound => "; create it, or correct `develop.watch`",
        _ => "",
    };
    Failure::Message(format!("watching {}: {error}{hint}", path.display()))
}
