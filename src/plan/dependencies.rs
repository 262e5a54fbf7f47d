//! The walk over what services depend on.

use crate::compose::model::Project;
use indexmap::IndexSet;

/// Names and, through any number of others, what they depend on: each after its own dependencies, otherwise in the given order.
/// A circle, which labels of different versions of a file may make, is broken somewhere.
pub(super) fn with_dependencies<'a, D: IntoIterator<Item = &'a str>>(
    names: impl IntoIterator<Item = &'a str>,
    dependencies: &impl Fn(&'a str) -> D,
) -> IndexSet<&'a str> {
    fn visit<'a, D: IntoIterator<Item = &'a str>>(
        name: &'a str,
        dependencies: &impl Fn(&'a str) -> D,
        seen: &mut IndexSet<&'a str>,
        done: &mut IndexSet<&'a str>,
    ) {
        if seen.insert(name) {
            dependencies(name).into_iter().for_each(|dependency| visit(dependency, dependencies, seen, done));
            done.insert(name);
        }
    }
    let (mut seen, mut done) = (IndexSet::new(), IndexSet::new());
    names.into_iter().for_each(|name| visit(name, dependencies, &mut seen, &mut done));
    done
}

/// The active dependencies of a service.
pub(super) fn of_project<'a>(project: &'a Project) -> impl Fn(&'a str) -> Vec<&'a str> {
    |name| {
        let names = project.services.get(name).into_iter().flat_map(|service| service.depends_on.keys());
        names.map(String::as_str).filter(|name| project.services.contains_key(*name)).collect()
    }
}

/// The services that a command acts on: the named ones, all where none is named, and, unless that is not wanted, what they depend on.
pub fn selected(project: &Project, named: &[String], no_deps: bool) -> IndexSet<String> {
    let walked;
    let names: Box<dyn Iterator<Item = &str>> = match named {
        [] => Box::new(project.services.keys().map(String::as_str)),
        named if no_deps => Box::new(named.iter().map(String::as_str)),
        named => {
            walked = with_dependencies(named.iter().map(String::as_str), &of_project(project));
            Box::new(walked.iter().copied())
        }
    };
    names.map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_circles_end() {
        let of = |name: &str| match name {
            "web" => vec!["api", "cache"],
            "api" => vec!["db"],
            "db" => vec!["api"],
            _ => Vec::new(),
        };
        let walk = |names: &[&'static str]| with_dependencies(names.iter().copied(), &of).into_iter().collect::<Vec<_>>();
        assert_eq!(walk(&["web"]), ["db", "api", "cache", "web"]);
        assert_eq!(walk(&["cache", "db"]), ["cache", "api", "db"]);
    }
}
