//! Checks of a Dockerfile, as BuildKit makes them (docs.docker.com/reference/build-checks): what is allowed, and rarely meant.
//!
//! They look at the text alone. Whether a variable is undefined depends on the base image too: it is said where that is known.

mod options;

use super::dockerfile::{Dockerfile, Instruction, json_form, words};
use crate::sys::blocking::in_place;
pub use options::Checks;
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::LazyLock;

/// Findings of a file; more are left out.
const MOST: usize = 500;
/// Letters by which a name may differ from the one that is suggested.
const DISTANCE: usize = 2;
/// Letters of a name for which another is suggested.
const LONGEST_NAME: usize = 64;
/// The work for one file, in comparisons of letters or names. The file is a stranger's: a check ends by then, with what it has found.
const MOST_WORK: usize = 10_000_000;
/// What one look at an image's configuration counts for.
const IMAGE_WORK: usize = 20_000;

/// Something that a rule says of some lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LintFinding {
    pub rule: String,
    pub message: String,
    /// From 1, the last one included.
    pub lines: (usize, usize),
}

/// The rules and what they say in general. The address is made of the name.
const RULES: [(&str, &str); 19] = [
    ("StageNameCasing", "Stage names should be lowercase"),
    ("FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword"),
    ("NoEmptyContinuation", "Empty continuation lines will become errors in a future release"),
    ("ConsistentInstructionCasing", "All commands within the Dockerfile should use the same casing (either upper or lower)"),
    ("DuplicateStageName", "Stage names should be unique"),
    ("ReservedStageName", "Reserved words should not be used as stage names"),
    ("JSONArgsRecommended", "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"),
    ("MaintainerDeprecated", "The MAINTAINER instruction is deprecated, use a label instead to define an image author"),
    ("UndefinedArgInFrom", "FROM command must use declared ARGs"),
    (
        "WorkdirRelativePath",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    ),
    ("UndefinedVar", "Variables should be defined before their use"),
    ("MultipleInstructionsDisallowed", "Multiple instructions of the same type should not be used in the same stage"),
    ("LegacyKeyValueFormat", "Legacy key/value format with whitespace separator should not be used"),
    (
        "RedundantTargetPlatform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    ("SecretsUsedInArgOrEnv", "Sensitive data should not be used in the ARG or ENV commands"),
    ("InvalidDefaultArgInFrom", "Default value for global ARG results in an empty or invalid base image name"),
    ("ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase"),
    (
        "ExposeInvalidFormat",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    ),
    ("FromPlatformFlagConstDisallowed", "FROM --platform flag should not use a constant value"),
];

/// Arguments of the platform that a FROM may name without an ARG.
const PLATFORM_ARGS: [&str; 8] =
    ["BUILDPLATFORM", "BUILDOS", "BUILDARCH", "BUILDVARIANT", "TARGETPLATFORM", "TARGETOS", "TARGETARCH", "TARGETVARIANT"];

/// The value of an argument of the platform: a build is for this machine.
fn platform_argument(name: &str) -> Option<String> {
    let architecture = crate::image::architecture();
    match name.strip_prefix("BUILD").or_else(|| name.strip_prefix("TARGET"))? {
        "PLATFORM" => Some(format!("linux/{architecture}")),
        "OS" => Some("linux".into()),
        "ARCH" => Some(architecture.to_string()),
        "VARIANT" => Some(String::new()),
        _ => None,
    }
}

impl LintFinding {
    /// What the rule is about in general.
    pub fn description(&self) -> &'static str {
        RULES.iter().find(|(name, _)| *name == self.rule).map_or("", |(_, text)| text)
    }

    /// The page about the rule.
    pub fn url(&self) -> String {
        format!("https://docs.docker.com/go/dockerfile/rule/{}/", with_hyphens(&self.rule))
    }

    /// On one line, as builds show it.
    pub fn short(&self) -> String {
        format!("{}: {} (line {})", self.rule, self.message, self.lines.0)
    }
}

