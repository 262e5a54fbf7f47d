//! What is wrong with an instruction whatever is built from it: as BuildKit's parser has it, and, of a stage that is built, what no
//! value of a variable can mend.

use super::copy::ModeChange;
use super::dockerfile::{self, Dockerfile, Instruction, MalformedDockerfile, json_form, pairs, words};
use super::expand::{self, Unexpandable};
use super::mounts;
use super::stages::{self, Needs, Stages};
use crate::units::{Nanos, Protocol};

/// Looks at an instruction of any stage.
///
/// # Errors
/// What it lacks, with its line.
pub fn check(instruction: &Instruction, escape: char) -> Result<(), MalformedDockerfile> {
    let wrong = |message: String| Err(MalformedDockerfile::new(instruction.line, message));
    let rest = &instruction.rest;
    match instruction.keyword.as_str() {
        "COPY" | "ADD" if arguments(instruction, escape).len() < 2 => {
            wrong(format!("{} needs a source and a destination", instruction.keyword))
        }
        "RUN" if rest.is_empty() => wrong("RUN needs a command".into()),
        "RUN" => flags_of_run(instruction),
        "SHELL" if json_form(rest).is_none_or(|shell| shell.is_empty()) => {
            wrong("SHELL needs a list: `SHELL [\"/bin/bash\", \"-c\"]`".into())
        }
        "ENV" | "LABEL" => pairs(instruction, escape).map(drop),
        "HEALTHCHECK" => health(instruction),
        "ONBUILD" => {
            let inner = dockerfile::instruction(rest, instruction.line)?;
            match inner.keyword.as_str() {
                "ONBUILD" | "FROM" | "MAINTAINER" => wrong(format!("{} cannot be a trigger of ONBUILD", inner.keyword)),
                _ => Ok(()),
            }
        }
        "VOLUME" if json_form(rest).is_some_and(|paths| paths.iter().any(String::is_empty)) => {
            wrong("VOLUME names an empty path".into())
        }
        _ => Ok(()),
    }
}

/// The first thing for which a build of a target, or of the last stage, is refused before anything is carried out. Lines begin at 1.
///
/// # Errors
/// The line, where it is of one, and what is wrong.
pub fn first_error(
    file: Dockerfile,
    target: Option<&str>,
    replaced: impl Fn(&str) -> bool,
) -> Result<(), (Option<usize>, String)> {
    let at = |wrong: MalformedDockerfile| (Some(wrong.line), wrong.message);
    let stages = stages::split(file).map_err(at)?;
    let unknown = |target: &str| (None, format!("target stage \"{target}\" could not be found"));
    let index = match target {
        Some(target) => stages.find(target).ok_or_else(|| unknown(target))?,
        None => stages.stages.len() - 1,
    };
    check_needed(&stages, index, replaced).map_err(at)
}

/// Looks at the stages that a target needs, as far as their variables do not matter. Names that are `replaced` are no stages.
///
/// # Errors
/// As [`check`]; stages that need each other.
fn check_needed(stages: &Stages, target: usize, replaced: impl Fn(&str) -> bool) -> Result<(), MalformedDockerfile> {
    let needed = Needs::of(stages, replaced)?.all_of(target);
    stages.global.iter().try_for_each(|global| values(global, stages.escape))?;
    for stage in needed.into_iter().map(|index| &stages.stages[index]) {
        let name = [Some(&stage.base), stage.platform.as_ref()];
        name.into_iter().flatten().try_for_each(|text| expandable(text, stage.line, stages.escape))?;
        stage.instructions.iter().try_for_each(|instruction| values(instruction, stages.escape))?;
    }
    Ok(())
}

/// The arguments of COPY and ADD, not expanded.
fn arguments(instruction: &Instruction, escape: char) -> Vec<String> {
    json_form(&instruction.rest).unwrap_or_else(|| words(&instruction.rest, escape))
}

