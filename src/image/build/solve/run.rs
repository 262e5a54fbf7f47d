//! RUN: the command, its environment, its mounts, and the layer that it leaves.

mod last_lines;
mod secrets;

pub(super) use last_lines::LastLines;

use super::variables::PREDEFINED;
use super::*;
use crate::image::build::agent::LentAgent;
use crate::image::build::cache;
use crate::image::build::mounts::{self, MadeMount, RunMount, RunMountType};
use crate::image::build::{CommandOutput, RunProcess};
use crate::sys::beneath::place_beneath;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

/// The mounts of a command, and what keeps them alive.
#[derive(Default)]
struct Prepared {
    mounts: Vec<MadeMount>,
    env: Vec<String>,
    /// Goes into the step's key.
    key: Vec<String>,
    /// Caches that no other command may have meanwhile.
    exclusive: BTreeSet<String>,
    /// Files that are made for the step alone.
    drafts: Vec<LayerDraft>,
    /// Agents that are lent to the command when it runs, each by a socket.
    agents: Vec<Lending>,
}

/// An agent's socket for a command, beside that of the user.
struct Lending {
    id: String,
    agent: PathBuf,
    directory: PathBuf,
    mode: u32,
    owner: (Option<u32>, Option<u32>),
}

impl Lending {
    const NAME: &str = "agent";

    fn begin(&self) -> std::io::Result<LentAgent> {
        let lent = LentAgent::new(&self.agent, &self.directory, Self::NAME)?;
        let socket = self.directory.join(Self::NAME);
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(self.mode))?;
        std::os::unix::fs::chown(&socket, self.owner.0, self.owner.1)?;
        Ok(lent)
    }
}

/// The value of a flag of the instruction.
pub(super) fn flag<'a>(step: &SolveStep<'a>, name: &str) -> Option<&'a str> {
    step.instruction.flags.iter().find(|(flag, _)| flag == name).map(|(_, value)| value.as_str())
}

/// The image's variables, and the build's arguments where the image has none of their names.
fn variables(state: &StageState) -> Vec<String> {
    let mut env = state.config.config.env.clone();
    let args = state.args.iter().filter(|(name, _)| state.config.config.variable(name).is_none());
    env.extend(args.map(|(name, value)| format!("{name}={value}")));
    env
}

impl Solver {
    pub(super) async fn run(self: &Arc<Self>, state: &mut StageState, step: &SolveStep<'_>) -> Result<bool, ImageError> {
        let instruction = step.instruction;
        let privileged = self.security(step)?;
        let network = self.network(step)?;
        if network.as_deref() != Some("none") {
            self.facts.ran_with_network();
        }
        let command = self.command(state, step)?;
        let mut env = variables(state);
        let mut prepared = Prepared::default();
        for (_, value) in instruction.flags.iter().filter(|(name, _)| name == "mount") {
            let value = self.expand(step, state, value)?;
            let mount = mounts::parse(&value, instruction.line).map_err(|m| self.source.at(m))?;
            self.prepare(state, step, mount, &mut prepared).await?;
        }
        let user = state.config.config.user.clone();
        let directory = state.config.config.directory();
        if privileged {
            prepared.key.push("insecure".into());
        }
        let described = json!([command, env, user, directory, network, prepared.key]).to_string();
        let key = cache::key(&state.key, &["RUN", &described]);
        let _turn = self.host.keyed_mutex().take(key.as_str()).await;
        if !state.fresh
            && let Some(made) = self.known(&key)
        {
            return self.finish(state, key, (made, true), &instruction.text);
        }
        // Proxies are for this machine: they are in no key and in no image.
        env.extend(
            self.request
                .args
                .iter()
                .filter(|(name, _)| PREDEFINED.contains(&name.as_str()))
                .map(|(name, value)| format!("{name}={value}")),
        );
        env.append(&mut prepared.env);
        let (output, last) = self.output_of(step.id);
        // In the order of their names, so that no two wait for each other.
        let mut held = Vec::new();
        for cache in &prepared.exclusive {
            held.push(self.host.keyed_mutex().take(cache).await);
        }
        // A step that is known needs no agent.
        let _lent = self.lend(step, &prepared.agents)?;
        let stubs = self.missing_targets(state, &prepared.mounts).await?;
        let shown = command.join(" ");
        let ran = self
            .host
            .run(RunProcess {
                layers: state.layers.iter().map(|layer| layer.chain.clone()).collect(),
                args: command,
                env,
                user,
                working_dir: directory,
                network,
                extra_hosts: self.request.extra_hosts.clone(),
                shm_size: self.request.shm_size,
                ulimits: self.request.ulimits.clone(),
                privileged,
                mounts: std::mem::take(&mut prepared.mounts),
                output,
            })
            .await
            .map_err(|e| self.wrong(step, e.to_string()))?;
        drop(held);
        if ran.code != 0 {
            (self.report)(BuildEvent::Returned { id: step.id, command: shown, code: ran.code });
            return Err(self.failed(step, ran.code, &last));
        }
        let made = self.keep_files(state, &key, ran.draft, stubs).await?;
        drop(prepared);
        self.finish(state, key, (made, false), &instruction.text)
    }