/// `FromAsCasing` as `from-as-casing`; capitals that follow each other are one word.
fn with_hyphens(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let begins = letter.is_ascii_uppercase()
            && at > 0
            && (letters[at - 1].is_ascii_lowercase() || letters.get(at + 1).is_some_and(char::is_ascii_lowercase));
        out.extend(begins.then_some('-'));
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// The error of findings where they are errors.
pub fn violation(findings: &[LintFinding]) -> String {
    let rules: BTreeSet<&str> = findings.iter().map(|finding| finding.rule.as_str()).collect();
    format!("lint violation found for rules: {}", rules.into_iter().collect::<Vec<_>>().join(", "))
}

/// Looks at a file. `environment` knows the variables that an image gives to its containers, where it is here. The file may take long,
/// and an image's configuration is on a disk: other tasks of the async runtime go on by another thread.
pub fn lint(
    text: &str,
    file: &Dockerfile,
    checks: &Checks,
    environment: &dyn Fn(&str) -> Option<Vec<String>>,
) -> Vec<LintFinding> {
    in_place(|| find_all(text, file, checks, environment))
}

fn find_all(
    text: &str,
    file: &Dockerfile,
    checks: &Checks,
    environment: &dyn Fn(&str) -> Option<Vec<String>>,
) -> Vec<LintFinding> {
    if checks.skip_all {
        return Vec::new();
    }
    let said = file.instructions.iter().filter_map(|instruction| {
        let skipped = Checks::parse(instruction.check.as_deref()?).ok()?;
        Some((instruction.line, skipped))
    });
    let mut linter = Linter { checks, said: said.collect(), escape: file.escape, found: Vec::new(), work: MOST_WORK };
    linter.casing(file);
    linter.continuations(text, file);
    let mut scope = LintScope { environment, globals: BTreeMap::new(), stages: Vec::new() };
    for instruction in &file.instructions {
        linter.instruction(instruction, &mut scope);
        if linter.work == 0 || linter.found.len() >= MOST {
            break;
        }
    }
    linter.found.sort_by_key(|finding| finding.lines);
    linter.found.truncate(MOST);
    linter.found
}

struct Linter<'a> {
    checks: &'a Checks,
    /// What comments above instructions skip, by the instruction's line.
    said: BTreeMap<usize, Checks>,
    escape: char,
    found: Vec<LintFinding>,
    /// What is left of [`MOST_WORK`].
    work: usize,
}

/// What is known above an instruction.
struct LintScope<'a> {
    environment: &'a dyn Fn(&str) -> Option<Vec<String>>,
    /// ARGs before the first FROM, with their defaults, in which those before them are expanded.
    globals: BTreeMap<String, Option<String>>,
    stages: Vec<StageScope>,
}

#[derive(Clone, Default)]
struct StageScope {
    name: String,
    /// Variables; `None` where the base's are not known.
    known: Option<HashSet<String>>,
    workdir: bool,
    shell: bool,
    /// The last CMD, ENTRYPOINT and HEALTHCHECK.
    once: BTreeMap<String, (usize, usize)>,
}

fn lines(instruction: &Instruction) -> (usize, usize) {
    (instruction.line, instruction.last.max(instruction.line))
}

/// The keyword as it was written.
fn written(instruction: &Instruction) -> &str {
    instruction.text.split_whitespace().next().unwrap_or_default()
}

