//! `/containers`: Docker's calls about containers.

use super::reply::{self, Query, Reply};
use super::types::{ContainerCreate, HostConfig};
use crate::engine::containers::signals::parse_signal;
use crate::engine::record::{
    ContainerRecord, ContainerSpec, DeviceSpec, MountKind, MountSpec, NetworkMode, RestartPolicy, Sharing, Status,
};
use crate::engine::recovery::{Kind, Unknown};
use crate::engine::{Engine, EngineError};
use crate::network::link::mac_of;
use hyper::Request;
use hyper::body::Incoming;
use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /containers/json`.
pub fn list(engine: &Engine, query: &Query) -> Reply {
    let filters = query.filters();
    let all = query.flag("all");
    let wanted = |key: &str| filters.get(key).map_or(&[][..], Vec::as_slice);
    let shown = engine.containers.all();
    let mut list: Vec<ContainerRecord> = shown.iter().filter(|c| !c.is_build_step()).map(|c| c.record()).collect();
    list.reverse();
    list.retain(|record| {
        let statuses = wanted("status");
        let exited = wanted("exited");
        let shown = all || !statuses.is_empty() || !exited.is_empty() || record.state.status().is_alive();
        let label = reply::labelled(&record.spec.labels, &filters);
        let status = statuses.is_empty() || statuses.iter().any(|s| s == record.state.status().as_str());
        let name =
            wanted("name").is_empty() || wanted("name").iter().any(|n| record.name.contains(n.trim_matches(['^', '$', '/'])));
        let id = wanted("id").is_empty() || wanted("id").iter().any(|i| record.id.starts_with(i));
        let exited = exited.is_empty()
            || record.state.status() == Status::Exited && exited.iter().any(|code| *code == record.state.exit_code.to_string());
        let any = |key: &str, has: &dyn Fn(&String) -> bool| wanted(key).is_empty() || wanted(key).iter().any(has);
        let network =
            any("network", &|n| record.endpoints.contains_key(n) || record.spec.networks.iter().any(|e| e.network == *n));
        let volume = any("volume", &|v| record.spec.mounts.iter().any(|m| m.source == *v || m.target == *v));
        let ancestor =
            any("ancestor", &|i| record.spec.image == *i || record.image_id.trim_start_matches("sha256:").starts_with(i));
        shown && label && status && name && id && exited && network && volume && ancestor
    });
    if let Some(limit) = query.number::<usize>("limit").filter(|n| *n > 0) {
        list.truncate(limit);
    }
    let mut values: Vec<Value> = list.iter().map(|record| summary(engine, record)).collect();
    // What is filtered by something that nobody knows of them does not show them.
    let asked = filters.keys().all(|key| matches!(key.as_str(), "status" | "name" | "id" | "label"));
    values.extend(
        engine
            .state
            .unknown(Kind::Container)
            .iter()
            .filter(|_| asked)
            .filter(|unknown| {
                let (statuses, names, ids) = (wanted("status"), wanted("name"), wanted("id"));
                let labels: IndexMap<String, String> =
                    serde_json::from_value(unknown.record["spec"]["labels"].clone()).unwrap_or_default();
                (all || unknown.runs() || !statuses.is_empty())
                    && (statuses.is_empty() || statuses.iter().any(|status| status == UNKNOWN))
                    && (names.is_empty() || names.iter().any(|name| unknown.name.contains(name.trim_matches(['^', '$', '/']))))
                    && (ids.is_empty() || ids.iter().any(|id| unknown.id.starts_with(id)))
                    && reply::labelled(&labels, &filters)
            })
            .map(|unknown| unknown_summary(unknown)),
    );
    reply::json(200, &values)
}

/// The state of a container that this version does not understand.
const UNKNOWN: &str = "unknown";

fn unknown_summary(unknown: &Unknown) -> Value {
    let record = &unknown.record;
    let created = record["created_at"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    json!({
        "Id": unknown.id,
        "Names": [format!("/{}", unknown.name)],
        "Image": record["spec"]["image"].as_str().unwrap_or_default(),
        "ImageID": record["image_id"].as_str().unwrap_or_default(),
        "Command": "",
        "Created": created.map_or(0, Timestamp::as_second),
        "Ports": [],
        "Labels": record["spec"]["labels"].as_object().cloned().unwrap_or_default(),
        "State": UNKNOWN,
        "Status": if unknown.runs() { "Unknown (running)" } else { "Unknown" },
        "ExitCode": 0,
        "Health": "",
        "HostConfig": {"NetworkMode": ""},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
    })
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
        "State": record.state.status().as_str(),
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
    let (entrypoint, command) = record.entrypoint_and_command();
    [entrypoint, command].concat()
}

/// `Up 3 minutes (healthy)`, `Exited (1) 2 hours ago`, as Docker says it.
fn status_text(record: &ContainerRecord) -> String {
    let ago = |time: Option<Timestamp>| {
        time.map_or_else(|| "a moment".into(), |t| crate::units::time_text(Timestamp::now().as_second() - t.as_second()))
    };
    let state = &record.state;
    match state.status() {
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

fn network_mode(record: &ContainerRecord) -> String {
    match &record.spec.network_mode {
        NetworkMode::Host => "host".into(),
        NetworkMode::None => "none".into(),
        NetworkMode::Container(id) => format!("container:{id}"),
        NetworkMode::Bridge => record.spec.networks.first().map_or_else(|| "bridge".into(), |e| e.network.clone()),
    }
}

fn ports(record: &ContainerRecord) -> Vec<Value> {
    let bound = record.state.status().is_alive().then_some(&record.bound_ports).into_iter().flatten();
    bound
        .map(|(target, protocol, ip, port)| {
            json!({"IP": ip.map_or_else(|| "0.0.0.0".to_string(), |i| i.to_string()), "PrivatePort": target, "PublicPort": port, "Type": protocol})
        })
        .collect()
}

fn endpoints(engine: &Engine, record: &ContainerRecord) -> Value {
    let networks = engine.networks.all();
    let mut map = serde_json::Map::new();
    for (id, addresses) in &record.endpoints {
        let Some(network) = networks.iter().find(|n| n.id == *id) else { continue };
        let alive = record.state.status().is_alive();
        let endpoint = record.spec.networks.iter().find(|e| e.network == network.name);
        let pool = |ipv6| network.pool(ipv6).filter(|_| alive);
        let prefix = |ipv6| pool(ipv6).map_or(0, |pool| pool.subnet.prefix());
        let gateway = |ipv6| pool(ipv6).map(|pool| pool.gateway.to_string()).unwrap_or_default();
        let address = |ipv6| addresses.of_family(ipv6).filter(|_| alive).map(|a| a.to_string()).unwrap_or_default();
        let mac = endpoint.and_then(|e| e.mac_address).or_else(|| addresses.first().map(mac_of)).unwrap_or_default();
        let mac = mac.map(|b| format!("{b:02x}")).join(":");
        map.insert(
            network.name.clone(),
            json!({
                "NetworkID": id,
                "Aliases": endpoint.map(|e| e.aliases.clone()),
                "Gateway": gateway(false),
                "IPAddress": address(false),
                "IPPrefixLen": prefix(false),
                "IPv6Gateway": gateway(true),
                "GlobalIPv6Address": address(true),
                "GlobalIPv6PrefixLen": prefix(true),
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
            "Type": "volume", "Name": m.source, "Source": engine.config.volume_data(&m.source), "Destination": m.target,
            "Driver": "local", "Mode": "z", "RW": !m.read_only, "Propagation": "",
        }),
        MountKind::Image => {
            json!({"Type": "image", "Source": m.source, "Destination": m.target, "Mode": "", "RW": false, "Propagation": ""})
        }
    };
    record.spec.mounts.iter().map(mount).collect()
}

/// `GET /containers/{id}/json`.
pub fn inspect(engine: &Engine, id: &str) -> Reply {
    if let (Err(_), Some(unknown)) = (engine.containers.find(id), engine.state.find_unknown(Kind::Container, id)) {
        let state = json!({"Status": UNKNOWN, "Running": unknown.runs(), "ExitCode": 0});
        let name = format!("/{}", unknown.name);
        return reply::json(200, &json!({"Id": unknown.id, "Name": name, "State": state, "Record": unknown.record}));
    }
    let record = engine.containers.find(id)?.record();
    let spec = &record.spec;
    let time = |t: Option<Timestamp>| t.map_or_else(|| "0001-01-01T00:00:00Z".to_string(), |t| t.to_string());
    let argv = command(&record);
    let mut bindings = serde_json::Map::new();
    for (target, protocol, ip, port) in record.bound_ports.iter().filter(|_| record.state.status().is_alive()) {
        let list = bindings.entry(format!("{target}/{protocol}")).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(
                json!({"HostIp": ip.map_or_else(|| "0.0.0.0".to_string(), |i| i.to_string()), "HostPort": port.to_string()}),
            );
        }
    }
    let mut state = json!({
        "Status": record.state.status().as_str(),
        "Running": record.state.status().is_alive(),
        "Paused": record.state.status() == Status::Paused,
        "Restarting": record.state.status() == Status::Restarting,
        "OOMKilled": record.state.oom_killed,
        "Dead": false,
        "Pid": record.state.pid,
        "ExitCode": record.state.exit_code,
        "Error": record.state.error,
        "StartedAt": time(record.state.started_at),
        // wharf's own: clients show what came since the last start from here on.
        "OutputSince": time(record.state.output_since),
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
    let (entrypoint, command) = record.entrypoint_and_command();
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
        "LogPath": engine.config.log_path(&record.id),
        "Config": {
            "Hostname": spec.hostname.clone().unwrap_or_else(|| record.id[..12].to_string()),
            "Domainname": spec.domainname.clone().unwrap_or_default(),
            "User": record.user(),
            "Tty": spec.tty,
            "OpenStdin": spec.stdin_open,
            "Env": record.env(),
            "Cmd": command,
            "Entrypoint": entrypoint,
            "Image": spec.image,
            "WorkingDir": record.working_dir(),
            "Labels": spec.labels,
            "StopSignal": record.stop_signal(),
            "StopTimeout": spec.stop_timeout,
        },
        "HostConfig": host_config(&record),
        "Mounts": mounts(engine, &record),
        "NetworkSettings": {"Ports": bindings, "Networks": endpoints(engine, &record)},
    });
    reply::json(200, &value)
}

/// What of a container is about its host.
fn host_config(record: &ContainerRecord) -> Value {
    let spec = &record.spec;
    let retries = if let RestartPolicy::OnFailure { max } = spec.restart { max } else { 0 };
    let mut config = json!({
        "NetworkMode": network_mode(record),
        "RestartPolicy": {"Name": spec.restart.name(), "MaximumRetryCount": retries},
        "Privileged": spec.privileged,
        "ReadonlyRootfs": spec.read_only,
        "CapAdd": spec.cap_add,
        "CapDrop": spec.cap_drop,
        "Memory": spec.resources.memory.unwrap_or(0),
        "NanoCpus": spec.resources.cpus.map_or(0, |c| (c * 1e9) as i64),
        "PidsLimit": spec.resources.pids,
        "ShmSize": spec.shm_size.unwrap_or(64 << 20),
        "StorageOpt": spec.storage_opt,
        "LogConfig": {"Type": if spec.log.none { "none" } else { "json-file" }, "Config": {}},
        "Init": spec.init,
        "Annotations": spec.annotations,
        "IpcMode": sharing(&spec.ipc, "private"),
        "PidMode": sharing(&spec.pid, ""),
        "UTSMode": if spec.uts_host { "host" } else { "" },
        "SecurityOpt": spec.security_opt,
        "GroupAdd": spec.group_add,
        "ExtraHosts": spec.extra_hosts,
        "Dns": spec.dns,
        "DnsSearch": spec.dns_search,
        "DnsOptions": spec.dns_opt,
        "Sysctls": spec.sysctls,
    });
    let limits = json!({
        "OomScoreAdj": spec.oom_score_adj,
        "CpuShares": spec.resources.cpu_shares.unwrap_or(0),
        "CpuQuota": spec.resources.cpu_quota.unwrap_or(0),
        "CpuPeriod": spec.resources.cpu_period.unwrap_or(0),
        "CpusetCpus": spec.resources.cpuset.clone().unwrap_or_default(),
        "CpusetMems": spec.resources.cpuset_mems.clone().unwrap_or_default(),
        "MemoryReservation": spec.resources.memory_reservation.unwrap_or(0),
        "MemorySwap": spec.resources.memory_swap.unwrap_or(0),
        "MemorySwappiness": spec.resources.memory_swappiness,
        "OomKillDisable": spec.resources.oom_kill_disable,
        "BlkioWeight": spec.resources.blkio.weight.unwrap_or(0),
        "DeviceCgroupRules": spec.device_cgroup_rules,
        "Devices": spec.devices.iter().map(device).collect::<Vec<_>>(),
        "PortBindings": asked_bindings(spec),
    });
    if let (Some(config), Value::Object(limits)) = (config.as_object_mut(), limits) {
        config.extend(limits);
    }
    config
}

/// The bindings that were asked for, whatever is bound.
fn asked_bindings(spec: &ContainerSpec) -> Value {
    let mut bindings: IndexMap<String, Vec<Value>> = IndexMap::new();
    for port in &spec.ports {
        let published = match port.published {
            (0, 0) => String::new(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let host_ip = port.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
        let list = bindings.entry(format!("{}/{}", port.target, port.protocol)).or_default();
        list.push(json!({"HostIp": host_ip, "HostPort": published}));
    }
    json!(bindings)
}

fn sharing(sharing: &Sharing, own: &str) -> String {
    match sharing {
        Sharing::Own => own.into(),
        Sharing::Bare => "none".into(),
        Sharing::Host => "host".into(),
        Sharing::Container(id) => format!("container:{id}"),
    }
}

fn device(device: &DeviceSpec) -> Value {
    json!({"PathOnHost": device.source, "PathInContainer": device.target, "CgroupPermissions": device.permissions})
}

/// `DELETE /containers/{id}`.
pub async fn remove(engine: &Arc<Engine>, id: &str, query: &Query) -> Reply {
    let container = engine.containers.find(id);
    if container.is_err()
        && query.flag("force")
        && let Some(unknown) = engine.state.find_unknown(Kind::Container, id)
    {
        engine.remove_unknown(&unknown).await?;
        engine.state.sync().await?;
        return reply::empty(204);
    }
    let (engine, container, force, volumes) = (engine.clone(), container?, query.flag("force"), query.flag("v"));
    reply::to_its_end(async move {
        engine.remove(&container, force, volumes).await?;
        engine.state.sync().await
    })
    .await?;
    reply::empty(204)
}

/// `POST /containers/{id}/{action}`.
pub async fn act(engine: &Arc<Engine>, id: &str, action: &str, query: &Query) -> Reply {
    let container = engine.containers.find(id)?;
    let timeout = query.number::<i64>("t").map(|t| if t < 0 { u64::from(u32::MAX) } else { t as u64 });
    let signal = |text: &str| {
        parse_signal(text).ok_or_else(|| EngineError::Invalid(format!("`{text}` is not a signal; signal(7) lists them")))
    };
    let given = query.get("signal").filter(|text| !text.is_empty());
    // For what goes on without the client.
    let (worker, subject) = (engine.clone(), container.clone());
    match action {
        "start" => {
            if container.status() == Status::Running {
                return reply::empty(304);
            }
            reply::to_its_end(async move { worker.start(&subject).await }).await?;
        }
        "stop" => {
            if !container.status().is_alive() {
                return reply::empty(304);
            }
            let signal = given.map(signal).transpose()?;
            reply::to_its_end(async move { worker.stop(&subject, timeout, signal).await }).await?;
            engine.state.sync().await?;
        }
        "restart" => {
            let signal = given.map(signal).transpose()?;
            reply::to_its_end(async move { worker.restart(&subject, timeout, signal).await }).await?;
        }
        "kill" => {
            engine.containers.kill(&container, signal(given.unwrap_or("SIGKILL"))?)?;
        }
        "rename" => {
            let name = query.get("name").filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| EngineError::Invalid("the new name is missing".into()))?;
            let name = name.to_string();
            reply::to_its_end(async move { worker.rename_container(&subject, &name).await }).await?;
            engine.state.sync().await?;
        }
        "resize" => {
            if let (Some(rows), Some(columns)) = (query.number("h"), query.number("w")) {
                container.resize(rows, columns);
            }
        }
        "pause" | "unpause" => {
            let pause = action == "pause";
            reply::to_its_end(async move { worker.containers.pause(&subject, pause).await }).await?;
        }
        "wait" => {
            let mut code = 0;
            let condition = query.get("condition").unwrap_or("not-running").to_string();
            let begun = container.record().restart_count;
            container
                .wait_until(|record| {
                    code = record.state.exit_code;
                    match condition.as_str() {
                        "next-exit" => record.restart_count > begun || record.state.status() == Status::Exited,
                        "removed" => record.state.status() == Status::Removing,
                        _ => !record.state.status().is_alive(),
                    }
                })
                .await;
            return reply::json(200, &json!({"StatusCode": code}));
        }
        _ => return super::server::not_found(&hyper::Method::POST, &format!("/containers/{id}/{action}")),
    }
    reply::empty(204)
}

/// `POST /containers/prune`: removes those that do not run.
pub async fn prune(engine: &Arc<Engine>, query: &Query) -> Reply {
    let filters = query.filters();
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for container in engine.containers.all().into_iter().filter(|c| !c.is_build_step()) {
        let record = container.record();
        let labelled = reply::labelled(&record.spec.labels, &filters);
        if labelled && matches!(record.state.status(), Status::Created | Status::Exited) {
            bytes += crate::engine::containers::usage::disk_usage(&engine.config.written_by(&container.id));
            let worker = engine.clone();
            reply::to_its_end(async move { worker.remove(&container, false, false).await }).await?;
            removed.push(record.id);
        }
    }
    engine.state.sync().await?;
    reply::json(200, &json!({"ContainersDeleted": removed, "SpaceReclaimed": bytes}))
}

/// `POST /containers/{id}/update`: limits and the restart policy, of what the body names.
pub async fn update(engine: &Arc<Engine>, id: &str, request: Request<Incoming>) -> Reply {
    let container = engine.containers.find(id)?;
    let body: HostConfig = reply::json_body(request).await?;
    let named = !body.restart_policy.name.is_empty();
    let policy = named.then(|| super::spec::restart_policy(&body.restart_policy)).transpose()?;
    let mut resources = container.record().spec.resources;
    super::spec::update(&mut resources, &body)?;
    engine.update_limits(&container, |spec| {
        spec.resources = resources;
        spec.restart = policy.unwrap_or(spec.restart);
    })?;
    engine.state.sync().await?;
    reply::json(200, &json!({"Warnings": []}))
}

/// `POST /containers/create`, with the settings that wharf acts on.
pub async fn create(engine: &Arc<Engine>, query: &Query, request: Request<Incoming>) -> Reply {
    let body: ContainerCreate = reply::json_body(request).await?;
    let volumes = super::spec::volumes_to_make(&body);
    let spec = super::spec::of(|name| Ok(engine.containers.find(name)?.record()), body)?;
    for volume in volumes {
        engine.volumes.create(volume)?;
    }
    let name = query.get("name").map(str::to_string);
    let name = name.unwrap_or_else(|| format!("wharf-{}", Timestamp::now().as_nanosecond()));
    let container = engine.create(&name, spec)?;
    engine.state.sync().await?;
    reply::json(201, &json!({"Id": container.id, "Warnings": []}))
}
