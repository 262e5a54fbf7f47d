//! The options of `docker run`, as the body of `POST /containers/create`.

use super::limits::LimitArgs;
use super::values::{device, file_lines, gpus, mount, nanoseconds, restart_policy, variables, volume_mount};
use crate::api::client::{Client, ClientError};
use crate::api::reply::escape;
use crate::api::types::{
    CommandLine, ContainerCreate, ContainerCreated, Empty, EndpointIpam, EndpointSettings, HealthConfig, HostConfig,
    ImageInspect, LogConfig, Mount, NetworkingConfig, PortBinding,
};
use crate::cli::objects::images;
use crate::cli::objects::network::pairs;
use crate::cli::output::{Steps, terminal};
use crate::cli::project::attach;
use crate::cli::{Failure, Outcome};
use crate::compose::short;
use indexmap::IndexMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// `container run`.
#[derive(clap::Args, Debug)]
pub struct ContainerRunArgs {
    /// Leave it running in the background, and print its id.
    #[arg(short, long)]
    detach: bool,
    /// Remove it, and its anonymous volumes, when it has ended.
    #[arg(long)]
    rm: bool,
    /// Keys that leave it running, typed at a terminal.
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    detach_keys: String,
    /// Join this stream alone: stdin, stdout or stderr; may be repeated.
    #[arg(short, long, value_name = "STREAM", value_parser = ["stdin", "stdout", "stderr"], ignore_case = true)]
    attach: Vec<String>,
    /// Pass signals on to the container.
    #[arg(
        long,
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true,
        value_name = "BOOL"
    )]
    sig_proxy: bool,
    #[command(flatten)]
    new: New,
}

/// `container create`.
#[derive(clap::Args, Debug)]
pub struct ContainerCreateArgs {
    /// Remove it, and its anonymous volumes, when it has ended.
    #[arg(long)]
    rm: bool,
    #[command(flatten)]
    new: New,
}

