//! Plans of `up`: which containers are created, replaced, scaled, and in which order.

use super::*;

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
