use super::*;
use crate::compose::model::{Project, Service};

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
        running: true,
        prepared: false,
        depends_on: project.services.get(service).map(|s| s.depends_on.keys().cloned().collect()).unwrap_or_default(),
        networks: vec!["p_default".into()],
        lost: None,
    }
}

fn observed(project: &Project, services: &[(&str, u32)]) -> Observed {
    Observed {
        containers: services.iter().map(|(s, n)| running(project, s, *n)).collect(),
        networks: HashMap::from([("p_default".into(), ObservedNetwork { project: Some("p".into()) })]),
        volumes: HashSet::from(["p_data".into()]),
        images: HashMap::from([("web".into(), "sha256:web".into()), ("db".into(), "sha256:db".into())]),
        image_ages: HashMap::from([("db".into(), 3 * 24 * 3600)]),
    }
}

fn lines(project: &Project, observed: &Observed, options: &UpOptions) -> Vec<String> {
    up(project, observed, options).expect("plan").lines()
}

#[test]
fn from_nothing() {
    let p = project(WEB_DB);
    let got = lines(&p, &Observed::default(), &UpOptions::default());
    let expected = [
        "[] -> #1 pull image db: not found",
        "[] -> #2 create network default: not found",
        "[] -> #3 create volume data: not found",
        "[1 2 3] -> #4 create container p-db-1: not found",
        "[4] -> #5 start container p-db-1: created",
        "[] -> #6 pull image web: not found",
        "[2 6] -> #7 create container p-web-1: not found",
        "[5] -> #8 wait for db (service_healthy): depended on",
        "[7 8] -> #9 start container p-web-1: created",
    ];
    assert_eq!(got, expected);
}

#[test]
fn nothing_to_do_twice() {
    let p = project(WEB_DB);
    let state = observed(&p, &[("web", 1), ("db", 1)]);
    assert!(up(&p, &state, &UpOptions::default()).expect("plan").is_empty());
}

#[test]
fn only_what_changed_is_recreated() {
    let mut p = project(WEB_DB);
    let state = observed(&p, &[("web", 1), ("db", 1)]);
    p.services["web"].environment.insert("A".into(), Some("1".into()));
    let expected = [
        "[] -> #1 recreate container p-web-1: its configuration has changed",
        "[] -> #2 wait for db (service_healthy): depended on",
        "[1 2] -> #3 start container p-web-1: created",
    ];
    assert_eq!(lines(&p, &state, &UpOptions::default()), expected);
}

#[test]
fn a_new_image_recreates() {
    let p = project(WEB_DB);
    let mut state = observed(&p, &[("web", 1), ("db", 1)]);
    state.images.insert("db".into(), "sha256:1234567890abcdef".into());
    let got = lines(&p, &state, &UpOptions::default());
    assert_eq!(got[0], "[] -> #1 recreate container p-db-1: the image db is now 1234567890ab");
    assert_eq!(got.len(), 2, "{got:?}");
}

#[test]
fn scaling_fills_the_gaps_and_removes_the_last() {
    let p = project(WEB_DB);
    let state = observed(&p, &[("web", 2), ("db", 1)]);
    let scale = |n| UpOptions { scale: [("web".to_string(), n)].into(), ..UpOptions::default() };
    let got = lines(&p, &state, &scale(3)).join("\n");
    assert!(got.contains("create container p-web-1") && got.contains("create container p-web-3"), "{got}");
    let got = lines(&p, &state, &scale(0));
    assert_eq!(got, ["[] -> #1 stop and remove container p-web-2: web is scaled to 0"]);
}

#[test]
fn orphans_are_named_or_removed() {
    let p = project(WEB_DB);
    let state = observed(&p, &[("web", 1), ("db", 1), ("old", 1)]);
    assert_eq!(up(&p, &state, &UpOptions::default()).expect("plan").orphans, ["p-old-1"]);
    let options = UpOptions { remove_orphans: true, ..UpOptions::default() };
    assert_eq!(lines(&p, &state, &options), ["[] -> #1 stop and remove container p-old-1: the project has no service old"]);
}