#[derive(clap::Args, Debug)]
struct New {
    #[arg(long)]
    name: Option<String>,
    /// Variable, NAME=VALUE, or NAME of this process's; may be repeated.
    #[arg(short, long)]
    env: Vec<String>,
    /// File with variables; may be repeated.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Volume, [SOURCE:]TARGET[:ro]; may be repeated.
    #[arg(short, long)]
    volume: Vec<String>,
    /// Mount: type=bind|volume|tmpfs|image,source=...,target=...[,readonly]; may be repeated.
    #[arg(long)]
    mount: Vec<String>,
    /// File system in memory, PATH[:OPTIONS]; may be repeated.
    #[arg(long)]
    tmpfs: Vec<String>,
    /// Container whose volumes it mounts, NAME[:ro]; may be repeated.
    #[arg(long, value_name = "CONTAINER")]
    volumes_from: Vec<String>,
    /// Port to publish, [HOST:]CONTAINER; may be repeated.
    #[arg(short, long)]
    publish: Vec<String>,
    /// Publish every port that the image exposes, or --expose, on one that is free.
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Port that others may use; may be repeated.
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// Label; may be repeated.
    #[arg(short, long)]
    label: Vec<String>,
    /// File with labels; may be repeated.
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Annotation; may be repeated.
    #[arg(long)]
    annotation: Vec<String>,
    /// Network, or host, none, container:NAME; may be repeated.
    #[arg(long, alias = "net")]
    network: Vec<String>,
    /// Its address on the first network.
    #[arg(long)]
    ip: Option<String>,
    /// Its IPv6 address on the first network.
    #[arg(long)]
    ip6: Option<String>,
    /// Further name on the first network; may be repeated.
    #[arg(long, alias = "net-alias")]
    network_alias: Vec<String>,
    /// Link-local address on the first network; may be repeated.
    #[arg(long)]
    link_local_ip: Vec<String>,
    #[arg(long)]
    mac_address: Option<String>,
    /// Name of another container, NAME[:ALIAS]; may be repeated.
    #[arg(long)]
    link: Vec<String>,
    #[arg(short, long)]
    user: Option<String>,
    /// Further group; may be repeated.
    #[arg(long)]
    group_add: Vec<String>,
    #[arg(short, long)]
    workdir: Option<String>,
    #[arg(long)]
    entrypoint: Option<String>,
    #[arg(long)]
    hostname: Option<String>,
    #[arg(long)]
    domainname: Option<String>,
    /// no, always, unless-stopped, on-failure[:TIMES].
    #[arg(long, default_value = "no")]
    restart: String,
    /// Keep standard input open.
    #[arg(short, long)]
    interactive: bool,
    /// A terminal.
    #[arg(short, long)]
    tty: bool,
    /// An init as process 1.
    #[arg(long)]
    init: bool,
    /// OCI runtime to run it, by its name in PATH or its path; wharf's own by default.
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<String>,
    #[arg(long)]
    privileged: bool,
    #[arg(long)]
    read_only: bool,
    #[arg(long)]
    cap_add: Vec<String>,
    #[arg(long)]
    cap_drop: Vec<String>,
    #[arg(long)]
    security_opt: Vec<String>,
    /// Device, PATH[:TARGET[:rwm]], or a CDI name; may be repeated.
    #[arg(long)]
    device: Vec<String>,
    /// Rule of the devices controller; may be repeated.
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// GPUs: all, a number, or device=ID.
    #[arg(long)]
    gpus: Option<String>,
    /// NAME:ADDRESS; may be repeated.
    #[arg(long)]
    add_host: Vec<String>,
    #[arg(long)]
    dns: Vec<String>,
    #[arg(long, alias = "dns-opt")]
    dns_option: Vec<String>,
    #[arg(long)]
    dns_search: Vec<String>,
    /// host, or container:NAME.
    #[arg(long)]
    pid: Option<String>,
    /// host, none, shareable, private or container:NAME.
    #[arg(long)]
    ipc: Option<String>,
    /// host.
    #[arg(long)]
    uts: Option<String>,
    /// host, which it is in any case.
    #[arg(long, value_parser = ["host"])]
    userns: Option<String>,
    /// host or private.
    #[arg(long, value_parser = ["host", "private"])]
    cgroupns: Option<String>,
    #[arg(long)]
    cgroup_parent: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    #[arg(long)]
    stop_signal: Option<String>,
    /// Seconds.
    #[arg(long)]
    stop_timeout: Option<u64>,
    /// Command that tells whether it is healthy.
    #[arg(long)]
    health_cmd: Option<String>,
    #[arg(long, value_parser = nanoseconds)]
    health_interval: Option<u64>,
    #[arg(long, value_parser = nanoseconds)]
    health_timeout: Option<u64>,
    #[arg(long, value_parser = nanoseconds)]
    health_start_period: Option<u64>,
    #[arg(long, value_parser = nanoseconds)]
    health_start_interval: Option<u64>,
    #[arg(long)]
    health_retries: Option<u32>,
    /// Not even the image's.
    #[arg(long, conflicts_with = "health_cmd")]
    no_healthcheck: bool,
    /// none keeps no log.
    #[arg(long)]
    log_driver: Option<String>,
    /// max-size=10m, max-file=3; may be repeated.
    #[arg(long)]
    log_opt: Vec<String>,
    /// Write its id to a file, which must not be there yet.
    #[arg(long, value_name = "FILE")]
    cidfile: Option<PathBuf>,
    /// os/architecture; this machine's is the only one that can run.
    #[arg(long)]
    platform: Option<String>,
    /// Pull the image before: always, missing, never.
    #[arg(long, default_value = "missing", value_parser = ["always", "missing", "never"])]
    pull: String,
    /// Show no progress of that.
    #[arg(short, long)]
    quiet: bool,
    /// The image, and a command instead of its own: options after the image are the command's.
    #[arg(trailing_var_arg = true, required = true, value_name = "IMAGE [COMMAND]")]
    words: Vec<String>,
}

