//! `$VAR`, `${VAR}` and its operators, nested, as the Compose specification's section "Interpolation" has them.

use super::diagnostic::Diagnostic;
use super::node::{At, Node, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Where variables come from: the environment first, then the env files.
pub trait Variables {
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Variables for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// Names that were used without a value and without a default, so that each is warned of once.
pub type Unset = BTreeSet<String>;

/// The same with the first place of each.
pub type UnsetAt = BTreeMap<String, At>;

/// Why a text cannot be interpolated.
#[derive(Debug, PartialEq)]
pub enum InterpolationFailure {
    /// The text is not well formed.
    Syntax(String),
    /// `${VAR:?message}` and VAR is missing.
    Required { name: String, message: String },
}

/// Replaces every variable of the tree's strings; keys are left as they are, as Docker Compose does.
pub fn interpolate(node: &mut Node, variables: &dyn Variables, unset: &mut UnsetAt, found: &mut Vec<Diagnostic>) {
    match &mut node.value {
        Value::String(text) if text.contains('$') => {
            let mut names = Unset::new();
            match expand(text, variables, &mut names) {
                Ok(expanded) => *text = expanded,
                Err(failure) => found.push(failure.diagnostic(&node.at, text)),
            }
            for name in names {
                unset.entry(name).or_insert(node.at);
            }
        }
        Value::List(list) => list.iter_mut().for_each(|child| interpolate(child, variables, unset, found)),
        Value::Map(map) => map.values_mut().for_each(|entry| interpolate(&mut entry.node, variables, unset, found)),
        _ => {}
    }
}

/// A variable that a file uses: its default, and whether it is required.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsedVariable {
    pub required: bool,
    /// The replacement where it has no value.
    pub default: String,
    /// The replacement where it has one.
    pub alternate: String,
}

/// Collects the variables of a tree, those in defaults of others as well.
pub fn variables(node: &Node, into: &mut BTreeMap<String, UsedVariable>) {
    match &node.value {
        Value::String(text) if text.contains('$') => variables_of(text, into, 0),
        Value::List(list) => list.iter().for_each(|child| variables(child, into)),
        Value::Map(map) => map.values().for_each(|entry| variables(&entry.node, into)),
        _ => {}
    }
}

fn variables_of(text: &str, into: &mut BTreeMap<String, UsedVariable>, depth: usize) {
    let mut rest = text;
    while let Some(dollar) = rest.find('$').filter(|_| depth <= MAX_NESTING) {
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
        } else if let Some((inner, after)) =
            rest.strip_prefix('{').and_then(|after| Some((&after[..closing_brace(after)?], &after[closing_brace(after)? + 1..])))
        {
            rest = after;
            let (name, operation) = inner.split_at(name_end(inner));
            if name.is_empty() {
                continue;
            }
            let operand = operation.trim_start_matches(':').get(1..).unwrap_or_default();
            let variable = into.entry(name.to_string()).or_default();
            match operation.trim_start_matches(':').chars().next() {
                Some('?') => variable.required = true,
                Some('-') => variable.default = operand.to_string(),
                Some('+') => variable.alternate = operand.to_string(),
                _ => {}
            }
            variables_of(operand, into, depth + 1);
        } else {
            let end = name_end(rest);
            if end > 0 {
                into.entry(rest[..end].to_string()).or_default();
            }
            rest = &rest[end..];
        }
    }
}

impl InterpolationFailure {
    fn diagnostic(self, at: &At, text: &str) -> Diagnostic {
        match self {
            InterpolationFailure::Syntax(why) => {
                Diagnostic::error(at, format!("cannot interpolate `{}`: {why}", first_line(text)))
                    .help("write `$$` for a plain dollar sign, and `${NAME:-default}` for a variable with a default")
            }
            InterpolationFailure::Required { name, message } if message.is_empty() => {
                Diagnostic::error(at, format!("the variable `{name}` is required and not set"))
                    .help(format!("set it in the environment or in the .env file: {name}=VALUE"))
            }
            InterpolationFailure::Required { name, message } => {
                Diagnostic::error(at, format!("the variable `{name}` is required and not set: {message}"))
                    .help(format!("set it in the environment or in the .env file: {name}=VALUE"))
            }
        }
    }
}

/// A text that fits into a message.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let short: String = line.chars().take(60).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

/// Nested defaults deeper than this are refused; the parser recurses.
const MAX_NESTING: usize = 64;

/// Bytes of an expanded text. In an env file each line may use those above it: ten lines of ten uses each would make any number.
const MAX_EXPANDED: usize = 4 << 20;

/// Expands one text.
///
/// # Errors
/// When a `${` is not closed, a name is not valid, or a required variable is missing.
pub fn expand(text: &str, variables: &dyn Variables, unset: &mut Unset) -> Result<String, InterpolationFailure> {
    expand_nested(text, variables, unset, 0)
}

