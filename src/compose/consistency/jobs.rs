//! Jobs: their names, and what starts them.

use crate::compose::check::boolean;
use crate::compose::diagnostic::Diagnostic;
use crate::compose::node::Node;
use crate::cron::{Cron, CronError};

/// Checks the active jobs of a whole project.
pub(super) fn check(root: &Node, found: &mut Vec<Diagnostic>) {
    for (name, entry) in root.get("jobs").and_then(Node::as_map).into_iter().flatten() {
        if let Some(service) = root.get("services").and_then(Node::as_map).and_then(|services| services.get(name)) {
            let message = format!("`{name}` is the name of a job and of a service");
            let error = Diagnostic::error(&entry.key_at, message).note(&service.key_at, "the service");
            found.push(error.help("rename one of the two: `run` takes the names of both"));
        }
        triggers(name, &entry.node, found);
    }
}

fn triggers(name: &str, job: &Node, found: &mut Vec<Diagnostic>) {
    let Some(triggers) = job.get("triggers").filter(|triggers| !triggers.is_null()) else { return };
    let manual = triggers.get("manual").filter(|manual| !manual.is_null());
    let schedule = triggers.get("schedule").filter(|schedule| schedule.as_list().is_some_and(|list| !list.is_empty()));
    match (manual, schedule) {
        (None, None) => found.push(
            Diagnostic::error(&triggers.at, format!("`jobs.{name}.triggers` has neither `manual` nor `schedule`"))
                .help("write `manual: true` for a job that `run` starts, or `schedule: [\"0 3 * * *\"]`"),
        ),
        (Some(manual), Some(_)) if boolean(manual) == Some(true) => found.push(
            Diagnostic::error(&manual.at, format!("`jobs.{name}.triggers` has `manual: true` and a `schedule`"))
                .help("leave out `manual`: `run` starts a job with a schedule as well, unless it has `manual: false`"),
        ),
        _ => {}
    }
    for entry in schedule.and_then(Node::as_list).unwrap_or_default() {
        let (Some(cron), zone) = (entry.get("cron"), entry.get("timezone")) else { continue };
        let parsed =
            Cron::in_zone(cron.as_str().unwrap_or_default(), zone.and_then(Node::as_str).filter(|zone| !zone.is_empty()));
        let Err(why) = parsed else { continue };
        let (at, key, help) = match (&why, zone) {
            (CronError::Zone(_), Some(zone)) => {
                (&zone.at, "timezone", "write a name such as `Europe/Paris`; without one it is UTC")
            }
            _ => (&cron.at, "cron", "write five fields: `0 3 * * *` is at three, each day"),
        };
        found.push(Diagnostic::error(at, format!("`jobs.{name}.triggers.schedule.{key}`: {why}")).help(help));
    }
}
