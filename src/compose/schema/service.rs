//! A service and what is in it: build, deploy, develop, hooks, mounts, ports.

use super::T::{
    Any, Bool, Bytes, Command, Duration, Float, Hosts, IdMap, Int, List, Many, Map, Mapping, Maybe, Obj, OneOf, Options,
    PullPolicy, Restart, Str, Test, Text, Variables,
};
use super::{By, Key, Shape, Short, T, k};
use crate::compose::{canonical, mounts, ports};

pub const SERVICE: T = Obj(SERVICE_KEYS);

pub(super) const SERVICE_KEYS: &[Key] = &[
    k("annotations", Mapping),
    k("attach", Bool).keep(),
    k("blkio_config", Obj(BLKIO)),
    k("build", BUILD),
    k("cap_add", List(&Str, By::Text)),
    k("cap_drop", List(&Str, By::Text)),
    k("cgroup", OneOf(&["host", "private"])),
    k("cgroup_parent", Str),
    k("command", Command).always(),
    k("configs", List(&FILE_MOUNT, By::Mount(""))),
    k("container_name", Str),
    k("cpu_count", Int).elsewhere(),
    k("cpu_percent", Float).elsewhere(),
    k("cpu_period", Int),
    k("cpu_quota", Int),
    k("cpu_rt_period", Int),
    k("cpu_rt_runtime", Int),
    k("cpu_shares", Int),
    k("cpus", Float),
    k("cpuset", Str),
    k("credential_spec", Obj(&[k("config", Str), k("file", Str), k("registry", Str)])),
    k("depends_on", DEPENDS_ON),
    k("deploy", Maybe(&Obj(DEPLOY))),
    k("develop", Maybe(&Obj(&[k("watch", List(&Obj(WATCH), By::Append))]))),
    k("device_cgroup_rules", List(&Str, By::Distinct)),
    k("devices", List(&DEVICE, By::Field("target"))),
    k("dns", Many(&Str, By::Text)),
    k("dns_opt", List(&Str, By::Text)),
    k("dns_search", Many(&Str, By::Text)),
    k("domainname", Str),
    k("entrypoint", Command).always(),
    k("env_file", Many(&ENV_FILE, By::Field("path"))),
    k("environment", Variables),
    k("expose", List(&Text, By::Text)),
    k("extends", EXTENDS),
    k("external_links", List(&Str, By::Distinct)),
    k("extra_hosts", Hosts),
    k("gpus", GPUS),
    k("group_add", List(&Text, By::Distinct)),
    k(
        "healthcheck",
        Obj(&[
            k("disable", Bool),
            k("interval", Duration).keep(),
            k("retries", Int).keep(),
            k("start_interval", Duration).keep(),
            k("start_period", Duration).keep(),
            k("test", Test),
            k("timeout", Duration).keep(),
            k("x-on-failure", OneOf(&["kill", "restart", "stop"])),
        ]),
    ),
    k("hostname", Str),
    k("image", Str),
    k("init", Bool).keep(),
    k("ipc", Str),
    k("isolation", Str).elsewhere(),
    k("label_file", Many(&Str, By::Append)),
    k("labels", Mapping),
    k("links", List(&Str, By::Name)),
    k("logging", Obj(&[k("driver", Str), k("options", Options)])),
    k("mac_address", Str),
    k("mem_limit", Bytes),
    k("mem_reservation", Bytes),
    k("mem_swappiness", Bytes),
    k("memswap_limit", Bytes),
    k("models", MODELS),
    k("network_mode", Str),
    k("networks", NETWORKS),
    k("oom_kill_disable", Bool),
    k("oom_score_adj", Int),
    k("pid", Maybe(&Str)),
    k("pids_limit", Int),
    k("platform", Str),
    k("ports", List(&PORT, By::Port)),
    k("post_start", List(&Obj(HOOK), By::Append)),
    k("pre_start", List(&Obj(PRE_START), By::Append)),
    k("pre_stop", List(&Obj(HOOK), By::Append)),
    k("privileged", Bool),
    k("profiles", List(&Str, By::Text)),
    k("provider", Obj(&[k("options", Map(&Any)), k("type", Str).required()])),
    k("pull_policy", PullPolicy),
    k("pull_refresh_after", Str),
    k("read_only", Bool),
    k("restart", Restart),
    k("runtime", Str),
    k("scale", Int).keep(),
    k("secrets", List(&FILE_MOUNT, By::Mount("/run/secrets"))),
    k("security_opt", List(&Str, By::Distinct)),
    k("shm_size", Bytes),
    k("stdin_open", Bool),
    k("stop_grace_period", Duration).keep(),
    k("stop_signal", Str),
    k("storage_opt", Options),
    k("sysctls", Mapping),
    k("tmpfs", Many(&Str, By::Name)),
    k("tty", Bool),
    k("ulimits", Map(&ULIMIT)),
    k("use_api_socket", Bool),
    k("user", Text),
    k("userns_mode", Str),
    k("uts", Str),
    k("volumes", List(&VOLUME, By::Field("target"))),
    k("volumes_from", List(&Str, By::Distinct)),
    k("working_dir", Str),
    k(
        "x-update",
        Obj(&[
            k("cleanup", Bool),
            k("notify", Str),
            k("policy", OneOf(&["digest"])),
            k("rollback", Bool).keep(),
            k("schedule", Str).required(),
            k("wait", OneOf(&["healthy", "started"])),
        ]),
    ),
];

