//! The functions of templates, and how values are printed and judged.

use serde_json::Value;
use std::cmp::Ordering;

/// A value as Go prints it: lists as `[a b]`, maps as `map[k:v]`, in the order of their keys.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", text(value))).collect();
            entries.sort();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

/// `.Label "NAME"`, Docker's method of rows: a label's value or, in a table's head, its title.
pub fn label(labels: &Value, name: &str) -> Value {
    match labels {
        Value::Object(map) => map.get(name).cloned().unwrap_or_else(|| "".into()),
        _ => name.rsplit('.').next().unwrap_or(name).replace(['-', '_'], " ").to_uppercase().into(),
    }
}

/// Whether a value is neither false, nor zero, nor empty.
pub fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn compared(a: &Value, b: &Value) -> Result<Ordering, String> {
    let order = match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    order.ok_or_else(|| format!("`{}` and `{}` cannot be compared", text(a), text(b)))
}

/// Numbers are equal by their value, everything else by what it is.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

/// Calls a function.
///
/// # Errors
/// That there is none of that name, or what of its arguments does not fit.
pub fn call(name: &str, arguments: Vec<Value>) -> Result<Value, String> {
    let needs = |count: usize| match arguments.len() >= count {
        true => Ok(()),
        false => Err(format!("`{name}` needs {count} arguments, and has {}", arguments.len())),
    };
    let string = |n: usize| arguments.get(n).map(text).unwrap_or_default();
    let number = |n: usize| {
        let value = arguments.get(n).and_then(Value::as_i64).and_then(|value| usize::try_from(value).ok());
        value.ok_or_else(|| format!("`{name}`: `{}` is not a number", string(n)))
    };
    match name {
        "json" | "eq" | "ne" | "lt" | "le" | "gt" | "ge" | "not" | "len" | "index" | "slice" | "lower" | "upper" | "title"
        | "printf" => needs(1)?,
        "join" | "split" | "truncate" => needs(2)?,
        "pad" => needs(3)?,
        _ => {}
    }
    Ok(match name {
        "and" => arguments.iter().find(|value| !is_true(value)).or(arguments.last()).cloned().unwrap_or_default(),
        "or" => arguments.iter().find(|value| is_true(value)).or(arguments.last()).cloned().unwrap_or_default(),
        "not" => (!is_true(&arguments[0])).into(),
        "eq" => arguments[1..].iter().any(|other| equal(&arguments[0], other)).into(),
        "ne" => (!equal(&arguments[0], arguments.get(1).unwrap_or(&Value::Null))).into(),
        "lt" | "le" | "gt" | "ge" => {
            let order = compared(&arguments[0], arguments.get(1).unwrap_or(&Value::Null))?;
            match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }
            .into()
        }
        "len" => match &arguments[0] {
            Value::String(text) => text.len(),
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            Value::Null => 0,
            other => return Err(format!("`len`: `{other}` has no length")),
        }
        .into(),
        "index" => arguments[1..].iter().try_fold(arguments[0].clone(), |value, key| at(&value, key))?,
        "slice" => {
            let (from, to) = (if arguments.len() > 1 { number(1)? } else { 0 }, arguments.get(2).map(|_| number(2)).transpose()?);
            let out = |length: usize| format!("`slice`: it has {length}, and is asked for {from} to {}", to.unwrap_or(length));
            match &arguments[0] {
                Value::String(text) => text.get(from..to.unwrap_or(text.len())).ok_or_else(|| out(text.len()))?.into(),
                Value::Array(list) => list.get(from..to.unwrap_or(list.len())).ok_or_else(|| out(list.len()))?.to_vec().into(),
                other => return Err(format!("`slice`: `{}` is neither a string nor a list", text(other))),
            }
        }
        "print" => printed(&arguments).into(),
        "println" => (arguments.iter().map(text).collect::<Vec<_>>().join(" ") + "\n").into(),
        "printf" => printf(&string(0), &arguments[1..])?.into(),
        "json" => sorted(&crate::cli::output::format::without_methods(arguments[0].clone())).to_string().into(),
        "join" => match &arguments[0] {
            Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(&string(1)).into(),
            other => return Err(format!("`join`: `{}` is no list", text(other))),
        },
        "split" => string(0).split(&string(1)).map(Value::from).collect(),
        "lower" => string(0).to_lowercase().into(),
        "upper" => string(0).to_uppercase().into(),
        "title" => {
            let text = string(0);
            let mut chars = text.chars();
            chars.next().map(|first| first.to_uppercase().chain(chars).collect::<String>()).unwrap_or_default().into()
        }
        "truncate" => string(0).chars().take(number(1)?).collect::<String>().into(),
        "pad" => match string(0) {
            empty if empty.is_empty() => empty.into(),
            text => format!("{}{text}{}", " ".repeat(number(1)?.min(1 << 16)), " ".repeat(number(2)?.min(1 << 16))).into(),
        },
        other => return Err(format!("there is no function `{other}`")),
    })
}

