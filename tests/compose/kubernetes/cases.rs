//! The examples, places of findings, hostile input, the forms of output, and time.

use super::{Outcome, export, export_loaded};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wharf::compose::LoadOptions;
use wharf::kubernetes::{Format, files, text};

fn example(name: &str, files: &[&str]) -> Outcome {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let files = files.iter().map(|file| directory.join(file).display().to_string()).collect();
    let options = LoadOptions { files, directory, project_name: Some(name.into()), ..LoadOptions::default() };
    export_loaded(&options, "1.30")
}

#[test]
fn the_examples_are_exported() {
    let table: [(&str, &[&str]); 4] = [
        ("flask-redis", &["compose.yaml"]),
        ("nginx-api", &["compose.yaml"]),
        ("postgres-migration", &["compose.yaml"]),
        ("wordpress-mysql", &["compose.yaml", "kubernetes.yaml"]),
    ];
    for (name, files) in table {
        let outcome = example(name, files);
        assert!(!outcome.is_refused, "{name}: {}", outcome.findings);
        insta::assert_snapshot!(format!("kubernetes_{name}"), text(&outcome.objects, Format::Yaml));
        let again = example(name, files);
        assert_eq!(text(&again.objects, Format::Yaml), text(&outcome.objects, Format::Yaml), "{name} is another one now");
    }
    let refused = example("wordpress-mysql", &["compose.yaml"]);
    assert!(refused.is_refused && refused.findings.contains("compose.yaml:6:9: error: "), "{}", refused.findings);
}

/// What is refused, each with its place.
#[test]
fn what_cannot_be_is_an_error_with_its_place() {
    let table = [
        (
            "services:\n  web:\n    image: x\n    volumes:\n      - /var/run/docker.sock:/var/run/docker.sock\n",
            "5:9: error: /var/run/docker.sock is the socket",
        ),
        ("services:\n  web:\n    image: x\n    volumes: [\".:/src\"]\n", "4:15: error: `DIR` is a directory of this machine"),
        ("services: {a_b: {image: x}, a-b: {image: y}}\n", "1:29: error: `a_b` and `a-b` would both be called `a-b`"),
        (
            "services: {web: {image: x, network_mode: \"container:y\"}}\n",
            "1:28: error: `container:y` is a container of this machine",
        ),
        ("services: {web: {image: x, environment: {\"a b\": c}}}\n", "1:42: error: `a b` cannot be the name of a variable"),
        (
            "services: {web: {image: x, privileged: true, security_opt: [no-new-privileges]}}\n",
            "1:12: error: `web` cannot have `no-new-privileges`",
        ),
        (
            "services: {web: {image: x, labels: {kompose.service.type: odd}, ports: [\"80\"]}}\n",
            "1:37: error: `odd` is no type of a Service",
        ),
        ("services: {web: {image: x, x-kubernetes: {kind: Pod}}}\n", "1:43: error: `Pod` is no kind"),
        (
            "services: {web: {image: x, ports: [\"80:80\", \"81:80\"], volumes: [{type: volume, source: d, target: /d}, {type: npipe, source: a, target: /e}]}}\nvolumes: {d: }\n",
            "error: a volume of the type `npipe`",
        ),
        (
            "services: {web: {image: x, volumes: [{type: image, source: y, target: /y}]}}\n",
            "1:38: error: Kubernetes 1.30 has no volumes of images",
        ),
        ("services: {web: {image: x, configs: [app]}}\nconfigs: {app: {file: ./none}}\n", "2:17: error: DIR/none does not exist"),
        (
            "services: {web: {image: x, depends_on: {job: {condition: service_completed_successfully}}}, job: {image: y, labels: {kompose.controller.type: deployment}}}\n",
            "1:41: error: `job` does not end as a Job does",
        ),
        (
            "services: {web: {image: x, networks: [in], depends_on: {job: {condition: service_completed_successfully}}}, job: {image: y, networks: [in]}}\nnetworks: {in: {internal: true}}\n",
            "1:57: error: the Pod is on internal networks alone",
        ),
    ];
    for (compose, wanted) in table {
        let out = export(&[("compose.yaml", compose)], "1.30");
        let findings = scrubbed(&out.findings);
        assert!(findings.contains(wanted) && out.is_refused, "{compose}\nshould say {wanted}, says:\n{findings}");
    }
}

