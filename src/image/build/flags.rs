//! Flags of a Dockerfile's instructions: which there are, and what values they have.

use super::dockerfile::{MalformedDockerfile, unquoted};

/// Flags that one instruction may have several times.
const REPEATED: [&str; 3] = ["mount", "device", "exclude"];
/// Flags that are true or false.
const SWITCHES: [&str; 4] = ["link", "parents", "keep-git-dir", "unpack"];

/// A flag's value, as BuildKit takes it: a switch is `true` or `false` in letters of any case, and true without a value; any other flag has a
/// value.
fn flag_value(name: &str, value: Option<String>) -> Result<String, String> {
    let is_switch = SWITCHES.contains(&name);
    match value {
        None if is_switch => Ok("true".into()),
        None => Err(format!("--{name} needs a value: write `--{name}=...`")),
        Some(value) if !is_switch => Ok(value),
        Some(value) => match value.to_ascii_lowercase() {
            lower if lower == "true" || lower == "false" => Ok(lower),
            _ => Err(format!("--{name} is true or false, and not `{value}`: write `--{name}` or `--{name}=false`")),
        },
    }
}

/// Names and values of flags, in their order.
type FlagValues = Vec<(String, String)>;

/// Takes the flags from the beginning of an instruction's text. Returns them and what follows.
///
/// # Errors
/// A flag that the instruction does not have, a value that it cannot have, one that occurs twice.
pub fn of<'a>(keyword: &str, text: &'a str, number: usize) -> Result<(FlagValues, &'a str), MalformedDockerfile> {
    let mut rest = text;
    let mut flags = Vec::new();
    while matches!(keyword, "FROM" | "RUN" | "COPY" | "ADD" | "HEALTHCHECK") && rest.starts_with("--") {
        let end = flag_end(rest);
        let flag = &rest[2..end];
        rest = rest[end..].trim_start();
        if flag.is_empty() {
            break;
        }
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(unquoted(value))));
        let known = known_flags(keyword);
        if !known.contains(&name) {
            let help = match known {
                [] => format!("{keyword} has no flags"),
                _ => format!("it has {}", known.iter().map(|flag| format!("--{flag}")).collect::<Vec<_>>().join(", ")),
            };
            return Err(MalformedDockerfile::new(number, format!("{keyword} has no flag --{name}")).help(help));
        }
        if !REPEATED.contains(&name) && flags.iter().any(|(before, _)| before == name) {
            return Err(MalformedDockerfile::new(number, format!("--{name} occurs twice")).help("keep one of the two"));
        }
        flags.push((name.to_string(), flag_value(name, value).map_err(|why| MalformedDockerfile::new(number, why))?));
    }
    Ok((flags, rest))
}

fn known_flags(keyword: &str) -> &'static [&'static str] {
    match keyword {
        "FROM" => &["platform"],
        "RUN" => &["mount", "network", "security", "device"],
        "COPY" => &["from", "chown", "chmod", "link", "parents", "exclude"],
        "ADD" => &["chown", "chmod", "link", "checksum", "keep-git-dir", "exclude", "unpack"],
        "HEALTHCHECK" => &["interval", "timeout", "start-period", "start-interval", "retries"],
        _ => &[],
    }
}

/// A flag ends at a space outside of quotes.
fn flag_end(text: &str) -> usize {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, c) if c.is_whitespace() => return i,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::super::dockerfile::instruction;

    #[test]
    fn switches_are_true_or_false_as_buildkit_reads_them() {
        let of = |flag: &str| instruction(&format!("ADD {flag} a /b"), 7).map(|read| read.flags);
        for (flag, value) in [
            ("--unpack", "true"),
            ("--unpack=TRUE", "true"),
            ("--unpack=\"False\"", "false"),
            ("--link=False", "false"),
            ("--keep-git-dir=true", "true"),
            ("--chmod=g=u", "g=u"),
            ("--exclude=", ""),
        ] {
            assert_eq!(of(flag).expect(flag)[0].1, value, "{flag}");
        }
        for (flag, why) in [
            ("--unpack=0", "--unpack is true or false, and not `0`"),
            ("--unpack=", "--unpack is true or false, and not ``"),
            ("--link=yes", "--link is true or false"),
            ("--keep-git-dir=1", "--keep-git-dir is true or false"),
            ("--link --link=false", "--link occurs twice"),
            ("--chown", "--chown needs a value"),
        ] {
            let error = of(flag).expect_err(flag);
            assert!(error.line == 7 && error.message.starts_with(why), "{flag}: {error:?}");
        }
        assert_eq!(of("--exclude=a --exclude=b").expect("two").len(), 2);
    }
}
