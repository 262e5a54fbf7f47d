//! Requests that Docker's engine refuses when a container is made (moby, `daemon/container.go`, `daemon/daemon_unix.go`,
//! `daemon/internal/runconfig`), in its words, since clients match them: for whoever asks, and before anything is made or
//! stopped. What no container could be started with stands here too.

mod resources;

use super::signals::parse_signal;
use crate::engine::launch::{devices, security::Security, sysctls};
use crate::engine::record::{ContainerSpec, NetworkMode, RestartPolicy};
use crate::runtime::capabilities::Capabilities;
use crate::runtime::targets;
use crate::units::{IdMap, Nanos};
pub use resources::{swappiness, unsigned, verify_resources};
use std::net::IpAddr;
use std::path::Path;

/// Bytes of the kernel's names (HOST_NAME_MAX).
const LONGEST_NAME: usize = 64;
/// Docker's shortest duration.
const SHORTEST: Nanos = Nanos(1_000_000);
/// The limits that a container may have, by their names in Compose files.
const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

type SpecRule<T> = fn(&T) -> Option<String>;

const RULES: [SpecRule<ContainerSpec>; 16] = [
    working_directory,
    stop_signal,
    environment,
    health,
    removal,
    extra_hosts,
    resolvers,
    ports,
    capabilities,
    annotations,
    names,
    network_mode,
    mount_points,
    id_maps,
    tmpfs_options,
    ulimits,
];

/// Refuses a container that Docker would refuse, or that could never be started on this host.
///
/// # Errors
/// Docker's words.
pub fn verify(spec: &ContainerSpec) -> Result<(), String> {
    let broken = RULES.iter().find_map(|rule| rule(spec));
    broken.map_or(Ok(()), Err)?;
    verify_resources(&spec.resources)?;
    if spec.resources.memory.is_none() && spec.resources.memory_swap.is_some_and(|swap| swap.0 > 0) {
        return Err("You should always set the Memory limit when using Memoryswap limit, see usage".into());
    }
    oom_score_adj(i64::from(spec.oom_score_adj))?;
    Security::of(spec)?;
    sysctls::of(spec)?;
    devices::check(spec)?;
    crate::engine::launch::find_runtime(spec.runtime.as_deref()).map(drop)
}

/// Settings that Docker takes and does not act on, in its words.
pub fn warnings(spec: &ContainerSpec) -> Vec<String> {
    let discarded = spec.network_mode == NetworkMode::Host && !spec.ports.is_empty();
    discarded.then(|| "Published ports are discarded when using host network mode".into()).into_iter().collect()
}

/// # Errors
/// Docker's words.
pub fn oom_score_adj(value: i64) -> Result<i32, String> {
    let fits = i32::try_from(value).ok().filter(|n| (-1000..=1000).contains(n));
    fits.ok_or_else(|| format!("Invalid value {value}, range for oom score adj is [-1000, 1000]"))
}

fn working_directory(spec: &ContainerSpec) -> Option<String> {
    let directory = spec.working_dir.as_deref().filter(|directory| !directory.is_empty() && !directory.starts_with('/'))?;
    Some(format!("the working directory '{directory}' is invalid, it needs to be an absolute path"))
}

fn stop_signal(spec: &ContainerSpec) -> Option<String> {
    let signal = spec.stop_signal.as_deref().filter(|signal| !signal.is_empty() && parse_signal(signal).is_none())?;
    Some(format!("invalid signal: {signal}"))
}

fn environment(spec: &ContainerSpec) -> Option<String> {
    let variable = spec.env.iter().find(|variable| variable.split('=').next().is_none_or(str::is_empty))?;
    Some(format!("invalid environment variable: {variable}"))
}

fn health(spec: &ContainerSpec) -> Option<String> {
    let check = spec.health.as_ref()?;
    let times = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ];
    let (name, _) = times.into_iter().find(|(_, time)| (Nanos(1)..SHORTEST).contains(time))?;
    Some(format!("{name} in Healthcheck cannot be less than 1ms"))
}

