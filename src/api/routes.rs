//! The table of the API's calls. What is not in it is answered with 404; docs/api.md is held against it by a test.

use hyper::Method;

/// The support of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    Done,
    /// An error answer: wharf does not have the feature.
    Refused,
    /// A call that Docker does not have.
    Own,
}

use Support::{Done, Own, Refused};

/// Method, path and support. `{x}` is one segment, `{x...}` one or more.
pub(super) const ROUTES: &[(&str, &str, Support)] = &[
    ("GET", "/_ping", Done),
    ("HEAD", "/_ping", Done),
    ("GET", "/version", Done),
    ("GET", "/info", Done),
    ("GET", "/events", Done),
    ("GET", "/system/df", Done),
    ("POST", "/auth", Done),
    ("GET", "/containers/json", Done),
    ("POST", "/containers/create", Done),
    ("POST", "/containers/prune", Done),
    ("GET", "/containers/{id}/json", Done),
    ("DELETE", "/containers/{id}", Done),
    ("POST", "/containers/{id}/attach", Done),
    ("GET", "/containers/{id}/attach/ws", Done),
    ("GET", "/containers/{id}/archive", Done),
    ("HEAD", "/containers/{id}/archive", Done),
    ("PUT", "/containers/{id}/archive", Done),
    ("DELETE", "/containers/{id}/archive", Own),
    ("GET", "/containers/{id}/changes", Done),
    ("GET", "/containers/{id}/checkpoints", Refused),
    ("POST", "/containers/{id}/checkpoints", Refused),
    ("DELETE", "/containers/{id}/checkpoints/{checkpoint}", Refused),
    ("POST", "/containers/{id}/exec", Done),
    ("GET", "/containers/{id}/export", Done),
    ("POST", "/containers/{id}/kill", Done),
    ("GET", "/containers/{id}/logs", Done),
    ("POST", "/containers/{id}/pause", Done),
    ("POST", "/containers/{id}/rename", Done),
    ("POST", "/containers/{id}/resize", Done),
    ("POST", "/containers/{id}/restart", Done),
    ("POST", "/containers/{id}/start", Done),
    ("GET", "/containers/{id}/stats", Done),
    ("POST", "/containers/{id}/stop", Done),
    ("GET", "/containers/{id}/top", Done),
    ("POST", "/containers/{id}/unpause", Done),
    ("POST", "/containers/{id}/update", Done),
    ("POST", "/containers/{id}/wait", Done),
    ("GET", "/exec/{id}/json", Done),
    ("POST", "/exec/{id}/resize", Done),
    ("POST", "/exec/{id}/start", Done),
    ("POST", "/commit", Done),
    ("POST", "/build", Done),
    ("POST", "/build/prune", Done),
    ("POST", "/grpc", Done),
    ("POST", "/session", Done),
    ("GET", "/images/json", Done),
    ("POST", "/images/create", Done),
    ("POST", "/images/load", Done),
    ("POST", "/images/prune", Done),
    ("GET", "/images/search", Refused),
    ("GET", "/images/get", Done),
    ("GET", "/images/{name...}/get", Done),
    ("GET", "/images/{name...}/history", Done),
    ("GET", "/images/{name...}/json", Done),
    ("GET", "/images/{name...}/files", Own),
    ("POST", "/images/{name...}/push", Done),
    ("POST", "/images/{name...}/tag", Done),
    ("DELETE", "/images/{name...}", Done),
    ("GET", "/distribution/{name...}/json", Done),
    ("GET", "/networks", Done),
    ("POST", "/networks/create", Done),
    ("POST", "/networks/prune", Done),
    ("GET", "/networks/{id}", Done),
    ("DELETE", "/networks/{id}", Done),
    ("POST", "/networks/{id}/connect", Done),
    ("POST", "/networks/{id}/disconnect", Done),
    ("GET", "/volumes", Done),
    ("POST", "/volumes/create", Done),
    ("POST", "/volumes/prune", Done),
    ("GET", "/volumes/{name}", Done),
    ("PUT", "/volumes/{name}", Refused),
    ("DELETE", "/volumes/{name}", Done),
    ("GET", "/plugins", Done),
    ("*", "/plugins/{rest...}", Refused),
    ("*", "/swarm", Refused),
    ("*", "/swarm/{rest...}", Refused),
    ("*", "/nodes", Refused),
    ("*", "/nodes/{rest...}", Refused),
    ("*", "/services", Refused),
    ("*", "/services/{rest...}", Refused),
    ("*", "/tasks", Refused),
    ("*", "/tasks/{rest...}", Refused),
    ("*", "/secrets", Refused),
    ("*", "/secrets/{rest...}", Refused),
    ("*", "/configs", Refused),
    ("*", "/configs/{rest...}", Refused),
    ("GET", "/jobs", Own),
    ("POST", "/jobs/prune", Own),
    ("GET", "/jobs/{name}", Own),
    ("DELETE", "/jobs/{name}", Own),
    ("GET", "/jobs/{name}/next", Own),
    ("GET", "/jobs/{name}/runs", Own),
    ("POST", "/jobs/{name}/cancel", Own),
    ("POST", "/jobs/{name}/pause", Own),
    ("POST", "/jobs/{name}/resume", Own),
    ("POST", "/jobs/{name}/run", Own),
    ("POST", "/jobs/{name}/wait", Own),
    ("GET", "/projects", Own),
    ("GET", "/projects/{name}/history", Own),
    ("GET", "/projects/{name}/incarnations", Own),
    ("GET", "/projects/{name}/incarnations/{id}/logs", Own),
    ("GET", "/projects/{name}/updates", Own),
    ("POST", "/projects/{rest...}", Own),
    ("POST", "/engine/stop", Own),
];

