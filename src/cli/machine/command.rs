//! `wharf context`: names for machines.

use super::contexts::{Contexts, DEFAULT, MachineContext, check_name, docker, resolve};
use super::{Destination, chosen};
use crate::cli::output::table;
use crate::cli::{Failure, Global, Outcome};
use serde_json::json;

#[derive(clap::Subcommand, Debug)]
#[command(defer = true)]
pub enum ContextCommand {
    /// Give a machine a name.
    Create {
        name: String,
        /// Its address in the docker command's words, host=ssh://HOST; `--host` is the same.
        #[arg(long, value_name = "host=ADDRESS")]
        docker: Option<String>,
        /// What it is, for `ls`.
        #[arg(long, default_value = "", value_name = "TEXT")]
        description: String,
    },
    /// Have commands go to a context's machine; `default` is this one.
    Use { name: String },
    /// List contexts, those of Docker's clients included that lead somewhere by ssh.
    #[command(alias = "list")]
    Ls {
        /// Names alone.
        #[arg(short, long)]
        quiet: bool,
        /// table or json.
        #[arg(long, default_value = "table", value_parser = ["table", "json"])]
        format: String,
    },
    /// Forget contexts.
    #[command(alias = "remove")]
    Rm {
        /// Forget the one in use, too; commands are for this machine then.
        #[arg(short, long)]
        force: bool,
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Print the name of the context in use.
    Show,
    /// Print what is known of contexts, in JSON; the one in use by default.
    Inspect { names: Vec<String> },
}

fn message(text: String) -> Failure {
    Failure::Message(text)
}

/// # Errors
/// A name or an address that is not one, a context that is not there, the disk's.
pub fn run(global: &Global, command: ContextCommand) -> Outcome {
    match command {
        ContextCommand::Create { name, docker, description } => {
            let address = match docker.as_deref().map(|text| text.strip_prefix("host=")) {
                Some(Some(address)) => Some(address.to_string()),
                Some(None) => return Err(message("`--docker` is understood as host=ssh://HOST alone".into())),
                None => global.hosts.last().cloned(),
            };
            let Some(address) = address else {
                return Err(message("a context needs an address: `wharf context create NAME --host ssh://USER@HOST`".into()));
            };
            create(&name, &address, description)
        }
        ContextCommand::Use { name } => {
            Contexts::change(|contexts| {
                resolve(contexts, &name)?;
                contexts.current = Some(name.clone());
                Ok(())
            })?;
            println!("{name}");
            if let Some(by) = chosen(global, &|name| std::env::var(name).ok().filter(|v| !v.is_empty())).ok().and_then(|c| c.by) {
                eprintln!("warning: {by} is set, and goes before the context in use");
            }
            Ok(())
        }
        ContextCommand::Ls { quiet, format } => list(&current(global)?, quiet, &format),
        ContextCommand::Rm { force, names } => {
            // One that cannot be removed does not keep the others.
            let failed: Vec<Failure> = names.iter().filter_map(|name| remove(name, force).err()).collect();
            let texts: Vec<String> = failed.iter().map(|failure| failure.to_string().replacen("error: ", "", 1)).collect();
            if texts.is_empty() { Ok(()) } else { Err(message(texts.join("\n"))) }
        }
        ContextCommand::Show => {
            println!("{}", current(global)?);
            Ok(())
        }
        ContextCommand::Inspect { names } => inspect(if names.is_empty() { vec![current(global)?] } else { names }),
    }
}

fn create(name: &str, address: &str, description: String) -> Outcome {
    check_name(name)?;
    let destination: Destination = address.parse().map_err(|e| message(format!("{e}")))?;
    Contexts::change(|contexts| {
        if contexts.contexts.contains_key(name) {
            return Err(message(format!("the context `{name}` exists: remove it first, `wharf context rm {name}`")));
        }
        contexts.contexts.insert(name.to_string(), MachineContext::new(destination.to_string(), description));
        Ok(())
    })?;
    println!("{name}");
    Ok(())
}

/// The context that commands use now; empty where a variable or an option names a machine itself.
fn current(global: &Global) -> Result<String, Failure> {
    let chosen = chosen(global, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
    Ok(chosen.context.unwrap_or_default())
}

/// Every context with the file that it is of.
fn all() -> Result<Vec<(String, MachineContext, &'static str)>, Failure> {
    let own = Contexts::load()?.contexts;
    let here = MachineContext::new(String::new(), "This machine".into());
    let mut all = vec![(DEFAULT.to_string(), here, "wharf")];
    let of_docker =
        docker::all().into_iter().filter(|(name, _)| !own.contains_key(name)).map(|(name, context)| (name, context, "docker"));
    let of_docker: Vec<_> = of_docker.collect();
    all.extend(own.into_iter().map(|(name, context)| (name, context, "wharf")));
    all.extend(of_docker);
    Ok(all)
}

fn list(current: &str, quiet: bool, format: &str) -> Outcome {
    let all = all()?;
    if quiet {
        all.iter().for_each(|(name, ..)| println!("{}", crate::printable::line(name)));
        return Ok(());
    }
    if format == "json" {
        for (name, context, from) in &all {
            let value = json!({"Name": name, "Current": name == current, "Description": context.description, "Host": context.host, "From": from});
            println!("{value}");
        }
        return Ok(());
    }
    let rows = all.iter().map(|(name, context, from)| {
        let mark = if name == current { " *" } else { "" };
        let text = |text: &str| crate::printable::line(text).into_owned();
        vec![format!("{}{mark}", text(name)), text(&context.description), text(&context.host), (*from).to_string()]
    });
    println!("{}", table(&["NAME", "DESCRIPTION", "HOST", "FROM"], rows.collect()));
    Ok(())
}

fn remove(name: &str, force: bool) -> Outcome {
    Contexts::change(|contexts| {
        if !contexts.contexts.contains_key(name) {
            let whose = match docker::find(name) {
                Some(_) => "is one of Docker's: `docker context rm` removes it",
                None => "does not exist",
            };
            return Err(message(format!("the context `{}` {whose}", name.escape_debug())));
        }
        if contexts.current.as_deref() == Some(name) {
            if !force {
                return Err(message(format!(
                    "the context `{name}` is in use: choose another with `wharf context use`, or remove it with -f"
                )));
            }
            contexts.current = None;
        }
        contexts.contexts.shift_remove(name);
        Ok(())
    })?;
    println!("{name}");
    Ok(())
}

fn inspect(names: Vec<String>) -> Outcome {
    let all = all()?;
    let mut found = Vec::new();
    for name in names {
        let Some((_, context, from)) = all.iter().find(|(known, ..)| *known == name) else {
            return Err(message(format!("there is no context `{}`: `wharf context ls` shows them", name.escape_debug())));
        };
        found.push(json!({"Name": name, "Description": context.description, "Host": context.host, "From": from}));
    }
    println!("{}", serde_json::to_string_pretty(&found).unwrap_or_default());
    Ok(())
}
