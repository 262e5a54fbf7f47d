//! Times on a command line, in every form that Docker takes: `--since` and `--until`.

use crate::cli::Failure;
use crate::units;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, civil};

/// A duration that lies in the past (`10m`), seconds since 1970 (`1700000000.5`), or a date with or without a time and a zone,
/// as RFC 3339. Without a zone it is this machine's.
///
/// # Errors
/// A text that is none of them.
pub fn moment(text: &str) -> Result<String, Failure> {
    let parsed = if let Some(nanos) = units::duration(text).filter(|_| text.ends_with(|c: char| c.is_ascii_alphabetic())) {
        Timestamp::from_nanosecond(Timestamp::now().as_nanosecond() - i128::from(nanos)).ok()
    } else {
        seconds(text).or_else(|| date(text))
    };
    parsed.map(|time| time.to_string()).ok_or_else(|| {
        Failure::Message(format!(
            "`{text}` is no time: write a duration such as 10m, seconds since 1970, or a date such as 2026-01-02T15:04:05"
        ))
    })
}

fn seconds(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) || fraction.len() > 9 {
        return None;
    }
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::new(whole.parse().ok()?, nanos).ok()
}

fn date(text: &str) -> Option<Timestamp> {
    let (text, zone) = zone(text)?;
    let (day, time) = text.split_once('T').unwrap_or((text, ""));
    // jiff would take a time after a blank as well, and drop it.
    let day: civil::Date = day.parse().ok().filter(|_| day.len() == "2026-01-02".len())?;
    let time = match time.split(':').count() {
        _ if time.is_empty() => civil::Time::midnight(),
        1 => civil::Time::new(time.parse().ok()?, 0, 0, 0).ok()?,
        _ => time.parse().ok()?,
    };
    day.to_datetime(time).to_zoned(zone).ok().map(|zoned| zoned.timestamp())
}

/// Takes `Z` or `+02:00` off the end; the machine's own zone where there is neither.
fn zone(text: &str) -> Option<(&str, TimeZone)> {
    if let Some(rest) = text.strip_suffix('Z') {
        return Some((rest, TimeZone::UTC));
    }
    let Some(at) = text.len().checked_sub(6).filter(|at| text.is_char_boundary(*at)) else {
        return Some((text, TimeZone::system()));
    };
    let (rest, offset) = text.split_at(at);
    let sign = match offset.as_bytes() {
        [b'+', .., b':', _, _] => 1,
        [b'-', .., b':', _, _] => -1,
        _ => return Some((text, TimeZone::system())),
    };
    let (hours, minutes) = offset[1..].split_once(':')?;
    let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
    Some((rest, TimeZone::fixed(Offset::from_seconds(sign * seconds).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_docker_takes() {
        let table = [
            ("2020-01-02T03:04:05Z", "2020-01-02T03:04:05Z"),
            ("2020-01-02T03:04:05.000000006Z", "2020-01-02T03:04:05.000000006Z"),
            ("2020-01-02T03:04:05+02:00", "2020-01-02T01:04:05Z"),
            ("2020-01-02T03:04-01:30", "2020-01-02T04:34:00Z"),
            ("2020-01-02T03Z", "2020-01-02T03:00:00Z"),
            ("2020-01-02Z", "2020-01-02T00:00:00Z"),
            ("2020-01-02+01:00", "2020-01-01T23:00:00Z"),
            ("1577934245", "2020-01-02T03:04:05Z"),
            ("1577934245.5", "2020-01-02T03:04:05.5Z"),
        ];
        for (text, expected) in table {
            assert_eq!(moment(text).expect(text), expected, "{text}");
        }
        // Without a zone, the machine's.
        for text in ["2020-01-02", "2020-01-02T03", "2020-01-02T03:04", "2020-01-02T03:04:05", "2020-01-02T03:04:05.7"] {
            let (day, time) = text.split_once('T').unwrap_or((text, "00"));
            let time = if time.len() == 2 { format!("{time}:00") } else { time.to_string() };
            let local = format!("{day}T{time}").parse::<civil::DateTime>().expect(text).to_zoned(TimeZone::system());
            assert_eq!(moment(text).expect(text), local.expect(text).timestamp().to_string());
        }
        let now = Timestamp::now();
        let ago: Timestamp = moment("1h30m").expect("a duration").parse().expect("a time");
        assert!((now.as_second() - ago.as_second() - 5400).abs() <= 2);
        for text in ["yesterday", "", "2020-13-01", "2020-01-02T25", "2020-01-02 03:04", "12:00", "1.2.3", "2020-01-02+1:00"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }
}