impl Linter<'_> {
    fn find(&mut self, rule: &'static str, at: (usize, usize), message: String) {
        let skipped = self.said.get(&at.0).is_some_and(|said| !said.allows(rule));
        if self.checks.allows(rule) && !skipped && self.found.len() < MOST {
            self.found.push(LintFinding { rule: rule.into(), message, lines: at });
        }
    }

    /// Keywords are all in capitals, or all not; those before the first FROM do not count.
    fn casing(&mut self, file: &Dockerfile) {
        let stages = file.instructions.iter().skip_while(|instruction| instruction.keyword != "FROM");
        let is_lower = |word: &str| !word.chars().any(|c| c.is_ascii_uppercase());
        let is_upper = |word: &str| !word.chars().any(|c| c.is_ascii_lowercase());
        let lower = stages.clone().filter(|instruction| is_lower(written(instruction))).count();
        let upper = stages.clone().filter(|instruction| is_upper(written(instruction))).count();
        let (right, name): (&dyn Fn(&str) -> bool, _) =
            if lower > upper { (&is_lower, "lowercase") } else { (&is_upper, "uppercase") };
        for instruction in stages.filter(|instruction| !right(written(instruction))) {
            let message = format!("Command '{}' should match the case of the command majority ({name})", written(instruction));
            self.find("ConsistentInstructionCasing", lines(instruction), message);
        }
    }

    fn continuations(&mut self, text: &str, file: &Dockerfile) {
        let all: Vec<&str> = text.lines().collect();
        for instruction in file.instructions.iter().filter(|instruction| instruction.heredocs.is_empty()) {
            let (first, last) = lines(instruction);
            let inside = all.get(first..last.min(all.len())).unwrap_or_default();
            // The last line may be the file's empty end.
            if inside.split_last().is_some_and(|(_, inside)| inside.iter().any(|line| line.trim().is_empty())) {
                self.find("NoEmptyContinuation", (first, last), "Empty continuation line".into());
            }
        }
    }

    fn instruction(&mut self, instruction: &Instruction, scope: &mut LintScope<'_>) {
        let at = lines(instruction);
        match (instruction.keyword.as_str(), scope.stages.is_empty()) {
            ("FROM", _) => return self.from(instruction, scope),
            ("ARG", true) => {
                for (name, default) in arguments(instruction, self.escape) {
                    let default = default.and_then(|default| self.expanded(&default, scope));
                    scope.globals.insert(name, default);
                }
                return;
            }
            (_, true) => return,
            ("MAINTAINER", false) => {
                self.find("MaintainerDeprecated", at, "Maintainer instruction is deprecated in favor of using label".into());
            }
            ("ENV" | "LABEL", false) => {
                let keyword = &instruction.keyword;
                if words(&instruction.rest, self.escape).first().is_some_and(|word| !word.contains('=')) {
                    let message =
                        format!("\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format");
                    self.find("LegacyKeyValueFormat", at, message);
                }
            }
            _ => {}
        }
        let Some(mut stage) = scope.stages.pop() else { return };
        self.in_stage(instruction, &mut stage);
        scope.stages.push(stage);
    }

    fn in_stage(&mut self, instruction: &Instruction, stage: &mut StageScope) {
        let (at, keyword) = (lines(instruction), instruction.keyword.as_str());
        match keyword {
            "CMD" | "ENTRYPOINT" | "HEALTHCHECK" => {
                if keyword != "HEALTHCHECK" && !stage.shell && json_form(&instruction.rest).is_none() {
                    let message =
                        format!("JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals");
                    self.find("JSONArgsRecommended", at, message);
                }
                if let Some(before) = stage.once.insert(keyword.into(), at) {
                    let message = format!(
                        "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
                    );
                    self.find("MultipleInstructionsDisallowed", before, message);
                }
            }
            "SHELL" => stage.shell = true,
            "EXPOSE" => words(&instruction.rest, self.escape).iter().for_each(|port| self.port(port, at)),
            "WORKDIR" => {
                let path = instruction.rest.trim().trim_matches(['"', '\'']);
                if !stage.workdir && !path.starts_with(['/', '$']) {
                    let message = format!("Relative workdir {path:?} can have unexpected results if the base image changes");
                    self.find("WorkdirRelativePath", at, message);
                }
                stage.workdir = true;
            }
            _ => {}
        }
        // Commands are expanded by their shell.
        if !matches!(keyword, "RUN" | "CMD" | "ENTRYPOINT" | "HEALTHCHECK" | "SHELL" | "ONBUILD" | "MAINTAINER") {
            let flags = instruction.flags.iter().map(|(_, value)| value.as_str());
            for text in std::iter::once(instruction.rest.as_str()).chain(flags) {
                self.undefined(text, at, stage);
            }
        }
        if matches!(keyword, "ARG" | "ENV") {
            for (name, _) in arguments(instruction, self.escape) {
                self.secret(keyword, &name, at);
                stage.known.iter_mut().for_each(|known| known.extend([name.clone()]));
            }
        }
    }

    fn undefined(&mut self, text: &str, at: (usize, usize), stage: &StageScope) {
        let Some(known) = &stage.known else { return };
        for name in used(text, self.escape).into_iter().filter(|name| !known.contains(name)) {
            if self.found.len() >= MOST {
                return;
            }
            let suggested = self.similar(&name, known.iter().map(String::as_str));
            let suggested = suggested.map(|other| format!(" (did you mean ${other}?)")).unwrap_or_default();
            self.find("UndefinedVar", at, format!("Usage of undefined variable '${name}'{suggested}"));
        }
    }

    fn secret(&mut self, keyword: &str, name: &str, at: (usize, usize)) {
        static SECRETS: LazyLock<Option<Regex>> = LazyLock::new(|| {
            Regex::new("(?i)(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)").ok()
        });
        let names_no_secret = |part: &str| ["public", "file", "version"].iter().any(|word| part.eq_ignore_ascii_case(word));
        if !name.split('_').any(names_no_secret) && SECRETS.as_ref().is_some_and(|secrets| secrets.is_match(name)) {
            let message = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {name:?})");
            self.find("SecretsUsedInArgOrEnv", at, message);
        }
    }

    /// A port of EXPOSE. Variables are not known here.
    fn port(&mut self, port: &str, at: (usize, usize)) {
        let (ports, protocol) = port.rsplit_once('/').unwrap_or((port, ""));
        if protocol != protocol.to_ascii_lowercase() && !protocol.contains('$') {
            let message = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
            self.find("ExposeProtoCasing", at, message);
        }
        if ports.contains(':') && !ports.contains('$') {
            let message = format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'");
            self.find("ExposeInvalidFormat", at, message);
        }
    }

    /// A text with the arguments that stand before the first FROM, and those of the platform.
    fn expanded(&mut self, text: &str, scope: &LintScope<'_>) -> Option<String> {
        let lookup = |name: &str| match scope.globals.get(name) {
            Some(default) => default.clone(),
            None => platform_argument(name),
        };
        let expanded = super::expand::word(text, self.escape, &lookup).ok();
        self.spend(expanded.as_ref().map_or(text.len(), String::len));
        expanded
    }

    fn spend(&mut self, work: usize) {
        self.work = self.work.saturating_sub(work);
    }

    /// The name that was probably meant.
    fn similar<'k>(&mut self, name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
        if name.len() > LONGEST_NAME {
            return None;
        }
        let most = DISTANCE.min(name.len().saturating_sub(1));
        let lower = name.to_ascii_lowercase();
        let mut best: Option<(usize, &str)> = None;
        for other in known {
            let is_near = other.len().abs_diff(name.len()) <= most;
            self.spend(if is_near { name.len() * other.len() } else { 1 });
            if self.work == 0 {
                break;
            }
            if is_near {
                let distance = strsim::damerau_levenshtein(&lower, &other.to_ascii_lowercase());
                best = best.into_iter().chain((distance <= most).then_some((distance, other))).min();
            }
        }
        best.map(|(_, other)| other)
    }

    fn from(&mut self, from: &Instruction, scope: &mut LintScope<'_>) {
        let at = lines(from);
        let arguments = words(&from.rest, self.escape);
        let base = arguments.first().cloned().unwrap_or_default();
        let name = if let [_, word, name] = arguments.as_slice() {
            self.stage_name(from, word, name, scope);
            name.to_ascii_lowercase()
        } else {
            String::new()
        };
        let platform = from.flags.iter().find(|(flag, _)| flag == "platform").map_or("", |(_, value)| value.as_str());
        self.platform(platform, &name, at);
        let declared = |name: &str| scope.globals.contains_key(name) || PLATFORM_ARGS.contains(&name);
        let mut undeclared = used(&base, self.escape);
        undeclared.extend(used(platform, self.escape));
        for argument in undeclared.into_iter().filter(|argument| !declared(argument)) {
            let known = scope.globals.keys().map(String::as_str).chain(PLATFORM_ARGS);
            let suggested = self.similar(&argument, known).map(|other| format!(" (did you mean {other}?)")).unwrap_or_default();
            self.find("UndefinedArgInFrom", at, format!("FROM argument '{argument}' is not declared{suggested}"));
        }
        let expanded = self.expanded(&base, scope).unwrap_or_default();
        if base.contains('$') && expanded.parse::<crate::image::ImageRef>().is_err() {
            let message = format!("Default value for ARG {base} results in empty or invalid base image name");
            self.find("InvalidDefaultArgInFrom", at, message);
        }
        self.spend(scope.stages.len());
        let earlier = scope.stages.iter().rev().find(|stage| !stage.name.is_empty() && stage.name.eq_ignore_ascii_case(&base));
        let stage = match earlier {
            Some(earlier) => {
                self.spend(earlier.known.as_ref().map_or(0, HashSet::len));
                StageScope { once: BTreeMap::new(), ..earlier.clone() }
            }
            None if base == "scratch" => StageScope { known: Some(HashSet::from(["PATH".into()])), ..StageScope::default() },
            None => {
                self.spend(IMAGE_WORK);
                let known = (scope.environment)(&expanded).map(|names| names.into_iter().chain(["PATH".into()]).collect());
                StageScope { known, ..StageScope::default() }
            }
        };
        // What a FROM has been given is not in its stage's scope: arguments have to be declared again.
        scope.stages.push(StageScope { name, ..stage });
    }

    fn stage_name(&mut self, from: &Instruction, word: &str, name: &str, scope: &LintScope<'_>) {
        let at = lines(from);
        let keyword = written(from);
        let (lower, upper) = (keyword == keyword.to_ascii_lowercase(), keyword == keyword.to_ascii_uppercase());
        if lower && word != word.to_ascii_lowercase() || upper && word != word.to_ascii_uppercase() {
            self.find("FromAsCasing", at, format!("'{word}' and '{keyword}' keywords' casing do not match"));
        }
        if name != name.to_ascii_lowercase() {
            self.find("StageNameCasing", at, format!("Stage name '{name}' should be lowercase"));
        }
        if matches!(name, "scratch" | "context") {
            self.find("ReservedStageName", at, format!("Stage name should not use the same name as reserved stage {name:?}"));
        }
        if scope.stages.iter().any(|stage| stage.name.eq_ignore_ascii_case(name)) {
            let name = name.to_ascii_lowercase();
            self.find("DuplicateStageName", at, format!("Duplicate stage name {name:?}, stage names should be unique"));
        }
    }

    fn platform(&mut self, platform: &str, name: &str, at: (usize, usize)) {
        if matches!(platform, "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
            let message =
                format!("Setting platform to predefined {platform} in FROM is redundant as this is the default behavior");
            self.find("RedundantTargetPlatform", at, message);
        }
        // Stages that are named by their platforms are of one on purpose.
        let named_so = platform.split('/').take(2).any(|part| !part.is_empty() && name.contains(part));
        if !platform.is_empty() && !platform.contains('$') && !named_so {
            let message = format!("FROM --platform flag should not use constant value {platform:?}");
            self.find("FromPlatformFlagConstDisallowed", at, message);
        }
    }
}