fn flags_of_run(instruction: &Instruction) -> Result<(), MalformedDockerfile> {
    for (name, value) in instruction.flags.iter().filter(|(_, value)| !value.contains('$')) {
        let why = match (name.as_str(), value.as_str()) {
            ("mount", value) => {
                mounts::parse(value, instruction.line)?;
                continue;
            }
            ("network", "default" | "host" | "none") | ("security", "sandbox" | "insecure") => continue,
            ("network", other) => format!("`{other}` is not a network: default, host or none"),
            ("security", other) => format!("`{other}` is no security: sandbox or insecure"),
            _ => continue,
        };
        return Err(MalformedDockerfile::new(instruction.line, why));
    }
    Ok(())
}

fn health(instruction: &Instruction) -> Result<(), MalformedDockerfile> {
    let wrong = |message: String| Err(MalformedDockerfile::new(instruction.line, message));
    let (kind, command) = instruction.rest.split_once(char::is_whitespace).unwrap_or((&instruction.rest, ""));
    let is_none = kind.eq_ignore_ascii_case("none");
    if !is_none && (!kind.eq_ignore_ascii_case("cmd") || command.trim().is_empty()) {
        return wrong("HEALTHCHECK needs `CMD command` or `NONE`".into());
    }
    for (flag, value) in instruction.flags.iter().filter(|(_, value)| !is_none && !value.contains('$')) {
        if flag == "retries" && value.parse::<u32>().is_err() {
            return wrong(format!("`{value}` is not a number of retries"));
        }
        if flag != "retries" && value.parse::<Nanos>().is_err() {
            return wrong(format!("`{value}` is not a duration such as `30s`"));
        }
    }
    Ok(())
}

/// Looks at what is expanded when the instruction is carried out, and at values without variables.
fn values(instruction: &Instruction, escape: char) -> Result<(), MalformedDockerfile> {
    let line = instruction.line;
    let wrong = |message: String| Err(MalformedDockerfile::new(line, message));
    let rest = &instruction.rest;
    match instruction.keyword.as_str() {
        "ENV" | "LABEL" => {
            for (name, value) in pairs(instruction, escape)? {
                expandable(&name, line, escape)?;
                expandable(&value, line, escape)?;
            }
        }
        "ARG" => {
            for default in words(rest, escape).iter().filter_map(|word| word.split_once('=')) {
                expandable(default.1, line, escape)?;
            }
        }
        "COPY" | "ADD" => {
            arguments(instruction, escape).iter().try_for_each(|word| expandable(word, line, escape))?;
            let expanded = instruction.flags.iter().filter(|(name, _)| matches!(name.as_str(), "from" | "chown" | "chmod"));
            expanded.clone().try_for_each(|(_, value)| expandable(value, line, escape))?;
            for (_, mode) in expanded.filter(|(name, value)| name == "chmod" && !value.contains('$')) {
                ModeChange::parse(mode).map_err(|why| MalformedDockerfile::new(line, why))?;
            }
        }
        "EXPOSE" => {
            expandable(rest, line, escape)?;
            let all = words(rest, escape);
            if let Some(port) = all.iter().find(|port| is_plain(port, escape) && ports(port).is_none()) {
                return wrong(not_a_port(port));
            }
        }
        "STOPSIGNAL" => {
            expandable(rest, line, escape)?;
            if is_plain(rest, escape) && !is_signal(rest) {
                return wrong(not_a_signal(rest));
            }
        }
        "RUN" => {
            let mounts = instruction.flags.iter().filter(|(name, _)| name == "mount");
            mounts.into_iter().try_for_each(|(_, value)| expandable(value, line, escape))?;
        }
        "WORKDIR" | "USER" | "VOLUME" => expandable(rest, line, escape)?,
        _ => {}
    }
    Ok(())
}

/// Whether a word is its own value.
fn is_plain(word: &str, escape: char) -> bool {
    !word.contains(['$', '"', '\'', escape])
}

/// Refuses quotes and braces that are not closed. Every variable has a value here: `${NAME:?message}` is no error of the text.
fn expandable(text: &str, line: usize, escape: char) -> Result<(), MalformedDockerfile> {
    let set = |_: &str| Some("x".to_string());
    expand::word(text, escape, &set).map(drop).map_err(|Unexpandable(why)| MalformedDockerfile::new(line, why))
}

pub(super) fn not_a_port(text: &str) -> String {
    format!("`{text}` is not a port: write `80` or `53/udp`")
}

pub(super) fn not_a_signal(text: &str) -> String {
    format!("`{text}` is not a signal: write a name such as SIGTERM, or its number")
}

