//! A Dockerfile's stages, and those that a target needs.

use super::dockerfile::{Dockerfile, Instruction, MalformedDockerfile, words};
use super::grammar;
use std::collections::{BTreeMap, BTreeSet};

/// `FROM` and what follows it.
#[derive(Debug, Clone)]
pub struct Stage {
    pub line: usize,
    /// Not expanded.
    pub base: String,
    pub platform: Option<String>,
    pub name: Option<String>,
    pub instructions: Vec<Instruction>,
}

/// A Dockerfile, cut into its stages.
#[derive(Debug, Clone)]
pub struct Stages {
    /// ARG instructions before the first FROM.
    pub global: Vec<Instruction>,
    pub stages: Vec<Stage>,
    pub escape: char,
}

/// Stages of a Dockerfile.
pub const MAX_STAGES: usize = 1000;

/// Splits a file into its stages.
///
/// # Errors
/// Instructions before the first FROM, names that cannot be, instructions that are not whole.
pub fn split(file: Dockerfile) -> Result<Stages, MalformedDockerfile> {
    let mut global = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for instruction in file.instructions {
        grammar::check(&instruction, file.escape)?;
        match (instruction.keyword.as_str(), stages.last_mut()) {
            ("FROM", _) => stages.push(stage(&instruction, file.escape)?),
            ("ARG", None) => global.push(instruction),
            (_, Some(stage)) => stage.instructions.push(instruction),
            (keyword, None) => {
                return Err(MalformedDockerfile::new(instruction.line, format!("{keyword} comes before the first FROM"))
                    .help("a Dockerfile begins with `FROM IMAGE`; only ARG may come before it"));
            }
        }
    }
    if let Some(stage) = stages.get(MAX_STAGES) {
        return Err(MalformedDockerfile::new(stage.line, format!("there are more than {MAX_STAGES} stages")));
    }
    if stages.is_empty() {
        return Err(MalformedDockerfile::new(1, "there is no FROM").help("a Dockerfile begins with `FROM IMAGE`"));
    }
    for (i, stage) in stages.iter().enumerate() {
        let twice = |other: &Stage| stage.name.is_some() && other.name == stage.name;
        if let Some(first) = stages[..i].iter().find(|other| twice(other)) {
            let name = stage.name.clone().unwrap_or_default();
            return Err(MalformedDockerfile::new(
                stage.line,
                format!("the stage `{name}` is already defined on line {}", first.line),
            )
            .help("give one of the two another name"));
        }
    }
    Ok(Stages { global, stages, escape: file.escape })
}

fn stage(from: &Instruction, escape: char) -> Result<Stage, MalformedDockerfile> {
    let arguments = words(&from.rest, escape);
    let name = match arguments.as_slice() {
        [_] => None,
        [_, word, name] if word.eq_ignore_ascii_case("as") => Some(name.to_ascii_lowercase()),
        _ => {
            return Err(MalformedDockerfile::new(from.line, format!("`{}` is not understood", from.text))
                .help("write `FROM IMAGE` or `FROM IMAGE AS NAME`"));
        }
    };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
    if let Some(bad) = name.as_ref().filter(|n| !n.starts_with(|c: char| c.is_ascii_lowercase()) || !n.chars().all(allowed)) {
        return Err(MalformedDockerfile::new(from.line, format!("`{bad}` cannot be a stage's name"))
            .help("it begins with a letter and has letters, digits, `_`, `-` and `.`"));
    }
    let platform = from.flags.iter().find(|(flag, _)| flag == "platform").map(|(_, value)| value.clone());
    Ok(Stage { line: from.line, base: arguments[0].clone(), platform, name, instructions: Vec::new() })
}

impl Stage {
    /// The instruction that begins it.
    pub fn from_text(&self) -> String {
        self.name.as_ref().map_or_else(|| format!("FROM {}", self.base), |name| format!("FROM {} AS {name}", self.base))
    }
}

impl Stages {
    /// The number of a stage's FROM among all instructions, from 1.
    pub fn number_of(&self, stage: usize) -> usize {
        let before = self.stages[..stage].iter().map(|stage| stage.instructions.len() + 1);
        self.global.len() + 1 + before.sum::<usize>()
    }