fn removal(spec: &ContainerSpec) -> Option<String> {
    let both = spec.auto_remove && spec.restart != RestartPolicy::No;
    both.then(|| "can't create 'AutoRemove' container with restart policy".into())
}

fn extra_hosts(spec: &ContainerSpec) -> Option<String> {
    spec.extra_hosts.iter().find_map(|text| match text.split_once(['=', ':']) {
        None | Some(("", _)) => Some(format!("bad format for add-host: \"{text}\"")),
        Some((_, "host-gateway")) => None,
        Some((_, address)) => {
            let bare = address.strip_prefix('[').and_then(|bare| bare.strip_suffix(']')).unwrap_or(address);
            bare.parse::<IpAddr>().is_err().then(|| format!("invalid IP address in add-host: \"{address}\""))
        }
    })
}

fn resolvers(spec: &ContainerSpec) -> Option<String> {
    let wrong = spec.dns.iter().find(|text| text.parse::<IpAddr>().is_err())?;
    Some(format!("invalid IP address in dns: \"{wrong}\""))
}

fn ports(spec: &ContainerSpec) -> Option<String> {
    let port = spec.ports.iter().find(|port| port.target == 0)?;
    Some(format!("invalid port specification: \"{}\"", port.container_port()))
}

fn capabilities(spec: &ContainerSpec) -> Option<String> {
    [(&spec.cap_add, "CapAdd"), (&spec.cap_drop, "CapDrop")].into_iter().find_map(|(list, name)| {
        let unknown = Capabilities::docker_default().adjusted(list, &[]).err()?;
        Some(format!("invalid {name}: unknown capability: \"{unknown}\""))
    })
}

fn annotations(spec: &ContainerSpec) -> Option<String> {
    let empty = spec.annotations.contains_key("");
    empty.then(|| "invalid Annotations: the empty string is not permitted as an annotation key".into())
}

fn names(spec: &ContainerSpec) -> Option<String> {
    let names = [("hostname", &spec.hostname), ("domainname", &spec.domainname)];
    let (what, name) = names.into_iter().find_map(|(what, name)| {
        let name = name.as_deref()?;
        (name.len() > LONGEST_NAME).then_some((what, name))
    })?;
    Some(format!("{what} \"{name}\" is too long (maximum {LONGEST_NAME} bytes)"))
}

/// Settings that need a network, or a host name, of the container's own.
fn network_mode(spec: &ContainerSpec) -> Option<String> {
    let has = |list: &[String]| !list.is_empty();
    let named = spec.hostname.is_some();
    let shares = matches!(spec.network_mode, NetworkMode::Container(_));
    let created = &spec.as_created;
    let conflict = match () {
        () if spec.uts_host && named => "hostname and the UTS mode",
        () if spec.network_mode == NetworkMode::Host && !spec.links.is_empty() => {
            "host type networking can't be used with links. This would result in undefined behavior"
        }
        () if !shares => return None,
        () if named => "hostname and the network mode",
        () if !spec.links.is_empty() => {
            "container type network can't be used with links. This would result in undefined behavior"
        }
        () if has(&spec.dns) => "dns and the network mode",
        () if has(&spec.extra_hosts) => "custom host-to-IP mapping and the network mode",
        () if !spec.ports.is_empty() || created.publish_all_ports => "port publishing and the container type network mode",
        () if !created.exposed_ports.is_empty() => "port exposing and the container type network mode",
        () => return None,
    };
    Some(format!("conflicting options: {conflict}"))
}

fn id_maps(spec: &ContainerSpec) -> Option<String> {
    let mount = spec.mounts.iter().find(|mount| mount.id_map == Some(IdMap::Userns))?;
    Some(format!(
        "the bind mount on '{}' has the id mapping `userns`, which follows the container's private user namespace, and it has none: wharf's containers run in the host's. Write `match-user`, or `match-user:USER`",
        mount.target
    ))
}