    /// Keeps what a command has written as a layer, and remembers it.
    async fn keep_files(
        &self,
        state: &StageState,
        key: &Digest,
        draft: LayerDraft,
        stubs: Vec<PathBuf>,
    ) -> Result<StepResult, ImageError> {
        let (store, key, created) = (self.host.store(), key.clone(), self.created.clone());
        let (top, epoch) = (state.top().cloned(), self.request.epoch);
        blocking(move || {
            // Mount points that the image does not have were made for the command alone.
            remove_stubs(&draft.diff(), &stubs).map_err(ImageError::store("looking through a step's files".into()))?;
            let made = StepResult { layer: store.keep(&draft, top.as_ref(), epoch)?, created };
            cache::remember(&store, &key, &made);
            Ok(made)
        })
        .await
    }

    /// Whether the command is privileged.
    fn security(&self, step: &SolveStep<'_>) -> Result<bool, ImageError> {
        match flag(step, "security") {
            None | Some("sandbox") => Ok(false),
            Some("insecure") if self.request.entitlements.iter().any(|e| e == "security.insecure") => Ok(true),
            Some("insecure") => Err(self.source.at(MalformedDockerfile::new(
                step.instruction.line,
                "`--security=insecure` is not allowed to this build",
            )
            .help(
                "allow it with `entitlements: [security.insecure]` or --allow security.insecure, where you trust the Dockerfile",
            ))),
            Some(other) => Err(self.wrong(step, format!("`{other}` is no security: sandbox or insecure"))),
        }
    }

    /// The network of a command, where it is not the build's own.
    fn network(&self, step: &SolveStep<'_>) -> Result<Option<String>, ImageError> {
        match flag(step, "network") {
            None | Some("default") => Ok(self.request.network.clone().filter(|network| network != "default")),
            Some("host") if !self.may_have_hosts_network() => Err(self.source.at(MalformedDockerfile::new(
                step.instruction.line,
                "`--network=host` is not allowed to this build",
            )
            .help(
                "allow it with `entitlements: [network.host]`, `network: host` of the build or --allow network.host, where you \
                     trust the Dockerfile",
            ))),
            Some(own @ ("host" | "none")) => Ok(Some(own.to_string())),
            Some(other) => Err(self.wrong(step, format!("`{other}` is not a network: default, host or none"))),
        }
    }

    /// Whether a step may ask for the host's network, where it would reach what listens on the loopback interface.
    fn may_have_hosts_network(&self) -> bool {
        self.request.network.as_deref() == Some("host") || self.request.entitlements.iter().any(|e| e == "network.host")
    }

    /// Where a step's output goes, and the last of it.
    pub(super) fn output_of(&self, id: u32) -> (CommandOutput, LastLines) {
        let last = LastLines::default();
        let (report, kept) = (self.report.clone(), last.clone());
        let output = Arc::new(move |line: &str| {
            report(BuildEvent::Output { id, line: line.to_string() });
            kept.push(line);
        });
        (output, last)
    }

    /// The command's arguments: a list, a text for the shell, or a heredoc.
    fn command(&self, state: &StageState, step: &SolveStep<'_>) -> Result<Vec<String>, ImageError> {
        let instruction = step.instruction;
        if let Some(list) = json_form(&instruction.rest).filter(|_| instruction.heredocs.is_empty()) {
            return Ok(list);
        }
        if instruction.rest.is_empty() {
            return Err(self.wrong(step, "RUN needs a command"));
        }
        let mut command = state.config.config.shell();
        let mut script = instruction.rest.clone();
        match instruction.heredocs.as_slice() {
            [] => {}
            // A heredoc alone is the script; one that begins with `#!` is a program of its own.
            [only] if instruction.rest.trim_start().starts_with("<<") && is_alone(&instruction.rest) => {
                if let Some(interpreter) = only.content.lines().next().and_then(|line| line.strip_prefix("#!")) {
                    let mut words: Vec<String> = interpreter.split_whitespace().map(str::to_string).collect();
                    let quoted = only.content.replace('\'', "'\\''");
                    words.push("/tmp/.wharf-heredoc".into());
                    let run = format!(
                        "printf '%s' '{quoted}' > /tmp/.wharf-heredoc; {}; code=$?; rm -f /tmp/.wharf-heredoc; exit $code",
                        words.join(" ")
                    );
                    return Ok(vec!["/bin/sh".into(), "-c".into(), run]);
                }
                script = only.content.clone();
            }
            heredocs => {
                for heredoc in heredocs {
                    script.push_str(&format!("\n{}{}\n", heredoc.content, heredoc.name));
                }
            }
        }
        command.push(script);
        Ok(command)
    }