fn expand_nested(text: &str, variables: &dyn Variables, unset: &mut Unset, depth: usize) -> Result<String, InterpolationFailure> {
    if depth > MAX_NESTING {
        return Err(InterpolationFailure::Syntax("defaults are nested too deeply".into()));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        if out.len() > MAX_EXPANDED {
            return Err(InterpolationFailure::Syntax(format!("it grows past {MAX_EXPANDED} bytes by its variables")));
        }
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing_brace(after).ok_or_else(|| InterpolationFailure::Syntax("`${` is not closed by `}`".into()))?;
            out.push_str(&braced(&after[..end], variables, unset, depth)?);
            rest = &after[end + 1..];
        } else {
            let end = name_end(rest);
            if end == 0 {
                // `$(date)`, `$1`, a price: Docker Compose leaves it alone.
                out.push('$');
                continue;
            }
            out.push_str(&value_or_empty(&rest[..end], variables, unset));
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn name_end(text: &str) -> usize {
    let mut chars = text.char_indices();
    match chars.next() {
        Some((_, c)) if c.is_ascii_alphabetic() || c == '_' => {}
        _ => return 0,
    }
    chars.find(|(_, c)| !(c.is_ascii_alphanumeric() || *c == '_')).map_or(text.len(), |(i, _)| i)
}

fn closing_brace(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'$' if bytes.get(i + 1) == Some(&b'{') => {
                depth += 1;
                i += 1;
            }
            b'}' if depth == 0 => return Some(i),
            b'}' => depth -= 1,
            _ => {}
        }
        i += 1;
    }
    None
}

fn value_or_empty(name: &str, variables: &dyn Variables, unset: &mut Unset) -> String {
    variables.get(name).unwrap_or_else(|| {
        unset.insert(name.to_string());
        String::new()
    })
}

fn braced(inner: &str, variables: &dyn Variables, unset: &mut Unset, depth: usize) -> Result<String, InterpolationFailure> {
    let end = name_end(inner);
    let (name, operation) = inner.split_at(end);
    if name.is_empty() {
        return Err(InterpolationFailure::Syntax(format!("`${{{inner}}}` does not begin with a variable's name")));
    }
    let value = variables.get(name);
    let filled = value.as_ref().filter(|v| !v.is_empty()).cloned();
    let mut nested = |text: &str| expand_nested(text, variables, unset, depth + 1);
    if operation.is_empty() {
        return Ok(value_or_empty(name, variables, unset));
    }
    let signs = if operation.starts_with(':') { 2 } else { 1 };
    let (operator, operand) = operation.split_at(operation.char_indices().nth(signs).map_or(operation.len(), |(at, _)| at));
    match operator {
        ":-" => filled.map_or_else(|| nested(operand), Ok),
        "-" => value.map_or_else(|| nested(operand), Ok),
        ":+" => filled.map_or(Ok(String::new()), |_| nested(operand)),
        "+" => value.map_or(Ok(String::new()), |_| nested(operand)),
        ":?" | "?" => match if operator == "?" { value } else { filled } {
            Some(value) => Ok(value),
            None => Err(InterpolationFailure::Required { name: name.into(), message: nested(operand)? }),
        },
        _ => Err(InterpolationFailure::Syntax(format!(
            "`{operation}` is not one of the operators `:-`, `-`, `:+`, `+`, `:?` and `?`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(name: &str) -> Option<String> {
        match name {
            "SET" => Some("value".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn every_operator() {
        let table = [
            ("$SET", "value"),
            ("${SET}", "value"),
            ("a${SET}b$SET-c", "avaluebvalue-c"),
            ("$NONE", ""),
            ("${NONE:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${NONE-d}", "d"),
            ("${SET:+yes}", "yes"),
            ("${EMPTY:+yes}", ""),
            ("${EMPTY+yes}", "yes"),
            ("${NONE+yes}", ""),
            ("${SET:?no}", "value"),
            ("${EMPTY?no}", ""),
            ("$$SET", "$SET"),
            ("$${SET}", "${SET}"),
            ("${NONE:-${SET}}", "value"),
            ("${NONE:-${OTHER:-x}y}", "xy"),
            ("${NONE:-a:b}", "a:b"),
            ("a $ b", "a $ b"),
            ("$(date) $1 $", "$(date) $1 $"),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text, &vars, &mut Unset::new()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn failures() {
        for text in ["${SET", "${}", "${SET!x}", "${1}", "${SET\u{202}}", "${SET:\u{202}x}"] {
            assert!(matches!(expand(text, &vars, &mut Unset::new()), Err(InterpolationFailure::Syntax(_))), "{text}");
        }
        let required = InterpolationFailure::Required { name: "NONE".into(), message: "set me".into() };
        assert_eq!(expand("${NONE:?set me}", &vars, &mut Unset::new()), Err(required));
        let nested = format!("{}{}", "${A:-".repeat(1000), "}".repeat(1000));
        assert!(expand(&nested, &vars, &mut Unset::new()).is_err());
    }

    #[test]
    fn unset_names_are_collected_once() {
        let mut unset = Unset::new();
        expand("$A ${A} ${B:-x} $C", &vars, &mut unset).expect("valid");
        assert_eq!(unset.into_iter().collect::<Vec<_>>(), ["A", "C"]);
    }
}
