//! Requests to an API server: bounded in size and time, tried again where that helps, and with errors that say what to do.

use super::cluster_error::{ClusterError, chain, is_gateways, without_passwords};
use super::credentials::Credentials;
use super::kubeconfig::{ChosenCluster, ClusterChoice};
use crate::api::reply::escape;
use crate::cli::Failure;
use crate::kubernetes::live::{LiveList, LiveObject, LivePod, OfObject};
use crate::kubernetes::ownership::{FoundObject, MANAGER, pod_selector};
use crate::kubernetes::refusal::RefusalStatus;
use crate::kubernetes::{ServedKind, Version};
use crate::printable;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, Response};
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use std::time::Duration;

/// How long an answer may take, to its end.
pub const ANSWER: Duration = Duration::from_secs(30);
/// The largest answer: a page of a list of objects, each of which has at most 1.5 MiB.
const LARGEST: usize = 64 << 20;
/// The objects of a page, and the most pages.
const PAGE: usize = 250;
const PAGES: usize = 200;
/// The delays between attempts, where a server is not there or asks for patience.
const AGAIN: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// The longest delay that a server may ask for.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// How an object is applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct ApplyOptions {
    /// Fields of others are taken over.
    pub force: bool,
    /// The server says what would be, and changes nothing.
    pub dry_run: bool,
}

/// An API server, and the namespace that a command works in.
pub struct Cluster {
    client: kube::Client,
    credentials: Credentials,
    /// A DNS label.
    pub namespace: String,
    pub context: String,
    /// Its address, without a password.
    server: String,
}

/// The objects that a list of several kinds has found.
pub struct LabelledObjects {
    pub found: Vec<FoundObject>,
    /// Kinds that the user may not list, and the server's word.
    pub unlisted: Vec<(ServedKind, ClusterError)>,
}

impl Cluster {
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn of(choice: &ClusterChoice) -> Result<Self, Failure> {
        let ChosenCluster { config, credentials, context } = choice.read().await?;
        let (namespace, server) = (config.default_namespace.clone(), without_passwords(&config.cluster_url.to_string()));
        let client = kube::Client::try_from(config)
            .map_err(|error| Failure::Message(format!("the context `{context}` cannot be used: {}", chain(&error))))?;
        Ok(Cluster { client, credentials, namespace, context, server })
    }

    /// The server's version, for which objects are made.
    ///
    /// # Errors
    /// When it does not answer, or is too old.
    pub async fn version(&self) -> Result<Version, Failure> {
        let asking = format!("asking the cluster of the context `{}` for its version", self.context);
        let answer: Json = self.json(Method::GET, "/version", "", None).await.map_err(|e| e.while_doing(&asking, "version"))?;
        let text = answer["gitVersion"].as_str().unwrap_or_default();
        text.parse().map_err(|why: String| Failure::Message(format!("{asking}: {}", printable::line(&why))))
    }

    /// An object; `None` where there is none.
    ///
    /// # Errors
    /// The server's.
    pub async fn get(&self, path: &str) -> Result<Option<Json>, ClusterError> {
        match self.json(Method::GET, path, "", None).await {
            Err(error) if error.code() == 404 => Ok(None),
            other => other.map(Some),
        }
    }

    /// All of a list, page by page. `query` begins a list's selectors. What the server does not serve is an empty list.
    ///
    /// # Errors
    /// The server's; more pages than somebody has objects.
    pub async fn list<T: DeserializeOwned>(&self, path: &str, query: &str) -> Result<Vec<T>, ClusterError> {
        let (mut items, mut next) = (Vec::new(), String::new());
        for _ in 0..PAGES {
            let from = if next.is_empty() { String::new() } else { format!("&continue={}", escape(&next)) };
            let page: LiveList<T> = match self.json(Method::GET, path, &format!("{query}&limit={PAGE}{from}"), None).await {
                Err(error) if error.code() == 404 => return Ok(items),
                other => other?,
            };
            items.extend(page.items);
            if page.metadata.next.is_empty() {
                return Ok(items);
            }
            next = page.metadata.next;
        }
        Err(ClusterError::Strange { server: self.server.clone(), why: format!("a list has no end after {PAGES} pages") })
    }

