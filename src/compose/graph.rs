//! The dependency graph of a project as text, for Graphviz and for Mermaid.

use super::model::{Condition, Port, Project};
use std::collections::HashSet;
use std::fmt::Write;

/// A service and what it waits for, as a tree. What was shown already is not unfolded again.
pub fn text(project: &Project) -> String {
    let needed: HashSet<&str> =
        project.services.values().flat_map(|service| service.depends_on.keys().map(String::as_str)).collect();
    let mut out = String::new();
    let mut shown = HashSet::new();
    for name in project.services.keys().filter(|name| !needed.contains(name.as_str())) {
        branch(project, name, "", "", &mut shown, &mut out);
    }
    out
}

fn branch<'a>(project: &'a Project, name: &'a str, label: &str, indent: &str, shown: &mut HashSet<&'a str>, out: &mut String) {
    let again = !shown.insert(name);
    let Some(service) = project.services.get(name) else {
        let _ = writeln!(out, "{name}{label} (not active)");
        return;
    };
    let unfolded = again && !service.depends_on.is_empty();
    let _ = writeln!(out, "{name}{label}{}", if unfolded { " (see above)" } else { "" });
    if again {
        return;
    }
    let last = service.depends_on.len();
    for (i, (dependency, how)) in service.depends_on.iter().enumerate() {
        let (line, deeper) = if i + 1 == last { ("└── ", "    ") } else { ("├── ", "│   ") };
        let _ = write!(out, "{indent}{line}");
        branch(project, dependency, &words(how.condition, how.required), &format!("{indent}{deeper}"), shown, out);
    }
}

fn words(condition: Condition, required: bool) -> String {
    let what = match condition {
        Condition::ServiceStarted => "started",
        Condition::ServiceHealthy => "healthy",
        Condition::ServiceCompletedSuccessfully => "completed",
    };
    format!(" [{what}{}]", if required { "" } else { ", optional" })
}

/// The graph in Graphviz' language.
pub fn dot(project: &Project) -> String {
    let mut out = format!("digraph {} {{\n  rankdir=LR;\n  node [shape=box];\n", quoted(&project.name));
    for name in project.services.keys() {
        let _ = writeln!(out, "  {};", quoted(name));
    }
    for (from, to, label, required) in edges(project) {
        let style = if required { "" } else { ", style=dashed" };
        let _ = writeln!(out, "  {} -> {} [label={}{style}];", quoted(from), quoted(to), quoted(label));
    }
    out.push_str("}\n");
    out
}

/// The graph in Mermaid's language.
pub fn mermaid(project: &Project) -> String {
    let mut out = "flowchart LR\n".to_string();
    let id = |name: &str| project.services.get_index_of(name).map_or_else(|| format!("x_{}", name.len()), |i| format!("s{i}"));
    for name in project.services.keys() {
        let _ = writeln!(out, "  {}[{}]", id(name), quoted(name));
    }
    for (from, to, label, required) in edges(project) {
        let arrow = if required { "-->" } else { "-.->" };
        let _ = writeln!(out, "  {} {arrow}|{label}| {}", id(from), id(to));
    }
    out
}

/// What `docker compose alpha viz` draws of each service, beside its name.
#[derive(Clone, Debug, Default)]
pub struct VizLabels {
    pub networks: bool,
    pub ports: bool,
    pub image: bool,
    pub indent: String,
}

/// The graph as `docker compose alpha viz` draws it, in Graphviz' language; services in their order.
pub fn viz(project: &Project, how: &VizLabels) -> String {
    let indent = &how.indent;
    let mut out = format!("digraph {} {{\n{indent}layout=dot;\n", quoted(&project.name));
    let section = |out: &mut String, title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let lines: String = lines.iter().map(|line| format!("<br/>{}", escaped(line))).collect();
            let _ = write!(out, "<font point-size=\"10\"><br/><br/><b>{title}:</b>{lines}</font>");
        }
    };
    for (name, service) in &project.services {
        let _ = write!(out, "{indent}{} [style=\"filled\" label=<<font point-size=\"15\">{}</font>", quoted(name), escaped(name));
        if how.networks {
            let mut networks: Vec<(&String, i64)> = service
                .networks
                .iter()
                .map(|(name, how)| (name, how.as_ref().and_then(|how| how.priority).unwrap_or(0)))
                .collect();
            networks.sort_by(|(a, first), (b, second)| second.cmp(first).then(a.cmp(b)));
            section(&mut out, "Networks", networks.into_iter().map(|(name, _)| name.clone()).collect());
        }
        if how.ports {
            let port = |port: &Port| {
                let host = port.host_ip.as_deref().map(|ip| format!("{ip}:")).unwrap_or_default();
                let published = port.published.clone().unwrap_or_default();
                format!("{host}{published}:{} ({}, {})", port.target, port.protocol, port.mode.as_deref().unwrap_or("ingress"))
            };
            section(&mut out, "Ports", service.ports.iter().map(port).collect());
        }
        if how.image {
            let image = service.image.clone().unwrap_or_else(|| format!("{}-{name}", project.name));
            section(&mut out, "Image", vec![image]);
        }
        out.push_str(">];\n");
    }
    out.push('\n');
    for (from, to, ..) in edges(project) {
        let _ = writeln!(out, "{indent}{} -> {};", quoted(from), quoted(to));
    }
    out.push_str("}\n");
    out
}

/// A text in Graphviz' HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn edges(project: &Project) -> impl Iterator<Item = (&str, &str, &'static str, bool)> {
    project.services.iter().flat_map(|(from, service)| {
        service.depends_on.iter().filter(|(to, _)| project.services.contains_key(*to)).map(|(to, how)| {
            let label = match how.condition {
                Condition::ServiceStarted => "started",
                Condition::ServiceHealthy => "healthy",
                Condition::ServiceCompletedSuccessfully => "completed",
            };
            (from.as_str(), to.as_str(), label, how.required)
        })
    })
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viz_is_docker_composes() {
        let yaml = serde_json::json!({
            "name": "shop",
            "services": {
                "web": {
                    "image": "x<y",
                    "depends_on": {"db": {"condition": "service_started", "required": true}},
                    "networks": {"b": null, "a": null, "c": {"priority": 5}},
                    "ports": [{"target": 80, "published": "8080", "protocol": "tcp", "mode": "ingress", "host_ip": "127.0.0.1"}],
                },
                "db": {},
            },
        });
        let project: Project = serde_json::from_value(yaml).expect("a project");
        let plain = viz(&project, &VizLabels { indent: "\t".into(), ..VizLabels::default() });
        assert_eq!(
            plain,
            "digraph \"shop\" {\n\tlayout=dot;\n\t\"web\" [style=\"filled\" label=<<font point-size=\"15\">web</font>>];\n\t\"db\" [style=\"filled\" label=<<font point-size=\"15\">db</font>>];\n\n\t\"web\" -> \"db\";\n}\n"
        );
        let all = viz(&project, &VizLabels { networks: true, ports: true, image: true, indent: "  ".into() });
        for part in [
            "<b>Networks:</b><br/>c<br/>a<br/>b</font>",
            "<b>Ports:</b><br/>127.0.0.1:8080:80 (tcp, ingress)</font>",
            "<b>Image:</b><br/>x&lt;y</font>>];",
            "<b>Image:</b><br/>shop-db</font>>];",
        ] {
            assert!(all.contains(part), "no {part} in {all}");
        }
    }
}