/// Temporary directories have names of their own.
fn scrubbed(text: &str) -> String {
    let base = std::env::temp_dir();
    let mut out = text.to_string();
    while let Some(start) = out.find(&*base.join(".tmp").to_string_lossy()) {
        let end = out[start + base.as_os_str().len() + 1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '.');
        let end = end.map_or(out.len(), |end| start + base.as_os_str().len() + 1 + end);
        out.replace_range(start..end, "DIR");
    }
    out
}

#[test]
fn an_older_cluster_gets_what_it_knows() {
    let job = "services: {}\njobs: {tidy: {image: x, triggers: {schedule: [{cron: \"0 3 * * *\", timezone: Europe/Berlin}]}}}\n";
    let old = export(&[("compose.yaml", job)], "1.26");
    assert!(
        old.is_refused && old.findings.contains("2:47: error: Kubernetes 1.26 has no time zones of CronJobs"),
        "{}",
        old.findings
    );
    let odd = "services: {web: {image: x, environment: {\"a b\": c}}}\n";
    assert!(!export(&[("compose.yaml", odd)], "1.32").is_refused);
}

#[test]
fn komposes_labels_are_honoured() {
    let compose = r#"
services:
  web:
    image: x
    ports: ["8080:80"]
    labels:
      kompose.service.type: nodeport
      kompose.service.nodeport.port: "30080"
      kompose.service.expose: "shop.example.org/api,other.example.org"
      kompose.service.expose.tls-secret: tls
      kompose.service.expose.ingress-class-name: nginx
      kompose.image-pull-policy: Never
      kompose.image-pull-secret: registry
      kompose.service.healthcheck.liveness.http_get_path: /live
      kompose.service.healthcheck.liveness.http_get_port: "80"
      kompose.service.healthcheck.readiness.tcp_port: "81"
      kompose.service.healthcheck.readiness.interval: 3s
      kompose.hpa.replicas.max: "9"
      kompose.hpa.cpu: 70%
      kompose.security-context.fsgroup: "1001"
      kompose.init.containers.image: busybox
      kompose.init.containers.command: '["printenv"]'
      kompose.serviceaccount-name: robot
      kompose.servce.group: a
  sidecar: {image: y, labels: {kompose.service.group: g}}
  other: {image: z, labels: {kompose.service.group: g}}
  night: {image: w, labels: {kompose.cronjob.schedule: "*/5 * * * *", kompose.cronjob.concurrency_policy: Forbid}}
  files: {image: w, volumes: ["./data:/data"], labels: {kompose.volume.type: hostPath}}
"#;
    let out = export(&[("compose.yaml", compose)], "1.30");
    let table = [
        ("Service/web-published", "/spec/type", "\"NodePort\""),
        ("Service/web-published", "/spec/ports/0/nodePort", "30080"),
        ("Ingress/web", "/spec/rules/0/host", "\"shop.example.org\""),
        ("Ingress/web", "/spec/rules/0/http/paths/0/path", "\"/api\""),
        ("Ingress/web", "/spec/rules/0/http/paths/0/backend/service", "{\"name\":\"web\",\"port\":{\"number\":80}}"),
        ("Ingress/web", "/spec/tls/0/secretName", "\"tls\""),
        ("Ingress/web", "/spec/ingressClassName", "\"nginx\""),
        ("Deployment/web", "/spec/template/spec/containers/0/imagePullPolicy", "\"Never\""),
        ("Deployment/web", "/spec/template/spec/imagePullSecrets/0/name", "\"registry\""),
        ("Deployment/web", "/spec/template/spec/containers/0/livenessProbe/httpGet", "{\"port\":80,\"path\":\"/live\"}"),
        ("Deployment/web", "/spec/template/spec/containers/0/readinessProbe/tcpSocket", "{\"port\":81}"),
        ("Deployment/web", "/spec/template/spec/containers/0/readinessProbe/periodSeconds", "3"),
        ("Deployment/web", "/spec/template/spec/securityContext/fsGroup", "1001"),
        ("Deployment/web", "/spec/template/spec/initContainers/0/command", "[\"printenv\"]"),
        ("Deployment/web", "/spec/template/spec/serviceAccountName", "\"robot\""),
        ("HorizontalPodAutoscaler/web", "/spec/maxReplicas", "9"),
        ("HorizontalPodAutoscaler/web", "/spec/metrics/0/resource/target/averageUtilization", "70"),
        ("Deployment/sidecar", "/spec/template/spec/containers/1/name", "\"other\""),
        ("Service/other", "/spec/selector/app.kubernetes.io~1name", "\"sidecar\""),
        ("CronJob/night", "/spec/schedule", "\"*/5 * * * *\""),
    ];
    for (object, pointer, wanted) in table {
        let is = out.at(object, pointer).map(ToString::to_string);
        let wanted: serde_json::Value = serde_json::from_str(wanted).expect("JSON");
        assert_eq!(is.and_then(|is| serde_json::from_str(&is).ok()), Some(wanted), "{object} {pointer}\n{}", out.findings);
    }
    assert_eq!(out.at("Deployment/web", "/spec/replicas"), None, "an autoscaler counts them");
    assert!(out.at("Deployment/files", "/spec/template/spec/volumes/0/hostPath").is_some());
    assert!(
        out.findings.contains("`kompose.servce.group` is not one of kompose's labels")
            && out.findings.contains("did you mean `kompose.service.group`?")
    );
    assert!(!text(&out.objects, Format::Yaml).contains("kompose."));
}

