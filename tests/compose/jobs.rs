//! `jobs:`: what they may say, what is refused and where, and the canonical project.

use super::support::Files;
use wharf::compose::model::{Concurrency, Condition, MissedFires};

/// A job's attributes, after `jobs:`, a name and two lines that are right.
fn job(lines: &str) -> String {
    format!("services:\n  db: {{image: db}}\njobs:\n  backup:\n    image: backup\n{lines}\n")
}

const MANUAL: &str = "    triggers: {manual: true}\n";

#[test]
fn a_wrong_job_is_refused_with_its_place() {
    let with = |attribute: &str| job(&format!("{MANUAL}    {attribute}"));
    let triggers = |text: &str| job(&format!("    triggers: {text}"));
    let mut table = vec![
        // The file, where it is wrong, what is said of it.
        (job(""), "5:5", "`jobs.backup` needs `triggers`"),
        (triggers("{}"), "6:15", "neither `manual` nor `schedule`"),
        (triggers("{schedule: []}"), "6:15", "neither `manual` nor `schedule`"),
        (triggers("{manual: true, schedule: ['0 3 * * *']}"), "6:24", "`manual: true` and a `schedule`"),
        (triggers("{manual: perhaps}"), "6:24", "must be `true` or `false`"),
        (triggers("{schedule: ['0 3 * *']}"), "6:27", "has 4 fields"),
        (triggers("{schedule: ['0 3 * * *', '0 24 * * *']}"), "6:40", "`24` is no hour"),
        (triggers("{schedule: ['0 0 31 2 *']}"), "6:27", "never comes"),
        (triggers("{schedule: ['TZ=Europe/Paris 0 3 * * *']}"), "6:27", "write `timezone: Europe/Paris`"),
        (triggers("{schedule: [{cron: '0 3 * * *', timezone: Mars/Base}]}"), "6:57", "no time zone `Mars/Base`"),
        (triggers("{schedule: [{timezone: UTC}]}"), "6:27", "needs `cron`"),
        (triggers("{schedule: [{cron: '0 3 * * *', concurrency: allow}]}"), "6:60", "it is one of `forbid`, `queue`"),
        (triggers("{schedule: [{cron: '0 3 * * *', missed_fires: all}]}"), "6:61", "it is one of `one`, `skip`"),
        (triggers("{schedule: [{cron: '0 3 * * *', retries: 3}]}"), "6:47", "`retries` is not an attribute"),
        (triggers("{event: push}"), "6:16", "`event` is not an attribute"),
        (with("imag: x"), "7:5", "did you mean `image`?"),
        (with("x-timeout: 5"), "7:16", "say which unit: `x-timeout: 5s`"),
        (triggers("{manual: false}"), "6:24", "nothing starts `jobs.backup`"),
        (
            job(&format!(
                "{MANUAL}    depends_on: {{other: {{condition: service_healthy}}}}\n  other: {{image: x, {}}}",
                MANUAL.trim()
            )),
            "7:37",
            "`other` is a job, and is run to its end",
        ),
        (
            job(&format!(
                "{MANUAL}    depends_on: [other]\n  other: {{image: x, triggers: {{manual: false, schedule: '@daily'}}}}"
            )),
            "7:18",
            "which nothing but its schedule starts",
        ),
        (
            job(&format!("{MANUAL}    network_mode: service:other\n  other: {{image: x, {}}}", MANUAL.trim())),
            "7:19",
            "names the job `other`",
        ),
        (
            job(&format!("{MANUAL}    volumes_from: [other:ro]\n  other: {{image: x, {}}}", MANUAL.trim())),
            "7:20",
            "names the job `other`",
        ),
        (with("depends_on: [dc]"), "7:18", "did you mean `db`?"),
        (with("volumes: ['data:/data']"), "7:15", "`jobs.backup` refers to the volume `data`"),
        (job(&format!("{MANUAL}  db: {{image: x, triggers: {{manual: true}}}}")), "7:3", "is the name of a job and of a service"),
        (
            format!("{}  a b: {{image: x, triggers: {{manual: true}}}}\n", job(MANUAL).trim_end_matches('\n').to_string() + "\n"),
            "7:3",
            "cannot be a job's name",
        ),
        (
            format!("services:\n  web: {{image: web, depends_on: [backup]}}\njobs:\n  backup: {{image: x, {}}}\n", MANUAL.trim()),
            "2:34",
            "a service cannot wait for a job",
        ),
        (
            job(&format!("{MANUAL}    depends_on: [other]\n  other: {{image: x, depends_on: [backup], {}}}", MANUAL.trim())),
            "7:17",
            "`depends_on` has a cycle: backup -> other -> backup",
        ),
        (format!("jobs:\n  backup: {{{}}}\n", MANUAL.trim()), "2:3", "the job `backup` has neither an `image` nor a `build`"),
    ];
    for attribute in [
        "attach: false",
        "container_name: x",
        "deploy: {replicas: 2}",
        "develop: {}",
        "extends: db",
        "external_links: [x]",
        "links: [db]",
        "post_start: [{command: x}]",
        "pre_start: [{command: x}]",
        "pre_stop: [{command: x}]",
        "provider: {type: x}",
        "restart: always",
        "scale: 2",
        "x-update: {schedule: '@daily'}",
    ] {
        table.push((with(attribute), "7:5", "it is about services, which stay, and a job runs to its end"));
    }
    let mut wrong = Vec::new();
    for (text, place, words) in table {
        let files = Files::new(&[("compose.yaml", &text)]);
        let said = files.errors(&files.options());
        if !(said.contains(words) && said.contains(&format!("compose.yaml:{place}:"))) {
            wrong.push(format!("{place} {words}:\n{text}\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_job_is_loaded_as_a_service_is() {
    let files = Files::new(&[
        (
            "compose.yaml",
            "include: [more/compose.yaml]
services:
  db: {image: db}
jobs:
  backup:
    image: ${SET}/backup
    command: dump --all
    env_file: vars.env
    volumes: [./out:/out, data:/data]
    depends_on: {db: {condition: service_healthy}, prepare: {condition: service_completed_successfully}}
    x-timeout: 90s
    triggers:
      schedule:
        - {cron: '0 3 * * *', timezone: Europe/Paris, concurrency: queue, missed_fires: skip}
  prepare: {image: prepare, triggers: {manual: false}}
  off: {image: off, profiles: [debug], triggers: {manual: true}}
volumes: {data: {}, unused: {}}
",
        ),
        ("more/compose.yaml", "jobs: {report: {image: report, volumes: ['./in:/in'], triggers: {schedule: '@daily'}}}\n"),
        ("over.yaml", "jobs: {backup: {command: dump, environment: {MORE: '1'}, triggers: {schedule: ['5 4 * * 1-5']}}}\n"),
        ("vars.env", "FROM_FILE=yes\n"),
    ]);
    let mut options = files.options();
    options.files.push("over.yaml".into());
    let loaded = wharf::compose::load(&options).unwrap_or_else(|error| panic!("{error}"));
    let jobs = &loaded.project.jobs;
    assert_eq!(jobs.keys().collect::<Vec<_>>(), ["backup", "prepare", "report"]);
    assert_eq!(loaded.inactive.keys().collect::<Vec<_>>(), ["off"]);
    let backup = &jobs["backup"];
    assert_eq!(backup.service.image.as_deref(), Some("value/backup"));
    assert_eq!(backup.service.command.as_deref(), Some(&["dump".to_string()][..]));
    assert_eq!(backup.service.environment["FROM_FILE"].as_deref(), Some("yes"));
    assert_eq!(backup.service.environment["MORE"].as_deref(), Some("1"));
    assert_eq!(backup.service.depends_on["db"].condition, Condition::ServiceHealthy);
    assert_eq!(backup.timeout.map(|timeout| timeout.to_string()).as_deref(), Some("1m30s"));
    assert_eq!(backup.service.volumes[0].source.as_deref(), Some(&*files.path().join("out").display().to_string()));
    assert_eq!(jobs["report"].service.volumes[0].source.as_deref(), Some(&*files.path().join("more/in").display().to_string()));
    assert!(backup.service.networks.contains_key("default") && loaded.project.networks.contains_key("default"));
    assert!(loaded.project.volumes.contains_key("data") && !loaded.project.volumes.contains_key("unused"));
    // Lists of two files are one list.
    let shown: Vec<String> = backup.triggers.schedule.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["0 3 * * * Europe/Paris", "5 4 * * 1-5"]);
    let schedules = &backup.triggers.schedule;
    assert_eq!((schedules[0].concurrency, schedules[0].missed_fires), (Concurrency::Queue, MissedFires::Skip));
    assert_eq!((schedules[1].concurrency, schedules[1].missed_fires), (Concurrency::Forbid, MissedFires::One));
    assert!(backup.is_manual() && !jobs["prepare"].is_manual());
    // What the engine is sent is what was loaded.
    let sent = serde_json::to_string(&loaded.project).expect("JSON");
    let again: wharf::compose::model::Project = serde_json::from_str(&sent).expect("a project");
    assert_eq!(again, loaded.project);
    let mut all = options.clone();
    all.profiles = vec!["debug".into()];
    let all = wharf::compose::load(&all).unwrap_or_else(|error| panic!("{error}"));
    assert!(all.project.jobs.contains_key("off"));
    let mut named = options.clone();
    named.services = vec!["off".into()];
    let named = wharf::compose::load(&named).unwrap_or_else(|error| panic!("{error}"));
    assert!(named.project.jobs.contains_key("off"), "naming a job activates it");
}

/// The canonical project is a project again, and the same.
#[test]
fn config_prints_jobs() {
    let text = job("    triggers:\n      schedule:\n      - '*/5 * * * *'\n    x-timeout: 90s\n    user: 5\n    mem_limit: 1m");
    let files = Files::new(&[("compose.yaml", &text)]);
    let printed = files.yaml(&files.options());
    assert!(printed.contains("jobs:\n  backup:\n    image: backup\n    mem_limit: \"1048576\"\n    networks:\n      default: null\n    triggers:\n      schedule:\n        - cron: '*/5 * * * *'\n    user: \"5\"\n    x-timeout: 1m30s\n"), "{printed}");
    let again = Files::new(&[("compose.yaml", &printed)]);
    assert_eq!(again.yaml(&again.options()), printed);
}