    async fn prepare(
        self: &Arc<Self>,
        state: &StageState,
        step: &SolveStep<'_>,
        mount: RunMount,
        into: &mut Prepared,
    ) -> Result<(), ImageError> {
        let target = mount.target.as_ref().map(|target| absolute(target, &state.config.config.directory()));
        match mount.kind {
            RunMountType::Tmpfs => {
                let target = target.unwrap_or_default();
                into.key.push(format!("tmpfs {target}"));
                let options = mount.size.iter().map(|size| format!("size={size}")).collect();
                into.mounts.push(MadeMount::Tmpfs { target, options });
                Ok(())
            }
            RunMountType::Cache => self.prepare_cache(&mount, target.unwrap_or_default(), into),
            RunMountType::Bind => self.prepare_bind(step, &mount, target.unwrap_or_default(), into).await,
            RunMountType::Secret => self.prepare_secret(step, &mount, target, into).await,
            RunMountType::Ssh => self.prepare_ssh(step, &mount, target, into).await,
        }
    }

    /// `--mount=type=cache`: a directory that steps share.
    fn prepare_cache(&self, mount: &RunMount, target: String, into: &mut Prepared) -> Result<(), ImageError> {
        let failed = || ImageError::store("preparing a mount".into());
        let id = mount.id.clone().unwrap_or_else(|| target.clone());
        let place = self.host.store().build_cache().join("mounts").join(Digest::of(id.as_bytes()).hex());
        if !place.exists() {
            std::fs::create_dir_all(&place).map_err(failed())?;
            let mode = std::fs::Permissions::from_mode(mount.mode.unwrap_or(0o755));
            std::fs::set_permissions(&place, mode).map_err(failed())?;
            std::os::unix::fs::chown(&place, mount.uid.or(Some(0)), mount.gid.or(Some(0))).map_err(failed())?;
        }
        cache::used(&place);
        into.key.push(format!("cache {id} {target}"));
        if mount.exclusive {
            into.exclusive.insert(format!("cache {id}"));
        }
        into.mounts.push(MadeMount::Bind { source: place, target, read_only: mount.read_only.unwrap_or(false) });
        Ok(())
    }

    /// `--mount=type=bind`: files of the context, a stage or an image.
    async fn prepare_bind(
        self: &Arc<Self>,
        step: &SolveStep<'_>,
        mount: &RunMount,
        target: String,
        into: &mut Prepared,
    ) -> Result<(), ImageError> {
        let (tree, ignored) = self.tree(mount.from.as_deref(), step).await?;
        let source = if mount.source.is_empty() { "/".to_string() } else { mount.source.clone() };
        let copy = Copy { sources: vec![source.clone()], destination: "/".into(), keep_owner: true, ..Copy::default() };
        let (this, within) = (self.clone(), self.name_of_tree(mount.from.as_deref()));
        // A copy stands in for the tree: what the command writes goes nowhere, and the key is the content's.
        let (draft, digest, name) = blocking(move || {
            let items = copy::select(&copy, &tree, &within, &ignored)?;
            let digest = copy::digest(&copy, &items, &tree, this.host.contents())?;
            let draft = this.host.store().draft()?;
            let root = Tree::directory(&draft.diff()).map_err(ImageError::store("preparing a mount".into()))?;
            let mut key = digest.content;
            if !copy::apply(&copy, &items, &tree, root.root())?.are(&digest.versions) {
                key = changed_meanwhile(&key)?;
            }
            Ok((draft, key, items.file().map(Path::to_path_buf)))
        })
        .await
        .map_err(|e| self.wrong(step, e.to_string()))?;
        into.key.push(format!("bind {digest} {target}"));
        let place = name.map_or_else(|| draft.diff(), |name| draft.diff().join(name));
        into.mounts.push(MadeMount::Bind { source: place, target, read_only: mount.read_only.unwrap_or(true) });
        into.drafts.push(draft);
        Ok(())
    }