/// The names that an ARG or ENV defines, and the defaults of an ARG.
fn arguments(instruction: &Instruction, escape: char) -> Vec<(String, Option<String>)> {
    let all = words(&instruction.rest, escape);
    let legacy = instruction.keyword == "ENV" && all.first().is_some_and(|word| !word.contains('='));
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) => (name.to_string(), Some(value.trim_matches(['"', '\'']).to_string())),
        None => (word.clone(), None),
    };
    all.iter().take(if legacy { 1 } else { usize::MAX }).map(pair).collect()
}

/// The variables of a text that have to be set: `$NAME` and `${NAME}`, but none with a default.
fn used(text: &str, escape: char) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let mut names: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    let (mut at, mut quoted) = (0, false);
    while let Some(letter) = letters.get(at) {
        at += 1;
        match letter {
            '\'' => quoted = !quoted,
            _ if quoted => {}
            c if *c == escape => at += 1,
            '$' => {
                let braced = letters.get(at) == Some(&'{');
                let begin = at + usize::from(braced);
                let name: String = letters[begin.min(letters.len())..].iter().take_while(|c| is_name(c)).collect();
                at = begin + name.len();
                let plain = !braced || letters.get(at) == Some(&'}');
                if plain && name.starts_with(|c: char| !c.is_ascii_digit()) && seen.insert(name.clone()) {
                    names.push(name);
                }
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests;
