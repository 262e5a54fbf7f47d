//! Docker's forms of what is to be made (the bodies of `POST /containers/create`, `/networks/create` and `/exec`) as the engine's.

use crate::engine::containers::exec::NewExec;
use crate::engine::launch::devices;
use crate::engine::networks::{NewNetwork, NewPool};
use crate::engine::record::{
    BlkioSpec, ContainerRecord, ContainerSpec, DeviceSpec, EndpointSpec, HealthSpec, LogSpec, MountKind, MountSpec, NetworkMode,
    PortSpec, ResourceSpec, RestartPolicy, Sharing, volumes_from,
};
use crate::engine::{EngineError, networks};
use serde_json::Value;

/// wharf's own addition to Docker's `HostConfig`: [`ContainerSpec::client_removes`].
pub const CLIENT_REMOVES: &str = "WharfClientRemoves";

/// Looks up a container that another shares something with.
type Find<'a> = &'a dyn Fn(&str) -> Result<ContainerRecord, EngineError>;

/// Reads a container's specification. Names of containers whose namespaces it shares become their ids.
///
/// # Errors
/// The first value that is not understood, or a container that there is not.
pub fn of(find: Find<'_>, body: &Value) -> Result<ContainerSpec, EngineError> {
    let host = &body["HostConfig"];
    let text = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_string);
    let list = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_string)).collect()
    };
    let some_list = |v: &Value| v.as_array().filter(|a| !a.is_empty()).map(|_| list(v));
    let strings = |v: &Value| -> indexmap::IndexMap<String, String> {
        v.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_string())).collect()
    };
    let number = |v: &Value| v.as_i64().filter(|n| *n != 0);
    let policy = restart_policy(host)?;
    let mode = host["NetworkMode"].as_str().unwrap_or("default");
    let network_mode = match mode {
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        _ => match mode.strip_prefix("container:") {
            Some(name) => NetworkMode::Container(find(name)?.id),
            None => NetworkMode::Bridge,
        },
    };
    let sharing = |mode: &Value| -> Result<Sharing, EngineError> {
        Ok(match mode.as_str().unwrap_or_default() {
            "host" => Sharing::Host,
            "none" => Sharing::Bare,
            "" | "private" | "shareable" => Sharing::Own,
            other => match other.strip_prefix("container:") {
                Some(name) => Sharing::Container(find(name)?.id),
                None => return Err(EngineError::Invalid(format!("`{other}` is not a mode of a namespace"))),
            },
        })
    };
    let mut networks: Vec<EndpointSpec> = body["NetworkingConfig"]["EndpointsConfig"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(network, options)| endpoint(network, options))
        .collect();
    if networks.is_empty() && network_mode == NetworkMode::Bridge && !matches!(mode, "default" | "bridge" | "") {
        networks.push(EndpointSpec { network: mode.into(), ..EndpointSpec::default() });
    }
    let mut mounts = Vec::new();
    for bind in list(&host["Binds"]) {
        let parts: Vec<&str> = bind.split(':').collect();
        let [source, target, ..] = parts.as_slice() else {
            return Err(EngineError::Invalid(format!("`{bind}` is not a bind: write SOURCE:TARGET")));
        };
        let kind = if source.starts_with('/') { MountKind::Bind } else { MountKind::Volume };
        let read_only = parts.get(2).is_some_and(|o| o.split(',').any(|o| o == "ro"));
        mounts.push(MountSpec {
            kind,
            source: (*source).into(),
            target: (*target).into(),
            read_only,
            create_host_path: true,
            ..MountSpec::default()
        });
    }
    let mut tmpfs: Vec<(String, Vec<String>)> = host["Tmpfs"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(path, o)| {
            (path.clone(), o.as_str().unwrap_or_default().split(',').filter(|o| !o.is_empty()).map(str::to_string).collect())
        })
        .collect();
    for entry in host["Mounts"].as_array().into_iter().flatten() {
        match mount(entry)? {
            Mount::Other(mount) => mounts.push(mount),
            Mount::Tmpfs(target, options) => tmpfs.push((target, options)),
        }
    }
    let mut ports = Vec::new();
    for (key, bindings) in host["PortBindings"].as_object().into_iter().flatten() {
        let (target, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
        for binding in bindings.as_array().into_iter().flatten() {
            let published = binding["HostPort"].as_str().and_then(|p| p.parse().ok()).unwrap_or(0);
            let host_ip = text(&binding["HostIp"])
                .map(|ip| ip.parse().map_err(|_| EngineError::Invalid(format!("`{ip}` is not an IP address"))))
                .transpose()?;
            let target = target.parse().map_err(|_| EngineError::Invalid(format!("`{key}` is not a port")))?;
            ports.push(PortSpec { target, protocol: protocol.into(), host_ip, published: (published, published) });
        }
    }
    let check = &body["Healthcheck"];
    let nanos = |key: &str| check[key].as_u64().unwrap_or(0);
    let health = some_list(&check["Test"]).map(|test| HealthSpec {
        test,
        interval: nanos("Interval"),
        timeout: nanos("Timeout"),
        start_period: nanos("StartPeriod"),
        start_interval: nanos("StartInterval"),
        retries: nanos("Retries") as u32,
    });
    let mut spec = ContainerSpec {
        image: text(&body["Image"]).ok_or_else(|| EngineError::Invalid("the container has no image".into()))?,
        entrypoint: some_list(&body["Entrypoint"]),
        command: some_list(&body["Cmd"]),
        env: list(&body["Env"]),
        user: text(&body["User"]),
        group_add: list(&host["GroupAdd"]),
        working_dir: text(&body["WorkingDir"]),
        hostname: text(&body["Hostname"]),
        domainname: text(&body["Domainname"]),
        labels: strings(&body["Labels"]),
        tty: body["Tty"].as_bool().unwrap_or(false),
        stdin_open: body["OpenStdin"].as_bool().unwrap_or(false),
        stop_signal: text(&body["StopSignal"]),
        stop_timeout: body["StopTimeout"].as_u64(),
        health,
        init: host["Init"].as_bool().unwrap_or(false),
        privileged: host["Privileged"].as_bool().unwrap_or(false),
        cap_add: list(&host["CapAdd"]),
        cap_drop: list(&host["CapDrop"]),
        security_opt: list(&host["SecurityOpt"]),
        read_only: host["ReadonlyRootfs"].as_bool().unwrap_or(false),
        mounts,
        tmpfs,
        ports,
        networks,
        network_mode,
        dns: list(&host["Dns"]),
        dns_search: list(&host["DnsSearch"]),
        dns_opt: list(&host["DnsOptions"]),
        extra_hosts: list(&host["ExtraHosts"]),
        restart: policy,
        resources: ResourceSpec {
            memory: number(&host["Memory"]),
            memory_reservation: number(&host["MemoryReservation"]),
            memory_swap: number(&host["MemorySwap"]),
            cpus: number(&host["NanoCpus"]).map(|n| n as f64 / 1e9),
            cpu_shares: number(&host["CpuShares"]).map(|n| n as u64),
            cpu_quota: number(&host["CpuQuota"]),
            cpu_period: number(&host["CpuPeriod"]).map(|n| n as u64),
            cpuset: text(&host["CpusetCpus"]),
            cpuset_mems: text(&host["CpusetMems"]),
            pids: number(&host["PidsLimit"]),
            cpu_rt_period: number(&host["CpuRealtimePeriod"]).map(|n| n as u64),
            cpu_rt_runtime: number(&host["CpuRealtimeRuntime"]),
            memory_swappiness: host["MemorySwappiness"].as_u64(),
            oom_kill_disable: host["OomKillDisable"].as_bool().unwrap_or(false),
            blkio: BlkioSpec {
                weight: number(&host["BlkioWeight"]).map(|n| n as u16),
                weight_device: by_device(&host["BlkioWeightDevice"], "Weight")
                    .map(|(path, weight)| (path, weight as u16))
                    .collect(),
                read_bps: by_device(&host["BlkioDeviceReadBps"], "Rate").collect(),
                write_bps: by_device(&host["BlkioDeviceWriteBps"], "Rate").collect(),
                read_iops: by_device(&host["BlkioDeviceReadIOps"], "Rate").collect(),
                write_iops: by_device(&host["BlkioDeviceWriteIOps"], "Rate").collect(),
            },
        },
        ulimits: host["Ulimits"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|u| Some((u["Name"].as_str()?.to_string(), u["Soft"].as_i64()?, u["Hard"].as_i64()?)))
            .collect(),
        sysctls: strings(&host["Sysctls"]),
        storage_opt: strings(&host["StorageOpt"]),
        shm_size: host["ShmSize"].as_u64().filter(|n| *n > 0),
        oom_score_adj: host["OomScoreAdj"].as_i64().unwrap_or(0) as i32,
        log: LogSpec::of(host["LogConfig"]["Type"].as_str(), &strings(&host["LogConfig"]["Config"]))
            .map_err(|why| EngineError::Invalid(format!("the log's option `{why}")))?,
        annotations: strings(&host["Annotations"]),
        ipc: sharing(&host["IpcMode"])?,
        pid: sharing(&host["PidMode"])?,
        uts_host: host["UTSMode"] == "host",
        runtime: text(&host["Runtime"]),
        cgroup_parent: cgroup_parent(text(&host["CgroupParent"]))?,
        cgroup_private: host["CgroupnsMode"].as_str().filter(|mode| !mode.is_empty()).map(|mode| mode == "private"),
        devices: host["Devices"].as_array().into_iter().flatten().map(device).collect(),
        device_cgroup_rules: list(&host["DeviceCgroupRules"]),
        links: list(&host["Links"])
            .iter()
            .map(|link| {
                let (target, alias) = link.split_once(':').unwrap_or((link, link));
                (alias.to_string(), target.trim_start_matches('/').to_string())
            })
            .collect(),
        stdin_once: body["StdinOnce"].as_bool().unwrap_or(false),
        auto_remove: host["AutoRemove"].as_bool().unwrap_or(false),
        client_removes: host[CLIENT_REMOVES].as_bool().unwrap_or(false),
        ..ContainerSpec::default()
    };
    for from in list(&host["VolumesFrom"]) {
        let (name, read_only) = volumes_from(&from);
        spec.take_mounts_of(&find(name)?, read_only);
    }
    for request in host["DeviceRequests"].as_array().into_iter().flatten() {
        let names = devices::requested(
            request["Driver"].as_str().unwrap_or_default(),
            &request["Capabilities"].as_array().into_iter().flatten().flat_map(list).collect::<Vec<_>>(),
            &list(&request["DeviceIDs"]),
            request["Count"].as_i64(),
        );
        spec.devices.extend(names.map_err(|why| EngineError::Invalid(format!("the container {why}")))?);
    }
    Ok(spec)
}