const BLKIO: &[Key] = &[
    k("device_read_bps", List(&Obj(THROTTLE), By::Append)),
    k("device_read_iops", List(&Obj(THROTTLE), By::Append)),
    k("device_write_bps", List(&Obj(THROTTLE), By::Append)),
    k("device_write_iops", List(&Obj(THROTTLE), By::Append)),
    k("weight", Int),
    k("weight_device", List(&Obj(&[k("path", Str).keep(), k("weight", Int).keep()]), By::Append)),
];

const THROTTLE: &[Key] = &[k("path", Str).keep(), k("rate", Bytes).keep()];

const BUILD: T = T::Short(&Short {
    long: Obj(&[
        k("additional_contexts", Mapping),
        k("args", Variables),
        k("cache_from", Many(&Str, By::Append)),
        k("cache_to", Many(&Str, By::Append)),
        k("context", Str),
        k("dockerfile", Str),
        k("dockerfile_inline", Str),
        k("entitlements", List(&Str, By::Append)),
        k("extra_hosts", Hosts),
        k("isolation", Str).elsewhere(),
        k("labels", Mapping),
        k("network", Str),
        k("no_cache", Bool),
        k("no_cache_filter", Many(&Str, By::Append)),
        k("platforms", List(&Str, By::Text)),
        k("privileged", Bool),
        k("provenance", Text),
        k("pull", Bool),
        k("sbom", Text),
        k("secrets", List(&BUILD_SECRET, By::Append)),
        k("shm_size", Bytes),
        k("ssh", SSH),
        k("tags", List(&Str, By::Text)),
        k("target", Str),
        k("ulimits", Map(&ULIMIT)),
    ]),
    accepts: &[Shape::Str],
    expected: "a path such as `build: .`, or a mapping with `context`",
    expand: canonical::build,
});

const SSH: T = T::Short(&Short {
    long: Map(&Maybe(&Str)),
    accepts: &[Shape::Strings],
    expected: "a list such as `[default]`, or a mapping `id: path`",
    expand: canonical::ssh,
});

const DEPENDS_ON: T = T::Short(&Short {
    long: Map(&Obj(&[
        k("condition", OneOf(&["service_started", "service_healthy", "service_completed_successfully"])).required(),
        k("required", Bool).keep(),
        k("restart", Bool),
        k("x-runtime", Bool),
    ])),
    accepts: &[Shape::Strings],
    expected: "a list of services, or a mapping such as `db: {condition: service_healthy}`",
    expand: canonical::depends_on,
});

/// The first three are the specification's; Docker Compose takes those of `restart` as well.
const RESTART_CONDITIONS: T = OneOf(&["none", "on-failure", "any", "always", "unless-stopped", "no"]);