    /// The Pods of a project.
    ///
    /// # Errors
    /// The server's.
    pub async fn pods(&self, project: &str) -> Result<Vec<LivePod>, ClusterError> {
        let path = format!("/api/v1/namespaces/{}/pods", self.namespace);
        self.list(&path, &labelled(&pod_selector(project))).await
    }

    /// The objects of some kinds, by label. A user of a namespace often may not list some of them.
    ///
    /// # Errors
    /// The server's, with what was asked for; when none of the kinds may be listed.
    pub async fn found(&self, selector: &str, kinds: &[ServedKind]) -> Result<LabelledObjects, Failure> {
        let query = labelled(selector);
        let lists = kinds.iter().map(|served| async {
            let list: Result<Vec<LiveObject>, _> = self.list(&served.path(&self.namespace), &query).await;
            (*served, list)
        });
        let mut all = LabelledObjects { found: Vec::new(), unlisted: Vec::new() };
        for (served, list) in futures::future::join_all(lists).await {
            match list {
                Ok(list) => all.found.extend(list.into_iter().map(|object| FoundObject { served, meta: object.metadata })),
                Err(error) if error.code() == 403 && all.unlisted.len() + 1 < kinds.len() => all.unlisted.push((served, error)),
                Err(error) => return Err(error.while_doing(&format!("listing {}", served.plural), served.plural)),
            }
        }
        Ok(all)
    }

    /// Applies an object on the server's side: https://kubernetes.io/docs/reference/using-api/server-side-apply/
    ///
    /// # Errors
    /// The server's.
    pub async fn apply(&self, served: ServedKind, name: &str, object: &Json, how: ApplyOptions) -> Result<Json, ClusterError> {
        let path = self.object(served, name);
        let dry_run = if how.dry_run { "&dryRun=All" } else { "" };
        let query = format!("fieldManager={MANAGER}&force={}&fieldValidation=Strict{dry_run}", how.force);
        self.json(Method::PATCH, &path, &query, Some(object)).await
    }

    /// Creates a namespace; one that exists is as good.
    ///
    /// # Errors
    /// The server's.
    pub async fn create_namespace(&self, object: &Json, dry_run: bool) -> Result<(), ClusterError> {
        let query = if dry_run { "dryRun=All" } else { "" };
        match self.json::<Json>(Method::POST, "/api/v1/namespaces", query, Some(object)).await {
            Err(error) if error.code() == 409 => Ok(()),
            other => other.map(drop),
        }
    }

