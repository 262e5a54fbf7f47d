//! What a target takes: arguments, secrets, agents and caches, with what comments say of them.

use super::dockerfile::{Instruction, words};
use super::stages::Stages;
use std::collections::{BTreeMap, BTreeSet};

/// The parameters of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    pub args: Vec<OutlineArg>,
    pub mounts: Vec<OutlineMount>,
}

/// An ARG of the target, or of a stage that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineArg {
    pub name: String,
    /// The build's, else the default.
    pub value: Option<String>,
    pub description: Option<String>,
    pub lines: (usize, usize),
}

/// What a RUN mounts that the builder's user has: `secret`, `ssh`, `cache`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineMount {
    pub kind: String,
    pub id: String,
    pub required: bool,
    pub lines: (usize, usize),
}

/// The comment above a line that begins with a name: `# NAME what it is`.
pub fn description(text: &str, line: usize, name: &str) -> Option<String> {
    let above = text.lines().nth(line.checked_sub(2)?)?.trim().strip_prefix('#')?.trim();
    let (first, rest) = above.split_once(char::is_whitespace)?;
    (first == name).then(|| rest.trim().to_string())
}

/// The parameters of a stage and of those that it needs. `given` are the arguments of the build.
pub fn of(text: &str, stages: &Stages, target: usize, given: &BTreeMap<String, String>) -> Outline {
    let mut outline = Outline::default();
    for instruction in &stages.global {
        arguments(text, instruction, stages.escape, given, &mut outline.args);
    }
    for stage in needed(stages, target) {
        for instruction in &stages.stages[stage].instructions {
            match instruction.keyword.as_str() {
                "ARG" => arguments(text, instruction, stages.escape, given, &mut outline.args),
                "RUN" => mounts(instruction, &mut outline.mounts),
                _ => {}
            }
        }
    }
    outline
}

/// A stage and those that it needs, as far as their names need no expansion.
fn needed(stages: &Stages, target: usize) -> BTreeSet<usize> {
    let mut all = BTreeSet::new();
    let mut open = vec![target];
    while let Some(stage) = open.pop() {
        if all.insert(stage) {
            open.extend(stages.base_of(stage, &stages.stages[stage].base));
            open.extend(stages.copied_from(stage, |_| false).into_keys());
        }
    }
    all
}

fn arguments(text: &str, instruction: &Instruction, escape: char, given: &BTreeMap<String, String>, into: &mut Vec<OutlineArg>) {
    for word in words(&instruction.rest, escape) {
        let (name, default) = match word.split_once('=') {
            Some((name, value)) => (name.to_string(), Some(value.trim_matches(['"', '\'']).to_string())),
            None => (word, None),
        };
        let value = given.get(&name).cloned().or(default);
        let description = description(text, instruction.line, &name);
        match into.iter_mut().find(|known| known.name == name) {
            // Declared again in a stage: with the value from before.
            Some(known) => known.value = known.value.take().or(value),
            None => into.push(OutlineArg { name, value, description, lines: (instruction.line, instruction.last) }),
        }
    }
}

fn mounts(instruction: &Instruction, into: &mut Vec<OutlineMount>) {
    for (_, mount) in instruction.flags.iter().filter(|(flag, _)| flag == "mount") {
        let field = |key: &str| {
            mount.split(',').find_map(|part| match part.trim().split_once('=') {
                Some((name, value)) => (name == key).then(|| value.to_string()),
                None => (part.trim() == key).then(|| "true".to_string()),
            })
        };
        let kind = field("type").unwrap_or_default();
        let place = || field("target").or_else(|| field("dst")).or_else(|| field("destination"));
        let id = match kind.as_str() {
            "secret" => field("id").or_else(|| place().and_then(|path| path.rsplit('/').next().map(str::to_string))),
            "ssh" => Some(field("id").unwrap_or_else(|| "default".into())),
            "cache" => field("id").or_else(place),
            _ => None,
        };
        let Some(id) = id else { continue };
        let required = field("required").is_some_and(|value| matches!(value.as_str(), "true" | "1"));
        match into.iter_mut().find(|known| known.kind == kind && known.id == id) {
            Some(known) => known.required |= required,
            None => into.push(OutlineMount { kind, id, required, lines: (instruction.line, instruction.last) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dockerfile::parse;
    use super::super::stages::split;
    use super::*;

    #[test]
    fn a_target_has_what_it_needs() {
        let text = "# V the version\nARG V=1\nFROM a AS base\nARG V\nARG OWN\nRUN --mount=type=secret,id=s,required --mount=type=cache,target=/c x\nFROM b AS unused\nARG OTHER\nFROM c AS final\nRUN --mount=type=ssh --mount=type=secret,id=s y\nCOPY --from=base / /";
        let stages = split(parse(text).expect("right")).expect("right");
        let given = BTreeMap::from([("OWN".to_string(), "given".to_string())]);
        let outline = of(text, &stages, 2, &given);
        let args: Vec<_> = outline.args.iter().map(|arg| (arg.name.as_str(), arg.value.as_deref())).collect();
        assert_eq!(args, [("V", Some("1")), ("OWN", Some("given"))]);
        assert_eq!((outline.args[0].description.as_deref(), outline.args[1].lines), (Some("the version"), (5, 5)));
        let mounts: Vec<_> =
            outline.mounts.iter().map(|mount| (mount.kind.as_str(), mount.id.as_str(), mount.required)).collect();
        assert_eq!(mounts, [("secret", "s", true), ("cache", "/c", false), ("ssh", "default", false)]);
        assert!(of(text, &stages, 1, &given).mounts.is_empty());
    }
}