impl New {
    fn bindings(&self) -> Result<IndexMap<String, Option<Vec<PortBinding>>>, Failure> {
        let mut bindings: IndexMap<String, Option<Vec<PortBinding>>> = IndexMap::new();
        for text in &self.publish {
            let ports = short::port(text).map_err(|why| Failure::Message(format!("--publish: {why}")))?;
            for port in ports {
                let list = bindings.entry(format!("{}/{}", port.target, port.protocol)).or_default();
                let binding = PortBinding {
                    host_ip: port.host_ip.clone().unwrap_or_default(),
                    host_port: port.published.clone().unwrap_or_default(),
                };
                list.get_or_insert_default().push(binding);
            }
        }
        Ok(bindings)
    }

    /// Its endpoints; the first has the addresses and names that are given.
    fn endpoints(&self) -> NetworkingConfig {
        let mut endpoints = IndexMap::new();
        for (n, network) in self.network.iter().enumerate() {
            let no_network =
                matches!(network.as_str(), "default" | "bridge" | "host" | "none") || network.starts_with("container:");
            if no_network {
                continue;
            }
            let mut endpoint = EndpointSettings::default();
            if n == 0 {
                endpoint.aliases = self.network_alias.clone();
                endpoint.mac_address = self.mac_address.clone().unwrap_or_default();
                endpoint.ipam_config = Some(EndpointIpam {
                    ipv4_address: self.ip.clone().unwrap_or_default(),
                    ipv6_address: self.ip6.clone().unwrap_or_default(),
                    link_local_ips: self.link_local_ip.clone(),
                });
            }
            endpoints.insert(network.clone(), Some(endpoint));
        }
        NetworkingConfig { endpoints_config: endpoints }
    }

    fn health(&self) -> Option<HealthConfig> {
        let test: Vec<String> = match &self.health_cmd {
            Some(command) => vec!["CMD-SHELL".into(), command.clone()],
            None if self.no_healthcheck => vec!["NONE".into()],
            None => return None,
        };
        let nanoseconds = |value: Option<u64>| i64::try_from(value.unwrap_or(0)).unwrap_or(i64::MAX);
        Some(HealthConfig {
            test,
            interval: nanoseconds(self.health_interval),
            timeout: nanoseconds(self.health_timeout),
            start_period: nanoseconds(self.health_start_period),
            start_interval: nanoseconds(self.health_start_interval),
            retries: i64::from(self.health_retries.unwrap_or(0)),
        })
    }

    /// Those of `--mount`, and of `--volume` with a source.
    fn mounts(&self) -> Result<Vec<Mount>, Failure> {
        let here = std::env::current_dir().map_err(|e| Failure::Message(format!("finding the working directory: {e}")))?;
        let volume = |text: &String| {
            let volume = short::volume(text, &here).map_err(|why| Failure::Message(format!("--volume: {why}")))?;
            Ok(volume_mount(&volume))
        };
        self.volume
            .iter()
            .filter(|text| !is_path_alone(text))
            .map(volume)
            .chain(self.mount.iter().map(|text| mount(text, &here)))
            .collect()
    }