#[test]
fn what_cannot_be_planned() {
    let mut p = project(WEB_DB);
    let options = UpOptions { services: vec!["wbe".into()], ..UpOptions::default() };
    let error = up(&p, &Observed::default(), &options).expect_err("no such service");
    assert_eq!(error.to_string(), "there is no service `wbe` in the project; did you mean `web`?");
    p.services["web"] = Service { container_name: Some("x".into()), scale: Some(2), ..p.services["web"].clone() };
    assert!(matches!(up(&p, &Observed::default(), &UpOptions::default()), Err(PlanError::NamedAndScaled { .. })));
}

#[test]
fn down_goes_against_the_dependencies() {
    let p = project(WEB_DB);
    let state = observed(&p, &[("db", 1), ("web", 1)]);
    let options = DownOptions {
        own_networks: vec!["p_default".into()],
        own_volumes: vec!["p_data".into()],
        volumes: true,
        ..DownOptions::default()
    };
    let expected = [
        "[2] -> #1 stop and remove container p-db-1: down",
        "[] -> #2 stop and remove container p-web-1: down",
        "[1 2] -> #3 remove network p_default: down",
        "[1 2] -> #4 remove volume p_data: down --volumes",
    ];
    assert_eq!(down(&state, &options).lines(), expected);
}

#[test]
fn images_are_pulled_again_when_they_are_old() {
    let table =
        [("daily", true), ("weekly", false), ("every_48h", true), ("every_4d", false), ("missing", false), ("always", true)];
    for (policy, pulled) in table {
        let mut p = project(WEB_DB);
        p.services["db"].pull_policy = Some(policy.into());
        let asks =
            |p: &Project| lines(p, &observed(p, &[]), &UpOptions::default()).iter().any(|line| line.contains("pull image db"));
        assert_eq!(asks(&p), pulled, "{policy}");
        // What is built is not pulled by the plan: whoever builds it has tried.
        p.services["db"].build = Some(crate::compose::model::Build::default());
        assert!(!asks(&p), "{policy} with a build");
    }
}

#[test]
fn a_number_is_one_containers() {
    let p = project(WEB_DB);
    // What an interrupted recreation of an earlier version has left: the new container has another name.
    let mut state = observed(&p, &[("db", 1), ("web", 1), ("web", 1)]);
    (state.containers[2].id, state.containers[2].name) = ("id-other".into(), "0123_p-web-1".into());
    let removed = "[] -> #1 stop and remove container 0123_p-web-1: p-web-1 is the container 1 of web";
    assert_eq!(lines(&p, &state, &UpOptions::default()), [removed]);
    // Of those the one that runs stays, where none has the name.
    (state.containers[1].running, state.containers[1].name) = (false, "4567_p-web-1".into());
    let got = lines(&p, &state, &UpOptions::default());
    assert_eq!(got, ["[] -> #1 stop and remove container 4567_p-web-1: 0123_p-web-1 is the container 1 of web"]);
    let got = lines(&p, &state, &UpOptions { force_recreate: true, ..UpOptions::default() });
    assert_eq!(got.iter().filter(|line| line.contains("recreate container p-web-1")).count(), 1, "{got:?}");
    // The name must be free before another gets it.
    let removal = got.iter().position(|line| line.contains("remove container 4567_p-web-1")).expect("removed") + 1;
    let recreation = got.iter().find(|line| line.contains("recreate container p-web-1")).expect("recreated");
    assert!(recreation.starts_with(&format!("[{removal}]")), "{got:?}");
}

#[test]
fn containers_wait_for_their_networks() {
    let p = project(WEB_DB);
    let mut state = observed(&p, &[("db", 1), ("web", 1)]);
    state.networks.clear();
    state.containers.iter_mut().for_each(|c| c.running = false);
    let expected = [
        "[] -> #1 create network default: not found",
        "[1] -> #2 start container p-db-1: not running",
        "[2] -> #3 wait for db (service_healthy): depended on",
        "[1 3] -> #4 start container p-web-1: not running",
    ];
    assert_eq!(lines(&p, &state, &UpOptions::default()), expected);
    // One that runs on a network that is gone has none: it is made anew.
    let mut state = observed(&p, &[("db", 1), ("web", 1)]);
    state.containers[1].lost = Some("a network that it is on is gone".into());
    let got = lines(&p, &state, &UpOptions::default());
    assert_eq!(got[0], "[] -> #1 recreate container p-web-1: a network that it is on is gone");
}
