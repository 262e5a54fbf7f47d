//! `wharf graph`.

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
