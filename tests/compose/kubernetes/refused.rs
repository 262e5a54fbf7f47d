//! What is refused or warned of, each with its place: names that collide, values that a server does not take, what a Pod has once.

use super::{Outcome, export};

fn one(compose: &str) -> Outcome {
    export(&[("compose.yaml", compose)], "1.35")
}

/// Two things of one name: the content of one would be lost.
#[test]
fn names_that_collide_are_refused_with_both_places() {
    let files = [("b-c.conf", "one\n"), ("c.conf", "two\n"), ("ok.env", "A=1\nB=2\n")];
    let table = [
        (
            "services: {web: {image: a, configs: [my_conf, my-conf]}}\nconfigs: {my_conf: {content: one}, my-conf: {content: two}}\n",
            "2:36: error: two objects would both be the ConfigMap `my-conf`",
            "note: compose.yaml:2:11: the other",
        ),
        (
            "services: {web: {image: a, secrets: [s1, s2]}}\nsecrets: {s1: {name: same, content: one}, s2: {name: same, content: two}}\n",
            "2:43: error: two objects would both be the Secret `same`",
            "note: compose.yaml:2:11: the other",
        ),
        (
            "services: {a: {image: a, env_file: [ok.env], configs: [a-env]}}\nconfigs: {a-env: {content: hello}}\n",
            "error: two objects would both be the ConfigMap `a-env`",
            "note: compose.yaml:1:15: the other",
        ),
        (
            "services: {a: {image: a, volumes: [\"./b-c.conf:/x:ro\"]}, a-b: {image: a, volumes: [\"./c.conf:/y:ro\"]}}\n",
            "1:84: error: two objects would both be the ConfigMap `a-b-c-conf`",
            "note: compose.yaml:1:36: the other",
        ),
    ];
    for (compose, wanted, other) in table {
        let files: Vec<(&str, &str)> = [("compose.yaml", compose)].into_iter().chain(files).collect();
        let out = export(&files, "1.35");
        assert!(out.is_refused && out.findings.contains(wanted) && out.findings.contains(other), "{compose}\n{}", out.findings);
    }
    let key = "services: {web: {image: a, volumes: [\"./d:/m\"], labels: {kompose.volume.type: configMap}}}\n";
    let out = export(&[("compose.yaml", key), ("d/a b", "one\n"), ("d/a-b", "two\n")], "1.35");
    assert!(out.is_refused && out.findings.contains("1:38: error: two files of "), "{}", out.findings);
}

#[test]
fn directories_of_one_name_are_two() {
    let compose = |kind: &str| {
        format!(
            "services: {{web: {{image: a, volumes: [\"./d1/conf:/m\", \"./d2/conf:/n\"], labels: {{kompose.volume.type: {kind}}}}}}}\n"
        )
    };
    let files = [("d1/conf/a", "one\n"), ("d2/conf/a", "two\n")];
    for (kind, wanted) in [("configMap", "ConfigMap"), ("persistentVolumeClaim", "PersistentVolumeClaim")] {
        let compose = compose(kind);
        let files: Vec<(&str, &str)> = [("compose.yaml", compose.as_str())].into_iter().chain(files).collect();
        let out = export(&files, "1.35");
        assert!(!out.is_refused, "{}", out.findings);
        let names: std::collections::BTreeSet<&str> =
            out.objects.iter().filter(|object| object.kind() == wanted).map(|object| object.name()).collect();
        assert_eq!(names, ["web-conf", "web-conf-d2-conf"].into(), "{kind}");
    }
}

#[test]
fn files_of_one_name_are_two() {
    let compose = "services: {web: {image: a, volumes: [\"./a_b.conf:/x:ro\", \"./a-b.conf:/y:ro\"]}}\n";
    let out = export(&[("compose.yaml", compose), ("a_b.conf", "one\n"), ("a-b.conf", "two\n")], "1.35");
    assert_eq!(out.at("ConfigMap/web-a-b-conf", "/data"), Some(&serde_json::json!({"a_b.conf": "one\n"})), "{}", out.findings);
    assert_eq!(out.at("ConfigMap/web-a-b-conf-a-b-conf", "/data"), Some(&serde_json::json!({"a-b.conf": "two\n"})));
}