    /// How many instructions there are.
    pub fn count(&self) -> usize {
        self.number_of(self.stages.len()) - 1
    }

    /// The stage that a name or number means; names are compared without case.
    pub fn find(&self, name: &str) -> Option<usize> {
        let lower = name.to_ascii_lowercase();
        let by_name = self.stages.iter().position(|stage| stage.name.as_deref() == Some(lower.as_str()));
        by_name.or_else(|| name.parse().ok().filter(|i| *i < self.stages.len()))
    }

    /// The stages that a stage copies from or mounts, as far as their names need no expansion, and the lines that do. `replaced` are
    /// the names that mean something else than a stage.
    pub fn copied_from(&self, stage: usize, replaced: impl Fn(&str) -> bool) -> BTreeMap<usize, usize> {
        let mut all = BTreeMap::new();
        for instruction in &self.stages[stage].instructions {
            for (flag, value) in &instruction.flags {
                let name = match flag.as_str() {
                    "from" => Some(value.as_str()),
                    "mount" => value.split(',').find_map(|part| part.trim().strip_prefix("from=")),
                    _ => None,
                };
                if let Some(found) = name.filter(|name| !replaced(name)).and_then(|name| self.find(name)) {
                    all.entry(found).or_insert(instruction.line);
                }
            }
        }
        all
    }

    /// The earlier stage that a stage begins with, by its expanded name.
    pub fn base_of(&self, stage: usize, name: &str) -> Option<usize> {
        self.find(name).filter(|earlier| *earlier < stage && name.parse::<usize>().is_err())
    }

    /// The name of a stage for messages.
    fn shown(&self, stage: usize) -> String {
        self.stages[stage].name.clone().unwrap_or_else(|| format!("stage-{stage}"))
    }

    fn circular(&self, stage: usize, line: usize) -> MalformedDockerfile {
        MalformedDockerfile::new(line, format!("circular dependency detected on stage: {}", self.shown(stage)))
            .help("a stage cannot copy from itself, nor from one that needs it")
    }
}

/// Which stages need which. Stages wait for what they need, so a circle would wait for ever.
#[derive(Debug)]
pub struct Needs(Vec<BTreeSet<usize>>);

impl Needs {
    /// What is known from the text.
    ///
    /// # Errors
    /// A stage that needs itself.
    pub fn of(stages: &Stages, replaced: impl Fn(&str) -> bool) -> Result<Self, MalformedDockerfile> {
        let mut needs = Vec::new();
        for (stage, content) in stages.stages.iter().enumerate() {
            let mut all: BTreeSet<usize> = stages.copied_from(stage, &replaced).into_keys().collect();
            all.extend(stages.base_of(stage, &content.base));
            needs.push(all);
        }
        let needs = Needs(needs);
        match needs.circle() {
            Some((stage, other)) => {
                let copied = stages.copied_from(stage, &replaced).get(&other).copied();
                Err(stages.circular(other, copied.unwrap_or(stages.stages[stage].line)))
            }
            None => Ok(needs),
        }
    }

    /// A stage, and those that it needs.
    pub fn all_of(&self, stage: usize) -> BTreeSet<usize> {
        let mut all = BTreeSet::from([stage]);
        let mut open = vec![stage];
        while let Some(stage) = open.pop() {
            open.extend(self.0[stage].iter().filter(|next| all.insert(**next)));
        }
        all
    }

    /// A stage that needs another one which needs it.
    fn circle(&self) -> Option<(usize, usize)> {
        let (mut seen, mut finished) = (vec![false; self.0.len()], vec![false; self.0.len()]);
        for first in 0..self.0.len() {
            let mut path = if seen[first] { Vec::new() } else { vec![(first, self.0[first].iter())] };
            seen[first] = true;
            while let Some((stage, rest)) = path.last_mut() {
                let stage = *stage;
                match rest.next() {
                    Some(&other) if seen[other] && !finished[other] => return Some((stage, other)),
                    Some(&other) if !seen[other] => {
                        seen[other] = true;
                        path.push((other, self.0[other].iter()));
                    }
                    Some(_) => {}
                    None => {
                        finished[stage] = true;
                        path.pop();
                    }
                }
            }
        }
        None
    }