    fn host(&self, removal: RemovedBy) -> Result<HostConfig, Failure> {
        let tmpfs = self.tmpfs.iter().map(|text| text.split_once(':').unwrap_or((text, "")));
        let some = |text: &Option<String>| text.clone().unwrap_or_default();
        Ok(HostConfig {
            mounts: self.mounts()?,
            tmpfs: tmpfs.map(|(path, options)| (path.to_string(), options.to_string())).collect(),
            volumes_from: self.volumes_from.clone(),
            port_bindings: self.bindings()?,
            publish_all_ports: self.publish_all,
            network_mode: self.network.first().cloned().unwrap_or_else(|| "default".into()),
            links: self.link.clone(),
            restart_policy: restart_policy(&self.restart)?,
            init: Some(self.init),
            runtime: some(&self.runtime),
            privileged: self.privileged,
            readonly_rootfs: self.read_only,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            security_opt: self.security_opt.clone(),
            group_add: self.group_add.clone(),
            devices: self.device.iter().map(|text| device(text)).collect(),
            device_cgroup_rules: self.device_cgroup_rule.clone(),
            device_requests: self.gpus.as_deref().map(gpus).transpose()?.into_iter().collect(),
            extra_hosts: self.add_host.clone(),
            dns: self.dns.clone(),
            dns_options: self.dns_option.clone(),
            dns_search: self.dns_search.clone(),
            pid_mode: some(&self.pid),
            ipc_mode: some(&self.ipc),
            uts_mode: some(&self.uts),
            cgroupns_mode: some(&self.cgroupns),
            cgroup_parent: some(&self.cgroup_parent),
            annotations: pairs(&self.annotation),
            log_config: LogConfig { kind: some(&self.log_driver), config: pairs(&self.log_opt) },
            console_size: if self.tty { terminal::size() } else { None },
            auto_remove: matches!(removal, RemovedBy::Engine),
            client_removes: matches!(removal, RemovedBy::Client),
            ..self.limits.host_config()?
        })
    }

