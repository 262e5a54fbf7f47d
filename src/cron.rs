//! Schedules in cron's five fields: minute, hour, day of the month, month, day of the week. Pure: the caller has the clock.
//!
//! As in Vixie's cron: lists, ranges, steps, names of months and days, 0 and 7 for Sunday; where both days are restricted, either
//! suffices. `TZ=Europe/Berlin 0 4 * * *` is in a time zone, otherwise it is UTC's. A local time that does not exist on a day, because clocks
//! are put forward, is as much later; one that exists twice is taken once.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
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
    minutes: CronField,
    hours: CronField,
    days: CronField,
    months: CronField,
    weekdays: CronField,
}

/// The values of a field, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CronField {
    bits: u64,
    /// It begins with `*`: it restricts nothing by itself.
    any: bool,
}

impl CronField {
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
    #[error("there is no time zone `{0}`: write one of the IANA database, such as `Europe/Berlin`")]
    Zone(String),
    #[error("the time zone is given beside the schedule: write `timezone: {zone}` for `TZ={zone}`", zone = zone_of(.0).unwrap_or_default())]
    TwoZones(String),
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
        let mut words = words(text);
        let named = words.first().and_then(|word| zone_of(word));
        let zone = zone(named)?;
        if named.is_some() {
            words.remove(0);
        }
        Self::of(text, words, zone)
    }
}

impl Cron {
    /// Five fields in a time zone, which is UTC where none is named.
    ///
    /// # Errors
    /// A wrong field or time zone.
    pub fn in_zone(text: &str, zone: Option<&str>) -> Result<Self, CronError> {
        let text = text.trim();
        let words = words(text);
        match words.first().filter(|word| zone_of(word).is_some()) {
            Some(word) => Err(CronError::TwoZones((*word).into())),
            None => Self::of(text, words, self::zone(zone)?),
        }
    }

