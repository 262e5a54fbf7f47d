//! Whether a job is due.

use crate::compose::model::{MissedFires, Schedule};
use jiff::{SignedDuration, Timestamp};

/// A fire that is found later than this was missed: the host slept, or its clock was put forward.
const LATE: SignedDuration = SignedDuration::from_secs(90);
/// A clock that was put back by less goes on to where it was: what has fired does not fire again.
const SET_BACK: SignedDuration = SignedDuration::from_hours(3);

/// The outcome of a look at a job's schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The time for which a run begins now.
    pub fire: Option<Timestamp>,
    /// Up to when fires have been seen to: the next look begins there.
    pub until: Timestamp,
    /// The next fire.
    pub next: Option<Timestamp>,
}

/// Looks at a job's schedules. Fires up to `until` have been seen to; the engine has run since `running_since`.
///
/// However many fires were missed, one run makes up for them, or none (`missed_fires: skip`).
pub fn due(schedules: &[Schedule], until: Timestamp, running_since: Timestamp, now: Timestamp) -> Due {
    let until = if until.duration_since(now) > SET_BACK { now } else { until };
    // A clock that was put back since: the engine ran then.
    let running_since = if running_since > now { Timestamp::MIN } else { running_since };
    let in_time = running_since.max(now.saturating_sub(LATE).unwrap_or(now)).max(until);
    let fire_of = |schedule: &Schedule| {
        let first_after = |time: Timestamp| schedule.cron.next(time).filter(|fire| *fire <= now);
        match schedule.missed_fires {
            // The one in time, if there is one: it is what the run is for.
            MissedFires::One => first_after(in_time).or_else(|| first_after(until)),
            MissedFires::Skip => first_after(in_time),
        }
    };
    Due {
        fire: schedules.iter().filter_map(fire_of).max(),
        until: until.max(now),
        next: schedules.iter().filter_map(|schedule| schedule.cron.next(until.max(now))).min(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedules(yaml: &str) -> Vec<Schedule> {
        serde_yaml::from_str(yaml).expect("schedules")
    }

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn what_was_missed_is_made_up_for_once() {
        let one = "[{cron: '0 3 * * *'}]";
        let skip = "[{cron: '0 3 * * *', missed_fires: skip}]";
        // Schedules, seen to until, running since, now, the fire.
        let table = [
            (one, "2026-03-01T03:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T02:59:59Z", None),
            (one, "2026-03-01T03:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T03:00:00Z", Some("2026-03-02T03:00:00Z")),
            (skip, "2026-03-01T03:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T03:00:30Z", Some("2026-03-02T03:00:00Z")),
            // The engine was down for three fires; it comes back just after one.
            (one, "2026-03-01T03:00:00Z", "2026-03-04T09:00:00Z", "2026-03-04T09:00:00Z", Some("2026-03-02T03:00:00Z")),
            (skip, "2026-03-01T03:00:00Z", "2026-03-04T09:00:00Z", "2026-03-04T09:00:00Z", None),
            (skip, "2026-03-01T03:00:00Z", "2026-03-04T03:00:01Z", "2026-03-04T03:00:01Z", None),
            // The host slept, or its clock was put forward.
            (one, "2026-03-01T03:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T05:00:00Z", Some("2026-03-02T03:00:00Z")),
            (skip, "2026-03-01T03:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T05:00:00Z", None),
            // It was put back by an hour after the fire, and by years.
            (one, "2026-03-02T03:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T02:00:00Z", None),
            (one, "2030-01-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T03:00:00Z", None),
            // Two schedules: the run is for the later fire.
            (
                "[{cron: '0 3 * * *'}, {cron: '30 3 * * *'}]",
                "2026-03-01T00:00:00Z",
                "2026-03-01T09:00:00Z",
                "2026-03-01T09:00:00Z",
                Some("2026-03-01T03:30:00Z"),
            ),
            ("[]", "2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", None),
        ];
        for (yaml, until, since, now, fire) in table {
            let found = due(&schedules(yaml), time(until), time(since), time(now));
            assert_eq!(found.fire, fire.map(time), "{yaml} until {until} since {since} now {now}");
            assert!(found.until >= time(now) && found.until.duration_since(time(now)) <= SET_BACK);
            assert_eq!(due(&schedules(yaml), found.until, time(since), time(now)).fire, None, "{yaml}: it fires once");
        }
        // The clock was wrong when the engine started.
        let found =
            due(&schedules(skip), time("2026-03-02T02:00:00Z"), time("2029-03-01T00:00:00Z"), time("2026-03-02T03:00:00Z"));
        assert_eq!(found.fire, Some(time("2026-03-02T03:00:00Z")));
        // Put back by years, it goes on from there.
        let found =
            due(&schedules(one), time("2030-01-01T00:00:00Z"), time("2026-03-01T00:00:00Z"), time("2026-03-02T02:00:00Z"));
        assert_eq!(found.next, Some(time("2026-03-02T03:00:00Z")));
    }

    /// The fires of a year of virtual time, looked at as the engine does: at the next fire, or a minute later.
    fn year(yaml: &str, from: &str, mut clock: impl FnMut(Timestamp) -> Timestamp) -> Vec<Timestamp> {
        let schedules = schedules(yaml);
        let begin = time(from);
        let end = begin + SignedDuration::from_hours(366 * 24);
        let (mut until, mut now, mut fires) = (begin, begin, Vec::new());
        while now < end {
            let found = due(&schedules, until, begin, now);
            until = found.until;
            fires.extend(found.fire);
            let next = found.next.unwrap_or(end);
            now = clock(next.min(end));
        }
        fires
    }

    #[test]
    fn a_year_has_every_fire_once() {
        // Schedule, first day, fires in 366 days.
        for (yaml, from, expected) in [
            ("[{cron: '0 3 * * *', timezone: Europe/Paris}]", "2026-01-01T00:00:00Z", 366),
            ("[{cron: '30 2 * * *', timezone: Europe/Paris}]", "2026-01-01T00:00:00Z", 366),
            ("[{cron: '30 * * * *', timezone: Europe/Paris}]", "2026-01-01T00:00:00Z", 366 * 24 - 1),
            ("[{cron: '0 0 29 2 *'}]", "2027-06-01T00:00:00Z", 1),
            ("[{cron: '0 0 29 2 *'}]", "2026-01-01T00:00:00Z", 0),
            ("[{cron: '0 12 31 * *'}]", "2026-01-01T00:00:00Z", 7),
            ("[{cron: '0 12 * * mon'}]", "2026-01-01T00:00:00Z", 52),
            ("[{cron: '15 1,2 * * *', timezone: America/New_York}]", "2026-01-01T00:00:00Z", 366 * 2),
        ] {
            let fires = year(yaml, from, |next| next);
            assert_eq!(fires.len(), expected, "{yaml}");
            assert!(fires.is_sorted_by(|a, b| a < b), "{yaml}");
        }
    }

    #[test]
    fn an_engine_that_is_down_misses_what_its_job_says() {
        // Each look is up to 30 hours late, as if the host slept: a fire of each night is missed now and then.
        let mut n = 0u32;
        let sleepy = |next: Timestamp| {
            n = n.wrapping_mul(1_103_515_245).wrapping_add(12345);
            next + SignedDuration::from_mins(i64::from(n >> 16) % 1800)
        };
        let one = year("[{cron: '0 3 * * *'}]", "2026-01-01T00:00:00Z", sleepy);
        let mut n = 0u32;
        let sleepy = |next: Timestamp| {
            n = n.wrapping_mul(1_103_515_245).wrapping_add(12345);
            next + SignedDuration::from_mins(i64::from(n >> 16) % 1800)
        };
        let skip = year("[{cron: '0 3 * * *', missed_fires: skip}]", "2026-01-01T00:00:00Z", sleepy);
        assert!(one.len() > 200 && one.len() < 366, "each wake has at most one run: {}", one.len());
        assert!(skip.len() < 20, "only those in time: {}", skip.len());
        assert!(one.is_sorted_by(|a, b| a < b) && skip.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_clock_that_is_put_back_and_forth_fires_nothing_twice() {
        let mut looks = 0;
        // Every fourth look, the clock is an hour behind; every seventh, it is in the next day.
        let jumpy = |next: Timestamp| {
            looks += 1;
            match looks {
                n if n % 4 == 0 => next - SignedDuration::from_mins(59),
                n if n % 7 == 0 => next + SignedDuration::from_hours(25),
                _ => next,
            }
        };
        let fires = year("[{cron: '0 3 * * *'}]", "2026-01-01T00:00:00Z", jumpy);
        assert!(fires.is_sorted_by(|a, b| a < b), "a fire twice");
        assert!(fires.len() > 250, "{}", fires.len());
    }
}