    fn image(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The container in Docker's form.
    fn body(&self, stdin: bool, removal: RemovedBy) -> Result<ContainerCreate, Failure> {
        let entrypoint = self.entrypoint.as_deref().map(shell_words::split).transpose();
        let entrypoint = entrypoint.map_err(|e| Failure::Message(format!("--entrypoint: {e}")))?;
        let mut labels = file_lines(&self.label_file)?;
        labels.extend(self.label.iter().cloned());
        let some = |text: &Option<String>| text.clone().unwrap_or_default();
        Ok(ContainerCreate {
            image: self.image().to_string(),
            cmd: Some(CommandLine(self.words[1..].to_vec())),
            // No word at all takes the image's away.
            entrypoint: entrypoint.map(|words| CommandLine(if words.is_empty() { vec![String::new()] } else { words })),
            env: with_proxies(variables(&self.env_file, &self.env)?),
            labels: pairs(&labels),
            user: some(&self.user),
            working_dir: some(&self.workdir),
            hostname: some(&self.hostname),
            domainname: some(&self.domainname),
            stop_signal: some(&self.stop_signal),
            stop_timeout: self.stop_timeout.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
            exposed_ports: self.expose.iter().map(|port| (port.clone(), Some(Empty {}))).collect(),
            volumes: self.volume.iter().filter(|text| is_path_alone(text)).map(|path| (path.clone(), Some(Empty {}))).collect(),
            healthcheck: self.health(),
            tty: self.tty,
            open_stdin: stdin,
            stdin_once: stdin,
            host_config: self.host(removal)?,
            networking_config: self.endpoints(),
            ..ContainerCreate::default()
        })
    }

    /// Makes the container; gives its id.
    async fn create(&self, client: &Client, stdin: bool, removal: RemovedBy) -> Result<String, Failure> {
        let failed = |e: std::io::Error, path: &Path| Failure::Message(format!("writing {}: {e}", path.display()));
        // Before anything is made: an id that cannot be written would be lost.
        let id_file = self.cidfile.as_ref().map(|path| {
            let file = std::fs::File::options().write(true).create_new(true).open(path);
            file.map(|file| (file, path)).map_err(|e| failed(e, path))
        });
        let id_file = id_file.transpose()?;
        let look = async || client.get::<ImageInspect>(&format!("/images/{}/json", escape(self.image()))).await;
        let mut image = look().await;
        if self.pull == "always" || image.is_err() && self.pull == "missing" {
            images::pull_one(client, self.image(), &mut Steps::new(self.quiet)).await?;
            image = look().await;
        }
        let image = image.unwrap_or_default();
        if let Some(wanted) = &self.platform {
            let own = [image.os.as_str(), image.architecture.as_str()];
            let mut parts = wanted.split('/');
            if parts.next() != Some(own[0]) || parts.next().is_some_and(|architecture| architecture != own[1]) {
                let own = own.join("/");
                return Err(Failure::Message(format!("--platform {wanted}: the image {} is one of {own}", self.image())));
            }
        }
        let given = [("name", &self.name), ("platform", &self.platform)];
        let given = given.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", escape(value.as_ref()?))));
        let query = given.collect::<Vec<_>>().join("&");
        let body = self.body(stdin, removal)?;
        let path = format!("/containers/create?{query}");
        let made = client.ask_until_heard(async || client.post::<ContainerCreated>(&path, &body).await).await;
        if let (Err(_), Some((_, path))) = (&made, &id_file) {
            let _ = std::fs::remove_file(path);
        }
        let ContainerCreated { id, warnings } = made.map_err(|error| match error {
            ClientError::Cut | ClientError::Protocol(_) => Failure::Message(
                "the engine ended while the container was being made: nothing was run; `wharf container ls -a` shows whether it is there".into(),
            ),
            error => error.into(),
        })?;
        warnings.iter().for_each(|warning| eprintln!("warning: {}", crate::printable::line(warning)));
        if let Some((mut file, path)) = id_file {
            file.write_all(id.as_bytes()).map_err(|e| failed(e, path))?;
        }
        Ok(id)
    }
}

/// The variables of a container, and those of the user's proxies that it does not set itself.
fn with_proxies(mut env: Vec<String>) -> Vec<String> {
    for (name, value) in crate::cli::proxies::variables() {
        if !env.iter().any(|known| known.split('=').next() == Some(&name)) {
            env.push(format!("{name}={value}"));
        }
    }
    env
}

/// The one that removes a container when it has ended.
#[derive(Clone, Copy)]
enum RemovedBy {
    Nobody,
    Engine,
    Client,
}

/// Makes a container; gives its id.
///
/// # Errors
/// The part of it that is not understood, or the reason why it cannot be made.
pub async fn create(client: &Client, command: &ContainerCreateArgs) -> Result<String, Failure> {
    let removal = if command.rm { RemovedBy::Engine } else { RemovedBy::Nobody };
    command.new.create(client, command.new.interactive, removal).await
}

/// Makes a container, starts it, and stays with it unless it is to be left.
///
/// # Errors
/// As [`create`], and the container's exit code.
pub async fn run(client: &Client, command: ContainerRunArgs) -> Outcome {
    let ContainerRunArgs { detach, rm, detach_keys, attach, sig_proxy, new } = command;
    if detach && !attach.is_empty() {
        // Docker's code for this one.
        return Err(Failure::Message("--attach and --detach do not go together: leave one out".into()).or_code(1));
    }
    // Who stays removes it when he has read to its end; who leaves leaves that to the engine.
    let removal = match (rm, detach) {
        (false, _) => RemovedBy::Nobody,
        (true, true) => RemovedBy::Engine,
        (true, false) => RemovedBy::Client,
    };
    let id = new.create(client, new.interactive, removal).await?;
    let joined = |stream: &str| attach.iter().any(|wanted| wanted.eq_ignore_ascii_case(stream));
    let which = match attach.is_empty() {
        true => attach::Which::output(new.interactive),
        false => attach::Which { stdin: new.interactive && joined("stdin"), stdout: joined("stdout"), stderr: joined("stderr") },
    };
    attach::start_and_stay(client, &id, attach::Stay { detach, which, sig_proxy, rm, detach_keys, keep: false, signals: None })
        .await
}

/// Whether `--volume` names no source: an anonymous volume, which is none of Docker's `Mounts`.
fn is_path_alone(volume: &str) -> bool {
    volume.starts_with('/') && !volume.contains(':')
}
