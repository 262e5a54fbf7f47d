//! `kompose.service.expose`: an Ingress to the service's first port.

use super::super::context::Context;
use super::super::labels::{metadata, of_workload, shortened};
use super::super::names;
use super::super::object::Made;
use super::super::workload::Workload;
use super::first_tcp;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec, IngressTLS,
    ServiceBackendPort,
};

pub fn ingress(context: &Context<'_>, workload: &Workload<'_>) -> Option<Made> {
    let hosts = workload.label("service.expose")?;
    let path = workload.path(&["labels", "kompose.service.expose"]);
    if hosts == "false" || hosts.is_empty() {
        return None;
    }
    let Some(port) = first_tcp(workload) else {
        context.refuse(
            &path,
            format!("`{}` has no port that could be exposed", workload.name),
            "name one in `ports` or `expose`",
        );
        return None;
    };
    let backend = IngressBackend {
        service: Some(IngressServiceBackend {
            name: workload.object.clone(),
            port: Some(ServiceBackendPort { number: Some(port.into()), name: None }),
        }),
        resource: None,
    };
    let default_path = workload.label("service.expose.path").unwrap_or("/");
    if !default_path.starts_with('/') {
        let path = workload.path(&["labels", "kompose.service.expose.path"]);
        context.refuse(&path, format!("the path `{}` has to begin with `/`", shortened(default_path)), "");
    }
    let rule = |host: &str| {
        let (host, at) = host.split_once('/').map_or((host, default_path.to_string()), |(host, at)| (host, format!("/{at}")));
        // `true` is any host.
        let host = Some(host.to_ascii_lowercase()).filter(|host| host != "true");
        let is_name = |host: &str| {
            names::is_subdomain(host.strip_prefix("*.").unwrap_or(host)) && host.parse::<std::net::IpAddr>().is_err()
        };
        if host.as_deref().is_some_and(|host| !is_name(host)) {
            context.refuse(&path, format!("`{}` is no host's name", host.as_deref().unwrap_or_default()), "");
        }
        let path = HTTPIngressPath { backend: backend.clone(), path: Some(at), path_type: "Prefix".into() };
        IngressRule { host, http: Some(HTTPIngressRuleValue { paths: vec![path] }) }
    };
    let rules: Vec<IngressRule> = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(rule).collect();
    let tls = workload.label("service.expose.tls-secret").map(|secret| {
        let hosts: Vec<String> = rules.iter().filter_map(|rule| rule.host.clone()).collect();
        vec![IngressTLS { hosts: (!hosts.is_empty()).then_some(hosts), secret_name: Some(secret.into()) }]
    });
    let spec = IngressSpec {
        ingress_class_name: workload.label("service.expose.ingress-class-name").map(str::to_string),
        rules: Some(rules),
        tls,
        default_backend: None,
    };
    let ingress =
        Ingress { metadata: metadata(context, &workload.object, of_workload(context, workload)), spec: Some(spec), status: None };
    Some(Made::new(ingress, context.place(&path)))
}
