//! A job: what is run to its end, and when.

use super::service::Service;
use crate::cron::{Cron, CronError};
use crate::units::{Nanos, as_text};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An entry of `jobs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Job {
    #[serde(default)]
    pub triggers: Triggers,
    /// wharf's own: a run that takes longer is ended.
    #[serde(default, rename = "x-timeout", with = "as_text", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Nanos>,
    /// The attributes that it shares with services.
    #[serde(flatten)]
    pub service: Service,
}

/// The triggers of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Triggers {
    /// `false`: `run` does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manual: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<Schedule>,
}

impl Job {
    /// Whether `run` may start it.
    pub fn is_manual(&self) -> bool {
        self.triggers.manual != Some(false)
    }

    /// Whether the engine starts it by itself.
    pub fn is_scheduled(&self) -> bool {
        !self.triggers.schedule.is_empty()
    }

    /// Its triggers, as lists show them.
    pub fn trigger_text(&self) -> String {
        match &self.triggers.schedule[..] {
            [] => "manual".into(),
            schedule => schedule.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }
    }

    /// What becomes of a run while another one goes on: it waits where one of the schedules says so.
    pub fn concurrency(&self) -> Concurrency {
        let queues = self.triggers.schedule.iter().any(|schedule| schedule.concurrency == Concurrency::Queue);
        if queues { Concurrency::Queue } else { Concurrency::Forbid }
    }
}

/// An entry of `triggers.schedule`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "WrittenSchedule", into = "WrittenSchedule")]
pub struct Schedule {
    /// In its time zone.
    pub cron: Cron,
    pub concurrency: Concurrency,
    pub missed_fires: MissedFires,
    timezone: Option<String>,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.timezone {
            Some(zone) => write!(f, "{} {zone}", self.cron),
            None => self.cron.fmt(f),
        }
    }
}

/// The reaction to a fire while the job still runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Concurrency {
    /// The new run is left out.
    #[default]
    Forbid,
    /// One new run begins when the other has ended.
    Queue,
}

/// The reaction to fires that were due while no engine ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissedFires {
    /// One run makes up for all of them.
    #[default]
    One,
    /// They are left out.
    Skip,
}

#[derive(Serialize, Deserialize)]
struct WrittenSchedule {
    cron: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timezone: Option<String>,
    #[serde(default)]
    concurrency: Concurrency,
    #[serde(default)]
    missed_fires: MissedFires,
}

impl TryFrom<WrittenSchedule> for Schedule {
    type Error = CronError;

    fn try_from(written: WrittenSchedule) -> Result<Self, CronError> {
        let WrittenSchedule { cron, timezone, concurrency, missed_fires } = written;
        let timezone = timezone.filter(|zone| !zone.is_empty());
        Ok(Schedule { cron: Cron::in_zone(&cron, timezone.as_deref())?, concurrency, missed_fires, timezone })
    }
}

impl From<Schedule> for WrittenSchedule {
    fn from(schedule: Schedule) -> Self {
        let Schedule { cron, concurrency, missed_fires, timezone } = schedule;
        WrittenSchedule { cron: cron.to_string(), timezone, concurrency, missed_fires }
    }
}
