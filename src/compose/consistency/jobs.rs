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
        dependencies(root, name, &entry.node, found);
        containers(root, name, &entry.node, found);
    }
}

fn job<'a>(root: &'a Node, name: &str) -> Option<&'a Node> {
    root.get("jobs")?.get(name)
}

/// Jobs that a job depends on are run to their ends.
fn dependencies(root: &Node, name: &str, node: &Node, found: &mut Vec<Diagnostic>) {
    for (other, entry) in node.get("depends_on").and_then(Node::as_map).into_iter().flatten() {
        let Some(before) = job(root, other) else { continue };
        let condition = entry.node.get("condition");
        if let Some(condition) = condition.filter(|condition| condition.as_str() == Some("service_healthy")) {
            let message =
                format!("`jobs.{name}.depends_on.{other}`: `{other}` is a job, and is run to its end, whatever the condition");
            found.push(Diagnostic::warning(&condition.at, message).help("write `service_completed_successfully`"));
        }
        let manual = before.get("triggers").and_then(|triggers| triggers.get("manual"));
        if let Some(manual) = manual.filter(|manual| boolean(manual) == Some(false)) {
            let message = format!("`jobs.{name}` depends on the job `{other}`, which nothing but its schedule starts");
            found
                .push(Diagnostic::warning(&entry.key_at, message).note(&manual.at, "`manual: false`").help("leave out `manual`"));
        }
    }
}

/// A job has no container that another could share.
fn containers(root: &Node, name: &str, node: &Node, found: &mut Vec<Diagnostic>) {
    let modes = ["network_mode", "ipc", "pid"].into_iter().filter_map(|key| {
        let value = node.get(key)?;
        Some((key, value, value.as_str()?.strip_prefix("service:")?))
    });
    let volumes = node.get("volumes_from").and_then(Node::as_list).unwrap_or_default().iter().filter_map(|value| {
        let text = value.as_str()?;
        Some(("volumes_from", value, text.split_once(':').map_or(text, |(service, _)| service)))
    });
    for (key, value, other) in modes.chain(volumes).filter(|(_, _, other)| job(root, other).is_some()) {
        let message = format!("`jobs.{name}.{key}` names the job `{other}`, whose container is there only while it runs");
        found.push(Diagnostic::error(&value.at, message).help("name a service"));
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
        (Some(manual), None) if boolean(manual) == Some(false) => found.push(
            Diagnostic::warning(&manual.at, format!("nothing starts `jobs.{name}`: it has `manual: false` and no `schedule`"))
                .help("leave out `manual`, or write a `schedule`"),
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