    /// `--mount=type=ssh`: the socket of an agent.
    async fn prepare_ssh(
        &self,
        step: &SolveStep<'_>,
        mount: &RunMount,
        target: Option<String>,
        into: &mut Prepared,
    ) -> Result<(), ImageError> {
        let id = mount.id.clone().unwrap_or_else(|| "default".into());
        let socket = match (self.request.ssh.get(&id), &self.request.lender) {
            (Some(socket), _) => Some(socket.clone()),
            (None, Some(lender)) => lender.agent(&id).await.map_err(|e| self.wrong(step, e.to_string()))?,
            (None, None) => None,
        };
        let Some(socket) = socket else {
            if mount.required {
                let message = format!("the SSH agent `{id}` is required and was not given to the build");
                let help = "give it with `ssh: [default]` or --ssh default, where SSH_AUTH_SOCK names an agent";
                return Err(self.source.at(MalformedDockerfile::new(step.instruction.line, message).help(help)));
            }
            return Ok(());
        };
        let target = target.unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{}", into.agents.len()));
        into.env.push(format!("SSH_AUTH_SOCK={target}"));
        into.key.push(format!("ssh {id}"));
        let draft = self.host.store().draft()?;
        into.mounts.push(MadeMount::Bind { source: draft.diff().join(Lending::NAME), target, read_only: false });
        into.agents.push(Lending {
            id,
            agent: socket,
            directory: draft.diff(),
            mode: mount.mode.unwrap_or(0o600),
            owner: (mount.uid.or(Some(0)), mount.gid.or(Some(0))),
        });
        into.drafts.push(draft);
        Ok(())
    }

    /// Lends agents to a command, as long as the result lives.
    fn lend(&self, step: &SolveStep<'_>, agents: &[Lending]) -> Result<Vec<LentAgent>, ImageError> {
        let lend = |lending: &Lending| {
            let Lending { id, agent, .. } = lending;
            let failed = |e| self.wrong(step, format!("the SSH agent `{id}` at {} cannot be lent: {e}", agent.display()));
            lending.begin().map_err(failed)
        };
        agents.iter().map(lend).collect()
    }

    /// The mount points that the image does not have, relative to its root, the deepest first.
    async fn missing_targets(&self, state: &StageState, mounts: &[MadeMount]) -> Result<Vec<PathBuf>, ImageError> {
        let targets: Vec<PathBuf> = mounts
            .iter()
            .map(|mount| match mount {
                MadeMount::Bind { target, .. } | MadeMount::Tmpfs { target, .. } | MadeMount::Layers { target, .. } => {
                    PathBuf::from(target.trim_start_matches('/'))
                }
            })
            .collect();
        if targets.is_empty() {
            return Ok(targets);
        }
        let (layers, store) = (self.layer_paths(&state.layers), self.host.store());
        blocking(move || {
            let tree = store.tree(&layers).map_err(ImageError::store("opening the layers".into()))?;
            let mut missing = Vec::new();
            for target in targets {
                // A place that cannot be found gets no mount.
                let Ok(place) = place_beneath(tree.root(), &target) else { continue };
                missing.extend(place.path.ancestors().take(place.missing).map(Path::to_path_buf));
            }
            missing.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
            Ok(missing)
        })
        .await
    }

    fn failed(&self, step: &SolveStep<'_>, code: i32, last: &LastLines) -> ImageError {
        let command: String = step.instruction.text.chars().take(120).collect();
        let message = format!("`{command}` ended with exit code {code}{last}");
        let help = match code {
            127 => Some("127 says that a program was not found: is it installed in an earlier step, and spelt right?"),
            126 => Some("126 says that a file cannot be executed: check its mode, and that it is for this machine"),
            137 => Some("137 is SIGKILL: the memory may have run out"),
            _ => None,
        };
        let malformed = MalformedDockerfile::new(step.instruction.line, message);
        self.source.at(match help {
            Some(help) => malformed.help(help),
            None => malformed,
        })
    }
}

/// Removes mount points from a layer, where they are still empty. The command may have put symlinks in the place of directories:
/// none is followed (CVE-2024-23652).
fn remove_stubs(layer: &Path, stubs: &[PathBuf]) -> std::io::Result<()> {
    use crate::sys::{Beneath, open_beneath};
    use nix::fcntl::AtFlags;
    use nix::sys::stat::{SFlag, fstatat};
    use nix::unistd::{UnlinkatFlags, unlinkat};
    let root = std::fs::File::open(layer)?;
    for stub in stubs {
        let (Some(name), Some(parent)) = (stub.file_name(), stub.parent()) else { continue };
        let parent = if parent == Path::new("") { Path::new(".") } else { parent };
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let Ok(parent) = open_beneath(root.as_fd(), parent, flags, 0, Beneath::NoSymlinks) else { continue };
        let Ok(stat) = fstatat(&parent, Path::new(name), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        // A directory that is not empty stays: the kernel refuses.
        let _ = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => unlinkat(&parent, Path::new(name), UnlinkatFlags::RemoveDir),
            SFlag::S_IFREG if stat.st_size == 0 => unlinkat(&parent, Path::new(name), UnlinkatFlags::NoRemoveDir),
            _ => Ok(()),
        };
    }
    Ok(())
}

/// Whether a RUN is a heredoc and nothing else.
fn is_alone(rest: &str) -> bool {
    !rest.trim().contains(char::is_whitespace)
}
