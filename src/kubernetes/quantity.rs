//! Quantities: CPUs, bytes and seconds as Kubernetes writes them.

use crate::units::{ByteSize, Nanos};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A number of CPUs: whole, or in thousandths, of which one is the least.
pub fn cpus(cpus: f64) -> Option<Quantity> {
    if !cpus.is_finite() || cpus <= 0.0 || cpus > 1e9 {
        return None;
    }
    let thousandths = ((cpus * 1000.0).round() as u64).max(1);
    Some(Quantity(if thousandths.is_multiple_of(1000) { (thousandths / 1000).to_string() } else { format!("{thousandths}m") }))
}

/// A number of bytes with the largest binary unit that fits exactly.
pub fn bytes(size: ByteSize) -> Option<Quantity> {
    let size = size.unsigned().filter(|size| *size > 0)?;
    let units = [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let unit = units.into_iter().find(|(shift, _)| size.is_multiple_of(1 << shift));
    Some(Quantity(unit.map_or(size.to_string(), |(shift, unit)| format!("{}{unit}", size >> shift))))
}

/// Whole seconds of a probe, rounded up, at least one.
pub fn seconds(time: Nanos) -> i32 {
    i32::try_from(time.seconds_up()).unwrap_or(i32::MAX).max(1)
}

/// The value of a quantity in thousandths; `None` where it is none.
pub fn value(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.as_str();
    let end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-')).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let scale = match &text[end..] {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            10f64.powi(exponent)
        }
    };
    Some(number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (number, text) in [(0.5, "500m"), (2.0, "2"), (0.0001, "1m"), (1.25, "1250m")] {
            assert_eq!(cpus(number).map(|quantity| quantity.0), Some(text.into()));
        }
        assert_eq!((cpus(0.0), cpus(-1.0), cpus(f64::NAN)), (None, None, None));
        for (size, text) in [(512 << 20, "512Mi"), (1 << 30, "1Gi"), (1000, "1000"), (1536, "1536"), (3 << 10, "3Ki")] {
            assert_eq!(bytes(ByteSize(size)).map(|quantity| quantity.0), Some(text.into()));
        }
        assert_eq!(bytes(ByteSize(-1)), None);
        for (text, number) in
            [("1Ki", Some(1024.0)), ("500m", Some(0.5)), ("1e3", Some(1000.0)), ("x", None), ("", None), ("1x", None)]
        {
            assert_eq!(value(&Quantity(text.into())), number, "{text}");
        }
    }
}