const DEPLOY: &[Key] = &[
    k("endpoint_mode", Str).elsewhere(),
    k("labels", Mapping).elsewhere(),
    k("mode", OneOf(&["replicated", "global", "replicated-job", "global-job"])).elsewhere(),
    k(
        "placement",
        Obj(&[
            k("constraints", List(&Str, By::Append)),
            k("max_replicas_per_node", Int),
            k("preferences", List(&Obj(&[k("spread", Str)]), By::Append)),
        ]),
    )
    .always()
    .elsewhere(),
    k("replicas", Int).keep(),
    k(
        "resources",
        Obj(&[
            k("limits", Obj(&[k("cpus", Float), k("memory", Bytes), k("pids", Int)])),
            k(
                "reservations",
                Obj(&[
                    k("cpus", Float).elsewhere(),
                    k("devices", List(&DEVICE_REQUEST, By::Append)),
                    k(
                        "generic_resources",
                        List(
                            &Obj(&[k("discrete_resource_spec", Obj(&[k("kind", Str).keep(), k("value", Int).keep()]))]),
                            By::Append,
                        ),
                    )
                    .elsewhere(),
                    k("memory", Bytes),
                ]),
            ),
        ]),
    )
    .always(),
    k(
        "restart_policy",
        Obj(&[
            k("condition", RESTART_CONDITIONS),
            k("delay", Duration).keep(),
            k("max_attempts", Int).keep(),
            k("window", Duration).keep(),
        ]),
    ),
    k("rollback_config", Obj(UPDATE)),
    k("update_config", Obj(UPDATE)),
];

const UPDATE: &[Key] = &[
    k("delay", Duration).keep(),
    k("failure_action", Str),
    k("max_failure_ratio", Float).keep(),
    k("monitor", Duration).keep(),
    k("order", OneOf(&["start-first", "stop-first"])),
    k("parallelism", Int).keep(),
];

const DEVICE_REQUEST: T = T::Short(&Short {
    long: Obj(&[
        k("capabilities", List(&Str, By::Distinct)).required(),
        k("count", Any),
        k("device_ids", List(&Str, By::Distinct)),
        k("driver", Str),
        k("options", Mapping),
    ]),
    accepts: &[],
    expected: "a mapping with `capabilities`, such as `capabilities: [gpu]`",
    expand: canonical::device_request,
});

const GPUS: T = T::Short(&Short {
    long: List(
        &T::Short(&Short {
            long: Obj(&[
                k("capabilities", List(&Str, By::Distinct)),
                k("count", Any),
                k("device_ids", List(&Str, By::Distinct)),
                k("driver", Str),
                k("options", Mapping),
            ]),
            accepts: &[],
            expected: "a mapping such as `count: 1`",
            expand: canonical::device_request,
        }),
        By::Append,
    ),
    accepts: &[Shape::Str],
    expected: "`all`, or a list of device requests",
    expand: canonical::gpus,
});