/// What a mount of Docker's `Mounts` is.
enum Mount {
    Tmpfs(String, Vec<String>),
    Other(MountSpec),
}

fn mount(entry: &Value) -> Result<Mount, EngineError> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_string);
    let target = text(&entry["Target"]).filter(|target| target.starts_with('/'));
    let target = target.ok_or_else(|| EngineError::Invalid("a mount has no absolute `Target` in the container".into()))?;
    let read_only = entry["ReadOnly"].as_bool().unwrap_or(false);
    let source = text(&entry["Source"]);
    let needed = || source.clone().ok_or_else(|| EngineError::Invalid(format!("the mount on {target} has no `Source`")));
    let kind = entry["Type"].as_str().unwrap_or("volume");
    Ok(Mount::Other(match kind {
        "tmpfs" => {
            let options = &entry["TmpfsOptions"];
            let mut list = Vec::new();
            list.extend(options["SizeBytes"].as_u64().map(|size| format!("size={size}")));
            list.extend(options["Mode"].as_u64().map(|mode| format!("mode={mode:o}")));
            list.extend(read_only.then(|| "ro".to_string()));
            return Ok(Mount::Tmpfs(target, list));
        }
        "bind" => MountSpec {
            kind: MountKind::Bind,
            source: needed()?,
            propagation: text(&entry["BindOptions"]["Propagation"]),
            create_host_path: entry["BindOptions"]["CreateMountpoint"].as_bool().unwrap_or(false),
            not_recursive: entry["BindOptions"]["NonRecursive"].as_bool().unwrap_or(false),
            read_only,
            target,
            ..MountSpec::default()
        },
        "volume" => MountSpec {
            kind: MountKind::Volume,
            anonymous: source.is_none(),
            source: source.unwrap_or_default(),
            no_copy: entry["VolumeOptions"]["NoCopy"].as_bool().unwrap_or(false),
            subpath: text(&entry["VolumeOptions"]["Subpath"]),
            read_only,
            target,
            ..MountSpec::default()
        },
        "image" => MountSpec {
            kind: MountKind::Image,
            source: needed()?,
            subpath: text(&entry["ImageOptions"]["Subpath"]),
            read_only: true,
            target,
            ..MountSpec::default()
        },
        other => {
            return Err(EngineError::Invalid(format!(
                "the mount on {target} is of type `{other}`: bind, volume, tmpfs or image"
            )));
        }
    }))
}