/// An element of a list, or a map's value, which is empty where there is none.
fn at(value: &Value, key: &Value) -> Result<Value, String> {
    match (value, key) {
        (Value::Array(list), Value::Number(n)) => {
            let found = n.as_u64().and_then(|n| list.get(n as usize)).cloned();
            found.ok_or_else(|| format!("`index`: the list has {}, and is asked for number {n}", list.len()))
        }
        // The maps that are asked for what may not be there have strings: labels, options.
        (Value::Object(map), Value::String(key)) => Ok(map.get(key).cloned().unwrap_or_else(|| "".into())),
        (Value::Null, _) => Err("`index`: there is nothing to look in".into()),
        (value, key) => Err(format!("`index`: `{}` has nothing at `{}`", text(value), text(key))),
    }
}

/// Go's Sprint: spaces between two of which neither is a string.
fn printed(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (n, value) in arguments.iter().enumerate() {
        if n > 0 && !value.is_string() && !arguments[n - 1].is_string() {
            out.push(' ');
        }
        out.push_str(&text(value));
    }
    out
}

/// The same value with the keys of its maps in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        other => other.clone(),
    }
}

/// `%s`, `%v`, `%d`, `%q`, `%t`, `%f`, `%x` with a width, `-`, `0` and a precision.
fn printf(format: &str, arguments: &[Value]) -> Result<String, String> {
    const WIDEST: usize = 1 << 16;
    let mut out = String::new();
    let mut values = arguments.iter();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        let flags: String = rest.chars().take_while(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')).collect();
        rest = &rest[flags.len()..];
        let width: String = rest.chars().take_while(char::is_ascii_digit).collect();
        rest = &rest[width.len()..];
        let precision: Option<String> =
            rest.strip_prefix('.').map(|after| after.chars().take_while(char::is_ascii_digit).collect());
        rest = &rest[precision.as_ref().map_or(0, |p| p.len() + 1)..];
        let Some(verb) = rest.chars().next() else { return Err("`printf`: its text ends in the middle of a `%`".into()) };
        rest = &rest[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = values.next().ok_or_else(|| format!("`printf`: there is nothing for `%{verb}`"))?;
        let precision = precision.map(|p| p.parse::<usize>().unwrap_or(0).min(WIDEST));
        let shown = match (verb, value) {
            ('q', value) => Value::String(text(value)).to_string(),
            ('f', Value::Number(number)) => format!("{:.*}", precision.unwrap_or(6), number.as_f64().unwrap_or_default()),
            ('x', Value::Number(number)) => format!("{:x}", number.as_i64().unwrap_or_default()),
            ('x', value) => text(value).bytes().map(|byte| format!("{byte:02x}")).collect(),
            ('d', value) if value.as_i64().is_none() => return Err(format!("`printf`: `{}` is no whole number", text(value))),
            ('s' | 'v' | 'd' | 't', value) => match precision.filter(|_| verb == 's') {
                Some(most) => text(value).chars().take(most).collect(),
                None => text(value),
            },
            (verb, _) => return Err(format!("`printf`: `%{verb}` is not there")),
        };
        let missing = width.parse::<usize>().unwrap_or(0).min(WIDEST).saturating_sub(shown.chars().count());
        match (flags.contains('-'), flags.contains('0') && value.is_number()) {
            (true, _) => out.push_str(&format!("{shown}{}", " ".repeat(missing))),
            (false, true) => out.push_str(&format!("{}{shown}", "0".repeat(missing))),
            (false, false) => out.push_str(&format!("{}{shown}", " ".repeat(missing))),
        }
    }
    out.push_str(rest);
    Ok(out)
}
