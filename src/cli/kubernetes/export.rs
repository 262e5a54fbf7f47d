//! `wharf kubernetes export`.

use super::{made, written};
use crate::cli::project;
use crate::cli::{Failure, Global, Outcome};
use crate::kubernetes::{self, Format, Options, Version};
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct Export {
    /// Services to export, with what they depend on; all by default.
    services: Vec<String>,
    /// Directory to write to, a file for each object; `-` is standard output.
    #[arg(short, long, value_name = "DIR", default_value = "-")]
    output: PathBuf,
    /// yaml, json, kustomize (with a kustomization.yaml), helm (a chart; needs a directory).
    #[arg(long, default_value = "yaml", value_name = "FORMAT")]
    format: Format,
    /// Namespace to write into every object; by default `kubectl` chooses it.
    #[arg(short, long, value_name = "NAME", value_parser = kubernetes::namespace)]
    namespace: Option<String>,
    /// The oldest version of Kubernetes that has to take the objects.
    #[arg(long, default_value = "1.30", value_name = "VERSION")]
    cluster_version: Version,
}

#[derive(clap::Args, Debug)]
pub struct Convert {
    /// Directory to write to, a file for each object; `-` is standard output.
    #[arg(short, long, value_name = "DIR", default_value = "out")]
    output: PathBuf,
    /// Directory with templates, which are Docker's: wharf makes objects without them.
    #[arg(long, value_name = "DIR")]
    templates: Option<PathBuf>,
    /// Images that transform the project, which wharf does not need.
    #[arg(short, long, value_name = "IMAGE")]
    transformation: Vec<String>,
}

pub fn convert(global: &Global, command: &Convert) -> Outcome {
    if command.templates.is_some() || !command.transformation.is_empty() {
        let why = "--templates and --transformation are for images that Docker runs; `wharf kubernetes export` has kustomize and helm as --format";
        return Err(Failure::Message(why.into()));
    }
    let export = Export {
        services: Vec::new(),
        output: command.output.clone(),
        format: Format::Yaml,
        namespace: None,
        cluster_version: Version::default(),
    };
    run(global, &export)
}

pub fn run(global: &Global, command: &Export) -> Outcome {
    let is_stdout = command.output == Path::new("-");
    if is_stdout && command.format == Format::Helm {
        return Err(Failure::Message("a chart is a directory: name it with -o DIR".into()));
    }
    let mut loaded = made::load(global, &command.services)?;
    if !command.services.is_empty() {
        project::ps::check_services(Some(&loaded), &command.services)?;
        project::config::keep_named(&mut loaded, &command.services);
    }
    let options = Options { namespace: command.namespace.clone(), version: command.cluster_version, ..Options::default() };
    let objects = made::objects(&loaded, options)?;
    if is_stdout {
        return print(&kubernetes::text(&objects, command.format));
    }
    let files = kubernetes::files(&objects, command.format, &loaded.project.name);
    written::write(&command.output, &files)?;
    eprintln!("{} files in {}", files.len(), command.output.display());
    Ok(())
}

/// A reader that leaves early is no failure.
fn print(text: &str) -> Outcome {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Message(format!("writing the objects: {error}")))
        }
        _ => Ok(()),
    }
}