fn mount_points(spec: &ContainerSpec) -> Option<String> {
    let mounts = spec.mounts.iter().map(|mount| mount.target.as_str());
    mounts.chain(spec.tmpfs.iter().map(|(target, _)| target.as_str())).find_map(|target| {
        if !target.starts_with('/') {
            return Some(format!("invalid mount path: '{target}' mount path must be absolute"));
        }
        let is_root = targets::clean(Path::new(target)) == Path::new("");
        is_root.then(|| "invalid specification: destination can't be '/'".into())
    })
}

/// Options of a tmpfs: moby's, and those that newer kernels have.
fn tmpfs_options(spec: &ContainerSpec) -> Option<String> {
    const FLAGS: [&str; 21] = [
        "defaults",
        "ro",
        "rw",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "exec",
        "noexec",
        "sync",
        "async",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "strictatime",
        "noswap",
        "inode32",
        "inode64",
        "",
    ];
    const PROPAGATION: [&str; 8] = ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"];
    let size = |text: &str| {
        let digits = text.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G', 't', 'T', '%']).unwrap_or(text);
        digits.parse::<u64>().is_ok()
    };
    let fits = |option: &str| match option.split_once('=') {
        None => FLAGS.contains(&option) || PROPAGATION.contains(&option),
        Some(("size" | "nr_blocks" | "nr_inodes", value)) => size(value),
        Some(("mode", value)) => u32::from_str_radix(value, 8).is_ok_and(|mode| mode <= 0o7777),
        Some(("uid" | "gid", value)) => value.parse::<u32>().is_ok(),
        Some((name, _)) => matches!(name, "mpol" | "huge"),
    };
    spec.tmpfs.iter().find_map(|(target, options)| {
        let wrong = options.iter().find(|option| !fits(option))?;
        let expected = match wrong.split_once('=') {
            Some(("size" | "nr_blocks" | "nr_inodes", _)) => "a number is expected, with k, m, g or %",
            Some(("mode", _)) => "an octal number is expected, such as 1777",
            Some(("uid" | "gid", _)) => "a number is expected",
            _ => "see tmpfs(5)",
        };
        Some(format!("Invalid tmpfs option \"{wrong}\" of {target}: {expected}"))
    })
}

