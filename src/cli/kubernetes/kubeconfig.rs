//! Which cluster, and as whom: kubeconfig files as `kubectl` reads them.
//!
//! https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/

use crate::cli::Failure;
use crate::kubernetes::is_dns_label;
use crate::printable;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(10);

/// Options of the commands that ask a cluster.
#[derive(clap::Args, Debug, Clone)]
pub struct ClusterChoice {
    /// The context of the kubeconfig; by default its current one.
    #[arg(long = "context", id = "kubernetes_context", value_name = "NAME")]
    context: Option<String>,
    /// Namespace of the objects; by default that of the context.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Kubeconfig file, instead of those of KUBECONFIG and ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// A cluster that was chosen.
pub struct ChosenCluster {
    pub config: kube::Config,
    /// The name of its context.
    pub context: String,
}

impl ClusterChoice {
    /// # Errors
    /// When there is no kubeconfig, no such context, or something wrong in them.
    pub async fn read(&self) -> Result<ChosenCluster, Failure> {
        let read = self.files()?;
        let context = self.context.clone().or_else(|| read.current_context.clone().filter(|name| !name.is_empty()));
        let Some(context) = context else {
            return Err(Failure::Message(format!(
                "the kubeconfig has no current context: choose one with --context ({})",
                names(&read)
            )));
        };
        let known = names(&read);
        let own_proxy = has_proxy(&read, &context);
        let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
        let mut config = kube::Config::from_custom_kubeconfig(read, &options).await.map_err(|error| match error {
            KubeconfigError::LoadContext(name) => {
                Failure::Message(format!("the kubeconfig has no context `{name}`; it has {known}"))
            }
            KubeconfigError::LoadClusterOfContext(name) => Failure::Message(format!(
                "the context `{context}` names the cluster `{name}`, which the kubeconfig does not have"
            )),
            other => wrong(&format!("the context `{context}`"), &other),
        })?;
        if let Some(namespace) = &self.namespace {
            config.default_namespace.clone_from(namespace);
        }
        if !is_dns_label(&config.default_namespace) {
            let name = printable::line(&config.default_namespace).into_owned();
            return Err(Failure::Message(format!(
                "`{name}` is no name of a namespace: lower-case letters, digits and `-`, 63 at most"
            )));
        }
        if !own_proxy && is_direct(config.cluster_url.host().unwrap_or_default()) {
            config.proxy_url = None;
        }
        config.connect_timeout = Some(CONNECTING);
        // What is tried again, and what is said meanwhile, is decided here.
        config.default_retry = false;
        Ok(ChosenCluster { config, context })
    }

    /// The files, merged. Those of KUBECONFIG that do not exist are passed over.
    fn files(&self) -> Result<Kubeconfig, Failure> {
        if let Some(path) = &self.kubeconfig {
            return read(path)?
                .ok_or_else(|| Failure::Message(format!("reading the kubeconfig {}: there is no such file", path.display())));
        }
        let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
        let mut paths: Vec<PathBuf> = std::env::split_paths(&listed).filter(|path| !path.as_os_str().is_empty()).collect();
        if paths.is_empty() {
            let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
            paths.extend(home.map(|home| Path::new(&home).join(".kube/config")));
        }
        let mut merged: Option<Kubeconfig> = None;
        for path in &paths {
            let Some(next) = read(path)? else { continue };
            merged = Some(match merged {
                None => next,
                Some(before) => before.merge(next).map_err(|error| wrong(&format!("{}", path.display()), &error))?,
            });
        }
        merged.ok_or_else(|| {
            let looked = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            Failure::Message(format!(
                "there is no kubeconfig ({looked}): name one with --kubeconfig or KUBECONFIG; `wharf kubernetes export` needs none"
            ))
        })
    }
}

/// A file; `None` where there is none.
fn read(path: &Path) -> Result<Option<Kubeconfig>, Failure> {
    match Kubeconfig::read_from(path) {
        Ok(read) => Ok(Some(read)),
        Err(KubeconfigError::ReadConfig(error, _)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(KubeconfigError::ReadConfig(error, _)) => {
            Err(Failure::Message(format!("reading the kubeconfig {}: {error}", path.display())))
        }
        Err(error) => Err(wrong(&path.display().to_string(), &error)),
    }
}

fn wrong(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::Message(format!("the kubeconfig is wrong in {what}: {}", super::cluster::chain(error)))
}

fn names(read: &Kubeconfig) -> String {
    let names: Vec<&str> = read.contexts.iter().map(|context| context.name.as_str()).collect();
    if names.is_empty() { "no contexts".into() } else { names.join(", ") }
}

/// Whether the cluster of a context has a proxy of its own, which NO_PROXY is not about.
fn has_proxy(read: &Kubeconfig, context: &str) -> bool {
    let of = read.contexts.iter().find(|named| named.name == context).and_then(|named| named.context.as_ref());
    let cluster = of.and_then(|of| read.clusters.iter().find(|named| named.name == of.cluster)?.cluster.as_ref());
    cluster.and_then(|cluster| cluster.proxy_url.as_ref()).is_some_and(|proxy| !proxy.is_empty())
}

/// Whether the environment's proxy is not for a host: a loopback address, or what NO_PROXY names.
fn is_direct(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let listed = std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy")).unwrap_or_default();
    is_loopback || is_listed(&listed, host)
}

/// NO_PROXY: names, which stand for what is below them too, and `*`.
fn is_listed(listed: &str, host: &str) -> bool {
    listed.split(',').map(str::trim).filter(|name| !name.is_empty()).any(|name| {
        let name = name.trim_start_matches('.');
        name == "*" || host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::is_listed;

    #[test]
    fn hosts_without_a_proxy() {
        for (listed, host, direct) in [
            ("", "a.example", false),
            ("*", "a.example", true),
            ("b.example, a.example", "a.example", true),
            (".example", "a.example", true),
            ("example", "badexample", false),
            ("10.0.0.1", "10.0.0.1", true),
        ] {
            assert_eq!(is_listed(listed, host), direct, "{listed} {host}");
        }
    }
}
