//! The logins at registries that come with a request.

use super::WARNING_HEADER;
use crate::image::credentials::{Login, Logins, encode, host_of};
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use hyper::Request;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Docker's form of a login.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthConfig {
    username: String,
    password: String,
    auth: String,
    #[serde(alias = "identityToken")]
    identitytoken: String,
    #[serde(alias = "registryToken")]
    registrytoken: String,
}

impl AuthConfig {
    /// `None` where it says nothing: then nobody logs in.
    fn login(self) -> Option<Login> {
        match self {
            one if !one.registrytoken.is_empty() => Some(Login::Token(one.registrytoken)),
            one if !one.identitytoken.is_empty() => Some(Login::Identity(one.identitytoken)),
            one if !one.username.is_empty() => Some(Login::Basic(encode(&one.username, &one.password))),
            one if !one.auth.is_empty() => Some(Login::Basic(one.auth)),
            _ => None,
        }
    }
}

/// Whether wharf's own commands ask: they have the engine's logins.
pub(super) fn is_own<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(WARNING_HEADER)
}

/// A header's JSON in base64, of either alphabet.
fn decoded<B, T: serde::de::DeserializeOwned>(request: &Request<B>, header: &str) -> Option<T> {
    let text = request.headers().get(header)?.to_str().ok()?.trim();
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = [base64::alphabet::URL_SAFE, base64::alphabet::STANDARD]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok())?;
    serde_json::from_slice(&bytes).ok()
}

/// `X-Registry-Auth`: the login at the registry that a request is about. As with Docker, one that is not understood is none.
pub(super) fn of<B>(request: &Request<B>, host: &str) -> Logins {
    let login = decoded::<_, AuthConfig>(request, "x-registry-auth").and_then(AuthConfig::login);
    match login {
        None if is_own(request) => Logins::Own,
        login => Logins::Given(login.map(|login| (host.to_string(), login)).into_iter().collect()),
    }
}

/// `X-Registry-Config`: logins by registry, for a build.
pub(super) fn of_build<B>(request: &Request<B>) -> Logins {
    let given = decoded::<_, BTreeMap<String, AuthConfig>>(request, "x-registry-config");
    match given {
        None if is_own(request) => Logins::Own,
        given => Logins::Given(
            given
                .into_iter()
                .flatten()
                .filter_map(|(address, one)| Some((host_of(&address).to_string(), one.login()?)))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(header: &str, text: &str) -> Request<()> {
        Request::builder().header(header, text).body(()).expect("a request")
    }

    #[test]
    fn a_request_brings_its_own_login_and_no_other() {
        let found = |logins: Logins, host: &str| match logins {
            Logins::Own => "own".to_string(),
            Logins::Given(logins) => match logins.get(host) {
                Some(Login::Basic(basic)) => basic.clone(),
                Some(Login::Identity(token) | Login::Token(token)) => token.clone(),
                None => "none".into(),
            },
            Logins::Asked(_) => "asked".into(),
        };
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE.encode(text);
        for (json, expected) in [
            (r#"{"username": "u", "password": "p?>", "serveraddress": "x"}"#, super::encode("u", "p?>")),
            (r#"{"auth": "dTpw"}"#, "dTpw".into()),
            (r#"{"identitytoken": "t", "username": "<token>"}"#, "t".into()),
            (r#"{"registrytoken": "r"}"#, "r".into()),
            ("{}", "none".into()),
            ("no JSON", "none".into()),
        ] {
            assert_eq!(found(of(&request("X-Registry-Auth", &encode(json)), "h:1"), "h:1"), expected, "{json}");
        }
        assert_eq!(found(of(&request("Host", "x"), "h:1"), "h:1"), "none");
        assert_eq!(found(of(&request(WARNING_HEADER, "1"), "h:1"), "h:1"), "own");
        let config = encode(r#"{"https://index.docker.io/v1/": {"auth": "a"}, "h:1": {"username": "u", "password": "p"}}"#);
        let build = |host: &str| found(of_build(&request("X-Registry-Config", config.trim_end_matches('='))), host);
        assert_eq!((build("docker.io"), build("h:1"), build("other")), ("a".into(), super::encode("u", "p"), "none".into()));
    }
}
