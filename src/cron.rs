//! Schedules in cron's five fields: minute, hour, day of the month, month, day of the week. Pure: the caller has the clock.
//!
//! As in Vixie's cron: lists, ranges, steps, names of months and days, 0 and 7 for Sunday; where both days are restricted, either
//! suffices. `TZ=Europe/Berlin 0 4 * * *` is in a time zone, otherwise it is UTC's. A local time that does not exist on a day, because clocks
//! are put forward, is as much later; one that exists twice is taken once.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cron {
    text: String,
    zone: TimeZone,
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
}

/// The values of a field, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bits: u64,
    /// It begins with `*`: it restricts nothing by itself.
    any: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| value < 64 && self.bits & (1 << value) != 0)
    }
}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error(
        "`{0}` has {1} fields and should have five: minute, hour, day of the month, month, day of the week, such as `0 4 * * *`"
    )]
    Fields(String, usize),
    #[error(
        "`{text}` is no {what}: write {min} to {max}, `*`, a list such as `1,15`, a range such as `1-5`, or a step such as `*/10`"
    )]
    Value { text: String, what: &'static str, min: i8, max: i8 },
    #[error("there is no time zone `{0}`: write one such as `TZ=Europe/Berlin`")]
    Zone(String),
    #[error("`{0}` never comes: no month has such a day")]
    Never(String),
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// The longest text that is read.
const LONGEST: usize = 1024;
/// Between two leap days there are eight years at most, and 29 February may have to be a day of the week: that comes within 40.
const DAYS_AHEAD: usize = 366 * 41;

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let text = text.trim();
        let mut words: Vec<&str> = text.get(..LONGEST).unwrap_or(text).split_ascii_whitespace().collect();
        let named = words.first().and_then(|word| word.strip_prefix("CRON_TZ=").or_else(|| word.strip_prefix("TZ=")));
        let zone = match named {
            Some(name) => TimeZone::get(name).map_err(|_| CronError::Zone(name.into()))?,
            None => TimeZone::UTC,
        };
        if named.is_some() {
            words.remove(0);
        }
        if let [one] = words[..] {
            words = match one {
                "@hourly" => vec!["0", "*", "*", "*", "*"],
                "@daily" | "@midnight" => vec!["0", "0", "*", "*", "*"],
                "@weekly" => vec!["0", "0", "*", "*", "0"],
                "@monthly" => vec!["0", "0", "1", "*", "*"],
                "@yearly" | "@annually" => vec!["0", "0", "1", "1", "*"],
                _ => words,
            };
        }
        let [minutes, hours, days, months, weekdays] = words[..] else {
            return Err(CronError::Fields(text.into(), words.len()));
        };
        let mut weekdays = field(weekdays, "day of the week", 0..=7, &DAYS, 0)?;
        if weekdays.has(7) {
            weekdays.bits |= 1;
        }
        let cron = Cron {
            text: text.into(),
            zone,
            minutes: field(minutes, "minute", 0..=59, &[], 0)?,
            hours: field(hours, "hour", 0..=23, &[], 0)?,
            days: field(days, "day of the month", 1..=31, &[], 0)?,
            months: field(months, "month", 1..=12, &MONTHS, 1)?,
            weekdays,
        };
        cron.next(Timestamp::UNIX_EPOCH).map(|_| cron.clone()).ok_or_else(|| CronError::Never(text.into()))
    }
}

impl TryFrom<String> for Cron {
    type Error = CronError;

    fn try_from(text: String) -> Result<Self, CronError> {
        text.parse()
    }
}