/// The ports of `80`, `80/tcp`, `8000-8010/udp`.
pub(super) fn ports(text: &str) -> Option<Vec<String>> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol: Protocol = protocol.parse().ok()?;
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then(|| (first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// Whether a text is a signal's number, or its name with or without SIG.
pub(super) fn is_signal(text: &str) -> bool {
    let name = if text.starts_with("SIG") { text.to_string() } else { format!("SIG{text}") };
    text.parse::<u32>().is_ok() || name.parse::<nix::sys::signal::Signal>().is_ok() || name.starts_with("SIGRT")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Option<(usize, String)> {
        let file = dockerfile::parse(text).expect(text);
        first_error(file, None, |_| false).err().map(|(line, message)| (line.unwrap_or_default(), message))
    }

    #[test]
    fn what_no_build_can_carry_out_is_wrong() {
        let table = [
            ("COPY a", "needs a source and a destination"),
            ("ADD [\"a\"]", "needs a source and a destination"),
            ("RUN", "RUN needs a command"),
            ("RUN --mount=type=bogus x", "`bogus` is not a type of mount"),
            ("RUN --network=lan x", "is not a network"),
            ("SHELL bash", "SHELL needs a list"),
            ("ENV Y=1 Z", "`Z` is not NAME=VALUE"),
            ("HEALTHCHECK BOGUS", "HEALTHCHECK needs"),
            ("HEALTHCHECK --interval=x CMD y", "is not a duration"),
            ("ONBUILD FROM x", "FROM cannot be a trigger"),
            ("VOLUME [\"\"]", "an empty path"),
            ("ENV A=${B", "is not closed"),
            ("WORKDIR /${B", "is not closed"),
            ("ARG A=${B", "is not closed"),
            ("COPY ${a /x", "is not closed"),
            ("STOPSIGNAL SIGFOO", "is not a signal"),
            ("EXPOSE abc", "is not a port"),
            ("COPY --chmod=rwx a /b", ""),
            ("RUN --mount=type=bind,target=/x,ro=no y", "neither true nor false"),
            ("RUN --mount=type=bind,target y", "`target` needs a value"),
            ("RUN --mount=type=tmpfs,target=/x, y", "an option of the mount is empty"),
        ];
        for (instruction, word) in table {
            let (line, message) = error(&format!("FROM scratch\n{instruction}\n")).unwrap_or_else(|| panic!("{instruction}"));
            assert!(line == 2 && message.contains(word), "{instruction}: {line}: {message}");
        }
        assert_eq!(error("FROM scratch AS a\nRUN\nFROM scratch\n").map(|wrong| wrong.0), Some(2), "of every stage");
        assert_eq!(error("FROM scratch AS a\nENV A=${B\nFROM scratch\n"), None, "it is not built");
        assert_eq!(error("FROM scratch AS a\nENV A=${B\nFROM scratch AS b\nFROM a\n").map(|wrong| wrong.0), Some(2));
    }

    #[test]
    fn what_variables_may_make_right_is_right() {
        let lines = [
            "COPY --chmod=$MODE $A /x",
            "COPY --chmod=g=u --link=False --parents=TRUE a /x",
            "COPY --chmod=u+rw-x,go=r --exclude=a --exclude=b . /x",
            "ADD --unpack=FALSE --keep-git-dir=true --link a /x",
            "RUN --mount=type=Bind,target=/x,rw=F --mount=type=secret,id=a,required=T y",
            "RUN --mount=type=$T,target=/x y",
            "RUN [\"a\"]",
            "RUN <<EOF\nx\nEOF",
            "EXPOSE $PORT ${P:-80}/tcp \"81\" 8000-8010/udp",
            "STOPSIGNAL ${S:-TERM}",
            "STOPSIGNAL 9",
            "STOPSIGNAL RTMIN+3",
            "ENV A=${B:?needed} C='${'",
            "HEALTHCHECK --interval=$I CMD x",
            "HEALTHCHECK none",
            "ONBUILD RUN x",
            "CMD",
        ];
        for line in lines {
            assert_eq!(error(&format!("FROM scratch\n{line}\n")), None, "{line}");
        }
    }
}
