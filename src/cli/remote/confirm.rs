//! What a project from elsewhere is asked about before it is started, as Docker Compose asks.

use crate::cli::objects::network::answer_to;
use crate::cli::{Failure, Global, Outcome, project};
use crate::compose::{self, Loaded, Skip};
use crate::printable;
use std::io::IsTerminal;

/// Says where a project from elsewhere is, and asks about its further sources and its variables. A project of this machine is not
/// asked about. `assume_yes` asks nothing.
///
/// # Errors
/// When the answer is no.
pub async fn confirmed(global: &Global, loaded: &Loaded, assume_yes: bool) -> Outcome {
    if !assume_yes {
        programs(loaded).await?;
    }
    let main = loaded.files.first().and_then(|file| loaded.remote.iter().find(|remote| remote.fetched.file == *file));
    let Some(main) = main else { return Ok(()) };
    let mut named = loaded.remote.iter().filter(|remote| !loaded.files.contains(&remote.fetched.file)).peekable();
    if !assume_yes && named.peek().is_some() {
        eprintln!("\nWarning: This Compose project includes files from remote sources:");
        for remote in std::iter::once(main).chain(named) {
            eprintln!("  - {}", printable::line(&printable::without_login(&remote.name)));
        }
        eprintln!("\nRemote includes could potentially be malicious. Make sure you trust the source.");
        agreed("Do you want to continue? [y/N]: ", false).await?;
    }
    println!(
        "Your compose stack {:?} is stored in {:?}",
        printable::without_login(&main.name),
        loaded.directory.display().to_string()
    );
    let variables = if assume_yes { Vec::new() } else { variables(global, loaded)? };
    if variables.is_empty() {
        return Ok(());
    }
    eprintln!("\nFound the following variables in configuration:");
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["VARIABLE", "VALUE", "SOURCE", "REQUIRED", "DEFAULT"]);
    for row in variables {
        table.add_row(row.map(|text| printable::line(&text).to_string()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    for line in table.lines() {
        eprintln!("{}", line.trim_end());
    }
    agreed("\nDo you want to proceed with these variables? [Y/n]: ", true).await
}

/// Asks about programs of this machine that a project runs of which a part is from elsewhere: Docker Compose does not.
async fn programs(loaded: &Loaded) -> Outcome {
    let services = loaded.project.services.iter();
    let run: Vec<String> = services
        .filter_map(|(name, service)| {
            Some(format!("  - {} (service {name:?})", printable::line(&service.provider.as_ref()?.kind)))
        })
        .collect();
    if loaded.remote.is_empty() || run.is_empty() {
        return Ok(());
    }
    eprintln!("\nWarning: This Compose project has files from remote sources, and runs programs of this machine as providers:");
    eprintln!("{}", run.join("\n"));
    agreed("Do you want to run them? [y/N]: ", false).await
}

/// The variables of the project's files: name, value, where it is from, whether it has to be set, default.
fn variables(global: &Global, loaded: &Loaded) -> Result<Vec<[String; 5]>, Failure> {
    let mut options = project::options(global);
    options.list_variables = true;
    options.skip = Skip { interpolation: true, consistency: true, environment: true, ..Skip::default() };
    let listed = compose::load(&options)?.variables;
    let row = |(name, variable): (String, compose::interpolate::UsedVariable)| {
        let given = loaded.environment.get(&name);
        let (value, source) = match given {
            Some(value) if std::env::var(&name).is_ok() => (value.clone(), "environment"),
            Some(value) => (value.clone(), "env file"),
            None if variable.default.is_empty() => ("<unset>".into(), "none"),
            None => (variable.default.clone(), "compose file"),
        };
        [name, value, source.into(), if variable.required { "yes" } else { "no" }.into(), variable.default]
    };
    Ok(listed.into_iter().map(row).collect())
}

async fn agreed(question: &str, by_default: bool) -> Outcome {
    match yes_or_no(question, by_default).await? {
        true => Ok(()),
        false => Err(Failure::Message("operation cancelled by user".into())),
    }
}

/// Asks. At a terminal, Enter is the default; a pipe has to say yes.
///
/// # Errors
/// When the answer cannot be read, or the command is cancelled.
pub async fn yes_or_no(question: &str, by_default: bool) -> Result<bool, Failure> {
    Ok(match answer_to(question).await?.to_ascii_lowercase().as_str() {
        "" => by_default && std::io::stdin().is_terminal(),
        answer => matches!(answer, "y" | "yes" | "true" | "1" | "t" | "on"),
    })
}