    /// Notes that the instruction of a stage needs another, whose name was expanded.
    ///
    /// # Errors
    /// When that one needs the stage.
    pub fn note(&mut self, stages: &Stages, stage: usize, other: usize, line: usize) -> Result<(), MalformedDockerfile> {
        if self.0[stage].insert(other) && self.leads(other, stage) {
            return Err(stages.circular(stage, line));
        }
        Ok(())
    }

    fn leads(&self, from: usize, to: usize) -> bool {
        self.all_of(from).contains(&to)
    }
}

#[cfg(test)]
mod tests {
    use super::super::dockerfile::parse;
    use super::*;

    #[test]
    fn stages_by_name_and_number() {
        let text = "ARG V=1\nFROM a AS Base\nRUN x\nFROM scratch\nCOPY --from=base x y\nCOPY --from=0 x y\nFROM base\nRUN --mount=type=bind,from=1,target=/x y";
        let stages = split(parse(text).expect("right")).expect("right");
        assert_eq!((stages.stages.len(), stages.global.len()), (3, 1));
        assert_eq!((stages.find("BASE"), stages.find("2"), stages.find("3")), (Some(0), Some(2), None));
        let copied = |stage| stages.copied_from(stage, |_| false).into_keys().collect::<Vec<_>>();
        assert_eq!((copied(1), copied(2), stages.base_of(2, "base")), (vec![0], vec![1], Some(0)));
        let many = |count: usize| split(parse(&"FROM a\n".repeat(count)).expect("lines"));
        assert!(many(MAX_STAGES).is_ok() && many(MAX_STAGES + 1).is_err());
        for wrong in ["RUN x\nFROM a", "FROM a b", "FROM a AS B!", "FROM a AS b\nFROM c AS b", "ARG A"] {
            assert!(split(parse(wrong).expect("lines")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn stages_that_need_themselves() {
        let needs = |text: &str| {
            let stages = split(parse(text).expect("right")).expect("right");
            Needs::of(&stages, |name| name == "given").map_err(|m| (m.line, m.message))
        };
        for (text, line, name) in [
            ("FROM a\nCOPY --from=0 / /x", 2, "stage-0"),
            ("FROM a AS me\nRUN x\nCOPY --from=ME / /x", 3, "me"),
            ("FROM a AS me\nRUN --mount=type=bind,from=me,target=/x y", 2, "me"),
            ("FROM a AS one\nCOPY --from=two / /\nFROM b AS two\nCOPY --from=0 / /", 4, "one"),
            ("FROM a AS one\nCOPY --from=three / /\nFROM one AS two\nFROM b AS three\nCOPY --from=two / /", 3, "one"),
            ("FROM a AS one\nCOPY --from=two / /\nFROM one AS two", 3, "one"),
        ] {
            let expected = (line, format!("circular dependency detected on stage: {name}"));
            assert_eq!(needs(text).expect_err(text), expected, "{text}");
        }
        for text in [
            "FROM a AS one\nCOPY --from=two / /\nFROM b AS two",
            "FROM me AS me\nFROM me AS other\nCOPY --from=me / /",
            "FROM a AS given\nCOPY --from=given / /",
        ] {
            assert!(needs(text).is_ok(), "{text}");
        }
        // Names that were expanded.
        let stages = split(parse("FROM a AS one\nFROM one AS two\nFROM b AS three").expect("right")).expect("right");
        let mut needs = Needs::of(&stages, |_| false).expect("right");
        assert!(needs.note(&stages, 0, 2, 9).is_ok() && needs.note(&stages, 0, 2, 9).is_ok());
        assert_eq!(needs.note(&stages, 2, 1, 9).expect_err("a circle").line, 9);
        assert!(needs.note(&stages, 2, 2, 9).is_err());
    }
}