/// A place on a network, of Docker's `EndpointSettings`.
pub fn endpoint(network: &str, options: &Value) -> EndpointSpec {
    let aliases = options["Aliases"].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_string));
    let addresses = &options["IPAMConfig"];
    EndpointSpec {
        network: network.into(),
        aliases: aliases.collect(),
        ipv4_address: addresses["IPv4Address"].as_str().and_then(|a| a.parse().ok()),
        ipv6_address: addresses["IPv6Address"].as_str().and_then(|a| a.parse().ok()),
        mac_address: options["MacAddress"].as_str().and_then(crate::network::link::parse_mac),
        link_local_ips: addresses["LinkLocalIPs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|v| v.as_str()?.parse().ok())
            .collect(),
        gw_priority: options["GwPriority"].as_i64().unwrap_or(0),
        interface_name: options["DriverOpts"]["com.docker.network.endpoint.ifname"].as_str().map(str::to_string),
        sysctls: options["DriverOpts"]["com.docker.network.endpoint.sysctls"]
            .as_str()
            .map(networks::interface_sysctls)
            .unwrap_or_default(),
    }
}

/// A restart policy of a `HostConfig`.
///
/// # Errors
/// When there is none of that name.
pub fn restart_policy(host: &Value) -> Result<RestartPolicy, EngineError> {
    let policy = &host["RestartPolicy"];
    match (policy["Name"].as_str().unwrap_or_default(), policy["MaximumRetryCount"].as_u64()) {
        ("on-failure", Some(max)) => Ok(RestartPolicy::OnFailure { max: max as u32 }),
        (name, _) => RestartPolicy::parse(name).ok_or_else(|| EngineError::Invalid(format!("`{name}` is not a restart policy"))),
    }
}