impl From<Cron> for String {
    fn from(cron: Cron) -> String {
        cron.text
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads a field; the first of `names` is the value `first`.
fn field(text: &str, what: &'static str, range: RangeInclusive<i8>, names: &[&str], first: i8) -> Result<Field, CronError> {
    let (min, max) = (*range.start(), *range.end());
    let bad = || CronError::Value { text: text.into(), what, min, max };
    let value = |word: &str| -> Result<i8, CronError> {
        let named = names.iter().position(|name| word.eq_ignore_ascii_case(name)).and_then(|n| i8::try_from(n).ok());
        let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let number = named.map(|n| n + first).or_else(|| word.parse().ok().filter(|_| digits)).ok_or_else(bad)?;
        if range.contains(&number) { Ok(number) } else { Err(bad()) }
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (values, step) = part.split_once('/').map_or((part, None), |(values, step)| (values, Some(step)));
        let digits = |step: &&str| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
        let step = match step {
            None => None,
            Some(step) => {
                Some(Some(step).filter(digits).and_then(|step| step.parse::<usize>().ok()).filter(|n| *n > 0).ok_or_else(bad)?)
            }
        };
        let (from, to) = match values.split_once('-') {
            _ if values == "*" => (min, max),
            Some((from, to)) => (value(from)?, value(to)?),
            // `5/10` is `5-59/10`.
            None => (value(values)?, if step.is_some() { max } else { value(values)? }),
        };
        if from > to {
            return Err(bad());
        }
        for value in (from..=to).step_by(step.unwrap_or(1)) {
            bits |= 1u64 << u32::try_from(value).unwrap_or_default();
        }
    }
    Ok(Field { bits, any: text.starts_with('*') })
}

impl Cron {
    /// The first time after another; `None` where the calendar ends before.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let local = after.to_zoned(self.zone.clone()).datetime();
        let mut date = local.date();
        for n in 0..DAYS_AHEAD {
            if self.is_on(date) {
                let from = if n == 0 { Some(local.time()) } else { None };
                let times = self.times(from).filter_map(|time| {
                    let zoned = date.to_datetime(time).to_zoned(self.zone.clone()).ok()?;
                    Some(zoned.timestamp()).filter(|time| *time > after)
                });
                // What does not exist is later, and may be after what comes later in the day.
                if let Some(first) = times.min() {
                    return Some(first);
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    fn is_on(&self, date: Date) -> bool {
        let (day, weekday) = (self.days.has(date.day()), self.weekdays.has(date.weekday().to_sunday_zero_offset()));
        let either = !self.days.any && !self.weekdays.any;
        self.months.has(date.month()) && if either { day || weekday } else { day && weekday }
    }

    /// The times of a day, from one on.
    fn times(&self, from: Option<Time>) -> impl Iterator<Item = Time> + '_ {
        let from = from.map_or((0, 0), |time| (time.hour(), time.minute()));
        let minutes = move |hour| (0..60).map(move |minute| (hour, minute));
        let all = (0..24).filter(|hour| self.hours.has(*hour)).flat_map(minutes);
        // An hour before: clocks may have been put back.
        let all = all.filter(move |(hour, minute)| self.minutes.has(*minute) && (*hour + 1, *minute) >= from);
        all.filter_map(|(hour, minute)| Time::new(hour, minute, 0, 0).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(cron: &str, time: &str) -> String {
        let cron: Cron = cron.parse().unwrap_or_else(|error| panic!("{cron}: {error}"));
        cron.next(time.parse().expect("a time")).expect("a next time").to_string()
    }

    #[test]
    fn the_next_time() {
        for (cron, from, expected) in [
            ("0 4 * * *", "2026-11-27T03:59:59Z", "2026-11-27T04:00:00Z"),
            ("0 4 * * *", "2026-11-27T04:00:00Z", "2026-11-28T04:00:00Z"),
            ("*/15 * * * *", "2026-11-27T23:50:01Z", "2026-11-28T00:00:00Z"),
            ("5/20 1-2 * * *", "2026-11-27T01:05:00Z", "2026-11-27T01:25:00Z"),
            ("0,30 9-17/4 * * MON-fri", "2026-11-27T17:30:00Z", "2026-11-30T09:00:00Z"),
            ("0 0 29 feb *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 29 2 */7", "2026-01-01T00:00:00Z", "2032-02-29T00:00:00Z"),
            ("0 0 13 * 5", "2026-11-01T00:00:00Z", "2026-11-06T00:00:00Z"),
            ("0 0 * * 7", "2026-11-27T00:00:00Z", "2026-11-29T00:00:00Z"),
            ("@monthly", "2026-11-27T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("TZ=Europe/Berlin 0 4 * * *", "2026-11-27T00:00:00Z", "2026-11-27T03:00:00Z"),
            ("CRON_TZ=Asia/Kolkata 0 4 * * *", "2026-11-27T00:00:00Z", "2026-11-27T22:30:00Z"),
            // Clocks are put forward from 2 to 3, and back from 3 to 2.
            ("TZ=Europe/Berlin 30 2 * * *", "2026-03-29T00:00:00Z", "2026-03-29T01:30:00Z"),
            ("TZ=Europe/Berlin 30 2 * * *", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"),
            ("TZ=Europe/Berlin 30 2 * * *", "2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z"),
            ("TZ=Europe/Berlin 30 2 * * *", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
            ("TZ=Europe/Berlin 0 3 * * *", "2026-10-25T01:10:00Z", "2026-10-25T02:00:00Z"),
            ("TZ=Europe/Berlin 30 2,3 * * *", "2026-03-29T00:10:00Z", "2026-03-29T01:30:00Z"),
        ] {
            assert_eq!(after(cron, from), expected, "{cron} after {from}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_told() {
        for (cron, words) in [
            ("", "has 0 fields"),
            ("0 4 * *", "has 4 fields"),
            ("* * * * * *", "has 6 fields"),
            ("@reboot", "has 1 fields"),
            ("60 * * * *", "`60` is no minute"),
            ("* 24 * * *", "is no hour"),
            ("* * 0 * *", "is no day of the month"),
            ("* * * 13 *", "is no month"),
            ("* * * * 8", "is no day of the week"),
            ("*/0 * * * *", "is no minute"),
            ("5-1 * * * *", "is no minute"),
            ("+5 * * * *", "is no minute"),
            ("1, * * * *", "is no minute"),
            ("*/99999999999999999999999 * * * *", "is no minute"),
            ("* * * * monday", "is no day of the week"),
            ("TZ=Nowhere/City 0 4 * * *", "there is no time zone `Nowhere/City`"),
            ("0 0 31 2 *", "never comes"),
        ] {
            let error = cron.parse::<Cron>().expect_err(cron).to_string();
            assert!(error.contains(words), "{cron}: {error}");
        }
    }

    /// Each time is the first minute that fits, as a plain search finds it.
    #[test]
    fn no_time_is_left_out() {
        for text in ["*/7 3-5 * * *", "0 0 1,15 * 3", "59 23 31 * *", "*/30 */6 * 2,11 sun"] {
            let cron: Cron = text.parse().expect("a schedule");
            let mut now: Timestamp = "2026-11-27T10:00:00Z".parse().expect("a time");
            for _ in 0..20 {
                let next = cron.next(now).expect("a next time");
                let mut minute = now;
                let searched = loop {
                    minute += jiff::SignedDuration::from_mins(1);
                    let civil = minute.to_zoned(TimeZone::UTC).datetime();
                    if cron.is_on(civil.date()) && cron.hours.has(civil.hour()) && cron.minutes.has(civil.minute()) {
                        break minute;
                    }
                };
                assert_eq!(next, searched, "{text} after {now}");
                now = next;
            }
        }
    }
}
