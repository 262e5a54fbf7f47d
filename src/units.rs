//! Durations, sizes and booleans as Compose files, Dockerfiles and Docker's options write them.

/// Go's `strconv.ParseBool`, by which Docker reads its flags, filters and options.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
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
    let mut total = 0f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..unit_end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "d" => 86_400e9,
            "w" => 604_800e9,
            _ => return None,
        };
        total += number * scale;
        rest = &rest[unit_end..];
    }
    (total < u64::MAX as f64).then_some(total as u64)
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

/// Seconds in the few words in which Docker tells how long ago something was.
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
        let table =
            [("90s", "1m30s"), ("1m30s", "1m30s"), ("1.5h", "1h30m0s"), ("100ms", "100ms"), ("0", "0s"), ("10us", "10µs")];
        for (text, canonical) in table {
            assert_eq!(duration_text(duration(text).expect(text)), canonical);
        }
        for bad in ["", "10", "s", "1x", "abc", "1..5s"] {
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
