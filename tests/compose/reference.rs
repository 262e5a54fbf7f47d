//! The command line beside Docker Compose's reference: what it has is here, or docs/compose-compatibility.md says why not.

use clap::{ArgAction, Command};
use std::collections::BTreeSet;

/// What Docker Compose has, and the binary has not.
fn missing() -> BTreeSet<String> {
    let root = wharf::cli::command();
    let mut missing = BTreeSet::new();
    for line in include_str!("reference.txt").lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("command ") {
            let name = name.trim_end_matches(" hidden");
            if find(&root, name).is_none() {
                missing.insert(name.to_string());
            }
        } else if let Some((_, other)) = line.strip_prefix("alias ").and_then(|alias| alias.split_once(" | ")) {
            // `convert | config`: the second is a command of its own as well.
            if find(&root, other).is_none() {
                missing.insert(other.to_string());
            }
        } else if let Some((command, option)) = line.split_once(" --")
            && let Some(command) = find(&root, command)
            && let Err(why) = has(command, option)
        {
            missing.insert(why);
        }
    }
    missing
}

/// A command by its words; `-` is the program itself.
fn find<'a>(root: &'a Command, name: &str) -> Option<&'a Command> {
    let known_as_alpha = |name: &&str| matches!(*name, "scale" | "watch" | "publish" | "viz");
    let name = name.strip_prefix("alpha ").filter(known_as_alpha).unwrap_or(name);
    name.split(' ').filter(|word| *word != "-").try_fold(root, |command, word| command.find_subcommand(word))
}

/// `NAME [-LETTER] TYPE [DEFAULT] [hidden] [deprecated]`.
fn has(command: &Command, line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let mut kind = words.next().unwrap_or_default();
    let mut letter = None;
    if let Some(short) = kind.strip_prefix('-') {
        letter = short.chars().next();
        kind = words.next().unwrap_or_default();
    }
    let default = words.next().unwrap_or_default();
    let shown = format!("{} --{name}", command.get_name());
    let named =
        |arg: &&clap::Arg| arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name));
    let Some(arg) = command.get_arguments().find(named) else { return Err(shown) };
    if let Some(letter) = letter
        && arg.get_short() != Some(letter)
        && !arg.get_all_short_aliases().is_some_and(|letters| letters.contains(&letter))
    {
        return Err(format!("{shown} -{letter}"));
    }
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    if kind != "bool" && !takes_value {
        return Err(format!("{shown} takes a value"));
    }
    let several = matches!(kind, "stringArray" | "list") && !matches!(arg.get_action(), ArgAction::Append);
    if several {
        return Err(format!("{shown} several times"));
    }
    // A switch that is on by default is one that can be turned off, or says nothing here either.
    let ours = arg.get_default_values().first().and_then(|value| value.to_str()).unwrap_or_default();
    let theirs = if matches!(default, "[]" | "false" | "true" | "0" | "hidden" | "deprecated") { "" } else { default };
    if kind != "bool" && !theirs.is_empty() && ours != theirs && !(theirs == "policy" || theirs == "-1") {
        return Err(format!("{shown} is {theirs} by default, not {ours:?}"));
    }
    Ok(())
}

#[test]
fn every_option_of_docker_compose_is_there_or_has_a_reason() {
    let text = include_str!("../../docs/compose-compatibility.md");
    let (_, table) = text.split_once("<!-- missing options -->\n").expect("the table's beginning");
    let (table, _) = table.split_once("<!-- end of missing options -->").expect("the table's end");
    let mut given = BTreeSet::new();
    for row in table.lines().filter(|row| row.starts_with("| `")) {
        let mut cells = row.trim_matches('|').split(" | ");
        let (names, reason) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        assert!(reason.trim().len() > 10, "a reason is missing: {row}");
        given.extend(names.split('`').skip(1).step_by(2).map(str::to_string));
    }
    assert_eq!(missing(), given, "left: what is missing; right: what docs/compose-compatibility.md gives a reason for");
}

#[test]
fn every_variable_of_docker_compose_is_named() {
    let text = include_str!("../../docs/compose-compatibility.md");
    let variables = "COMPOSE_ANSI COMPOSE_BAKE COMPOSE_CONVERT_WINDOWS_PATHS COMPOSE_DISABLE_ENV_FILE COMPOSE_ENV_FILES COMPOSE_EXPERIMENTAL \
        COMPOSE_FILE COMPOSE_IGNORE_ORPHANS COMPOSE_MENU COMPOSE_PARALLEL_LIMIT COMPOSE_PATH_SEPARATOR COMPOSE_PROFILES COMPOSE_PROGRESS \
        COMPOSE_PROJECT_NAME COMPOSE_REMOVE_ORPHANS COMPOSE_STATUS_STDOUT DOCKER_HOST DOCKER_CONTEXT DOCKER_CONFIG DOCKER_DEFAULT_PLATFORM \
        BUILDKIT_PROGRESS NO_COLOR";
    for variable in variables.split_whitespace() {
        assert!(text.contains(&format!("| `{variable}` |")), "docs/compose-compatibility.md does not name {variable}");
    }
}
