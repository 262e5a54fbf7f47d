//! The projects and observed states that the tests of plans share.

mod down;
mod jobs;
mod resources;
mod up;

use super::*;
use crate::compose::model::{Condition, Dependency, Project, Service};
use indexmap::IndexMap;
use std::collections::HashMap;

fn project(yaml: &str) -> Project {
    let mut project: Project = serde_yaml::from_str(yaml).expect("project");
    project.name = "p".into();
    project
}

const WEB_DB: &str = "
name: p
services:
  web: {image: web, networks: {default: null}, depends_on: {db: {condition: service_healthy}}}
  db: {image: db, networks: {default: null}, volumes: [{type: volume, source: data, target: /d}]}
networks: {default: {name: p_default}}
volumes: {data: {name: p_data}}
";

fn running(project: &Project, service: &str, number: u32) -> ObservedContainer {
    ObservedContainer {
        id: format!("id-{service}-{number}"),
        name: format!("p-{service}-{number}"),
        service: service.into(),
        number,
        config_hash: project.services.get(service).map(|s| config_hash(project, s)).unwrap_or_default(),
        image_id: format!("sha256:{service}"),
        state: ContainerState::Running,
        depends_on: project.services.get(service).map(|s| s.depends_on.clone()).unwrap_or_default(),
        networks: vec!["p_default".into()],
        volumes: if service == "db" { vec!["p_data".into()] } else { Vec::new() },
        ..ObservedContainer::default()
    }
}

fn own_network(project: &Project) -> ObservedNetwork {
    let hash = project.networks.get("default").map(network_hash);
    ObservedNetwork { project: Some("p".into()), key: Some("default".into()), hash }
}

fn own_volume(project: &Project) -> ObservedVolume {
    ObservedVolume { project: Some("p".into()), hash: project.volumes.get("data").map(volume_hash) }
}

fn observed(project: &Project, services: &[(&str, u32)]) -> Observed {
    Observed {
        containers: services.iter().map(|(s, n)| running(project, s, *n)).collect(),
        networks: HashMap::from([("p_default".into(), own_network(project))]),
        volumes: HashMap::from([("p_data".into(), own_volume(project))]),
        images: HashMap::from([("web".into(), "sha256:web".into()), ("db".into(), "sha256:db".into())]),
        image_ages: HashMap::from([("db".into(), 3 * 24 * 3600)]),
        built: Vec::new(),
        jobs: HashMap::new(),
    }
}

fn lines(project: &Project, observed: &Observed, options: &UpOptions) -> Vec<String> {
    up(project, observed, options).expect("plan").lines()
}
