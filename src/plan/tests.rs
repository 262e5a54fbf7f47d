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

#[test]
fn from_nothing() {
    let p = project(WEB_DB);
    let got = lines(&p, &Observed::default(), &UpOptions::default());
    let expected = [
        "[3 6] -> #1 create network default: not found",
        "[3 6] -> #2 create volume data: not found",
        "[] -> #3 pull image db: not found",
        "[1 2 3] -> #4 create container p-db-1: not found",
        "[4] -> #5 start container p-db-1: created",
        "[] -> #6 pull image web: not found",
        "[1 6] -> #7 create container p-web-1: not found",
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
    assert_eq!(error.to_string(), "no such service: wbe\ndid you mean `web`?");
    p.services["web"] = Service { container_name: Some("x".into()), scale: Some(2), ..p.services["web"].clone() };
    assert!(matches!(up(&p, &Observed::default(), &UpOptions::default()), Err(PlanError::NamedAndScaled { .. })));
}

#[test]
fn down_goes_against_the_dependencies() {
    let p = project(WEB_DB);
    let state = observed(&p, &[("db", 1), ("web", 1)]);
    let options = DownOptions { volumes: true, ..DownOptions::default() };
    let expected = [
        "[2] -> #1 stop and remove container p-db-1: down",
        "[] -> #2 stop and remove container p-web-1: down",
        "[1 2] -> #3 remove network p_default: down",
        "[1 2] -> #4 remove volume p_data: down --volumes",
    ];
    assert_eq!(down("p", &state, None, &options).lines(), expected);
}

#[test]
fn images_are_pulled_again_when_they_are_old() {
    let table =
        [("daily", true), ("weekly", false), ("every_48h", true), ("every_4d", false), ("missing", false), ("always", true)];
    for (policy, pulled) in table {
        let mut p = project(WEB_DB);
        p.services["db"].pull_policy = Some(policy.parse().expect(policy));
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
    (state.containers[1].state, state.containers[1].name) = (ContainerState::Exited, "4567_p-web-1".into());
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
    state.containers.iter_mut().for_each(|c| c.state = ContainerState::Exited);
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

/// Changes of a network or a volume, and their consequences.
#[test]
fn changed_networks_and_volumes_are_made_anew() {
    let old = project(WEB_DB);
    let state = observed(&old, &[("db", 1), ("web", 1)]);
    let mut p = project(WEB_DB);
    p.networks["default"].internal = true;
    let expected = [
        "[] -> #1 stop container p-db-1: the definition of network p_default has changed",
        "[] -> #2 stop container p-web-1: the definition of network p_default has changed",
        "[1 2] -> #3 remove network p_default: the definition of network p_default has changed",
        "[3] -> #4 create network default: the definition of network p_default has changed",
        "[1 4] -> #5 start container p-db-1: a network that it is on is made anew",
        "[5] -> #6 wait for db (service_healthy): depended on",
        "[2 4 6] -> #7 start container p-web-1: a network that it is on is made anew",
    ];
    assert_eq!(lines(&p, &state, &UpOptions::default()), expected);
    // A service that is left alone is on it, too.
    let only_db = UpOptions { services: vec!["db".into()], ..UpOptions::default() };
    let got = lines(&p, &state, &only_db);
    assert!(got.contains(&"[2 4] -> #6 start container p-web-1: a network that it is on is made anew".to_string()), "{got:?}");

    let mut p = project(WEB_DB);
    p.networks["default"].name = "p_other".into();
    let got = lines(&p, &state, &UpOptions::default()).join("\n");
    for part in [
        "#1 create network default: p_default is renamed",
        "recreate container p-db-1: it is not on the network p_other",
        "remove network p_default: it is renamed",
    ] {
        assert!(got.contains(part), "no {part} in {got}");
    }

    let mut p = project(WEB_DB);
    p.volumes["data"].labels.insert("a".into(), "b".into());
    let plan = up(&p, &state, &UpOptions::default()).expect("plan");
    assert!(plan.is_empty() && plan.warnings.iter().any(|w| w.contains("doesn't match configuration")), "{:?}", plan.warnings);
    let ask = UpOptions { changed_volumes: ChangedVolumes::Ask, ..UpOptions::default() };
    assert_eq!(up(&p, &state, &ask).expect("plan").changed_volumes, ["p_data"]);
    let yes = UpOptions { changed_volumes: ChangedVolumes::Recreate(vec!["p_data".into()]), ..UpOptions::default() };
    let got = lines(&p, &state, &yes);
    let expected = [
        "[] -> #1 stop and remove container p-db-1: the definition of volume p_data has changed",
        "[1] -> #2 remove volume p_data: the definition of volume p_data has changed",
        "[2] -> #3 create volume data: the definition of volume p_data has changed",
        "[3] -> #4 create container p-db-1: not found",
        "[4] -> #5 start container p-db-1: created",
    ];
    assert_eq!(got, expected);
    // Its data is not taken from under a container that is left alone.
    let mut state = observed(&old, &[("db", 1), ("web", 1)]);
    state.containers[0].one_off = true;
    let plan = up(&p, &state, &yes).expect("plan");
    assert!(plan.warnings.iter().any(|w| w.contains("p-db-1 uses it")), "{:?}", plan.warnings);

    let mut p = project(WEB_DB);
    p.volumes["data"].name = "p_other".into();
    let got = lines(&p, &observed(&old, &[("db", 1), ("web", 1)]), &UpOptions::default());
    assert!(got[1].contains("recreate container p-db-1: it does not have the volume p_other"), "{got:?}");
}

#[test]
fn a_network_of_others_is_not_used_in_silence() {
    let p = project(WEB_DB);
    for (owner, text) in [(Some("q"), "was not created for project \"p\""), (None, "was not created by compose")] {
        let mut state = observed(&p, &[("db", 1), ("web", 1)]);
        let owner = owner.map(str::to_string);
        let found = ObservedNetwork { project: owner.clone(), key: Some("default".into()), hash: None };
        state.networks.insert("p_default".into(), found);
        state.volumes.insert("p_data".into(), ObservedVolume { project: owner, hash: Some("x".into()) });
        let plan = up(&p, &state, &UpOptions::default()).expect("plan");
        assert!(plan.is_empty(), "{:?}", plan.lines());
        assert!(plan.warnings.iter().any(|w| w.contains(text)), "{:?}", plan.warnings);
        assert!(plan.warnings.iter().any(|w| w.starts_with("volume \"p_data\" already exists but was")), "{:?}", plan.warnings);
    }
    // One that is another key's, or nobody's, is not this one.
    for found in [None, Some("other".to_string())] {
        let mut state = observed(&p, &[]);
        state.networks.insert("p_default".into(), ObservedNetwork { project: None, key: found.clone(), hash: None });
        let refused = up(&p, &state, &UpOptions::default()).expect_err("another's network").to_string();
        let label = format!("set to \"{}\" (expected: \"default\")", found.unwrap_or_default());
        assert!(refused.contains("p_default was found but has incorrect label") && refused.contains(&label), "{refused}");
    }
}

#[test]
fn anonymous_volumes_go_with_down_volumes_alone() {
    let p = project(WEB_DB);
    let state = observed(&p, &[("db", 1), ("web", 1), ("web", 2), ("old", 1)]);
    let removed = |plan: &Plan| -> Vec<(String, bool)> {
        let one = |step: &Step| match &step.operation {
            Operation::RemoveContainer { name, volumes, .. } => Some((name.clone(), *volumes)),
            _ => None,
        };
        plan.graph.node_weights().filter_map(one).collect()
    };
    let scale = UpOptions { scale: [("web".to_string(), 1)].into(), remove_orphans: true, ..UpOptions::default() };
    let plan = up(&p, &state, &scale).expect("plan");
    assert_eq!(removed(&plan), [("p-web-2".into(), false), ("p-old-1".into(), false)]);
    let outline = Some(Outline::of(&p, Vec::new()));
    for volumes in [false, true] {
        let options = DownOptions { volumes, remove_orphans: true, outline: outline.clone(), ..DownOptions::default() };
        let got = removed(&down("p", &state, outline.as_ref(), &options));
        assert!(got.iter().all(|(name, with)| *with == (volumes && name != "p-old-1")) && got.len() == 4, "{got:?}");
    }
}

#[test]
fn an_optional_dependency_holds_nothing_back() {
    for (condition, required, order) in [
        (Condition::ServiceStarted, true, Order::Needs),
        (Condition::ServiceStarted, false, Order::After),
        (Condition::ServiceHealthy, true, Order::Needs),
        (Condition::ServiceHealthy, false, Order::After),
        (Condition::ServiceCompletedSuccessfully, false, Order::After),
    ] {
        let mut p = project(WEB_DB);
        p.services["web"].depends_on =
            [("db".to_string(), Dependency { condition, required, restart: false, runtime: false })].into();
        let plan = up(&p, &Observed::default(), &UpOptions::default()).expect("plan");
        let step = |text: &str| plan.graph.node_indices().find(|n| plan.graph[*n].operation.to_string() == text).expect("step");
        let db = step("start container p-db-1");
        // Who waits for a condition waits for a step that ends in any case.
        let after = if condition == Condition::ServiceStarted {
            step("start container p-web-1")
        } else {
            step(&format!("wait for db ({})", condition.as_str()))
        };
        let edge = plan.graph.find_edge(db, after).expect("an edge");
        assert_eq!(plan.graph[edge], order, "{condition:?} {required}");
    }
}

#[test]
fn scaling_down_drops_outdated_containers_first() {
    let p = project(WEB_DB);
    let mut state = observed(&p, &[("web", 1), ("web", 2), ("web", 3), ("db", 1)]);
    state.containers[0].config_hash = "older".into();
    let options = UpOptions { scale: [("web".to_string(), 2)].into(), ..UpOptions::default() };
    assert_eq!(lines(&p, &state, &options), ["[] -> #1 stop and remove container p-web-1: web is scaled to 2"]);
}

#[test]
fn a_donor_must_be_there() {
    let mut p = project(WEB_DB);
    p.services["web"].network_mode = Some("service:db".to_string().into());
    p.services["web"].networks = IndexMap::new();
    let options = UpOptions { services: vec!["web".into()], no_deps: true, ..UpOptions::default() };
    let error = up(&p, &Observed::default(), &options).expect_err("no donor");
    assert!(error.to_string().starts_with("cannot share network namespace with service db: container missing"), "{error}");
    assert!(up(&p, &observed(&p, &[("db", 1)]), &options).is_ok());
}

/// A command, what it is asked, and its steps. `x` is another service, of no file; `run` has made the last container of web.
#[test]
fn lifecycle_commands() {
    let p = project(WEB_DB);
    let act = |command: &str, states: [ContainerState; 2], options: LifecycleOptions| -> Result<Vec<String>, PlanError> {
        let mut state = observed(&p, &[("web", 1), ("db", 1), ("x", 1), ("web", 9)]);
        (state.containers[0].state, state.containers[1].state) = (states[0], states[1]);
        state.containers[3].one_off = true;
        let outline = Outline::of(&p, Vec::new());
        let options = LifecycleOptions { outline: Some(outline.clone()), ..options };
        let command = Lifecycle::parse(command).expect("a command");
        Ok(lifecycle(command, &state, Some(&outline), &options)?.lines())
    };
    let (up, down) = ([ContainerState::Running; 2], [ContainerState::Exited; 2]);
    let all = LifecycleOptions::default;
    let of = |service: &str| LifecycleOptions { services: vec![service.into()], ..all() };
    let start = [
        "[] -> #1 start container p-db-1: not running",
        "[1] -> #2 wait for db (service_healthy): depended on",
        "[2] -> #3 start container p-web-1: not running",
    ];
    assert_eq!(act("start", down, all()).expect("plan"), start);
    assert_eq!(act("start", down, of("web")).expect("plan"), start, "what it depends on is started first");
    assert_eq!(act("start", down, of("db")).expect("plan"), start[..1]);
    assert!(act("start", up, all()).expect("plan").is_empty());
    let stop = ["[] -> #1 stop container p-web-1: asked for", "[1] -> #2 stop container p-db-1: asked for"];
    assert_eq!(act("stop", up, all()).expect("plan"), stop);
    assert!(act("stop", down, all()).expect("plan").is_empty());
    let restart = [
        "[] -> #1 restart container p-db-1: restart",
        "[1] -> #2 wait for db (service_healthy): depended on",
        "[2] -> #3 restart container p-web-1: restart",
    ];
    assert_eq!(act("restart", up, all()).expect("plan"), restart);
    assert_eq!(act("restart", up, of("db")).expect("plan"), restart[..1], "no `restart: true`");
    assert_eq!(act("pause", up, of("db")).expect("plan"), ["[] -> #1 pause container p-db-1: asked for"]);
    // Of one that is not frozen, the engine says so.
    assert_eq!(act("unpause", up, of("db")).expect("plan"), ["[] -> #1 unpause container p-db-1: asked for"]);
    assert!(act("unpause", down, all()).expect("plan").is_empty());
    assert!(act("rm", up, all()).expect("plan").is_empty());
    assert_eq!(act("rm", down, of("db")).expect("plan"), ["[] -> #1 remove container p-db-1: asked for"]);
    let killed = act("kill", up, all()).expect("plan");
    assert_eq!(killed.len(), 3, "containers of `run` as well: {killed:?}");
    assert_eq!(act("stop", up, of("x")), Err(PlanError::NoSuchService { name: "x".into(), nearest: None }));
    let nothing = lifecycle(Lifecycle::Start, &Observed::default(), Some(&Outline::of(&p, Vec::new())), &all());
    assert_eq!(nothing.expect_err("nothing"), PlanError::NothingToStart { service: "db".into() });
}

#[test]
fn who_depends_with_restart_is_stopped_before_a_recreation() {
    let mut p = project(WEB_DB);
    p.services["web"].depends_on["db"].restart = true;
    let state = observed(&p, &[("web", 1), ("web", 2), ("db", 1)]);
    p.services["web"].scale = Some(2);
    p.services["db"].environment.insert("A".into(), Some("1".into()));
    let stop = |n: u32, web: u32| format!("[] -> #{n} stop container p-web-{web}: db is recreated, and `restart: true`");
    let recreate = |n: u32, before: &str| format!("[{before}] -> #{n} recreate container p-db-1: its configuration has changed");
    let expected = [
        stop(1, 1),
        stop(2, 2),
        recreate(3, "1 2"),
        "[3] -> #4 start container p-db-1: created".into(),
        "[4] -> #5 wait for db (service_healthy): depended on".into(),
        "[1 5] -> #6 start container p-web-1: db is recreated, and `restart: true`".into(),
        "[2 5] -> #7 start container p-web-2: db is recreated, and `restart: true`".into(),
    ];
    assert_eq!(lines(&p, &state, &UpOptions::default()), expected);
    let options = UpOptions { scale: [("web".to_string(), 1)].into(), ..UpOptions::default() };
    let got = lines(&p, &state, &options);
    assert!(got.contains(&"[2] -> #5 stop and remove container p-web-2: web is scaled to 1".to_string()), "{got:#?}");
    // Who is left alone stays so, and so does who does not run.
    let db = UpOptions { services: vec!["db".into()], ..UpOptions::default() };
    assert_eq!(lines(&p, &state, &db)[0], recreate(1, ""));
    let no_start = UpOptions { no_start: true, ..UpOptions::default() };
    assert_eq!(lines(&p, &state, &no_start), [recreate(1, "")]);
    let mut ended = observed(&p, &[("web", 1), ("db", 1)]);
    ended.containers[0].state = ContainerState::Exited;
    ended.containers[1].config_hash = "older".into();
    p.services["web"].scale = None;
    assert_eq!(lines(&p, &ended, &UpOptions::default())[0], recreate(1, ""));
}

#[test]
fn images_that_down_removes() {
    let mut p = project(WEB_DB);
    p.services["web"].build = Some(crate::compose::model::Build::default());
    p.services["web"].image = Some("p-web".into());
    let outline = Outline::of(&p, Vec::new());
    let state = Observed {
        images: HashMap::from([("p-web".into(), "1".into()), ("db".into(), "2".into())]),
        built: vec![("own:latest".into(), Some("db".into())), ("gone:latest".into(), Some("gone".into()))],
        ..Observed::default()
    };
    for (rmi, expected) in
        [(RemoveImages::Local, vec!["own:latest", "p-web"]), (RemoveImages::All, vec!["db", "own:latest", "p-web"])]
    {
        let options = DownOptions { rmi: Some(rmi), outline: Some(outline.clone()), ..DownOptions::default() };
        let plan = down("p", &state, Some(&outline), &options);
        let images: Vec<String> =
            plan.graph.node_weights().map(|step| step.operation.to_string().replace("remove image ", "")).collect();
        assert_eq!(images, expected, "{rmi:?}");
    }
}

#[test]
fn the_plan_tells_who_is_interrupted() {
    let mut p = project(WEB_DB);
    let state = observed(&p, &[("web", 1), ("web", 2), ("db", 1)]);
    let interruptions = |p: &Project, options: &UpOptions| {
        let plan = up(p, &state, options).expect("plan");
        plan.interruptions.iter().map(|i| format!("{} is {}", i.service, i.text)).collect::<Vec<_>>()
    };
    p.services["web"].scale = Some(2);
    assert_eq!(interruptions(&p, &UpOptions::default()), [""; 0]);
    p.services["web"].environment.insert("A".into(), Some("1".into()));
    let stopped = "web is interrupted: 2 of 2 running, each for its stop (at most 10 s) and the start of the next";
    assert_eq!(interruptions(&p, &UpOptions::default()), [stopped]);
    let options = UpOptions { start_first: true, ..UpOptions::default() };
    assert_eq!(
        interruptions(&p, &options),
        ["web is not interrupted: each container runs until the next has its names and ports"]
    );
    let lines = lines(&p, &state, &options);
    let update = "(start the new one beside it, wait until that has run for 5s, switch names and ports, stop the old one)";
    assert_eq!(
        lines,
        [
            "[] -> #1 wait for db (service_healthy): depended on".to_string(),
            format!("[1] -> #2 update container p-web-1 {update}: its configuration has changed"),
            format!("[1 2] -> #3 update container p-web-2 {update}: its configuration has changed"),
        ]
    );
}

#[test]
fn an_address_of_its_own_is_one_containers() {
    let mut p = project(WEB_DB);
    let state = observed(&p, &[("web", 1), ("db", 1)]);
    p.services["web"].mac_address = Some("02:00:00:00:00:01".into());
    let plan = up(&p, &state, &UpOptions { start_first: true, ..UpOptions::default() }).expect("plan");
    assert!(plan.lines()[0].contains("recreate container p-web-1"), "{:?}", plan.lines());
    assert!(plan.warnings[0].contains("web has an address of its own"), "{:?}", plan.warnings);
}

#[test]
fn jobs_are_registered_when_they_have_a_schedule_or_have_changed() {
    let file = |more: &str| {
        project(&format!(
            "{{name: p, services: {{db: {{image: db}}, web: {{image: web}}}}, jobs: {{
                backup: {{image: backup, depends_on: {{db: {{condition: service_started}}}}, triggers: {{schedule: [{{cron: '0 3 * * *'}}]}} {more}}},
                migrate: {{image: migrate, triggers: {{manual: true}}}}}}}}"
        ))
    };
    let p = file("");
    let mut state = observed(&p, &[("db", 1), ("web", 1)]);
    for image in ["backup", "migrate"] {
        state.images.insert(image.into(), "id".into());
    }
    let options = UpOptions::default();
    let plan = up(&p, &state, &options).expect("plan");
    assert_eq!(plan.lines(), ["[] -> #1 register job backup (0 3 * * *): not registered"]);
    assert!(plan.warnings.iter().any(|warning| warning.contains("job migrate is not started by `up`")), "{:?}", plan.warnings);
    // One that is known: also where its schedule is not what starts it.
    state.jobs.insert("backup".into(), job_hash(&p, "backup"));
    state.jobs.insert("migrate".into(), "other".into());
    state.jobs.insert("gone".into(), "other".into());
    state.jobs.insert("off".into(), "other".into());
    let options = UpOptions { inactive: vec!["off".into()], ..options };
    assert_eq!(
        lines(&p, &state, &options),
        [
            "[] -> #1 register job migrate (manual): its definition has changed",
            "[] -> #2 deregister job gone: the project has no such job"
        ]
    );
    assert_ne!(job_hash(&p, "backup"), job_hash(&file(", user: '5'"), "backup"));
    // The image of a job with a schedule is there before anything is done.
    state.images.remove("backup");
    state.jobs.clear();
    assert_eq!(lines(&p, &state, &options)[..1], ["[] -> #1 pull image backup: not found"]);
    // Commands for services leave jobs alone, and refuse their names.
    let of_web = UpOptions { services: vec!["web".into()], ..UpOptions::default() };
    assert!(up(&p, &state, &of_web).expect("plan").is_empty());
    let of_job = UpOptions { services: vec!["backup".into()], ..UpOptions::default() };
    assert_eq!(up(&p, &state, &of_job).expect_err("a job"), PlanError::IsJob { name: "backup".into() });
    // A job changes when what it depends on does, and not when something else does.
    let hash = |p: &Project| job_hash(p, "backup");
    let mut other = p.clone();
    other.services["web"].image = Some("web:2".into());
    assert_eq!(hash(&p), hash(&other));
    other.services["db"].image = Some("db:2".into());
    assert_ne!(hash(&p), hash(&other));
}

#[test]
fn down_takes_everything_of_jobs() {
    let p = project("{name: p, services: {db: {image: db}}}");
    let mut state = observed(&p, &[("db", 1)]);
    state.jobs.insert("backup".into(), String::new());
    let of_job = ObservedContainer {
        one_off: true,
        of_job: true,
        state: ContainerState::Exited,
        id: "r".into(),
        name: "p-backup-run-1".into(),
        service: "backup".into(),
        ..ObservedContainer::default()
    };
    state.containers.push(of_job);
    let options = DownOptions { outline: Some(Outline::of(&p, Vec::new())), ..DownOptions::default() };
    let lines = down("p", &state, options.outline.as_ref(), &options).lines();
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(has("stop and remove container p-backup-run-1: down") && has("deregister job backup: down"), "{lines:?}");
    let of_db = DownOptions { services: vec!["db".into()], ..options };
    let lines = down("p", &state, of_db.outline.as_ref(), &of_db).lines();
    assert!(!lines.iter().any(|line| line.contains("backup")), "{lines:?}");
}