/// The support of a call; `None` where there is no such call.
pub(super) fn support(method: &Method, parts: &[&str]) -> Option<Support> {
    let fits =
        |(known, pattern, _): &&(&str, &str, Support)| (*known == "*" || *known == method.as_str()) && matches(pattern, parts);
    ROUTES.iter().find(fits).map(|(_, _, support)| *support)
}

fn matches(pattern: &str, parts: &[&str]) -> bool {
    let segments: Vec<&str> = pattern.split('/').skip(1).collect();
    match segments.iter().position(|segment| segment.ends_with("...}")) {
        None => {
            segments.len() == parts.len()
                && segments.iter().zip(parts).all(|(segment, part)| segment.starts_with('{') || segment == part)
        }
        Some(at) => {
            let tail = &segments[at + 1..];
            parts.len() > at + tail.len()
                && segments[..at] == parts[..at]
                && tail.iter().zip(&parts[parts.len() - tail.len()..]).all(|(segment, part)| segment == part)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_names_with_slashes() {
        let of = |method: &str, path: &str| support(&method.parse().expect("a method"), &path.split('/').collect::<Vec<_>>());
        assert_eq!(of("GET", "images/host:1/a/b/json"), Some(Done));
        assert_eq!(of("GET", "images/json"), Some(Done));
        assert_eq!(of("DELETE", "images/a"), Some(Done));
        assert_eq!(of("DELETE", "images"), None);
        assert_eq!(of("POST", "containers/x/checkpoints"), Some(Refused));
        assert_eq!(of("PATCH", "containers/x"), None);
        assert_eq!(of("GET", "session"), None);
        assert_eq!(of("POST", "session"), Some(Done));
        assert_eq!(of("POST", "swarm/init"), Some(Refused));
    }

    /// docs/api.md has a row for each call, with the same support, and no other.
    #[test]
    fn the_page_about_the_api_is_true() {
        let page = include_str!("../../docs/api.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let told: Vec<(String, String)> = rows
            .filter_map(|row| {
                let (call, rest) = row.split_once("` | ")?;
                Some((call.to_string(), rest.split(" | ").next()?.to_string()))
            })
            .collect();
        let word = |support| match support {
            Done => "done",
            Refused => "refused",
            Own => "wharf's own",
        };
        for (method, path, support) in ROUTES {
            let call = format!("{method} {path}");
            let found = told.iter().find(|(known, _)| *known == call).map(|(_, state)| state.as_str());
            assert_eq!(found, Some(word(*support)), "`{call}` in docs/api.md");
        }
        for (call, _) in &told {
            assert!(ROUTES.iter().any(|(method, path, _)| *call == format!("{method} {path}")), "docs/api.md has `{call}`");
        }
    }
}
