//! CronJobs: one for each schedule of a job.

use super::super::context::Context;
use super::super::kompose;
use super::super::names;
use super::super::object::Made;
use super::super::workload::Pod;
use super::LONGEST;
use crate::compose::model::{Concurrency, MissedFires};
use crate::compose::node::Node;
use crate::cron::Cron;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// How long after its time a run may begin that makes up for nothing.
const LATE: i64 = 60;

pub fn cron_jobs(context: &Context<'_>, pod: &Pod<'_, '_>, metadata: &ObjectMeta, job: &JobSpec, made: &mut Vec<Made>) {
    let leader = pod.leader();
    let template = JobTemplateSpec { metadata: None, spec: Some(job.clone()) };
    let mut add = |n: usize, spec: CronJobSpec, at| {
        let base = leader.object.get(..LONGEST - 3).unwrap_or(&leader.object).trim_end_matches('-');
        let name = if n == 0 && leader.object.len() <= LONGEST {
            leader.object.clone()
        } else {
            names::dns(&format!("{base}-{}", n + 1))
        };
        let metadata = ObjectMeta { name: Some(name), ..metadata.clone() };
        made.push(Made::new(CronJob { metadata, spec, status: None }, at));
    };
    let Some(triggers) = leader.job.map(|job| &job.triggers) else {
        let spec = of_labels(context, pod, template);
        add(0, spec, leader.at);
        return;
    };
    for (n, schedule) in triggers.schedule.iter().enumerate() {
        let index = n.to_string();
        let path = leader.path(&["triggers", "schedule", &index]);
        if schedule.concurrency == Concurrency::Queue {
            context.warn(&path, "Kubernetes keeps no run waiting: one that is due while another goes on is left out", "");
        }
        let zone =
            context.node(&path).and_then(|node| node.get("timezone")).and_then(Node::as_str).filter(|zone| !zone.is_empty());
        let spec = CronJobSpec {
            schedule: five_fields(&schedule.cron),
            time_zone: zone_of(context, &path, zone),
            concurrency_policy: Some("Forbid".into()),
            starting_deadline_seconds: (schedule.missed_fires == MissedFires::Skip).then_some(LATE),
            job_template: template.clone(),
            ..CronJobSpec::default()
        };
        add(n, spec, context.place(&path));
    }
}

/// UTC where a job names no zone: a CronJob without one has its controller's.
fn zone_of(context: &Context<'_>, path: &[&str], zone: Option<&str>) -> Option<String> {
    if context.has(27) {
        return Some(zone.unwrap_or("Etc/UTC").into());
    }
    if let Some(zone) = zone.filter(|zone| !matches!(*zone, "UTC" | "Etc/UTC")) {
        let message = format!(
            "Kubernetes {} has no time zones of CronJobs: `{zone}` would be that of the cluster's controller",
            context.version()
        );
        context.refuse(path, message, "`--cluster-version 1.27` or later, or a schedule in UTC");
    }
    None
}

/// Kubernetes knows `7` neither for Sunday nor in a range that ends there.
fn five_fields(cron: &Cron) -> String {
    let text = cron.to_string();
    let Some((rest, days)) = text.rsplit_once(char::is_whitespace) else { return text };
    if days.contains('7') && days.contains('/') {
        let days: Vec<String> = (0..7).filter(|day| cron.has_weekday(*day)).map(|day| day.to_string()).collect();
        return format!("{rest} {}", days.join(","));
    }
    let parts = days.split(',').map(|part| match part.split_once('-') {
        Some((from, "7")) => format!("{from}-6,0"),
        _ if part == "7" => "0".to_string(),
        _ => part.to_string(),
    });
    format!("{rest} {}", parts.collect::<Vec<_>>().join(","))
}

/// kompose's labels.
fn of_labels(context: &Context<'_>, pod: &Pod<'_, '_>, job_template: JobTemplateSpec) -> CronJobSpec {
    let leader = pod.leader();
    let cron: Option<Cron> =
        kompose::parsed(context, &leader.path(&[]), leader.service, "cronjob.schedule", "five fields such as `0 3 * * *`");
    let policy = leader.label("cronjob.concurrency_policy").map(|policy| {
        let known = ["Allow", "Forbid", "Replace"].into_iter().find(|known| known.eq_ignore_ascii_case(policy));
        if known.is_none() {
            let path = leader.path(&["labels", "kompose.cronjob.concurrency_policy"]);
            context.refuse(&path, format!("`{policy}` is no policy of concurrency"), "write Allow, Forbid or Replace");
        }
        known.unwrap_or("Forbid").to_string()
    });
    CronJobSpec {
        schedule: cron.map(|cron| five_fields(&cron)).unwrap_or_default(),
        concurrency_policy: policy,
        job_template,
        ..CronJobSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sunday_is_nought() {
        let table = [
            ("0 3 * * 7", "0 3 * * 0"),
            ("0 3 * * 5-7", "0 3 * * 5-6,0"),
            ("0 3 * * 1,7", "0 3 * * 1,0"),
            ("0 3 * * 1-7/2", "0 3 * * 0,1,3,5"),
            ("0 3 * * 7/1", "0 3 * * 0"),
            ("0 3 * * */7", "0 3 * * 0"),
            ("@daily", "@daily"),
        ];
        for (text, written) in table {
            assert_eq!(five_fields(&text.parse().expect(text)), written);
        }
    }
}