#[test]
fn external_names_are_as_they_are() {
    let out = one(
        "services: {web: {image: a, configs: [c1], secrets: [s1], volumes: [\"vol1:/v\"]}}\nconfigs: {c1: {external: true, name: app.config}}\nsecrets: {s1: {external: true, name: tls.v2}}\nvolumes: {vol1: {external: true, name: data.vol.1}}\n",
    );
    let volumes =
        out.at("Deployment/web", "/spec/template/spec/volumes").or(out.at("StatefulSet/web", "/spec/template/spec/volumes"));
    let text = volumes.map(ToString::to_string).unwrap_or_default();
    for name in ["\"app.config\"", "\"tls.v2\"", "\"data.vol.1\""] {
        assert!(text.contains(name), "{name} is not in {text}\n{}", out.findings);
    }
    let table = [
        (
            "services: {web: {image: a, secrets: [s1]}}\nsecrets: {s1: {external: true, name: App.Secret}}\n",
            "2:11: error: `App.Secret` is external",
        ),
        ("services: {web: {image: a, configs: [a_b]}}\nconfigs: {a_b: {external: true}}\n", "2:11: error: `a_b` is external"),
        (
            "services: {web: {image: a, volumes: [\"a_b:/v\"]}}\nvolumes: {a_b: {external: true}}\n",
            "2:11: error: `a_b` is external",
        ),
    ];
    for (compose, wanted) in table {
        let out = one(compose);
        assert!(out.is_refused && out.findings.contains(wanted), "{compose}\n{}", out.findings);
    }
}