const WATCH: &[Key] = &[
    k("action", OneOf(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"])).required(),
    k("exec", Obj(HOOK)).always(),
    k("ignore", Many(&Str, By::Append)),
    k("include", Many(&Str, By::Append)),
    k("initial_sync", Bool),
    k("path", Str).required(),
    k("target", Str),
];

const HOOK: &[Key] =
    &[k("command", Command).always(), k("environment", Variables), k("privileged", Bool), k("user", Text), k("working_dir", Str)];

const PRE_START: &[Key] = &[
    k("command", Command).always(),
    k("environment", Variables),
    k("image", Str),
    k("per_replica", Bool),
    k("privileged", Bool),
    k("user", Text),
    k("working_dir", Str),
];

const DEVICE: T = T::Short(&Short {
    long: Obj(&[k("permissions", Str), k("source", Str).required(), k("target", Str)]),
    accepts: &[Shape::Str],
    expected: "a device such as `/dev/fuse` or `/dev/sda:/dev/xvda:r`, or a mapping with `source`",
    expand: canonical::device,
});

const ENV_FILE: T = T::Short(&Short {
    long: Obj(&[k("format", OneOf(&["raw"])), k("path", Str).required(), k("required", Bool).keep()]),
    accepts: &[Shape::Str],
    expected: "a path, or a mapping such as `{path: FILE, required: false}`",
    expand: canonical::env_file,
});

const EXTENDS: T = T::Short(&Short {
    long: Obj(&[k("file", Str), k("service", Str).required()]),
    accepts: &[Shape::Str],
    expected: "a service's name, or a mapping with `service` and `file`",
    expand: canonical::extends,
});

const FILE_MOUNT: T = T::Short(&Short {
    long: Obj(&[k("gid", Text), k("mode", Int).keep(), k("source", Str), k("target", Str), k("uid", Text)]),
    accepts: &[Shape::Str],
    expected: "a name, or a mapping with `source` and `target`",
    expand: canonical::file_mount,
});

/// A secret of a build: owner and mode are those that the Dockerfile asks for, as with BuildKit.
const BUILD_SECRET: T = T::Short(&Short {
    long: Obj(&[k("gid", Text), k("mode", Int).keep(), k("source", Str), k("target", Str), k("uid", Text)]),
    accepts: &[Shape::Str],
    expected: "a name, or a mapping with `source` and `target`",
    expand: canonical::file_mount,
});

const MODELS: T = T::Short(&Short {
    long: Map(&Maybe(&Obj(&[k("endpoint_var", Str), k("model_var", Str)]))),
    accepts: &[Shape::Strings],
    expected: "a list of models, or a mapping `model: {endpoint_var: NAME}`",
    expand: canonical::names,
});

const NETWORKS: T = T::Short(&Short {
    long: Map(&Maybe(&Obj(&[
        k("aliases", List(&Str, By::Text)),
        k("driver_opts", Options),
        k("gw_priority", Int),
        k("interface_name", Str),
        k("ipv4_address", Str),
        k("ipv6_address", Str),
        k("link_local_ips", List(&Str, By::Text)),
        k("mac_address", Str),
        k("priority", Int),
    ]))),
    accepts: &[Shape::Strings],
    expected: "a list of networks, or a mapping such as `front: {aliases: [www]}`",
    expand: canonical::names,
});

const PORT: T = T::Short(&Short {
    long: Obj(&[
        k("app_protocol", Str).elsewhere(),
        k("host_ip", Str),
        k("mode", Str).elsewhere(),
        k("name", Str).elsewhere(),
        k("protocol", Str),
        k("published", Text),
        k("target", Int),
    ]),
    accepts: &[Shape::Str, Shape::Number],
    expected: "a port such as `\"8080:80\"`, or a mapping with `target`",
    expand: ports::parse,
});

const ULIMIT: T = T::Short(&Short {
    long: Obj(&[k("hard", Int).keep().required(), k("soft", Int).keep().required()]),
    accepts: &[Shape::Int, Shape::Str],
    expected: "a number, or `{soft: N, hard: N}`",
    expand: canonical::unchanged,
});

const VOLUME: T = T::Short(&Short {
    long: Obj(&[
        k(
            "bind",
            Obj(&[
                k("create_host_path", Bool),
                k("idmap", IdMap),
                k("propagation", OneOf(&["private", "rprivate", "shared", "rshared", "slave", "rslave"])),
                k("recursive", OneOf(&["enabled", "disabled", "writable", "readonly"])),
                k("selinux", OneOf(&["z", "Z"])).elsewhere(),
            ]),
        ),
        k("consistency", Str).elsewhere(),
        k("image", Obj(&[k("subpath", Str)])),
        k("read_only", Bool),
        k("source", Str),
        k("target", Str),
        k("tmpfs", Obj(&[k("mode", Int), k("size", Bytes)])),
        k("type", OneOf(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"])).required(),
        k("volume", Obj(&[k("labels", Mapping), k("nocopy", Bool), k("subpath", Str)])),
    ]),
    accepts: &[Shape::Str],
    expected: "a volume such as `./data:/var/lib/data`, or a mapping with `type` and `target`",
    expand: mounts::parse,
});
