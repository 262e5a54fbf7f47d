//! The order of attributes in Docker Compose's YAML: that of the fields of its own types.

use crate::compose::schema::T;

/// The attributes of each kind of mapping.
const ORDERS: &[&[&str]] = &[
    &["name", "services", "jobs", "networks", "volumes", "secrets", "configs", "models"],
    &[
        "profiles",
        "annotations",
        "attach",
        "build",
        "develop",
        "blkio_config",
        "cap_add",
        "cap_drop",
        "cgroup_parent",
        "cgroup",
        "cpu_count",
        "cpu_percent",
        "cpu_period",
        "cpu_quota",
        "cpu_rt_period",
        "cpu_rt_runtime",
        "cpus",
        "cpuset",
        "cpu_shares",
        "command",
        "configs",
        "container_name",
        "credential_spec",
        "depends_on",
        "deploy",
        "device_cgroup_rules",
        "devices",
        "dns",
        "dns_opt",
        "dns_search",
        "domainname",
        "entrypoint",
        "provider",
        "environment",
        "env_file",
        "expose",
        "extends",
        "external_links",
        "extra_hosts",
        "group_add",
        "gpus",
        "hostname",
        "healthcheck",
        "image",
        "init",
        "ipc",
        "isolation",
        "labels",
        "label_file",
        "links",
        "logging",
        "mem_limit",
        "mem_reservation",
        "memswap_limit",
        "mem_swappiness",
        "mac_address",
        "models",
        "network_mode",
        "networks",
        "oom_kill_disable",
        "oom_score_adj",
        "pid",
        "pids_limit",
        "platform",
        "ports",
        "privileged",
        "pull_policy",
        "read_only",
        "restart",
        "runtime",
        "scale",
        "secrets",
        "security_opt",
        "shm_size",
        "stdin_open",
        "stop_grace_period",
        "stop_signal",
        "storage_opt",
        "sysctls",
        "tmpfs",
        "triggers",
        "tty",
        "ulimits",
        "use_api_socket",
        "user",
        "userns_mode",
        "uts",
        "volumes",
        "volumes_from",
        "working_dir",
        "pre_start",
        "post_start",
        "pre_stop",
    ],
    &[
        "context",
        "dockerfile",
        "dockerfile_inline",
        "entitlements",
        "args",
        "provenance",
        "sbom",
        "ssh",
        "labels",
        "cache_from",
        "cache_to",
        "no_cache",
        "no_cache_filter",
        "additional_contexts",
        "pull",
        "extra_hosts",
        "isolation",
        "network",
        "target",
        "secrets",
        "shm_size",
        "tags",
        "ulimits",
        "platforms",
        "privileged",
    ],
    &["name", "mode", "host_ip", "target", "published", "protocol", "app_protocol"],
    &["type", "source", "target", "read_only", "consistency", "bind", "volume", "tmpfs", "image"],
    &["selinux", "propagation", "create_host_path", "recursive", "idmap"],
    &["labels", "nocopy", "subpath"],
    &["size", "mode"],
    &["test", "timeout", "interval", "retries", "start_period", "start_interval", "disable"],
    &["source", "target", "uid", "gid", "mode"],
    &["name", "driver", "driver_opts", "ipam", "external", "internal", "attachable", "labels", "enable_ipv4", "enable_ipv6"],
    &["driver", "config", "options"],
    &["subnet", "gateway", "ip_range", "aux_addresses"],
    &["name", "driver", "driver_opts", "external", "labels"],
    &["name", "file", "environment", "content", "external", "labels", "driver", "driver_opts", "template_driver"],
    &["condition", "restart", "required"],
    &["single", "soft", "hard"],
    &[
        "mode",
        "replicas",
        "labels",
        "update_config",
        "rollback_config",
        "resources",
        "restart_policy",
        "placement",
        "endpoint_mode",
    ],
    &["parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order"],
    &["limits", "reservations"],
    &["cpus", "memory", "pids", "devices", "generic_resources"],
    &["condition", "delay", "max_attempts", "window"],
    &["constraints", "preferences", "max_replicas_per_node"],
    &["capabilities", "driver", "count", "device_ids", "options"],
    &["source", "target", "permissions"],
    &[
        "aliases",
        "driver_opts",
        "gw_priority",
        "interface_name",
        "ipv4_address",
        "ipv6_address",
        "link_local_ips",
        "mac_address",
        "priority",
    ],
    &["driver", "options"],
    &["config", "file", "registry"],
    &["weight", "weight_device", "device_read_bps", "device_read_iops", "device_write_bps", "device_write_iops"],
    &["path", "weight"],
    &["path", "rate"],
    &["command", "image", "user", "privileged", "working_dir", "environment", "per_replica"],
    &["path", "action", "target", "exec", "include", "ignore", "initial_sync"],
    &["path", "required", "format"],
    &["endpoint_var", "model_var"],
    &["type", "options"],
    &["name", "model", "context_size", "runtime_flags"],
    &["manual", "schedule"],
    &["cron", "timezone", "concurrency", "missed_fires"],
];

/// The order of a mapping's attributes; what it does not name, extensions, comes after.
pub fn of(t: &T) -> &'static [&'static str] {
    let keys = t.keys().unwrap_or_default();
    // The list that is most like the schema's: attributes that are never printed are in neither or in one of them.
    let likeness = |order: &&&[&str]| {
        let common = keys.iter().filter(|key| order.contains(&key.name)).count();
        common * 1000 / (order.len() + keys.len() - common).max(1)
    };
    ORDERS.iter().max_by_key(likeness).filter(|order| likeness(order) > 500).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::schema;

    /// Every mapping of the schema has its order, so that a new attribute is not forgotten here.
    #[test]
    fn every_mapping_has_an_order() {
        fn walk(t: &T, path: &str, depth: usize) {
            if let Some(keys) = t.keys()
                && depth < 12
            {
                let names: Vec<_> = keys.iter().map(|key| key.name).collect();
                assert!(
                    keys.is_empty() || !of(t).is_empty() || path.ends_with("include") || path.ends_with("extends"),
                    "{path}: {names:?}"
                );
                keys.iter().for_each(|key| walk(&key.t, &format!("{path}.{}", key.name), depth + 1));
            }
        }
        walk(&schema::PROJECT, "", 0);
    }
}