/// What a server would refuse after the export.
#[test]
fn values_that_a_server_refuses() {
    let mut failed: Vec<String> = Vec::new();
    let label = |label: &str, value: &str, more: &str| {
        format!(
            "services: {{web: {{image: x, labels: {{\"{label}\": \"{value}\"}}, ports: [\"80\"]{more}}}}}\nvolumes: {{vol: }}\n"
        )
    };
    let service = |more: &str| format!("services: {{web: {{image: x, {more}}}}}\n");
    let table = [
        (service("dns: [dns.example.com]"), "1:34: error: the name server `dns.example.com` is no address"),
        (service("dns_search: [\"Bad_Domain!\"]"), "1:41: error: `Bad_Domain!` is no domain"),
        (service("dns_opt: [\"\"]"), "1:38: error: an option of name servers has a name"),
        (
            service("network_mode: host, ports: [{target: 80, published: \"8080\", mode: host}]"),
            "port 80 of the container cannot be 8080 of the node",
        ),
        (
            "services: {web: {image: x, network_mode: host, expose: [\"80\"]}, b: {image: x, network_mode: \"service:web\", expose: [\"80\"]}}\n".to_string(),
            "two of its containers have port 80",
        ),
        (service("ipc: host, sysctls: {kernel.shmmax: 1}"), "the sysctl `kernel.shmmax` would be the node's own"),
        (service("runtime: /usr/bin/runsc"), "`/usr/bin/runsc` is no name of a class of runtimes"),
        (service("runtime: Kata_FC"), "`Kata_FC` is no name of a class of runtimes"),
        (service("ports: [{target: 80, app_protocol: \"HTTP 2/x y\"}]"), "`HTTP 2/x y` is no protocol"),
        (service("security_opt: [\"apparmor=\"]"), "1:43: error: the AppArmor profile has no name"),
        (
            "services: {web: {image: x, volumes: [\"vol:/v\"]}}\nvolumes: {vol: {driver_opts: {type: none, o: bind, device: /host/../etc}}}\n".to_string(),
            "`/host/../etc` is a path of a node that is empty or has `..`",
        ),
        (label("kompose.hpa.replicas.min", "0", ""), "it scales from 0 to 3"),
        (label("kompose.hpa.replicas.max", "-1", ""), "it scales from 1 to -1"),
        (label("kompose.hpa.cpu", "0", ""), "the target of `cpu` is more than 0"),
        (label("kompose.service.nodeport.port", "70000", "").replace("\"kompose.service.nodeport", "kompose.service.type: nodeport, \"kompose.service.nodeport"), "70000 is no port of a node"),
        (label("kompose.cronjob.backoff_limit", "-3", "").replace("\"kompose.cronjob.backoff", "kompose.controller.type: job, \"kompose.cronjob.backoff"), "the limit of its retries is -3"),
        (label("kompose.security-context.fsgroup", "-1", ""), "-1 is no number of a group"),
        (label("kompose.image-pull-secret", "Bad Name", ""), "`Bad Name` is no name of a Secret"),
        (label("kompose.serviceaccount-name", "Bad_Name!", ""), "`Bad_Name!` is no name of a service account"),
        (
            "services: {web: {image: x, volumes: [\"vol:/v\"]}}\nvolumes: {vol: {labels: {kompose.volume.storage-class-name: \"Bad Class!\"}}}\n".to_string(),
            "`Bad Class!` is no name of a class of storage",
        ),
        (label("kompose.service.expose", "10.0.0.1", ""), "1:37: error: `10.0.0.1` is no host's name"),
        (label("kompose.service.expose.tls-secret", "Bad!", "").replace("\"kompose.service.expose.tls", "kompose.service.expose: \"true\", \"kompose.service.expose.tls"), "`Bad!` is no name of a Secret"),
        (label("kompose.service.expose.ingress-class-name", "Bad!", "").replace("\"kompose.service.expose.ing", "kompose.service.expose: \"true\", \"kompose.service.expose.ing"), "`Bad!` is no name of a class of Ingresses"),
        (label("kompose.service.expose.path", "nolead", "").replace("\"kompose.service.expose.path", "kompose.service.expose: \"true\", \"kompose.service.expose.path"), "error: the path `nolead` has to begin with `/`"),
        (service("command: [\"a\\0b\"]"), "`web` has a NUL character"),
        (service("healthcheck: {test: [CMD, \"x\\0\"]}"), "`web` has a NUL character"),
    ];
    for (compose, wanted) in table {
        let out = one(&compose);
        if !out.is_refused || !out.findings.contains(wanted) {
            failed.push(format!("{compose}\nshould say {wanted}, says:\n{}", out.findings));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// What a server would refuse, and what is made so that it does not.
#[test]
fn values_that_are_made_right() {
    let long = "w".repeat(60);
    let delay = "services: {web: {image: x, deploy: {update_config: {delay: 15m}}}}\n";
    assert_eq!(one(delay).at("Deployment/web", "/spec/progressDeadlineSeconds"), Some(&1500.into()));
    let out = one(&format!("services: {{{long}: {{image: x, volumes: [\"vol:/v\"]}}}}\nvolumes: {{vol: }}\n"));
    let sets: Vec<&str> =
        out.objects.iter().filter(|object| object.kind() == "StatefulSet").map(|object| object.name()).collect();
    assert!(sets.len() == 1 && sets[0].len() <= 52, "{sets:?}");
    for (cron, wanted) in [("0 3 * * 1-7/2", "0 3 * * 0,1,3,5"), ("*/5 * * * 7/1", "*/5 * * * 0")] {
        let out = one(&format!("services: {{}}\njobs: {{tidy: {{image: x, triggers: {{schedule: \"{cron}\"}}}}}}\n"));
        assert_eq!(out.at("CronJob/tidy", "/spec/schedule"), Some(&wanted.into()), "{}", out.findings);
    }
    for (platform, os, architecture) in [
        ("linux/x86_64", Some("linux"), Some("amd64")),
        ("linux/aarch64", Some("linux"), Some("arm64")),
        ("amd64", Some("linux"), Some("amd64")),
        ("Linux/ARM64/v8", Some("linux"), Some("arm64")),
        ("windows", Some("windows"), None),
    ] {
        let out = one(&format!("services: {{web: {{image: x, platform: {platform}}}}}\n"));
        let label = |name: &str| {
            out.at("Deployment/web", &format!("/spec/template/spec/nodeSelector/kubernetes.io~1{name}"))
                .and_then(|value| value.as_str())
        };
        assert_eq!((label("os"), label("arch")), (os, architecture), "{platform}");
    }
    let out = one("services: {web: {image: x, ports: [\"80\", \"80:90\"]}}\n");
    assert!(!out.is_refused, "{}", out.findings);
    let ports = out.at("Service/web-published", "/spec/ports").map(ToString::to_string).unwrap_or_default();
    assert!(ports.contains("\"port\":81") && ports.contains("\"port\":80"), "{ports}");
    let out = one("services: {web: {image: x, configs: [c]}}\nconfigs: {c: {content: \"\"}}\n");
    assert!(!out.is_refused && out.at("ConfigMap/c", "/data/c") == Some(&"".into()), "{}", out.findings);
}

/// Nothing is lost in silence.
#[test]
fn what_is_lost_is_said() {
    let mut failed: Vec<String> = Vec::new();
    let members = "services:\n  a: {image: a, restart: always}\n  b: {image: a, network_mode: \"service:a\", restart: \"no\"}\n  c: {image: a, pid: \"service:a\", deploy: {replicas: 3}, hostname: cee, runtime: kata, networks: [n2], restart: on-failure}\nnetworks: {n2: }\n";
    let order = "services:\n  y: {image: a, healthcheck: {test: \"true\"}}\n  x: {image: a, depends_on: {y: {condition: service_healthy}}}\n  z: {image: a, depends_on: {y: {condition: service_completed_successfully}}}\n  w: {image: a, depends_on: [m]}\n  m: {image: a, restart: \"no\"}\n";
    let table: [(&str, &[&str]); 10] = [
        (
            members,
            &[
                "3:44: warning: Kubernetes always restarts",
                "4:44: warning: `replicas` is left out: the container is in the Pod of `a`",
                "4:58: warning: `hostname` is left out",
                "4:73: warning: `runtime` is left out",
                "4:88: warning: the container is in the Pod of `a`",
                "4:104: warning: Kubernetes always restarts",
                "4:17: warning: it is a container of the Pod of `a`",
            ],
        ),
        (
            order,
            &[
                "2:17: warning: a Job's containers are not asked for their health",
                "3:30: warning: `y` is a Job",
                "5:30: warning: `m` is a Job",
            ],
        ),
        ("services: {a: {image: a, ulimits: {nofile: 5}}}\n", &["1:36: warning: `ulimits` is left out: limits of processes"]),
        ("services: {a: {image: a, ulimits: {nofile: {soft: 5, hard: 5}}}}\n", &["1:45: warning: `ulimits` is left out: limits"]),
        ("services: {a: {image: a, devices: [/dev/kvm]}}\n", &["warning: `devices` is left out: device plugins"]),
        ("services: {a: {image: a, tmpfs: [\"/run:size=10%\"]}}\n", &["1:34: warning: the option `size=10%` of a tmpfs"]),
        (
            "services: {a: {image: a, volumes: [\"vol:/v\"]}}\nvolumes: {vol: {driver_opts: {type: tmpfs, device: tmpfs, o: \"size=1m,uid=1000\"}}}\n",
            &["warning: `uid=1000` of a volume in memory"],
        ),
        (
            "services: {a: {image: a, configs: [{source: c, mode: 04750}]}}\nconfigs: {c: {content: x}}\n",
            &["1:36: warning: files of ConfigMaps and Secrets have no bits for another user"],
        ),
        (
            "services: {a: {image: a, ports: [{target: 81, published: \"8000-8005\"}]}}\n",
            &["1:34: warning: a balancer takes no one of 8000-8005: it has port 81"],
        ),
        (
            "services: {a: {image: a, user: \"999:999\", volumes: [\"vol:/v\"]}}\nvolumes: {vol: }\n",
            &[
                "1:53: warning: a new claim belongs to root with most drivers of storage: the user `999`",
                "kompose.security-context.fsgroup",
            ],
        ),
    ];
    for (compose, wanted) in table {
        let out = one(compose);
        for wanted in wanted {
            if !out.findings.contains(wanted) {
                failed.push(format!("{compose}\nshould say {wanted}, says:\n{}", out.findings));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