    fn of(text: &str, mut words: Vec<&str>, zone: TimeZone) -> Result<Self, CronError> {
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

fn words(text: &str) -> Vec<&str> {
    text.get(..LONGEST).unwrap_or(text).split_ascii_whitespace().collect()
}

/// The time zone that a schedule's first word names.
fn zone_of(word: &str) -> Option<&str> {
    word.strip_prefix("CRON_TZ=").or_else(|| word.strip_prefix("TZ="))
}

fn zone(name: Option<&str>) -> Result<TimeZone, CronError> {
    name.map_or(Ok(TimeZone::UTC), |name| TimeZone::get(name).map_err(|_| CronError::Zone(name.into())))
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
fn field(text: &str, what: &'static str, range: RangeInclusive<i8>, names: &[&str], first: i8) -> Result<CronField, CronError> {
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
    Ok(CronField { bits, any: text.starts_with('*') })
}

impl Cron {
    /// Whether its day of the week, of which 0 is Sunday, is among those of its field.
    pub fn has_weekday(&self, weekday: i8) -> bool {
        self.weekdays.has(weekday)
    }

    /// The first time after another; `None` where the calendar ends before.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        // What clocks have skipped just before is as much later, and may still come.
        let from = after.to_zoned(self.zone.clone()).datetime().checked_sub(self.skipped_before(after)).ok()?;
        let mut date = from.date();
        for _ in 0..DAYS_AHEAD {
            if self.is_on(date) {
                let first = if date == from.date() { from.time() } else { Time::midnight() };
                if let Some(next) = self.first_of(date, first, after) {
                    return Some(next);
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    /// The first time of a day after another time.
    fn first_of(&self, date: Date, from: Time, after: Timestamp) -> Option<Timestamp> {
        let times = self.times(from).filter_map(|time| {
            let zoned = date.to_datetime(time).to_zoned(self.zone.clone()).ok()?;
            Some(zoned.timestamp()).filter(|time| *time > after)
        });
        let mut first: Option<Timestamp> = None;
        for time in times {
            first = Some(first.map_or(time, |first| first.min(time)));
            // What does not exist is later, and may be after what comes later in the day.
            if !self.changes_within(after, time) {
                break;
            }
        }
        first
    }

    /// How far clocks were put, less than that and a day ago.
    fn skipped_before(&self, time: Timestamp) -> SignedDuration {
        let Some(change) = self.zone.preceding(time).next() else { return SignedDuration::ZERO };
        let offset = |time| self.zone.to_offset(time);
        let before = change.timestamp().checked_sub(SignedDuration::from_secs(1)).map_or(change.offset(), offset);
        let by = SignedDuration::from_secs(i64::from(change.offset().seconds() - before.seconds()).abs());
        if time.duration_since(change.timestamp()) <= by { by } else { SignedDuration::ZERO }
    }

    /// Whether clocks are put between two times, or within the two days before or after.
    fn changes_within(&self, from: Timestamp, to: Timestamp) -> bool {
        const DAYS: SignedDuration = SignedDuration::from_hours(48);
        let from = from.saturating_sub(DAYS).unwrap_or(from);
        let to = to.saturating_add(DAYS).unwrap_or(to);
        self.zone.following(from).next().is_some_and(|change| change.timestamp() <= to)
    }

    fn is_on(&self, date: Date) -> bool {
        let (day, weekday) = (self.days.has(date.day()), self.weekdays.has(date.weekday().to_sunday_zero_offset()));
        let either = !self.days.any && !self.weekdays.any;
        self.months.has(date.month()) && if either { day || weekday } else { day && weekday }
    }

    /// The times of a day, from one on.
    fn times(&self, from: Time) -> impl Iterator<Item = Time> + '_ {
        let minutes = move |hour| (0..60).map(move |minute| (hour, minute));
        let all = (from.hour()..24).filter(|hour| self.hours.has(*hour)).flat_map(minutes);
        let all = all.filter(move |(hour, minute)| self.minutes.has(*minute) && (*hour, *minute) >= (from.hour(), from.minute()));
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

    /// The values of a field as its text says, without the code above.
    fn slow_field(text: &str, min: i8, max: i8, names: &[&str]) -> Vec<i8> {
        let value = |word: &str| {
            let of_name = |n: usize| i8::try_from(n).expect("a number") + if names.len() == 12 { 1 } else { 0 };
            names.iter().position(|name| *name == word).map_or_else(|| word.parse().expect("a number"), of_name)
        };
        let of_part = |part: &str| -> Vec<i8> {
            let (range, step) = part.split_once('/').unwrap_or((part, "1"));
            let (from, to) = match range.split_once('-') {
                Some((from, to)) => (value(from), value(to)),
                None if range == "*" => (min, max),
                None => (value(range), if part.contains('/') { max } else { value(range) }),
            };
            (min..=max).filter(|n| *n >= from && *n <= to && (n - from) % step.parse::<i8>().expect("a step") == 0).collect()
        };
        text.split(',').flat_map(of_part).collect()
    }

    /// The first time after another, by a look at each minute of each day.
    fn slow_next(text: &str, zone: &TimeZone, after: Timestamp) -> Timestamp {
        let fields: Vec<&str> = text.split(' ').collect();
        let minutes = slow_field(fields[0], 0, 59, &[]);
        let hours = slow_field(fields[1], 0, 23, &[]);
        let days = slow_field(fields[2], 1, 31, &[]);
        let months = slow_field(fields[3], 1, 12, &MONTHS);
        let weekdays: Vec<i8> = slow_field(fields[4], 0, 7, &DAYS).into_iter().map(|day| day % 7).collect();
        let mut date = after.to_zoned(zone.clone()).date().checked_sub(2.days()).expect("a date");
        let mut best: Option<Timestamp> = None;
        let mut left = 4;
        while left > 0 {
            let (day, weekday) = (days.contains(&date.day()), weekdays.contains(&date.weekday().to_sunday_zero_offset()));
            let fits = match (fields[2].starts_with('*'), fields[4].starts_with('*')) {
                (false, false) => day || weekday,
                _ => day && weekday,
            };
            for minute in (0..24 * 60_i16).filter(|_| fits && months.contains(&date.month())) {
                let (hour, minute) = ((minute / 60) as i8, (minute % 60) as i8);
                if hours.contains(&hour) && minutes.contains(&minute) {
                    let time = date.at(hour, minute, 0, 0).to_zoned(zone.clone()).expect("a time").timestamp();
                    if time > after {
                        best = Some(best.map_or(time, |best| best.min(time)));
                    }
                }
            }
            // What is found first may be later than what the days after it have.
            left -= i32::from(best.is_some());
            date = date.tomorrow().expect("a date");
        }
        best.expect("a time")
    }

    /// A field of random numbers.
    fn random_field(random: &mut impl FnMut(u32) -> u32, min: u32, max: u32, names: &[&str]) -> String {
        let mut part = |simple: bool| {
            let (a, b) = (min + random(max - min + 1), min + random(max - min + 1));
            let (from, to) = (a.min(b), a.max(b));
            let named =
                |n: u32, first: u32| names.get((n - first) as usize).map_or_else(|| n.to_string(), |name| (*name).to_string());
            let first = u32::from(names.len() == 12);
            match random(if simple { 2 } else { 6 }) {
                0 => named(a, first),
                1 => format!("{from}-{to}"),
                2 => format!("*/{}", 1 + random(max)),
                3 => format!("{from}-{to}/{}", 1 + random(9)),
                4 => format!("{from}/{}", 1 + random(9)),
                _ => "*".into(),
            }
        };
        let simple = part(false);
        if simple.starts_with('*') {
            simple
        } else {
            format!("{simple},{}", part(true)).split(',').take(1 + random(2) as usize).collect::<Vec<_>>().join(",")
        }
    }

    /// Random schedules in zones with all kinds of changes, against the slow search. `CRON_CASES` says how many.
    #[test]
    fn random_schedules_are_as_a_slow_search_finds_them() {
        const ZONES: [&str; 12] = [
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
            "Antarctica/Troll",
            "Pacific/Apia",
            "Asia/Kathmandu",
            "America/Sao_Paulo",
            "Africa/Casablanca",
            "Asia/Tehran",
            "America/St_Johns",
            "Pacific/Kwajalein",
        ];
        let cases: u64 = std::env::var("CRON_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
        let mut state = std::env::var("CRON_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0x9e37_79b9_7f4a_7c15_u64);
        let mut random = |below: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((state >> 33) % u64::from(below)).expect("a number")
        };
        let zones: Vec<(&str, TimeZone)> = ZONES.iter().map(|name| (*name, TimeZone::get(name).expect("a zone"))).collect();
        for _ in 0..cases {
            let fields = [
                random_field(&mut random, 0, 59, &[]),
                random_field(&mut random, 0, 23, &[]),
                random_field(&mut random, 1, 28, &[]),
                random_field(&mut random, 1, 12, &MONTHS),
                random_field(&mut random, 0, 7, &DAYS),
            ];
            let text = fields.join(" ");
            let (name, zone) = &zones[random(ZONES.len() as u32) as usize];
            let cron = Cron::in_zone(&text, Some(name)).unwrap_or_else(|error| panic!("{text}: {error}"));
            // A third near a change of the clocks.
            let mut after = Timestamp::from_second(1_000_000_000 + i64::from(random(1_200_000_000))).expect("a time");
            if random(3) == 0
                && let Some(change) = zone.following(after).next()
            {
                after = change.timestamp() + SignedDuration::from_secs(i64::from(random(400_000)) - 200_000);
            }
            assert_eq!(cron.next(after), Some(slow_next(&text, zone, after)), "{text} in {name} after {after}");
        }
    }
}
