//! The types of every attribute of the Compose specification, as tables, and the check of a tree against them.
//!
//! The tables follow compose-spec's `compose-spec.json`. An attribute marked `later` is accepted, and a warning names it:
//! wharf does not act on it yet.

use super::diagnostic::{Diagnostic, nearest};
use super::node::{Node, Value};
use super::units;

/// What a value may be.
pub enum T {
    Any,
    Str,
    /// A boolean, or the string `true` or `false` (which interpolation gives).
    Bool,
    Int,
    Num,
    /// A string, number, boolean or nothing: what environment variables and labels may be.
    Scalar,
    Duration,
    Bytes,
    /// One of these strings. The message of a wrong one lists them.
    OneOf(&'static [&'static str]),
    /// `no`, `always`, `unless-stopped`, `on-failure` or `on-failure:N`.
    Restart,
    Null,
    List(&'static T),
    /// A mapping with names of the user's choice.
    Map(&'static T),
    Obj(&'static [Key]),
    /// Any of several forms; the text says which, with an example.
    Either(&'static [T], &'static str),
}

pub struct Key {
    name: &'static str,
    t: T,
    later: bool,
}

const fn k(name: &'static str, t: T) -> Key {
    Key { name, t, later: false }
}

const fn later(name: &'static str, t: T) -> Key {
    Key { name, t, later: true }
}

use T::{Any, Bool, Bytes, Duration, Either, Int, List, Map, Null, Num, Obj, OneOf, Restart, Scalar, Str};

const STRINGS: T = List(&Str);
const STRING_OR_LIST: T = Either(&[Str, List(&Str)], "a string or a list of strings, such as `[a, b]`");
const COMMAND: T = Either(&[Str, List(&Scalar), Null], "a string or a list of strings, such as `[\"sleep\", \"10\"]`");
const LIST_OR_DICT: T = Either(&[Map(&Scalar), List(&Scalar)], "a mapping such as `KEY: value`, or a list such as `- KEY=value`");
const EXTRA_HOSTS: T = Either(
    &[Map(&Either(&[Str, List(&Str)], "an address or a list of addresses")), List(&Str)],
    "a list such as `- \"name:10.0.0.1\"`, or a mapping `name: 10.0.0.1`",
);
const INT_OR_STRING: T = Either(&[Int, Str], "a number");
const EXTERNAL: T = Either(&[Bool, Obj(&[k("name", Str)])], "`true` or `false`");

pub const PROJECT: T = Obj(&[
    k("version", Scalar),
    k("name", Str),
    k("services", Map(&SERVICE)),
    k("networks", Map(&Either(&[NETWORK, Null], "a mapping"))),
    k("volumes", Map(&Either(&[VOLUME, Null], "a mapping"))),
    k("configs", Map(&FILE_OBJECT)),
    k("secrets", Map(&FILE_OBJECT)),
    later("models", Map(&Any)),
    later("include", List(&INCLUDE)),
]);

const INCLUDE: T = Either(
    &[Str, Obj(&[k("path", STRING_OR_LIST), k("env_file", STRING_OR_LIST), k("project_directory", Str)])],
    "a path, or a mapping with `path`",
);

const SERVICE: T = Obj(&[
    later("annotations", LIST_OR_DICT),
    k("attach", Bool),
    later("blkio_config", Any),
    later("build", Either(&[Str, Map(&Any)], "a path, or a mapping with `context`")),
    k("cap_add", STRINGS),
    k("cap_drop", STRINGS),
    later("cgroup", OneOf(&["host", "private"])),
    later("cgroup_parent", Str),
    k("command", COMMAND),
    later("configs", List(&FILE_MOUNT)),
    k("container_name", Str),
    later("cpu_count", INT_OR_STRING),
    later("cpu_percent", Either(&[Num, Str], "a number")),
    k("cpu_period", Either(&[Num, Str], "microseconds, or a duration such as `100ms`")),
    k("cpu_quota", Either(&[Num, Str], "microseconds, or a duration such as `50ms`")),
    later("cpu_rt_period", Either(&[Num, Str], "microseconds, or a duration")),
    later("cpu_rt_runtime", Either(&[Num, Str], "microseconds, or a duration")),
    k("cpu_shares", Either(&[Num, Str], "a number")),
    k("cpus", Either(&[Num, Str], "a number of processors, such as `1.5`")),
    k("cpuset", Str),
    later("credential_spec", Map(&Any)),
    k(
        "depends_on",
        Either(
            &[
                List(&Str),
                Map(&Obj(&[
                    k("condition", OneOf(&["service_started", "service_healthy", "service_completed_successfully"])),
                    k("restart", Bool),
                    k("required", Bool),
                ])),
            ],
            "a list of services, or a mapping such as `db: {condition: service_healthy}`",
        ),
    ),
    k("deploy", Either(&[DEPLOY, Null], "a mapping")),
    later("develop", Any),
    later("device_cgroup_rules", STRINGS),
    later("devices", List(&Either(&[Str, Map(&Any)], "a device such as `/dev/fuse`"))),
    k("dns", STRING_OR_LIST),
    k("dns_opt", STRINGS),
    k("dns_search", STRING_OR_LIST),
    k("domainname", Str),
    k("entrypoint", COMMAND),
    k("env_file", Either(&[Str, List(&ENV_FILE)], "a path or a list of paths")),
    k("environment", LIST_OR_DICT),
    k("expose", List(&Scalar)),
    k(
        "extends",
        Either(&[Str, Obj(&[k("service", Str), k("file", Str)])], "a service's name, or a mapping with `service` and `file`"),
    ),
    later("external_links", STRINGS),
    k("extra_hosts", EXTRA_HOSTS),
    later("gpus", Any),
    k("group_add", List(&Scalar)),
    k("healthcheck", HEALTHCHECK),
    k("hostname", Str),
    k("image", Str),
    k("init", Bool),
    later("ipc", Str),
    later("isolation", Str),
    later("label_file", STRING_OR_LIST),
    k("labels", LIST_OR_DICT),
    later("links", STRINGS),
    k("logging", Obj(&[k("driver", Str), k("options", Map(&Scalar))])),
    later("mac_address", Str),
    k("mem_limit", Bytes),
    k("mem_reservation", Bytes),
    later("mem_swappiness", INT_OR_STRING),
    k("memswap_limit", Bytes),
    later("models", Any),
    k("network_mode", Str),
    k(
        "networks",
        Either(
            &[List(&Str), Map(&Either(&[SERVICE_NETWORK, Null], "a mapping"))],
            "a list of networks, or a mapping such as `front: {aliases: [www]}`",
        ),
    ),
    later("oom_kill_disable", Bool),
    k("oom_score_adj", INT_OR_STRING),
    later("pid", Either(&[Str, Null], "a string")),
    k("pids_limit", INT_OR_STRING),
    later("platform", Str),
    k("ports", List(&PORT)),
    later("post_start", Any),
    later("pre_start", Any),
    later("pre_stop", Any),
    k("privileged", Bool),
    k("profiles", STRINGS),
    later("provider", Any),
    k("pull_policy", Str),
    later("pull_refresh_after", Str),
    k("read_only", Bool),
    k("restart", Restart),
    later("runtime", Str),
    k("scale", INT_OR_STRING),
    later("secrets", List(&FILE_MOUNT)),
    k("security_opt", STRINGS),
    k("shm_size", Bytes),
    k("stdin_open", Bool),
    k("stop_grace_period", Duration),
    k("stop_signal", Str),
    later("storage_opt", Any),
    k("sysctls", LIST_OR_DICT),
    k("tmpfs", STRING_OR_LIST),
    k("tty", Bool),
    k(
        "ulimits",
        Map(&Either(
            &[Int, Str, Obj(&[k("soft", INT_OR_STRING), k("hard", INT_OR_STRING)])],
            "a number, or `{soft: N, hard: N}`",
        )),
    ),
    later("use_api_socket", Bool),
    k("user", Scalar),
    later("userns_mode", Str),
    later("uts", Str),
    k("volumes", List(&SERVICE_VOLUME)),
    later("volumes_from", STRINGS),
    k("working_dir", Str),
]);

const ENV_FILE: T =
    Either(&[Str, Obj(&[k("path", Str), k("required", Bool), k("format", Str)])], "a path, or `{path: FILE, required: false}`");

const FILE_MOUNT: T = Either(
    &[Str, Obj(&[k("source", Str), k("target", Str), k("uid", Scalar), k("gid", Scalar), k("mode", Scalar)])],
    "a name, or a mapping with `source` and `target`",
);

const HEALTHCHECK: T = Obj(&[
    k("disable", Bool),
    k("interval", Duration),
    k("retries", INT_OR_STRING),
    k("start_interval", Duration),
    k("start_period", Duration),
    k("test", STRING_OR_LIST),
    k("timeout", Duration),
]);

const SERVICE_NETWORK: T = Obj(&[
    k("aliases", STRINGS),
    later("driver_opts", Map(&Scalar)),
    later("gw_priority", Num),
    later("interface_name", Str),
    k("ipv4_address", Str),
    later("ipv6_address", Str),
    later("link_local_ips", STRINGS),
    later("mac_address", Str),
    k("priority", Num),
]);

const PORT: T = Either(
    &[
        Int,
        Str,
        Obj(&[
            k("app_protocol", Str),
            k("host_ip", Str),
            k("mode", OneOf(&["host", "ingress"])),
            k("name", Str),
            k("protocol", Str),
            k("published", Scalar),
            k("target", INT_OR_STRING),
        ]),
    ],
    "a port such as `\"8080:80\"`, or a mapping with `target`",
);

const SERVICE_VOLUME: T = Either(
    &[
        Str,
        Obj(&[
            k(
                "bind",
                Obj(&[
                    k("create_host_path", Bool),
                    k("propagation", Str),
                    k("recursive", OneOf(&["enabled", "disabled", "writable", "readonly"])),
                    k("selinux", Str),
                ]),
            ),
            k("consistency", Str),
            later("image", Any),
            k("read_only", Bool),
            k("source", Str),
            k("target", Str),
            k("tmpfs", Obj(&[k("mode", Scalar), k("size", Either(&[Int, Bytes], "a size such as `64m`"))])),
            k("type", OneOf(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"])),
            k("volume", Obj(&[k("labels", LIST_OR_DICT), k("nocopy", Bool), k("subpath", Str)])),
        ]),
    ],
    "a volume such as `./data:/var/lib/data`, or a mapping with `type` and `target`",
);

const DEPLOY: T = Obj(&[
    later("endpoint_mode", Str),
    k("labels", LIST_OR_DICT),
    k("mode", OneOf(&["replicated", "global", "replicated-job", "global-job"])),
    later("placement", Any),
    k("replicas", INT_OR_STRING),
    k(
        "resources",
        Obj(&[
            k("limits", Obj(&[k("cpus", Either(&[Num, Str], "a number")), k("memory", Bytes), k("pids", INT_OR_STRING)])),
            later("reservations", Any),
        ]),
    ),
    k(
        "restart_policy",
        Obj(&[k("condition", Str), k("delay", Duration), k("max_attempts", INT_OR_STRING), k("window", Duration)]),
    ),
    later("rollback_config", Any),
    later("update_config", Any),
]);

const NETWORK: T = Obj(&[
    k("attachable", Bool),
    k("driver", Str),
    later("driver_opts", Map(&Scalar)),
    later("enable_ipv4", Bool),
    later("enable_ipv6", Bool),
    k("external", EXTERNAL),
    k("internal", Bool),
    k(
        "ipam",
        Obj(&[
            k("config", List(&Obj(&[k("aux_addresses", Map(&Str)), k("gateway", Str), k("ip_range", Str), k("subnet", Str)]))),
            k("driver", Str),
            k("options", Map(&Str)),
        ]),
    ),
    k("labels", LIST_OR_DICT),
    k("name", Str),
]);

const VOLUME: T = Obj(&[
    k("driver", Str),
    later("driver_opts", Map(&Scalar)),
    k("external", EXTERNAL),
    k("labels", LIST_OR_DICT),
    k("name", Str),
]);

const FILE_OBJECT: T = Obj(&[
    k("content", Str),
    k("driver", Str),
    k("driver_opts", Map(&Scalar)),
    k("environment", Str),
    k("external", EXTERNAL),
    k("file", Str),
    k("labels", LIST_OR_DICT),
    k("name", Str),
    k("template_driver", Str),
]);

/// Checks a tree, turns strings that interpolation gave into the booleans and numbers that they stand for, and reports
/// everything that is wrong, and every attribute that is not acted on yet.
pub fn check(root: &mut Node, found: &mut Vec<Diagnostic>) {
    let mut checker = Checker { found };
    checker.check(root, &PROJECT, "");
}

struct Checker<'a> {
    found: &'a mut Vec<Diagnostic>,
}

impl Checker<'_> {
    fn wrong(&mut self, node: &Node, path: &str, expected: &str) {
        let shown = match node.scalar_text() {
            Some(text) if !text.is_empty() => format!("{} ({text})", node.kind()),
            _ => node.kind().to_string(),
        };
        let path = if path.is_empty() { "a Compose file" } else { path };
        self.found.push(Diagnostic::error(&node.at, format!("`{path}` must be {expected}, and this is {shown}")));
    }

    fn check(&mut self, node: &mut Node, t: &T, path: &str) {
        match t {
            Any => {}
            Str => {
                if node.as_str().is_none() {
                    self.wrong(node, path, "a string");
                    if let (Some(text), Some(last)) = (node.scalar_text().filter(|t| !t.is_empty()), self.found.last_mut()) {
                        last.help = Some(format!("quote it: \"{text}\""));
                    }
                }
            }
            Scalar => {
                if matches!(node.value, Value::List(_) | Value::Map(_)) {
                    self.wrong(node, path, "a string, a number or a boolean");
                }
            }
            Bool => match &node.value {
                Value::Bool(_) => {}
                Value::String(text) => match text.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "y" | "on" | "1" => node.value = Value::Bool(true),
                    "false" | "no" | "n" | "off" | "0" => node.value = Value::Bool(false),
                    _ => self.wrong(node, path, "`true` or `false`"),
                },
                _ => self.wrong(node, path, "`true` or `false`"),
            },
            Int => match &node.value {
                Value::Int(_) => {}
                Value::String(text) if text.trim().parse::<i64>().is_ok() => {
                    node.value = Value::Int(text.trim().parse().unwrap_or_default());
                }
                _ => self.wrong(node, path, "an integer"),
            },
            Num => match &node.value {
                Value::Int(_) | Value::Float(_) => {}
                Value::String(text) if text.trim().parse::<f64>().is_ok() => {
                    node.value = Value::Float(text.trim().parse().unwrap_or_default());
                }
                _ => self.wrong(node, path, "a number"),
            },
            Duration => {
                let ok = node.as_str().is_some_and(|text| units::duration(text).is_some());
                if !ok {
                    self.wrong(node, path, "a duration such as `30s` or `1m30s`");
                }
            }
            Bytes => {
                let ok = match &node.value {
                    Value::Int(_) => true,
                    Value::String(text) => units::bytes(text).is_some(),
                    _ => false,
                };
                if !ok {
                    self.wrong(node, path, "a size such as `512m` or `1g`");
                }
            }
            OneOf(values) => match node.as_str() {
                Some(text) if values.contains(&text) => {}
                Some(text) => {
                    let near = nearest(text, values.iter().copied()).map(|n| format!("did you mean `{n}`?"));
                    let all = values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ");
                    self.found.push(
                        Diagnostic::error(&node.at, format!("`{path}` cannot be `{text}`; it is one of {all}")).maybe_help(near),
                    );
                }
                None => self.wrong(node, path, "a string"),
            },
            Restart => self.check_restart(node, path),
            Null => {
                if !node.is_null() {
                    self.wrong(node, path, "empty");
                }
            }
            List(item) => match &mut node.value {
                Value::List(list) => {
                    for (i, child) in list.iter_mut().enumerate() {
                        self.check(child, item, &format!("{path}[{i}]"));
                    }
                }
                Value::Null => {}
                _ => self.wrong(node, path, "a list (lines that begin with `- `)"),
            },
            Map(item) => match &mut node.value {
                Value::Map(map) => {
                    for (key, entry) in map.iter_mut().filter(|(key, _)| path.contains('.') || !key.starts_with("x-")) {
                        self.check(&mut entry.node, item, &join(path, key));
                    }
                }
                Value::Null => {}
                _ => self.wrong(node, path, "a mapping (lines such as `key: value`)"),
            },
            Obj(keys) => self.check_object(node, keys, path),
            Either(forms, expected) => match forms.iter().find(|form| fits(form, node)) {
                Some(form) => self.check(node, form, path),
                None => self.wrong(node, path, expected),
            },
        }
    }

    fn check_object(&mut self, node: &mut Node, keys: &'static [Key], path: &str) {
        let Value::Map(map) = &mut node.value else {
            self.wrong(node, path, "a mapping (lines such as `key: value`)");
            return;
        };
        for (name, entry) in map.iter_mut() {
            if name.starts_with("x-") {
                continue;
            }
            let child = join(path, name);
            match keys.iter().find(|key| key.name == name) {
                Some(key) => {
                    if key.later {
                        self.found.push(Diagnostic::warning(
                            &entry.key_at,
                            format!("`{child}` is not supported by wharf yet and has no effect"),
                        ));
                    }
                    self.check(&mut entry.node, &key.t, &child);
                }
                None => {
                    let place = if path.is_empty() { "at the top of a Compose file".into() } else { format!("in `{path}`") };
                    let help = match nearest(name, keys.iter().map(|key| key.name)) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None if path.is_empty() => "a service belongs under `services:`; extensions begin with `x-`".to_string(),
                        None => "remove it, or begin it with `x-` if it is an extension of your own".to_string(),
                    };
                    self.found.push(Diagnostic::error(&entry.key_at, format!("`{name}` is not an attribute {place}")).help(help));
                }
            }
        }
    }

    fn check_restart(&mut self, node: &Node, path: &str) {
        const POLICIES: [&str; 4] = ["no", "always", "unless-stopped", "on-failure"];
        let Some(text) = node.as_str() else {
            self.wrong(node, path, "a restart policy");
            if let Some(last) = self.found.last_mut() {
                last.help = Some("quote it: \"no\"".into());
            }
            return;
        };
        let ok = POLICIES.contains(&text)
            || text.is_empty()
            || text.strip_prefix("on-failure:").is_some_and(|count| count.parse::<u32>().is_ok());
        if !ok {
            let help = nearest(text, POLICIES).map(|near| format!("did you mean `{near}`?"));
            self.found.push(
                Diagnostic::error(
                    &node.at,
                    format!(
                        "`{path}` cannot be `{text}`; it is `no`, `always`, `unless-stopped`, `on-failure` or `on-failure:N`"
                    ),
                )
                .maybe_help(help),
            );
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

/// Whether a value has the outer shape of a form; its inside is checked afterwards, so that the message is about the inside.
fn fits(t: &T, node: &Node) -> bool {
    match (t, &node.value) {
        (Any, _) | (Null, Value::Null) | (Bool, Value::Bool(_)) => true,
        (Str | OneOf(_) | Restart | Duration, Value::String(_)) => true,
        (Bool, Value::String(text)) => {
            matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "yes" | "no" | "on" | "off")
        }
        (Int, Value::Int(_)) | (Num, Value::Int(_) | Value::Float(_)) => true,
        (Scalar, value) => !matches!(value, Value::List(_) | Value::Map(_)),
        (Bytes, Value::Int(_) | Value::String(_)) => true,
        (List(_), Value::List(_)) | (Map(_) | Obj(_), Value::Map(_)) => true,
        (Either(forms, _), _) => forms.iter().any(|form| fits(form, node)),
        _ => false,
    }
}
