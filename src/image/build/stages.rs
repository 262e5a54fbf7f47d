//! A Dockerfile's stages, and those that a target needs.

use super::dockerfile::{Dockerfile, Instruction, Malformed, words};

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
/// Instructions before the first FROM, names that cannot be.
pub fn split(file: Dockerfile) -> Result<Stages, Malformed> {
    let mut global = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for instruction in file.instructions {
        match (instruction.keyword.as_str(), stages.last_mut()) {
            ("FROM", _) => stages.push(stage(&instruction, file.escape)?),
            ("ARG", None) => global.push(instruction),
            (_, Some(stage)) => stage.instructions.push(instruction),
            (keyword, None) => {
                return Err(Malformed::new(instruction.line, format!("{keyword} comes before the first FROM"))
                    .help("a Dockerfile begins with `FROM IMAGE`; only ARG may come before it"));
            }
        }
    }
    if let Some(stage) = stages.get(MAX_STAGES) {
        return Err(Malformed::new(stage.line, format!("there are more than {MAX_STAGES} stages")));
    }
    if stages.is_empty() {
        return Err(Malformed::new(1, "there is no FROM").help("a Dockerfile begins with `FROM IMAGE`"));
    }
    for (i, stage) in stages.iter().enumerate() {
        let twice = |other: &Stage| stage.name.is_some() && other.name == stage.name;
        if let Some(first) = stages[..i].iter().find(|other| twice(other)) {
            let name = stage.name.clone().unwrap_or_default();
            return Err(Malformed::new(stage.line, format!("the stage `{name}` is already defined on line {}", first.line))
                .help("give one of the two another name"));
        }
    }
    Ok(Stages { global, stages, escape: file.escape })
}

fn stage(from: &Instruction, escape: char) -> Result<Stage, Malformed> {
    let arguments = words(&from.rest, escape);
    let name = match arguments.as_slice() {
        [_] => None,
        [_, word, name] if word.eq_ignore_ascii_case("as") => Some(name.to_ascii_lowercase()),
        _ => {
            return Err(Malformed::new(from.line, format!("`{}` is not understood", from.text))
                .help("write `FROM IMAGE` or `FROM IMAGE AS NAME`"));
        }
    };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
    if let Some(bad) = name.as_ref().filter(|n| !n.starts_with(|c: char| c.is_ascii_lowercase()) || !n.chars().all(allowed)) {
        return Err(Malformed::new(from.line, format!("`{bad}` cannot be a stage's name"))
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

    /// The earlier stages that a stage copies from or mounts, as far as their names need no expansion.
    pub fn copied_from(&self, stage: usize) -> Vec<usize> {
        let mut all = Vec::new();
        for instruction in &self.stages[stage].instructions {
            for (flag, value) in &instruction.flags {
                let name = match flag.as_str() {
                    "from" => Some(value.as_str()),
                    "mount" => value.split(',').find_map(|part| part.trim().strip_prefix("from=")),
                    _ => None,
                };
                let found = name.and_then(|name| self.find(name)).filter(|i| *i < stage);
                all.extend(found.filter(|i| !all.contains(i)));
            }
        }
        all
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
        assert_eq!((stages.copied_from(1), stages.copied_from(2)), (vec![0], vec![1]));
        let many = |count: usize| split(parse(&"FROM a\n".repeat(count)).expect("lines"));
        assert!(many(MAX_STAGES).is_ok() && many(MAX_STAGES + 1).is_err());
        for wrong in ["RUN x\nFROM a", "FROM a b", "FROM a AS B!", "FROM a AS b\nFROM c AS b", "ARG A"] {
            assert!(split(parse(wrong).expect("lines")).is_err(), "{wrong}");
        }
    }
}