fn device(value: &Value) -> DeviceSpec {
    let text = |key: &str| value[key].as_str().filter(|text| !text.is_empty()).map(str::to_string);
    let source = text("PathOnHost").unwrap_or_default();
    DeviceSpec {
        target: text("PathInContainer").unwrap_or_else(|| source.clone()),
        permissions: text("CgroupPermissions").unwrap_or_else(|| "rwm".into()),
        source,
    }
}

/// What is said of each of the host's disks, under a key.
fn by_device<'a>(value: &'a Value, key: &'a str) -> impl Iterator<Item = (String, u64)> + 'a {
    let one = move |v: &Value| Some((v["Path"].as_str()?.to_string(), v[key].as_u64()?));
    value.as_array().into_iter().flatten().filter_map(one)
}

/// A path from the root of the control groups.
fn cgroup_parent(parent: Option<String>) -> Result<Option<String>, EngineError> {
    match parent {
        Some(parent) if parent.split('/').any(|part| part == "..") => Err(EngineError::Invalid(format!(
            "the cgroup parent `{parent}` is a path from the root of the control groups, without `..`"
        ))),
        other => Ok(other),
    }
}

/// Reads a process to run in a container.
pub fn exec(body: &Value) -> NewExec {
    let list = |key: &str| -> Vec<String> {
        body[key].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_string)).collect()
    };
    let text = |key: &str| body[key].as_str().filter(|s| !s.is_empty()).map(str::to_string);
    let size = body["ConsoleSize"].as_array().and_then(|s| Some((s.first()?.as_u64()? as u16, s.get(1)?.as_u64()? as u16)));
    NewExec {
        args: list("Cmd"),
        env: list("Env"),
        cwd: text("WorkingDir"),
        user: text("User"),
        tty: body["Tty"].as_bool().unwrap_or(false),
        privileged: body["Privileged"].as_bool().unwrap_or(false),
        stdin: body["AttachStdin"].as_bool().unwrap_or(false),
        size,
    }
}

/// Reads a network to make.
///
/// # Errors
/// When it has no name.
pub fn network(body: &Value) -> Result<NewNetwork, EngineError> {
    let text = |v: &Value| v.as_str().map(str::to_string);
    Ok(NewNetwork {
        name: text(&body["Name"]).ok_or_else(|| EngineError::Invalid("the network needs a name".into()))?,
        pools: body["IPAM"]["Config"].as_array().into_iter().flatten().map(pool).collect(),
        ipv4: body["EnableIPv4"].as_bool().unwrap_or(true),
        ipv6: body["EnableIPv6"].as_bool().unwrap_or(false),
        internal: body["Internal"].as_bool().unwrap_or(false),
        labels: super::networks::labels(&body["Labels"]),
        driver: text(&body["Driver"]).unwrap_or_default(),
        options: super::networks::labels(&body["Options"]),
    })
}

/// A pool, of Docker's `IPAMConfig`.
fn pool(config: &Value) -> NewPool {
    let text = |key: &str| config[key].as_str().filter(|text| !text.is_empty()).map(str::to_string);
    NewPool {
        subnet: text("Subnet"),
        gateway: text("Gateway"),
        ip_range: text("IPRange"),
        reserved: super::networks::labels(&config["AuxiliaryAddresses"]),
    }
}
