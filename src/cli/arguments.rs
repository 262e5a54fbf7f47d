//! Forms of the command line that clap does not read: `wharf compose COMMAND`, and `--flag=false` of Go's flags.

use crate::units;
use clap::{Arg, ArgAction, Command};
use std::ffi::OsString;

/// A command line in the form that clap reads. What belongs to a container's command stays as it is. `root` makes the tree of
/// commands, which takes longer than most commands do: it is called only where something may have to be rewritten.
pub fn rewritten(root: impl FnOnce() -> Command, given: Vec<OsString>) -> Vec<OsString> {
    let otherwise = |argument: &OsString| {
        argument.to_str().is_some_and(|text| matches!(text, "compose" | "alpha") || text.starts_with("--") && text.contains('='))
    };
    if !given.iter().skip(1).any(otherwise) {
        return given;
    }
    let mut command = root();
    let global: Vec<Arg> = command.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    let mut given = given.into_iter();
    let mut out: Vec<OsString> = given.next().into_iter().collect();
    let mut words_may_go = true;
    while let Some(argument) = given.next() {
        let Some(text) = argument.to_str() else {
            out.push(argument);
            continue;
        };
        if text == "--" {
            out.push(argument);
            out.extend(given);
            return out;
        }
        if let Some(option) = text.strip_prefix("--") {
            let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            match long(&global, &command, name) {
                Some(flag) if is_switch(flag) => match value.map(units::boolean) {
                    Some(Some(true)) => out.push(format!("--{name}").into()),
                    Some(Some(false)) => {}
                    _ => out.push(argument),
                },
                Some(option) if value.is_none() && takes_next(option) => {
                    out.push(argument);
                    out.extend(given.next());
                }
                _ => out.push(argument),
            }
        } else if text.len() > 1 && text.starts_with('-') {
            let next = short_takes_next(&global, &command, &text[1..]);
            out.push(argument);
            if next {
                out.extend(given.next());
            }
        } else if let Some(mut inner) = command.find_subcommand(text).cloned() {
            // Its options are known from then on.
            inner.build();
            command = inner;
            words_may_go = false;
            out.push(argument);
        } else if words_may_go && matches!(text, "compose" | "alpha") {
            // The same commands as without it; `alpha` holds older names of `scale` and `watch`.
        } else {
            let ends = command.get_positionals().any(Arg::is_trailing_var_arg_set);
            out.push(argument);
            if ends {
                out.extend(given);
                return out;
            }
        }
    }
    out
}

fn long<'a>(global: &'a [Arg], command: &'a Command, name: &str) -> Option<&'a Arg> {
    let named = |arg: &&Arg| arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name));
    command.get_arguments().chain(global).find(named)
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Whether an option's value is the next argument.
fn takes_next(arg: &Arg) -> bool {
    let none = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) && !none
}

/// Whether the last of several short options in one argument has the next one as its value.
fn short_takes_next(global: &[Arg], command: &Command, letters: &str) -> bool {
    for (at, letter) in letters.char_indices() {
        let Some(arg) = command.get_arguments().chain(global).find(|arg| arg.get_short() == Some(letter)) else {
            return false;
        };
        if takes_next(arg) {
            return at + letter.len_utf8() == letters.len();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_container_stays() {
        use clap::CommandFactory;
        let table = [
            ("compose up -d", "up -d"),
            ("compose -f a.yaml --profile compose up", "-f a.yaml --profile compose up"),
            ("-p compose compose ps", "-p compose ps"),
            ("compose alpha watch --no-up", "watch --no-up"),
            ("compose exec web compose --rm=false", "exec web compose --rm=false"),
            ("up --detach=true --build=false --no-deps web", "up --detach --no-deps web"),
            ("run --rm=false -e A=b web sh --rm=false", "run -e A=b web sh --rm=false"),
            ("run -itd web compose", "run -itd web compose"),
            ("--ansi never up --dry-run=false", "--ansi never up"),
            ("container run --rm=true -v /a:/b img -d=false", "container run --rm -v /a:/b img -d=false"),
            ("run -- web --tty=false", "run -- web --tty=false"),
            ("logs compose", "logs compose"),
        ];
        for (given, expected) in table {
            let words = |text: &str| ["wharf"].into_iter().chain(text.split(' ')).map(OsString::from).collect::<Vec<_>>();
            assert_eq!(rewritten(crate::cli::Cli::command, words(given)), words(expected), "{given}");
        }
    }
}
