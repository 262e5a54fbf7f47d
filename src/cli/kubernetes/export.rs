//! `wharf kubernetes export`.

use super::made;
use crate::cli::project;
use crate::cli::{Failure, Global, Outcome};
use crate::kubernetes::{self, Format, Options, OutputFile, Version};
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
    #[arg(short, long, value_name = "NAME")]
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
    write(&command.output, &files)?;
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

/// Writes the files. Those that an earlier export left, and that this one does not have, would still be applied: they are named.
fn write(directory: &Path, files: &[OutputFile]) -> Outcome {
    let failed = |path: &Path, error: std::io::Error| Failure::Message(format!("writing {}: {error}", path.display()));
    for file in files {
        let path = directory.join(&file.path);
        let parent = path.parent().unwrap_or(directory);
        std::fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        // Complete or not at all: who applies the directory meanwhile gets no half of a file.
        let draft = parent.join(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
        std::fs::write(&draft, &file.text).and_then(|()| std::fs::rename(&draft, &path)).map_err(|error| {
            let _ = std::fs::remove_file(&draft);
            failed(&path, error)
        })?;
    }
    let mut left: Vec<String> = stale(directory, files);
    left.sort();
    if !left.is_empty() {
        eprintln!("warning: files that are not of this export are in {}: {}", directory.display(), left.join(", "));
    }
    Ok(())
}

fn stale(directory: &Path, files: &[OutputFile]) -> Vec<String> {
    let mut left = Vec::new();
    for part in ["", "templates/"] {
        let Ok(entries) = directory.join(part).read_dir() else { continue };
        for entry in entries.flatten() {
            let name = format!("{part}{}", entry.file_name().to_string_lossy());
            let is_object = [".yaml", ".yml", ".json"].into_iter().any(|ending| name.ends_with(ending));
            if is_object && !files.iter().any(|file| file.path == name) {
                left.push(crate::printable::line(&name).into_owned());
            }
        }
    }
    left
}
