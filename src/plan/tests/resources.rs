//! Networks and volumes in plans: missing, changed, of others.

use super::*;

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
    let outline = Some(DesiredOutline::of(&p, Vec::new()));
    for volumes in [false, true] {
        let options = DownOptions { volumes, remove_orphans: true, outline: outline.clone(), ..DownOptions::default() };
        let got = removed(&down("p", &state, outline.as_ref(), &options));
        assert!(got.iter().all(|(name, with)| *with == (volumes && name != "p-old-1")) && got.len() == 4, "{got:?}");
    }
}