fn ulimits(spec: &ContainerSpec) -> Option<String> {
    let most_files = || std::fs::read_to_string("/proc/sys/fs/nr_open").ok()?.trim().parse::<i64>().ok();
    let order = "ulimit soft limit must be less than or equal to hard limit";
    spec.ulimits.iter().find_map(|(name, soft, hard)| match (*soft, *hard) {
        _ if !ULIMITS.contains(&name.as_str()) => Some(format!("invalid ulimit type: {name}: they are {}", ULIMITS.join(", "))),
        (soft @ ..=-2, _) | (_, soft @ ..=-2) => {
            Some(format!("the ulimit {name} is {soft}: 0 or more is expected, or -1 for no limit"))
        }
        (-1, hard @ 0..) => Some(format!("{order}: {name}: soft: -1 (unlimited), hard: {hard}")),
        (soft, hard @ 0..) if soft > hard => Some(format!("{order}: {name}: {soft} > {hard}")),
        (_, hard) if name == "nofile" => {
            let most = most_files()?;
            let shown = if hard < 0 { "-1 (unlimited)".into() } else { hard.to_string() };
            (hard < 0 || hard > most).then(|| format!("the ulimit nofile is {shown}: the kernel allows 0 to {most} (fs.nr_open)"))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::{BlkioSpec, HealthSpec, PortSpec};
    use crate::units::{ByteSize, PortRange, Protocol};

    type Change = fn(&mut ContainerSpec);

    fn text(value: &str) -> Option<String> {
        Some(value.into())
    }

    fn list(value: &str) -> Vec<String> {
        vec![value.into()]
    }

    fn all_refused(cases: &[(&str, Change)]) {
        for (words, change) in cases {
            let mut spec = ContainerSpec::default();
            change(&mut spec);
            let refused = verify(&spec).expect_err(words);
            assert!(refused.contains(words), "{words}: {refused}");
        }
    }

    #[test]
    fn what_docker_refuses_is_refused_in_its_words() {
        assert_eq!(verify(&ContainerSpec::default()), Ok(()));
        let cases: &[(&str, Change)] = &[
            ("the working directory 'etc' is invalid", |s| s.working_dir = text("etc")),
            ("invalid signal: FOO", |s| s.stop_signal = text("FOO")),
            ("invalid environment variable: =x", |s| s.env = list("=x")),
            ("Timeout in Healthcheck cannot be less than 1ms", |s| {
                s.health = Some(HealthSpec { timeout: Nanos(5), ..HealthSpec::default() });
            }),
            ("can't create 'AutoRemove' container", |s| (s.auto_remove, s.restart) = (true, RestartPolicy::Always)),
            ("invalid IP address in add-host: \"300.1.1.1\"", |s| s.extra_hosts = list("b:300.1.1.1")),
            ("invalid IP address in add-host: \"nohost\"", |s| s.extra_hosts = list("b=nohost")),
            ("bad format for add-host: \"b\"", |s| s.extra_hosts = list("b")),
            ("invalid IP address in dns: \"foo\"", |s| s.dns = list("foo")),
            ("invalid port specification: \"0/tcp\"", |s| {
                s.ports = vec![PortSpec { target: 0, protocol: Protocol::Tcp, host_ip: None, published: PortRange::default() }];
            }),
            ("invalid CapAdd: unknown capability: \"foo\"", |s| s.cap_add = list("foo")),
            ("invalid CapDrop: unknown capability: \"foo\"", |s| s.cap_drop = list("foo")),
            ("empty string is not permitted as an annotation", |s| drop(s.annotations.insert(String::new(), String::new()))),
            ("is too long (maximum 64 bytes)", |s| s.hostname = Some("h".repeat(65))),
            ("is too long (maximum 64 bytes)", |s| s.domainname = Some("h".repeat(65))),
            ("hostname and the UTS mode", |s| (s.hostname, s.uts_host) = (text("h"), true)),
            ("hostname and the network mode", |s| {
                (s.hostname, s.network_mode) = (text("h"), NetworkMode::Container("x".into()));
            }),
            ("dns and the network mode", |s| (s.dns, s.network_mode) = (list("1.1.1.1"), NetworkMode::Container("x".into()))),
            ("custom host-to-IP mapping and the network mode", |s| {
                (s.extra_hosts, s.network_mode) = (list("a:1.1.1.1"), NetworkMode::Container("x".into()));
            }),
            ("port publishing and the container type network mode", |s| {
                s.ports = vec![PortSpec { target: 80, protocol: Protocol::Tcp, host_ip: None, published: PortRange::default() }];
                s.network_mode = NetworkMode::Container("x".into());
            }),
            ("port exposing and the container type network mode", |s| {
                (s.as_created.exposed_ports, s.network_mode) =
                    (vec!["80".parse().expect("a port")], NetworkMode::Container("x".into()));
            }),
            ("host type networking can't be used with links", |s| {
                (s.links, s.network_mode) = (vec![("a".into(), "b".into())], NetworkMode::Host);
            }),
            ("invalid mount path: 'x' mount path must be absolute", |s| s.tmpfs = vec![("x".into(), vec![])]),
            ("destination can't be '/'", |s| s.tmpfs = vec![("/x/..".into(), vec![])]),
            ("Invalid tmpfs option \"size=foo\" of /x: a number", |s| s.tmpfs = vec![("/x".into(), list("size=foo"))]),
            ("Invalid tmpfs option \"foo\" of /x", |s| s.tmpfs = vec![("/x".into(), list("foo"))]),
            ("invalid --security-opt 1: \"foo\"", |s| s.security_opt = list("foo")),
            ("invalid --security-opt 2: \"foo=bar\"", |s| s.security_opt = list("foo=bar")),
            ("invalid --security-opt 2: \"no-new-privileges=maybe\"", |s| s.security_opt = list("no-new-privileges=maybe")),
            ("seccomp profile", |s| s.security_opt = list("seccomp=/no/such/file")),
            ("would change the host", |s| drop(s.sysctls.insert("kernel.panic".into(), "1".into()))),
            ("unknown or invalid runtime name: foo", |s| s.runtime = text("foo")),
            ("device rule `x`", |s| s.device_cgroup_rules = list("x")),
        ];
        all_refused(cases);
    }

    #[test]
    fn limits_that_docker_refuses_are_refused_in_its_words() {
        all_refused(&[
            ("invalid ulimit type: foo", |s| s.ulimits = vec![("foo".into(), 1, 1)]),
            ("less than or equal to hard limit: nofile: 10 > 5", |s| s.ulimits = vec![("nofile".into(), 10, 5)]),
            ("soft: -1 (unlimited), hard: 5", |s| s.ulimits = vec![("core".into(), -1, 5)]),
            ("the ulimit nofile is -1 (unlimited): the kernel allows 0 to", |s| s.ulimits = vec![("nofile".into(), -1, -1)]),
            ("Minimum memory limit allowed is 6MB", |s| s.resources.memory = Some(ByteSize(1024))),
            ("Minimum memory reservation allowed is 6MB", |s| s.resources.memory_reservation = Some(ByteSize(1024))),
            ("can not be less than memory reservation", |s| {
                (s.resources.memory, s.resources.memory_reservation) = (Some(ByteSize(100 << 20)), Some(ByteSize(200 << 20)));
            }),
            ("memoryswap limit should be larger", |s| {
                (s.resources.memory, s.resources.memory_swap) = (Some(ByteSize(20 << 20)), Some(ByteSize(10 << 20)));
            }),
            ("You should always set the Memory limit", |s| s.resources.memory_swap = Some(ByteSize(10 << 20))),
            ("range of CPUs is from 0.01 to", |s| s.resources.cpus = Some(-1.0)),
            ("range of CPUs is from 0.01 to", |s| s.resources.cpus = Some(99_999.0)),
            ("CPU cfs period can not be less than 1ms", |s| s.resources.cpu_period = Some(5)),
            ("CPU cfs quota can not be less than 1ms", |s| s.resources.cpu_quota = Some(5)),
            ("Nano CPUs and CPU Quota cannot both be set", |s| {
                (s.resources.cpus, s.resources.cpu_quota) = (Some(0.5), Some(5000));
            }),
            ("Invalid value x for cpuset cpus", |s| s.resources.cpuset = text("x")),
            ("Requested CPUs are not available - requested 0,99999", |s| s.resources.cpuset = text("0,99999")),
            ("Range of blkio weight is from 10 to 1000", |s| {
                s.resources.blkio = BlkioSpec { weight: Some(5), ..BlkioSpec::default() };
            }),
            ("cannot be higher than cpu real-time period", |s| {
                (s.resources.cpu_rt_period, s.resources.cpu_rt_runtime) = (Some(5), Some(6));
            }),
            ("range for oom score adj is [-1000, 1000]", |s| s.oom_score_adj = -5000),
        ]);
    }

    #[test]
    fn what_docker_takes_is_taken() {
        let cases: &[Change] = &[
            |s| s.extra_hosts = ["a:1.1.1.1", "a=::1", "a:[::1]", "a:host-gateway"].map(String::from).into(),
            |s| s.tmpfs = vec![("/x".into(), ["size=64m", "mode=1777", "noexec", "uid=5", "size=50%"].map(String::from).into())],
            |s| s.ulimits = vec![("core".into(), 0, -1), ("nofile".into(), 5, 10), ("memlock".into(), -1, -1)],
            |s| (s.resources.memory, s.resources.memory_swap) = (Some(ByteSize(6 << 20)), Some(ByteSize(-1))),
            |s| s.resources.cpuset = Some("0".into()),
            |s| s.cap_add = ["ALL", "net_admin", "CAP_SYS_TIME"].map(String::from).into(),
            |s| s.security_opt = ["no-new-privileges", "label=disable", "seccomp=unconfined"].map(String::from).into(),
        ];
        for (n, change) in cases.iter().enumerate() {
            let mut spec = ContainerSpec::default();
            change(&mut spec);
            assert_eq!(verify(&spec), Ok(()), "{n}");
        }
    }
}
