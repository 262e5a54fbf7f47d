//! Which cluster, and as whom: kubeconfig files as `kubectl` reads them.
//!
//! https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/

use super::cluster_error::without_passwords;
use super::credentials::Credentials;
use crate::cli::Failure;
use crate::kubernetes::is_dns_label;
use crate::printable;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use secrecy::ExposeSecret;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest kubeconfig: hundreds of clusters with their certificates.
const LARGEST_KUBECONFIG: u64 = 8 << 20;

/// The largest certificate, key and token, and the most that a credential plugin writes.
pub const LARGEST_FILE: u64 = 1 << 20;

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
    pub credentials: Credentials,
    /// The name of its context.
    pub context: String,
}

impl ClusterChoice {
    /// # Errors
    /// When there is no kubeconfig, no such context, or something wrong in them.
    pub async fn read(&self) -> Result<ChosenCluster, Failure> {
        let mut read = self.files()?;
        let context = self.context.clone().or_else(|| read.current_context.clone().filter(|name| !name.is_empty()));
        let Some(context) = context else {
            return Err(Failure::Message(format!(
                "the kubeconfig has no current context: choose one with --context ({})",
                names(&read)
            )));
        };
        let known = names(&read);
        open_files(&mut read, &context)?;
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
        require_address(&config.cluster_url, &context)?;
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
        let credentials = Credentials::take(&mut config.auth_info, &context).await?;
        Ok(ChosenCluster { config, credentials, context })
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
    let failed = |error: io::Error| Failure::Message(format!("reading the kubeconfig {}: {error}", path.display()));
    let bytes = match up_to(path, LARGEST_KUBECONFIG) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let text = text(bytes).map_err(failed)?;
    let read = Kubeconfig::from_yaml(&text).map_err(|error| wrong(&path.display().to_string(), &error))?;
    Ok(Some(beside(read, path.parent().unwrap_or(Path::new("")))))
}

/// A file of a kubeconfig's, up to [`LARGEST_FILE`].
///
/// # Errors
/// The kernel's; when it is longer.
pub fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    up_to(path, LARGEST_FILE)
}

/// The user's own path, which may be a pipe of the shell's.
fn up_to(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(largest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest {
        return Err(io::Error::other(format!("it is longer than {} MiB", largest >> 20)));
    }
    Ok(bytes)
}

/// Text in UTF-8, or in UTF-16 as PowerShell writes it.
fn text(bytes: Vec<u8>) -> io::Result<String> {
    let units = |of: fn([u8; 2]) -> u16| bytes[2..].chunks_exact(2).map(|pair| of([pair[0], pair[1]])).collect::<Vec<u16>>();
    let text = match bytes.as_slice() {
        [0xff, 0xfe, ..] => String::from_utf16(&units(u16::from_le_bytes)).ok(),
        [0xfe, 0xff, ..] => String::from_utf16(&units(u16::from_be_bytes)).ok(),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        _ => String::from_utf8(bytes).ok(),
    };
    text.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not text"))
}

/// With the paths in it made ones beside it. What is empty is absent.
fn beside(mut read: Kubeconfig, directory: &Path) -> Kubeconfig {
    let resolve = |file: &mut Option<String>| {
        *file = file.take().filter(|name| !name.is_empty());
        if let Some(joined) = file.as_ref().and_then(|name| directory.join(name).to_str().map(str::to_string)) {
            *file = Some(joined);
        }
    };
    for cluster in read.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        resolve(&mut cluster.certificate_authority);
    }
    for user in read.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        [&mut user.client_certificate, &mut user.client_key, &mut user.token_file].into_iter().for_each(resolve);
        // A name without a directory is looked for in PATH.
        if let Some(exec) = user.exec.as_mut().filter(|exec| exec.command.as_ref().is_some_and(|name| name.contains('/'))) {
            resolve(&mut exec.command);
        }
    }
    read
}

/// Reads the certificates and the key that a context's cluster and user name, with a bound.
fn open_files(read: &mut Kubeconfig, context: &str) -> Result<(), Failure> {
    let of = read.contexts.iter().find(|named| named.name == context).and_then(|named| named.context.clone());
    let Some(of) = of else { return Ok(()) };
    let opened = |what: &str, file: &mut Option<String>| match file.take() {
        None => Ok(None),
        Some(file) => bounded(Path::new(&file)).map(|bytes| Some(STANDARD.encode(bytes))).map_err(|error| {
            Failure::Message(format!("the context `{context}` cannot be used: reading its {what} {file}: {error}"))
        }),
    };
    let cluster = read.clusters.iter_mut().find(|named| named.name == of.cluster).and_then(|named| named.cluster.as_mut());
    if let Some(cluster) = cluster.filter(|cluster| cluster.certificate_authority_data.as_deref().unwrap_or_default().is_empty())
    {
        cluster.certificate_authority_data = opened("certificate-authority", &mut cluster.certificate_authority)?;
    }
    let user = read.auth_infos.iter_mut().find(|named| Some(&named.name) == of.user.as_ref());
    let Some(user) = user.and_then(|named| named.auth_info.as_mut()) else { return Ok(()) };
    if user.client_certificate_data.as_deref().unwrap_or_default().is_empty() {
        user.client_certificate_data = opened("client-certificate", &mut user.client_certificate)?;
    }
    if user.client_key_data.as_ref().is_none_or(|key| key.expose_secret().is_empty()) {
        user.client_key_data = opened("client-key", &mut user.client_key)?.map(Into::into);
    }
    Ok(())
}

/// What is wrong with a kubeconfig. What its YAML's reader says has the lines around the mistake, with the tokens and keys in them.
fn wrong(what: &str, error: &KubeconfigError) -> Failure {
    let why = match error {
        KubeconfigError::Parse(error) => {
            let place = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column())).unwrap_or_default();
            format!("{place}this is not YAML, or no value that a kubeconfig has there")
        }
        other => super::cluster_error::chain(other),
    };
    Failure::Message(format!("the kubeconfig is wrong in {what}: {why}"))
}

/// Refuses the address of a cluster that no request can be made for.
fn require_address(server: &hyper::Uri, context: &str) -> Result<(), Failure> {
    let has_host = server.host().is_some_and(|host| !host.is_empty());
    if has_host && matches!(server.scheme_str(), Some("http" | "https")) {
        return Ok(());
    }
    let shown = printable::line(&without_passwords(&server.to_string())).into_owned();
    Err(Failure::Message(format!(
        "the context `{context}` cannot be used: the address `{shown}` of its cluster is none: it begins with `https://` (or `http://`)"
    )))
}

fn names(read: &Kubeconfig) -> String {
    let names: Vec<&str> = read.contexts.iter().map(|context| context.name.as_str()).collect();
    if names.is_empty() { "no contexts".into() } else { printable::line(&names.join(", ")).into_owned() }
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