    /// Deletes an object, if it is still the one that was seen. False where it is gone.
    ///
    /// # Errors
    /// The server's.
    pub async fn delete(&self, found: &FoundObject, dry_run: bool) -> Result<bool, ClusterError> {
        let path = self.object(found.served, &found.meta.name);
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            // It stays until the Pods are gone, so that it can be waited for.
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": found.meta.uid},
        });
        let query = if dry_run { "dryRun=All" } else { "" };
        match self.json::<Json>(Method::DELETE, &path, query, Some(&options)).await {
            // Somebody has deleted it, or made another by its name.
            Err(error) if matches!(error.code(), 404 | 409) => Ok(false),
            other => other.map(|_| true),
        }
    }

    pub fn object(&self, served: ServedKind, name: &str) -> String {
        format!("{}/{}", served.path(&self.namespace), escape(name))
    }

    /// An answer that has no bound in time or size: a log.
    ///
    /// # Errors
    /// The server's.
    pub async fn stream(&self, path: &str, query: &str) -> Result<Body, ClusterError> {
        let request = self.request(&Method::GET, path, query, None).await?;
        let answer = tokio::time::timeout(ANSWER, self.client.send(request));
        let answer = answer.await.map_err(|_| self.slow())?.map_err(|error| self.unreachable(&error))?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let (code, body) = tokio::time::timeout(ANSWER, self.whole(answer)).await.map_err(|_| self.slow())??;
        Err(self.refused(code, &body))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &str,
        body: Option<&Json>,
    ) -> Result<T, ClusterError> {
        let mut delays = AGAIN.iter();
        loop {
            let error = match self.once(&method, path, query, body).await {
                Ok(answer) => return self.parsed(&answer),
                Err(error) => error,
            };
            let Some(delay) = delays.next().filter(|_| error.is_passing()) else { return Err(error) };
            let asked = if let ClusterError::Refused(status) = &error { status.details.retry_after_seconds } else { 0 };
            tokio::time::sleep((*delay).max(Duration::from_secs(asked)).min(LONGEST_DELAY)).await;
        }
    }

    async fn once(&self, method: &Method, path: &str, query: &str, body: Option<&Json>) -> Result<Bytes, ClusterError> {
        let request = self.request(method, path, query, body).await?;
        let asked = async {
            let answer = self.client.send(request).await.map_err(|error| self.unreachable(&error))?;
            let is_success = answer.status().is_success();
            let (code, body) = self.whole(answer).await?;
            if is_success { Ok(body) } else { Err(self.refused(code, &body)) }
        };
        tokio::time::timeout(ANSWER, asked).await.map_err(|_| self.slow())?
    }

    async fn request(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        body: Option<&Json>,
    ) -> Result<Request<Body>, ClusterError> {
        let token = self.credentials.header().await;
        let token = token.map_err(|why| ClusterError::Nobody { context: self.context.clone(), why })?;
        let target = if query.is_empty() { path.to_string() } else { format!("{path}?{query}") };
        let kind = if *method == Method::PATCH { "application/apply-patch+yaml" } else { "application/json" };
        let request = Request::builder().method(method.clone()).uri(target).header("Content-Type", kind);
        let request =
            request.header("Accept", "application/json").header("User-Agent", concat!("wharf/", env!("CARGO_PKG_VERSION")));
        let request = token.into_iter().fold(request, |request, token| request.header("Authorization", token));
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        request.body(Body::from(bytes)).map_err(|error| self.strange(&error))
    }

    async fn whole(&self, answer: Response<Body>) -> Result<(u16, Bytes), ClusterError> {
        let code = answer.status().as_u16();
        let body =
            Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|error| match error
                .is::<http_body_util::LengthLimitError>()
            {
                true => self.strange(&std::io::Error::other(format!("it is longer than {} MiB", LARGEST >> 20))),
                false => ClusterError::Unreachable { server: self.server.clone(), why: chain(&*error) },
            })?;
        Ok((code, body.to_bytes()))
    }

    fn parsed<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, ClusterError> {
        serde_json::from_slice(answer).map(|OfObject(answer)| answer).map_err(|error| self.strange(&error))
    }

    /// A refusal, which a proxy may have written.
    fn refused(&self, code: u16, body: &[u8]) -> ClusterError {
        let mut status: RefusalStatus = serde_json::from_slice(body).unwrap_or_else(|_| RefusalStatus {
            message: String::from_utf8_lossy(&body[..body.len().min(4096)]).trim().to_string(),
            ..RefusalStatus::default()
        });
        status.code = code;
        if is_gateways(code) {
            status.message = format!("the API server {} is away: it answers {code} {}", self.server, status.message);
        }
        ClusterError::Refused(Box::new(status.bounded(|text| printable::line(text).into_owned())))
    }

    fn unreachable(&self, error: &kube::Error) -> ClusterError {
        ClusterError::Unreachable { server: self.server.clone(), why: chain(error) }
    }

    fn slow(&self) -> ClusterError {
        ClusterError::Slow { server: self.server.clone() }
    }

    fn strange(&self, error: &(dyn std::error::Error + 'static)) -> ClusterError {
        ClusterError::Strange { server: self.server.clone(), why: chain(error) }
    }
}

/// The query for what a selector of labels chooses.
pub fn labelled(selector: &str) -> String {
    format!("labelSelector={}", escape(selector))
}
