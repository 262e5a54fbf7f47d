//! Logins and tokens of registries (RFC 6750 as the distribution specification uses it).

use super::{Registry, blocking};
use crate::image::answers::{self, MAX_TOKEN, challenge_parameters};
use crate::image::credentials::{Login, Who};
use crate::image::{ImageError, ImageRef};
use reqwest::{Client, RequestBuilder, Response, StatusCode, header};
use std::future::Future;
use std::time::Duration;

/// Tokens that are kept: clients may come with as many logins as they like.
const MOST_TOKENS: usize = 512;
/// Docker's words: clients ask for another login on them.
const WRONG_LOGIN: &str = "incorrect username or password";

fn not_understood(challenge: &str) -> String {
    format!("its challenge is not understood: {}", crate::image::digest::shown(challenge))
}

impl Registry {
    /// The client for a token server: the registry's own certificate may be one that does not hold, another host's must.
    fn client_for<'a>(&'a self, registrys: &'a Client, base: &str, url: &str) -> &'a Client {
        let host = |url: &str| reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_string));
        if host(base) == host(url) { registrys } else { &self.client }
    }

    /// Whether a registry takes a user and a password.
    ///
    /// # Errors
    /// When it does not, or does not answer.
    pub async fn check_login(&self, host: &str, user: &str, password: &str) -> Result<(), ImageError> {
        let failed = |why: String| ImageError::Registry { host: host.into(), what: "a login".into(), why };
        let (client, base) = self.host(host).await?;
        let url = format!("{base}/v2/");
        let first = answers::send(client.get(&url), self.patience.answer).await.map_err(failed)?;
        if first.status() == StatusCode::OK {
            return Ok(());
        }
        let challenge = first.headers().get(header::WWW_AUTHENTICATE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        let mut place = url.clone();
        if scheme.eq_ignore_ascii_case("bearer") {
            let parameters = challenge_parameters(parameters);
            let realm = parameters.get("realm").ok_or_else(|| failed(not_understood(challenge)))?;
            let mut url = reqwest::Url::parse(realm).map_err(|e| failed(e.to_string()))?;
            if let Some(service) = parameters.get("service") {
                url.query_pairs_mut().append_pair("service", service);
            }
            place = url.to_string();
        }
        let client = self.client_for(&client, &base, &place);
        let request = client.get(&place).basic_auth(user, Some(password));
        let response = answers::send(request, self.patience.answer).await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => {
                self.tokens.lock().await.clear();
                Ok(())
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(ImageError::Unauthorized { host: host.into(), why: WRONG_LOGIN.into() })
            }
            status => Err(failed(format!("it answered {status}"))),
        }
    }

    /// Sends a request, and once more with the authorisation that the registry asks for. `action` is what is to be done with
    /// the repository: `pull`, or `pull,push`; `limit` is how long the answer may take to begin.
    pub(in crate::image) async fn authorised<F>(
        &self,
        name: &ImageRef,
        action: &str,
        limit: Duration,
        request: impl Fn() -> F,
    ) -> Result<Response, ImageError>
    where
        F: Future<Output = Result<RequestBuilder, ImageError>>,
    {
        let scope = (name.host.clone(), format!("{}:{action}", name.path), self.logins.who(&name.host));
        let failed = |why: String| ImageError::Registry { host: name.host.clone(), what: name.familiar(), why };
        for attempt in 0..2 {
            let mut request = request().await?;
            if let Some(authorization) = self.tokens.lock().await.get(&scope) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let response = answers::send(request, limit).await.map_err(failed)?;
            match response.status() {
                StatusCode::UNAUTHORIZED if attempt == 0 => {
                    let challenge =
                        response.headers().get(header::WWW_AUTHENTICATE).and_then(|v| v.to_str().ok()).unwrap_or_default();
                    let token = self.authorise(name, action, challenge).await?;
                    let mut tokens = self.tokens.lock().await;
                    if tokens.len() >= MOST_TOKENS {
                        tokens.clear();
                    }
                    tokens.insert(scope.clone(), token);
                }
                _ => return Ok(response),
            }
        }
        Err(failed("it asks for authorisation again and again".into()))
    }

    /// Why a registry gives nothing of a repository, though it has answered.
    pub(in crate::image) fn denied(&self, name: &ImageRef) -> ImageError {
        match self.logins.who(&name.host) {
            Who::Given(Some(_)) => ImageError::Unauthorized { host: name.host.clone(), why: "authentication required".into() },
            _ => ImageError::Denied { image: name.familiar(), repository: name.familiar_name(), host: name.host.clone() },
        }
    }

    /// Answers a `WWW-Authenticate` challenge (RFC 6750 as the distribution specification uses it).
    async fn authorise(&self, name: &ImageRef, action: &str, challenge: &str) -> Result<String, ImageError> {
        let failed = |why: String| ImageError::Registry { host: name.host.clone(), what: "authorisation".into(), why };
        let (host, logins) = (name.host.clone(), self.logins.clone());
        let login = blocking(move || Ok(logins.find(&host))).await?;
        if let Some(Login::Token(token)) = &login {
            return Ok(format!("Bearer {token}"));
        }
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return match login {
                Some(Login::Basic(basic)) => Ok(format!("Basic {basic}")),
                _ => Err(ImageError::Unauthorized { host: name.host.clone(), why: "no basic auth credentials".into() }),
            };
        }
        let parameters = challenge_parameters(parameters);
        let realm = parameters.get("realm").ok_or_else(|| failed(not_understood(challenge)))?;
        let mut url = reqwest::Url::parse(realm).map_err(|e| failed(e.to_string()))?;
        let scope = format!("repository:{}:{action}", name.path);
        url.query_pairs_mut().append_pair("scope", parameters.get("scope").unwrap_or(&scope));
        if let Some(service) = parameters.get("service") {
            url.query_pairs_mut().append_pair("service", service);
        }
        let (client, base) = self.host(&name.host).await?;
        let client = self.client_for(&client, &base, url.as_str());
        let request = match &login {
            // RFC 6749, "Refreshing an Access Token", as Docker's token servers have it.
            Some(Login::Identity(token)) => {
                let mut form = url.clone();
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "wharf")
                    .append_pair("refresh_token", token);
                let body = form.query().unwrap_or_default().to_string();
                url.set_query(None);
                client.post(url).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
            }
            Some(Login::Basic(basic)) => client.get(url).header(header::AUTHORIZATION, format!("Basic {basic}")),
            _ => client.get(url),
        };
        let response = answers::send(request, self.patience.answer).await.map_err(failed)?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if login.is_some() => {
                return Err(ImageError::Unauthorized { host: name.host.clone(), why: WRONG_LOGIN.into() });
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied(name)),
            status => return Err(failed(format!("the token server answered {status}"))),
        }
        let answer = answers::read(response, MAX_TOKEN, self.patience.document).await.map_err(failed)?;
        Ok(format!("Bearer {}", answers::token(&answer).map_err(failed)?))
    }
}
