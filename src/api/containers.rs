//! `/containers`: Docker's calls about containers.

use super::reply::{self, Query, Reply};
use crate::engine::containers::parse_signal;
use crate::engine::record::{
    ContainerRecord, ContainerSpec, EndpointSpec, HealthSpec, LogSpec, MountKind, MountSpec, NetworkMode, PortSpec, ResourceSpec,
    RestartPolicy, Status,
};
use crate::engine::{Engine, EngineError};
use crate::network::link::mac_of;
use hyper::Request;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /containers/json`.
pub fn list(engine: &Engine, query: &Query) -> Reply {
    let filters = query.filters();
    let all = query.flag("all");
    let wanted = |key: &str| filters.get(key).map_or(&[][..], Vec::as_slice);
    let shown = engine.containers();
    let mut list: Vec<ContainerRecord> = shown.iter().filter(|c| !Engine::is_build_step(c)).map(|c| c.record()).collect();
    list.reverse();
    list.retain(|record| {
        let statuses = wanted("status");
        let shown = all || !statuses.is_empty() || record.state.status.is_alive();
        let label = wanted("label").iter().all(|l| match l.split_once('=') {
            Some((key, value)) => record.spec.labels.get(key).is_some_and(|v| v == value),
            None => record.spec.labels.contains_key(l),
        });
        let status = statuses.is_empty() || statuses.iter().any(|s| s == record.state.status.as_str());
        let name =
            wanted("name").is_empty() || wanted("name").iter().any(|n| record.name.contains(n.trim_matches(['^', '$', '/'])));
        let id = wanted("id").is_empty() || wanted("id").iter().any(|i| record.id.starts_with(i));
        shown && label && status && name && id
    });
    if let Some(limit) = query.number::<usize>("limit").filter(|n| *n > 0) {
        list.truncate(limit);
    }
    let values: Vec<Value> = list.iter().map(|record| summary(engine, record)).collect();
    reply::json(200, &values)
}

fn summary(engine: &Engine, record: &ContainerRecord) -> Value {
    json!({
        "Id": record.id,
        "Names": [format!("/{}", record.name)],
        "Image": record.spec.image,
        "ImageID": record.image_id,
        "Command": command(record).join(" "),
        "Created": record.created_at.as_second(),
        "Ports": ports(record),
        "Labels": record.spec.labels,
        "State": record.state.status.as_str(),
        "Status": status_text(record),
        // Not in Docker's list, where clients have to inspect each container for it.
        "ExitCode": record.state.exit_code,
        "Health": record.state.health.as_ref().map_or("", |h| h.status.as_str()),
        "HostConfig": {"NetworkMode": network_mode(record)},
        "NetworkSettings": {"Networks": endpoints(engine, record)},
        "Mounts": mounts(engine, record),
    })
}

fn command(record: &ContainerRecord) -> Vec<String> {
    let entrypoint = record.spec.entrypoint.clone().unwrap_or_else(|| record.image.entrypoint.clone());
    let command = match (&record.spec.command, &record.spec.entrypoint) {
        (Some(command), _) => command.clone(),
        (None, Some(_)) => Vec::new(),
        (None, None) => record.image.command.clone(),
    };
    [entrypoint, command].concat()
}

/// `Up 3 minutes (healthy)`, `Exited (1) 2 hours ago`, as Docker says it.
fn status_text(record: &ContainerRecord) -> String {
    let ago = |time: Option<Timestamp>| {
        time.map_or_else(|| "a moment".into(), |t| duration_text(Timestamp::now().as_second() - t.as_second()))
    };
    let state = &record.state;
    match state.status {
        Status::Created => "Created".into(),
        Status::Running => {
            let health = state.health.as_ref().map(|h| match h.status.as_str() {
                "starting" => " (health: starting)".to_string(),
                other => format!(" ({other})"),
            });
            format!("Up {}{}", ago(state.started_at), health.unwrap_or_default())
        }
        Status::Paused => format!("Up {} (Paused)", ago(state.started_at)),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago(state.finished_at)),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, ago(state.finished_at)),
        Status::Removing => "Removal In Progress".into(),
    }
}

/// Seconds in the words of docker/go-units.
pub fn duration_text(seconds: i64) -> String {
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{} minutes", seconds / 60),
        3600..7200 => "About an hour".into(),
        7200..172_800 => format!("{} hours", seconds / 3600),
        172_800..1_209_600 => format!("{} days", seconds / 86_400),
        1_209_600..5_184_000 => format!("{} weeks", seconds / 604_800),
        _ => format!("{} months", seconds / 2_592_000),
    }
}

fn network_mode(record: &ContainerRecord) -> String {
    match &record.spec.network_mode {
        NetworkMode::Host => "host".into(),
        NetworkMode::None => "none".into(),
        NetworkMode::Container(id) => format!("container:{id}"),
        NetworkMode::Bridge => record.spec.networks.first().map_or_else(|| "bridge".into(), |e| e.network.clone()),
    }
}

fn ports(record: &ContainerRecord) -> Vec<Value> {
    let bound = record.state.status.is_alive().then_some(&record.bound_ports).into_iter().flatten();
    bound
        .map(|(target, protocol, ip, port)| {
            json!({"IP": ip.map_or_else(|| "0.0.0.0".to_string(), |i| i.to_string()), "PrivatePort": target, "PublicPort": port, "Type": protocol})
        })
        .collect()
}

fn endpoints(engine: &Engine, record: &ContainerRecord) -> Value {
    let networks = engine.networks();
    let mut map = serde_json::Map::new();
    for (id, address) in &record.endpoints {
        let Some(network) = networks.iter().find(|n| n.id == *id) else { continue };
        let alive = record.state.status.is_alive();
        let mac = mac_of(*address).map(|b| format!("{b:02x}")).join(":");
        let aliases = record.spec.networks.iter().find(|e| e.network == network.name).map(|e| e.aliases.clone());
        map.insert(
            network.name.clone(),
            json!({
                "NetworkID": id,
                "Aliases": aliases,
                "Gateway": if alive { network.gateway.to_string() } else { String::new() },
                "IPAddress": if alive { address.to_string() } else { String::new() },
                "IPPrefixLen": if alive { network.subnet.prefix() } else { 0 },
                "MacAddress": if alive { mac } else { String::new() },
            }),
        );
    }
    Value::Object(map)
}

fn mounts(engine: &Engine, record: &ContainerRecord) -> Vec<Value> {
    let mount = |m: &MountSpec| match m.kind {
        MountKind::Bind => {
            json!({"Type": "bind", "Source": m.source, "Destination": m.target, "Mode": "", "RW": !m.read_only, "Propagation": "rprivate"})
        }
        MountKind::Volume => json!({
            "Type": "volume", "Name": m.source, "Source": engine.volume_data(&m.source), "Destination": m.target,
            "Driver": "local", "Mode": "z", "RW": !m.read_only, "Propagation": "",
        }),
    };
    record.spec.mounts.iter().map(mount).collect()
}

/// `GET /containers/{id}/json`.
pub fn inspect(engine: &Engine, id: &str) -> Reply {
    let record = engine.container(id)?.record();
    let spec = &record.spec;
    let time = |t: Option<Timestamp>| t.map_or_else(|| "0001-01-01T00:00:00Z".to_string(), |t| t.to_string());
    let argv = command(&record);
    let mut bindings = serde_json::Map::new();
    for (target, protocol, ip, port) in record.bound_ports.iter().filter(|_| record.state.status.is_alive()) {
        let list = bindings.entry(format!("{target}/{protocol}")).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(
                json!({"HostIp": ip.map_or_else(|| "0.0.0.0".to_string(), |i| i.to_string()), "HostPort": port.to_string()}),
            );
        }
    }
    let mut state = json!({
        "Status": record.state.status.as_str(),
        "Running": record.state.status.is_alive(),
        "Paused": record.state.status == Status::Paused,
        "Restarting": record.state.status == Status::Restarting,
        "OOMKilled": record.state.oom_killed,
        "Dead": false,
        "Pid": record.state.pid,
        "ExitCode": record.state.exit_code,
        "Error": record.state.error,
        "StartedAt": time(record.state.started_at),
        "FinishedAt": time(record.state.finished_at),
    });
    if let Some(health) = &record.state.health {
        let log: Vec<Value> = health
            .log
            .iter()
            .map(|p| json!({"Start": p.start.to_string(), "End": p.end.to_string(), "ExitCode": p.exit_code, "Output": p.output}))
            .collect();
        state["Health"] = json!({"Status": health.status.as_str(), "FailingStreak": health.failing_streak, "Log": log});
    }
    let retries = if let RestartPolicy::OnFailure { max } = spec.restart { max } else { 0 };
    let value = json!({
        "Id": record.id,
        "Created": record.created_at.to_string(),
        "Path": argv.first().cloned().unwrap_or_default(),
        "Args": argv.get(1..).unwrap_or_default(),
        "State": state,
        "Image": record.image_id,
        "Name": format!("/{}", record.name),
        "RestartCount": record.restart_count,
        "Driver": "overlay",
        "Platform": "linux",
        "LogPath": engine.log_path(&record.id),
        "Config": {
            "Hostname": spec.hostname.clone().unwrap_or_else(|| record.id[..12].to_string()),
            "Domainname": spec.domainname.clone().unwrap_or_default(),
            "User": spec.user.clone().unwrap_or_else(|| record.image.user.clone()),
            "Tty": spec.tty,
            "OpenStdin": spec.stdin_open,
            "Env": record.image.env.iter().chain(&spec.env).collect::<Vec<_>>(),
            "Cmd": spec.command.clone().or_else(|| spec.entrypoint.is_none().then(|| record.image.command.clone())),
            "Entrypoint": spec.entrypoint.clone().unwrap_or_else(|| record.image.entrypoint.clone()),
            "Image": spec.image,
            "WorkingDir": spec.working_dir.clone().unwrap_or_else(|| record.image.working_dir.clone()),
            "Labels": spec.labels,
            "StopSignal": spec.stop_signal,
            "StopTimeout": spec.stop_timeout,
        },
        "HostConfig": {
            "NetworkMode": network_mode(&record),
            "RestartPolicy": {"Name": spec.restart.name(), "MaximumRetryCount": retries},
            "Privileged": spec.privileged,
            "ReadonlyRootfs": spec.read_only,
            "CapAdd": spec.cap_add,
            "CapDrop": spec.cap_drop,
            "Memory": spec.resources.memory.unwrap_or(0),
            "NanoCpus": spec.resources.cpus.map_or(0, |c| (c * 1e9) as i64),
            "PidsLimit": spec.resources.pids,
            "ShmSize": spec.shm_size.unwrap_or(64 << 20),
            "LogConfig": {"Type": if spec.log.none { "none" } else { "json-file" }, "Config": {}},
            "Init": spec.init,
        },
        "Mounts": mounts(engine, &record),
        "NetworkSettings": {"Ports": bindings, "Networks": endpoints(engine, &record)},
    });
    reply::json(200, &value)
}

/// `DELETE /containers/{id}`.
pub async fn remove(engine: &Arc<Engine>, id: &str, query: &Query) -> Reply {
    let container = engine.container(id)?;
    engine.remove(&container, query.flag("force"), query.flag("v")).await?;
    reply::empty(204)
}

/// `POST /containers/{id}/{action}`.
pub async fn act(engine: &Arc<Engine>, id: &str, action: &str, query: &Query) -> Reply {
    let container = engine.container(id)?;
    let timeout = query.number::<i64>("t").map(|t| if t < 0 { u64::from(u32::MAX) } else { t as u64 });
    match action {
        "start" => {
            if container.status() == Status::Running {
                return reply::empty(304);
            }
            engine.start(&container).await?;
        }
        "stop" => {
            if !container.status().is_alive() {
                return reply::empty(304);
            }
            engine.stop(&container, timeout).await?;
        }
        "restart" => engine.restart(&container, timeout).await?,
        "kill" => {
            let text = query.get("signal").filter(|s| !s.is_empty()).unwrap_or("SIGKILL");
            let signal = parse_signal(text)
                .ok_or_else(|| EngineError::Invalid(format!("`{text}` is not a signal; signal(7) lists them")))?;
            engine.kill(&container, signal)?;
        }
        "pause" => engine.pause(&container, true).await?,
        "unpause" => engine.pause(&container, false).await?,
        "wait" => {
            let mut code = 0;
            let condition = query.get("condition").unwrap_or("not-running").to_string();
            let begun = container.record().restart_count;
            container
                .wait_until(|record| {
                    code = record.state.exit_code;
                    match condition.as_str() {
                        "next-exit" => record.restart_count > begun || record.state.status == Status::Exited,
                        "removed" => record.state.status == Status::Removing,
                        _ => !record.state.status.is_alive(),
                    }
                })
                .await;
            return reply::json(200, &json!({"StatusCode": code}));
        }
        _ => return super::server::not_found(&hyper::Method::POST, &format!("/containers/{id}/{action}")),
    }
    reply::empty(204)
}

/// `POST /containers/create`, with the settings that wharf acts on.
pub async fn create(engine: &Arc<Engine>, query: &Query, request: Request<Incoming>) -> Reply {
    let body: Value = reply::json_body(request).await?;
    let spec = spec_of(&body)?;
    let name = query.get("name").map(str::to_string);
    let name = name.unwrap_or_else(|| format!("wharf-{}", Timestamp::now().as_nanosecond()));
    let container = engine.create(&name, spec, None)?;
    reply::json(201, &json!({"Id": container.id, "Warnings": []}))
}

fn spec_of(body: &Value) -> Result<ContainerSpec, EngineError> {
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
    let policy =
        match (host["RestartPolicy"]["Name"].as_str().unwrap_or_default(), host["RestartPolicy"]["MaximumRetryCount"].as_u64()) {
            ("on-failure", Some(max)) => RestartPolicy::OnFailure { max: max as u32 },
            (name, _) => {
                RestartPolicy::parse(name).ok_or_else(|| EngineError::Invalid(format!("`{name}` is not a restart policy")))?
            }
        };
    let mode = host["NetworkMode"].as_str().unwrap_or("default");
    let network_mode = match mode {
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        _ => mode.strip_prefix("container:").map_or(NetworkMode::Bridge, |id| NetworkMode::Container(id.into())),
    };
    let mut networks: Vec<EndpointSpec> = body["NetworkingConfig"]["EndpointsConfig"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(network, e)| EndpointSpec { network: network.clone(), aliases: list(&e["Aliases"]), ipv4_address: None })
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
            propagation: None,
            create_host_path: true,
            no_copy: false,
            subpath: None,
            anonymous: false,
        });
    }
    let mut ports = Vec::new();
    for (key, bindings) in host["PortBindings"].as_object().into_iter().flatten() {
        let (target, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
        for binding in bindings.as_array().into_iter().flatten() {
            let published = binding["HostPort"].as_str().and_then(|p| p.parse().ok()).unwrap_or(0);
            let host_ip = text(&binding["HostIp"])
                .filter(|ip| ip != "0.0.0.0")
                .map(|ip| ip.parse().map_err(|_| EngineError::Invalid(format!("`{ip}` is not an IPv4 address"))))
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
    Ok(ContainerSpec {
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
        tmpfs: host["Tmpfs"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(path, o)| {
                (path.clone(), o.as_str().unwrap_or_default().split(',').filter(|o| !o.is_empty()).map(str::to_string).collect())
            })
            .collect(),
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
            pids: number(&host["PidsLimit"]),
        },
        ulimits: host["Ulimits"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|u| Some((u["Name"].as_str()?.to_string(), u["Soft"].as_i64()?, u["Hard"].as_i64()?)))
            .collect(),
        sysctls: strings(&host["Sysctls"]),
        shm_size: host["ShmSize"].as_u64().filter(|n| *n > 0),
        oom_score_adj: host["OomScoreAdj"].as_i64().unwrap_or(0) as i32,
        log: LogSpec { none: host["LogConfig"]["Type"] == "none", ..LogSpec::default() },
    })
}
