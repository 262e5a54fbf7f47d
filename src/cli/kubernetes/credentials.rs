//! As whom a cluster is asked: the bearer token of a kubeconfig's user, given in it, in a file, or by a credential plugin.
//!
//! Client certificates are the connection's; a plugin may give one instead of a token.

use super::kubeconfig::bounded;
use super::plugin::{self, PluginAnswer};
use crate::cli::Failure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use jiff::{SignedDuration, Timestamp};
use kube::config::{AuthInfo, ExecConfig};
use secrecy::ExposeSecret;
use std::path::{Path, PathBuf};
use tokio::sync::Mutex;

/// How long before its end a plugin's token is renewed, and how long a file's token is taken for the file's.
const EARLIER: SignedDuration = SignedDuration::from_secs(10);
const FILE_HOLDS: SignedDuration = SignedDuration::from_secs(60);

/// Where tokens come from.
enum TokenSource {
    /// Requests have none: the user has a certificate, a password, or nothing.
    Nobody,
    Given(HeaderValue),
    File(PathBuf),
    Plugin(Box<ExecConfig>),
}

/// A token for some time, as the header that requests have.
#[derive(Clone)]
struct HeldToken {
    header: Option<HeaderValue>,
    /// For ever where the plugin names no end.
    until: Option<Timestamp>,
}

/// Who a command is for a cluster. A token that a plugin or a file gives is asked for again when it has run out.
pub struct Credentials {
    source: TokenSource,
    held: Mutex<Option<HeldToken>>,
}

impl Credentials {
    /// Takes the token, or what gives one, out of a kubeconfig's user, in `kubectl`'s order of precedence. A plugin is run, and its certificate
    /// becomes the user's.
    ///
    /// # Errors
    /// When there is no token where one should be, or the plugin has failed. No message has a token.
    pub async fn take(user: &mut AuthInfo, context: &str) -> Result<Self, Failure> {
        let failed = |why: String| Failure::Message(format!("the context `{context}` cannot be used: {why}"));
        let source = source(user).map_err(failed)?;
        let credentials = Credentials { source, held: Mutex::new(None) };
        if let TokenSource::Plugin(exec) = &credentials.source {
            let answer = plugin::run(exec).await.map_err(failed)?;
            if let (Some(certificate), Some(key)) = (&answer.client_certificate_data, &answer.client_key_data) {
                user.client_certificate_data = Some(STANDARD.encode(certificate));
                user.client_key_data = Some(STANDARD.encode(key).into());
            }
            *credentials.held.lock().await = Some(held(&answer).map_err(failed)?);
        }
        // What is wrong with a file is told before anything is asked.
        credentials.header().await.map_err(failed)?;
        Ok(credentials)
    }

    /// The header of the next request. A token whose time is over is renewed first.
    ///
    /// # Errors
    /// When it cannot be.
    pub async fn header(&self) -> Result<Option<HeaderValue>, String> {
        match &self.source {
            TokenSource::Nobody => Ok(None),
            TokenSource::Given(header) => Ok(Some(header.clone())),
            TokenSource::File(path) => self.kept(async || of_file(path)).await,
            TokenSource::Plugin(exec) => self.kept(async || held(&plugin::run(exec).await?)).await,
        }
    }

    async fn kept(&self, renew: impl AsyncFnOnce() -> Result<HeldToken, String>) -> Result<Option<HeaderValue>, String> {
        let mut held = self.held.lock().await;
        let valid = held.as_ref().filter(|held| held.until.is_none_or(|until| Timestamp::now() + EARLIER < until));
        if let Some(valid) = valid {
            return Ok(valid.header.clone());
        }
        let renewed = match (renew().await, &*held) {
            (Ok(renewed), _) => renewed,
            // A file that was taken away after the start: the token that it had is tried on, as client-go does.
            (Err(_), Some(before)) if matches!(self.source, TokenSource::File(_)) => {
                HeldToken { header: before.header.clone(), until: Some(Timestamp::now() + FILE_HOLDS) }
            }
            (Err(why), _) => return Err(why),
        };
        Ok(held.insert(renewed).header.clone())
    }
}

fn source(user: &mut AuthInfo) -> Result<TokenSource, String> {
    let (token, file, exec) = (user.token.take(), user.token_file.take(), user.exec.take());
    if let Some(provider) = user.auth_provider.take() {
        let Some(token) = provider.config.get("id-token").filter(|_| provider.name == "oidc") else {
            let name = crate::printable::line(&provider.name).into_owned();
            return Err(format!(
                "its user has the auth provider `{name}`, which `kubectl` no longer has either: use a credential plugin (`exec`)"
            ));
        };
        return given(token);
    }
    if user.username.is_some() && user.password.is_some() {
        return Ok(TokenSource::Nobody);
    }
    if let Some(token) = token.filter(|token| !token.expose_secret().is_empty()) {
        return given(token.expose_secret());
    }
    match (file.filter(|file| !file.is_empty()), exec) {
        (Some(file), _) => Ok(TokenSource::File(file.into())),
        (None, Some(exec)) => Ok(TokenSource::Plugin(Box::new(exec))),
        (None, None) => Ok(TokenSource::Nobody),
    }
}

fn given(token: &str) -> Result<TokenSource, String> {
    Ok(bearer(token)?.map_or(TokenSource::Nobody, TokenSource::Given))
}

/// A token as a header; `None` of an empty one. White space around it is what wrote it down, such as `token: |` and `echo`.
fn bearer(token: &str) -> Result<Option<HeaderValue>, String> {
    let token = token.trim();
    if token.is_empty() {
        return Ok(None);
    }
    let mut header = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| "its token has a line break or another character that a header cannot have".to_string())?;
    header.set_sensitive(true);
    Ok(Some(header))
}

fn of_file(path: &Path) -> Result<HeldToken, String> {
    let failed = |why: String| format!("reading the token file {}: {why}", path.display());
    let bytes = bounded(path).map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| failed("it is not text".into()))?;
    Ok(HeldToken { header: bearer(&text)?, until: Some(Timestamp::now() + FILE_HOLDS) })
}

fn held(answer: &PluginAnswer) -> Result<HeldToken, String> {
    let until = match &answer.expiration_timestamp {
        None => None,
        Some(text) => {
            Some(text.parse().map_err(|_| "its credential plugin has given an expirationTimestamp that is no time".to_string())?)
        }
    };
    Ok(HeldToken { header: bearer(answer.token.as_deref().unwrap_or_default())?, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_header_or_an_error_without_it() {
        let text = |token: &str| bearer(token).map(|header| header.map(|header| header.to_str().expect("text").to_string()));
        assert_eq!(text("abc\n"), Ok(Some("Bearer abc".into())));
        assert_eq!(text(" \r\n"), Ok(None));
        for token in ["SECRET\nx", "SECRET\0", "SECRET\r\nHost: x"] {
            let error = text(token).expect_err(token);
            assert!(error.contains("line break") && !error.contains("SECRET"), "{error}");
        }
        assert!(bearer("abc").expect("a header").expect("a header").is_sensitive());
    }
}