/// In double quotes of YAML, with escapes alone.
fn escaped(text: &str) -> String {
    let inner: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\U{:08x}", c as u32) }).collect();
    format!("\"{inner}\"")
}

/// Names and values of strangers come through YAML as they are, and names are made valid or refused.
#[test]
fn hostile_names_and_values() {
    let values = [
        "a\n---\nb: c",
        "# no",
        "yes",
        "0x10",
        "1e3",
        "null",
        "~",
        ": ",
        "- a",
        "\u{1}\u{7f}",
        "\"'\\",
        "{{ .Values }}",
        " x ",
        "\n\n",
        "ä\u{2028}",
        "%TAG",
        "*a",
        "&a",
        "!b",
        "<<",
        "0o7",
        "1:30",
        "a\r\nb",
        "\ttab",
    ];
    let pairs: Vec<String> = values.iter().enumerate().map(|(n, value)| format!("V{n}: {}", escaped(value))).collect();
    let compose = format!("services: {{web: {{image: x, environment: {{{}}}}}}}", pairs.join(", "));
    let out = export(&[("compose.yaml", &compose)], "1.30");
    for document in text(&out.objects, Format::Yaml).split("\n---\n") {
        let back: serde_json::Value = serde_yaml::from_str(document).unwrap_or_else(|error| panic!("{error}: {document}"));
        let of =
            format!("{}/{}", back["kind"].as_str().unwrap_or_default(), back["metadata"]["name"].as_str().unwrap_or_default());
        assert_eq!(Some(&back), out.by_name.get(&of), "{of} is another one in YAML");
    }
    let env = out.at("Deployment/web", "/spec/template/spec/containers/0/env").and_then(|env| env.as_array()).expect("variables");
    assert_eq!(env.iter().filter_map(|variable| variable["value"].as_str()).collect::<Vec<_>>(), values);
    let long = "x".repeat(300);
    let compose = format!("services: {{{long}: {{image: x, ports: [\"80\"]}}, {long}y: {{image: x}}}}");
    let out = export(&[("compose.yaml", &compose)], "1.30");
    assert!(!out.is_refused, "{}", out.findings);
    assert!(out.objects.iter().all(|object| object.name().len() <= 63));
    let ports = "services: {web: {image: x, expose: [\"10000-19999\"]}}";
    let out = export(&[("compose.yaml", ports)], "1.30");
    assert_eq!(
        out.at("Service/web", "/spec/ports").and_then(|ports| ports.as_array()).map(Vec::len),
        Some(10_000),
        "{}",
        out.findings
    );
    let large = format!("services: {{web: {{image: x, configs: [a]}}}}\nconfigs: {{a: {{content: {}}}}}", "y".repeat(1 << 20));
    let out = export(&[("compose.yaml", &large)], "1.30");
    assert!(out.findings.contains("1 MiB is the most") && out.is_refused);
}

