//! Jobs in the plan of `up`: which are registered, anew or no longer.

use super::hash::part_hash;
use super::up::Planner;
use super::{Before, Operation, PlanError};
use crate::compose::model::Project;

/// The part of a project that a job needs to run: itself, what it depends on, and what those use.
pub fn part_for_job(project: &Project, job: &str) -> Project {
    let mut part = Project { name: project.name.clone(), ..Project::default() };
    let mut wanted = vec![job.to_string()];
    while let Some(name) = wanted.pop() {
        if part.jobs.contains_key(&name) || part.services.contains_key(&name) {
            continue;
        }
        let service = match (project.jobs.get(&name), project.services.get(&name)) {
            (Some(job), _) => {
                part.jobs.insert(name, job.clone());
                &job.service
            }
            (None, Some(service)) => {
                part.services.insert(name, service.clone());
                service
            }
            (None, None) => continue,
        };
        wanted.extend(service.depends_on.keys().cloned());
        for key in service.networks.keys() {
            part.networks.extend(project.networks.get_key_value(key).map(|(k, v)| (k.clone(), v.clone())));
        }
        for key in service.volumes.iter().filter_map(|volume| volume.source.as_ref()) {
            part.volumes.extend(project.volumes.get_key_value(key).map(|(k, v)| (k.clone(), v.clone())));
        }
        for mount in &service.configs {
            part.configs.extend(project.configs.get_key_value(&mount.source).map(|(k, v)| (k.clone(), v.clone())));
        }
        for mount in &service.secrets {
            part.secrets.extend(project.secrets.get_key_value(&mount.source).map(|(k, v)| (k.clone(), v.clone())));
        }
    }
    part
}

/// The hash of what a job needs: a changed one is registered anew.
pub fn job_hash(project: &Project, job: &str) -> String {
    part_hash(&part_for_job(project, job))
}

/// The project in which a job is a service, for the plan of one run of it. Jobs that it depends on have been run before.
pub fn with_job_as_service(project: &Project, job: &str) -> Option<Project> {
    let mut service = project.jobs.get(job)?.service.clone();
    service.depends_on.retain(|name, _| !project.jobs.contains_key(name));
    let mut with = project.clone();
    with.services.insert(job.into(), service);
    Some(with)
}

impl Planner<'_> {
    /// Registers the jobs with a schedule, and those that are registered and have changed. Others are when they are run.
    pub(super) fn jobs(&mut self) -> Result<(), PlanError> {
        let (project, observed) = (self.project, self.observed);
        let mut manual = Vec::new();
        for (name, job) in &project.jobs {
            let hash = job_hash(project, name);
            let cause = match observed.jobs.get(name) {
                Some(known) if *known == hash => continue,
                Some(_) => "its definition has changed",
                None if job.is_scheduled() => "not registered",
                None => {
                    manual.push(name.as_str());
                    continue;
                }
            };
            let mut before = Before::default();
            if job.is_scheduled() {
                let missing = || PlanError::NoImage { service: name.clone() };
                before.need(self.image(job.service.image.as_deref().ok_or_else(missing)?, &job.service));
            }
            self.plan.add(Operation::RegisterJob { job: name.clone(), trigger: job.trigger_text() }, cause, &before);
        }
        let is_known = |name: &String| project.jobs.contains_key(name) || self.options.inactive.contains(name);
        let mut gone: Vec<&String> = observed.jobs.keys().filter(|name| !is_known(name)).collect();
        gone.sort();
        for job in gone {
            self.plan.add(Operation::DeregisterJob { job: job.clone() }, "the project has no such job", &Before::default());
        }
        if !manual.is_empty() {
            let (jobs, are) = if manual.len() == 1 { ("job", "is") } else { ("jobs", "are") };
            self.plan.warnings.push(format!("the {jobs} {} {are} not started by `up`: `wharf run JOB` does", manual.join(", ")));
        }
        Ok(())
    }
}
