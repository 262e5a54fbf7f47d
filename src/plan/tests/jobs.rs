//! Jobs in the plans of `up` and `down`.

use super::*;

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
    let options = DownOptions { outline: Some(DesiredOutline::of(&p, Vec::new())), ..DownOptions::default() };
    let lines = down("p", &state, options.outline.as_ref(), &options).lines();
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(has("stop and remove container p-backup-run-1: down") && has("deregister job backup: down"), "{lines:?}");
    let of_db = DownOptions { services: vec!["db".into()], ..options };
    let lines = down("p", &state, of_db.outline.as_ref(), &of_db).lines();
    assert!(!lines.iter().any(|line| line.contains("backup")), "{lines:?}");
}
