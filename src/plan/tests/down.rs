//! Plans of `down` and of the lifecycle commands.

use super::*;

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

/// A command, what it is asked, and its steps. `x` is another service, of no file; `run` has made the last container of web.
#[test]
fn lifecycle_commands() {
    let p = project(WEB_DB);
    let act = |command: &str, states: [ContainerState; 2], options: LifecycleOptions| -> Result<Vec<String>, PlanError> {
        let mut state = observed(&p, &[("web", 1), ("db", 1), ("x", 1), ("web", 9)]);
        (state.containers[0].state, state.containers[1].state) = (states[0], states[1]);
        state.containers[3].one_off = true;
        let outline = DesiredOutline::of(&p, Vec::new());
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
    let nothing = lifecycle(Lifecycle::Start, &Observed::default(), Some(&DesiredOutline::of(&p, Vec::new())), &all());
    assert_eq!(nothing.expect_err("nothing"), PlanError::NothingToStart { service: "db".into() });
}

#[test]
fn images_that_down_removes() {
    let mut p = project(WEB_DB);
    p.services["web"].build = Some(crate::compose::model::Build::default());
    p.services["web"].image = Some("p-web".into());
    let outline = DesiredOutline::of(&p, Vec::new());
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