#[test]
fn forms_of_output() {
    let compose = "services: {web: {image: \"x:1\", scale: 2, environment: {A: \"{{ .Values }}\"}, ports: [\"80\"]}}";
    let out = export(&[("compose.yaml", compose)], "1.30");
    let paths = |format| files(&out.objects, format, "test").into_iter().map(|file| file.path).collect::<Vec<_>>();
    let plain = ["web-deployment", "web-published-service", "web-service"];
    let with = |ending: &str| plain.iter().map(|stem| format!("{stem}{ending}")).collect::<Vec<_>>();
    assert_eq!(paths(Format::Yaml), with(".yaml"));
    assert_eq!(paths(Format::Json), with(".json"));
    let kustomize = files(&out.objects, Format::Kustomize, "test");
    let list = kustomize.last().expect("the list");
    assert_eq!((list.path.as_str(), list.text.matches(".yaml").count()), ("kustomization.yaml", 3));
    let chart = files(&out.objects, Format::Helm, "test");
    let file = |path: &str| chart.iter().find(|file| file.path == path).map(|file| file.text.as_str()).unwrap_or_default();
    assert_eq!(file("values.yaml"), "services:\n  web:\n    replicas: 2\n    image: x:1\n");
    let template = file("templates/web-deployment.yaml");
    assert!(template.contains("image: {{ index .Values.services \"web\" \"image\" | quote }}"), "{template}");
    assert!(template.contains("replicas: {{ index .Values.services \"web\" \"replicas\" }}"), "{template}");
    assert!(template.contains("{{ \"{{\" }} .Values }}"), "{template}");
    let list: serde_json::Value = serde_json::from_str(&text(&out.objects, Format::Json)).expect("JSON");
    assert_eq!((list["kind"].as_str(), list["items"].as_array().map(Vec::len)), (Some("List"), Some(3)));
}

/// 200 ms with optimisation; without, and beside other tests, it takes many times that.
#[test]
fn a_thousand_services() {
    let mut compose = String::from("services:\n");
    for n in 0..1000 {
        let depends_on =
            if n > 0 { format!(", depends_on: {{s{}: {{condition: service_healthy}}}}", n - 1) } else { String::new() };
        compose.push_str(&format!(
            "  s{n}: {{image: x, ports: [\"{}:80\"], environment: {{A: b}}, healthcheck: {{test: a}}, volumes: [\"v{n}:/v\"]{depends_on}}}\n",
            10_000 + n
        ));
    }
    compose.push_str("volumes:\n");
    (0..1000).for_each(|n| compose.push_str(&format!("  v{n}:\n")));
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("compose.yaml"), compose).expect("a file");
    let loaded = wharf::compose::load(&LoadOptions { directory: directory.path().to_path_buf(), ..LoadOptions::default() })
        .expect("a project");
    let begin = Instant::now();
    let exported = wharf::kubernetes::export(&loaded, &wharf::kubernetes::Options::default());
    let text = text(&exported.objects, Format::Yaml);
    let took = begin.elapsed();
    assert!(exported.objects.len() >= 4000 && text.len() > 1 << 20);
    assert!(took < Duration::from_millis(if cfg!(debug_assertions) { 20_000 } else { 200 }), "{took:?}");
}
