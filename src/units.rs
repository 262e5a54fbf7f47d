//! Durations, sizes, booleans and ports as Compose files, Dockerfiles and Docker's options write them.

mod id_map;
mod ports;

pub use id_map::IdMap;
pub use ports::{ContainerPort, PortRange, Protocol, known_ports};

/// Go's `strconv.ParseBool`, by which Docker reads its flags, filters and options.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

/// A length of time in nanoseconds, as Docker's API counts it. In JSON a number; in a Compose model its text (see [`as_text`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(pub u64);

impl Nanos {
    pub fn duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// Whole seconds, rounded up.
    pub fn seconds_up(self) -> u64 {
        self.0.div_ceil(1_000_000_000)
    }

    /// `None` for 0, which stands for a default.
    pub fn positive(self) -> Option<Self> {
        (self.0 > 0).then_some(self)
    }
}

impl FromStr for Nanos {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration(text).map(Nanos).ok_or_else(|| format!("`{text}` is not a duration such as 1m30s"))
    }
}

impl Display for Nanos {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&duration_text(self.0))
    }
}

/// A number of bytes; -1 is without limit where that can be meant. Its text is the decimal number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub i64);

impl ByteSize {
    /// `None` below 0.
    pub fn unsigned(self) -> Option<u64> {
        u64::try_from(self.0).ok()
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        bytes(text).map(ByteSize).ok_or_else(|| format!("`{text}` is not a size such as 64m"))
    }
}

impl Display for ByteSize {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text of a value in JSON and YAML, for `#[serde(with = "...")]`: the form in which Compose has durations and sizes, and from
/// which the hashes of services are made.
pub mod as_text {
    use super::{Deserialize, Deserializer, Display, FromStr, Serializer};
    use serde::de::Error;

    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    /// # Errors
    /// A text that is no such value. An empty one is as none.
    pub fn deserialize<'de, T: FromStr<Err = String>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        let text = Option::<String>::deserialize(from)?.filter(|text| !text.is_empty());
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// Nanoseconds of a Go duration (`1m30s`, `1.5h`, `100ms`, `0`).
pub fn duration(text: &str) -> Option<u64> {
    let text = text.trim();
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut total = 0u64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let (number, behind) = rest.split_at(end);
        let unit_end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let unit = match &behind[..unit_end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            "w" => 604_800_000_000_000,
            _ => return None,
        };
        total = total.checked_add(multiple(number, unit)?)?;
        rest = &behind[unit_end..];
    }
    Some(total)
}

/// A decimal number of units, exactly: a duration's canonical text is parsed to the same duration.
fn multiple(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u64>().ok() };
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let part = u128::from(digits(fraction)?) * u128::from(unit) / 10u128.pow(fraction.len() as u32);
    digits(whole)?.checked_mul(unit)?.checked_add(part as u64)
}

/// A duration as Go's `time.Duration.String` writes it, the canonical form of Compose.
pub fn duration_text(nanos: u64) -> String {
    if nanos == 0 {
        return "0s".into();
    }
    let fraction = |value: u64, unit: u64| {
        let whole = value / unit;
        let part = value % unit;
        if part == 0 {
            return whole.to_string();
        }
        let width = unit.to_string().len() - 1;
        format!("{whole}.{}", format!("{part:0width$}").trim_end_matches('0'))
    };
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return format!("{}µs", fraction(nanos, 1_000));
    }
    if nanos < 1_000_000_000 {
        return format!("{}ms", fraction(nanos, 1_000_000));
    }
    let minute = 60_000_000_000;
    let (hours, minutes, seconds) = (nanos / (60 * minute), nanos / minute % 60, fraction(nanos % minute, 1_000_000_000));
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Bytes of a size such as `64m`, `1gb`, `512`, `1.5GiB`; units are powers of 1024, as docker/go-units reads them.
pub fn bytes(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let scale = match text[end..].trim() {
        "" | "b" => 1u64,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        "p" | "pb" | "pib" => 1 << 50,
        _ => return None,
    };
    let value = number * scale as f64;
    (value.abs() < i64::MAX as f64).then_some(value as i64)
}

/// Bytes of a size that something is limited to: [`bytes`] above zero.
pub fn positive_bytes(text: &str) -> Option<u64> {
    bytes(text).filter(|bytes| *bytes > 0).map(i64::cast_unsigned)
}

/// Seconds in Docker's words for how long ago something was.
pub fn time_text(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    // Hours are rounded, as there.
    let hours = (seconds + HOUR / 2) / HOUR;
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..MINUTE => format!("{seconds} seconds"),
        _ if seconds / MINUTE == 1 => "About a minute".into(),
        _ if seconds < HOUR => format!("{} minutes", seconds / MINUTE),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / DAY / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let table = [
            ("90s", "1m30s"),
            ("1m30s", "1m30s"),
            ("1.5h", "1h30m0s"),
            ("100ms", "100ms"),
            ("0", "0s"),
            ("10us", "10µs"),
            ("1.001s", "1.001s"),
            ("4.35s", "4.35s"),
            (".5m", "30s"),
            ("1.m", "1m0s"),
            ("1.0000000019s", "1.000000001s"),
        ];
        for (text, canonical) in table {
            assert_eq!(duration_text(duration(text).expect(text)), canonical);
            assert_eq!(duration(canonical), duration(text), "{text}");
        }
        for bad in ["", "10", "s", "1x", "abc", "1..5s", ".s", "1.5.5s", "99999999999999999999s", "400000000w"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        let table =
            [("64m", Some(64 << 20)), ("1gb", Some(1 << 30)), ("512", Some(512)), ("1.5k", Some(1536)), ("1x", None), ("", None)];
        for (text, expected) in table {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn times_are_told_as_docker_tells_them() {
        let table = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3_600, "About an hour"),
            (5_400, "2 hours"),
            (47 * 3_600, "47 hours"),
            (48 * 3_600, "2 days"),
            (13 * 86_400, "13 days"),
            (14 * 86_400, "2 weeks"),
            (60 * 86_400, "2 months"),
            (800 * 86_400, "2 years"),
        ];
        for (seconds, text) in table {
            assert_eq!(time_text(seconds), text);
        }
    }
}
