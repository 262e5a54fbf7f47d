//! Which services a plan interrupts, and for how long at most.

use super::{Observed, ObservedContainer, Operation, Plan, UpOptions};
use crate::compose::model::{Project, Service};
use std::time::Duration;

/// Docker's, where the service says nothing.
const GRACE: Duration = Duration::from_secs(10);

/// A service whose running containers are replaced or restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interruption {
    pub service: String,
    /// In the words of `wharf plan`.
    pub text: String,
}

/// The fate of a running container.
#[derive(PartialEq)]
enum Fate {
    Interrupted,
    Updated,
}

pub(super) fn interruptions(plan: &Plan, project: &Project, observed: &Observed, options: &UpOptions) -> Vec<Interruption> {
    let fate = |container: &ObservedContainer| {
        plan.graph.node_weights().find_map(|step| match &step.operation {
            Operation::UpdateContainer { replaces, .. } if *replaces == container.id => Some(Fate::Updated),
            Operation::RecreateContainer { replaces, .. } if *replaces == container.id => Some(Fate::Interrupted),
            Operation::RestartContainer { id, .. } | Operation::StopContainer { id, .. } if *id == container.id => {
                Some(Fate::Interrupted)
            }
            _ => None,
        })
    };
    let of = |(name, service): (&String, &Service)| {
        let own = |c: &&ObservedContainer| c.service == *name && !c.one_off && c.state.is_alive();
        let fates: Vec<Option<Fate>> = observed.containers.iter().filter(own).map(fate).collect();
        let interrupted = fates.iter().filter(|fate| **fate == Some(Fate::Interrupted)).count();
        let text = if interrupted > 0 {
            let grace = options.timeout.map(|seconds| Duration::from_secs(seconds.into()));
            let grace = grace.or(service.stop_grace_period.map(|nanos| nanos.duration())).unwrap_or(GRACE);
            format!(
                "interrupted: {interrupted} of {} running, each for its stop (at most {} s) and the start of the next",
                fates.len(),
                grace.as_secs_f64()
            )
        } else if fates.contains(&Some(Fate::Updated)) {
            "not interrupted: each container runs until the next has its names and ports".into()
        } else {
            return None;
        };
        Some(Interruption { service: name.clone(), text })
    };
    project.services.iter().filter_map(of).collect()
}
