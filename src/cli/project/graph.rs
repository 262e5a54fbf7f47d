//! `wharf graph`, and `alpha viz`, which is Docker Compose's.

use crate::cli::Failure;
use crate::cli::{Global, Outcome, project};
use crate::compose::graph;

#[derive(clap::Args, Debug)]
pub struct Graph {
    /// Services to draw, with what they depend on; all by default.
    services: Vec<String>,
    /// text, dot (Graphviz) or mermaid.
    #[arg(long, default_value = "text", value_parser = ["text", "dot", "mermaid"])]
    format: String,
}

pub async fn run(global: &Global, command: Graph) -> Outcome {
    let mut loaded = project::load(global, &command.services)?;
    if !command.services.is_empty() {
        super::ps::check_services(Some(&loaded), &command.services)?;
        super::config::keep_named(&mut loaded, &command.services);
    }
    print!(
        "{}",
        match command.format.as_str() {
            "dot" => graph::dot(&loaded.project),
            "mermaid" => graph::mermaid(&loaded.project),
            _ => graph::text(&loaded.project),
        }
    );
    Ok(())
}

/// `wharf alpha viz`.
#[derive(clap::Args, Debug)]
pub struct VizArgs {
    /// Show the services' images.
    #[arg(long)]
    image: bool,
    /// Tabs or spaces by which a line is indented.
    #[arg(long, default_value_t = 1, value_name = "NUMBER", allow_negative_numbers = true)]
    indentation_size: i64,
    /// Show the services' networks.
    #[arg(long)]
    networks: bool,
    /// Show the services' ports.
    #[arg(long)]
    ports: bool,
    /// Indent by spaces and not by tabs.
    #[arg(long)]
    spaces: bool,
}

pub async fn viz(global: &Global, command: VizArgs) -> Outcome {
    let size = usize::try_from(command.indentation_size).ok().filter(|size| *size <= 1000);
    let size = size.ok_or_else(|| Failure::Message(format!("invalid indentation size: {}", command.indentation_size)))?;
    let indent = if command.spaces { " " } else { "\t" }.repeat(size);
    let loaded = project::load(global, &[])?;
    let how = graph::VizLabels { networks: command.networks, ports: command.ports, image: command.image, indent };
    println!("{}", graph::viz(&loaded.project, &how));
    Ok(())
}
