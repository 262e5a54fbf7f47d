//! Proxies of the user's own configuration (`~/.docker/config.json`), which Docker's clients give to containers and builds.

use crate::image::credentials;
use serde_json::Value;
use std::sync::OnceLock;

/// The variables and the attributes that say them.
const VARIABLES: [(&str, &str); 5] = [
    ("HTTP_PROXY", "httpProxy"),
    ("HTTPS_PROXY", "httpsProxy"),
    ("FTP_PROXY", "ftpProxy"),
    ("NO_PROXY", "noProxy"),
    ("ALL_PROXY", "allProxy"),
];

static ENGINE: OnceLock<String> = OnceLock::new();

/// The engine's address, as the file has it; once, before anything else.
pub fn set_engine(address: String) {
    let _ = ENGINE.set(address);
}

/// Variables for containers and builds, each in both spellings.
pub fn variables() -> Vec<(String, String)> {
    of(&credentials::configuration(), ENGINE.get().map_or("", String::as_str))
}

fn of(configuration: &Value, engine: &str) -> Vec<(String, String)> {
    let proxies = &configuration["proxies"];
    let of_host = &proxies[engine];
    let found = if of_host.is_object() { of_host } else { &proxies["default"] };
    let value = |attribute: &str| found[attribute].as_str().filter(|value| !value.is_empty());
    let set = VARIABLES.iter().filter_map(|(name, attribute)| Some((*name, value(attribute)?)));
    set.flat_map(|(name, value)| [(name.to_string(), value.to_string()), (name.to_lowercase(), value.to_string())]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn those_of_the_engine_go_before_the_others() {
        let configuration = json!({"proxies": {
            "default": {"httpProxy": "http://p:1", "noProxy": ""},
            "unix:///run/other.sock": {"allProxy": "socks5://q:2"},
        }});
        let names = |engine: &str| of(&configuration, engine).into_iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>();
        assert_eq!(names("unix:///run/wharf/engine.sock"), ["HTTP_PROXY=http://p:1", "http_proxy=http://p:1"]);
        assert_eq!(names("unix:///run/other.sock"), ["ALL_PROXY=socks5://q:2", "all_proxy=socks5://q:2"]);
        assert!(of(&json!({}), "/x").is_empty() && of(&json!({"proxies": 7}), "/x").is_empty());
    }
}
