//! What goes wrong with an API server, in words: no password of an address is in them, and a certificate's error says what to do.

use super::cluster::ANSWER;
use crate::cli::Failure;
use crate::kubernetes::refusal::RefusalStatus;
use crate::printable;
use std::error::Error;
use std::io;
use tokio_rustls::rustls::{self, CertificateError};

/// Why a request to a cluster has failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// It has answered that it will not.
    #[error("{}", .0.message)]
    Refused(Box<RefusalStatus>),
    #[error("the API server {server} cannot be reached: {why}")]
    Unreachable { server: String, why: String },
    #[error("the API server {server} has not answered within {} s", ANSWER.as_secs())]
    Slow { server: String },
    /// Its answer is none of an API server's.
    #[error("the answer of {server} is not an API server's: {why}")]
    Strange { server: String, why: String },
    /// The token's time is over, and there is no other.
    #[error("the context `{context}` cannot be used: {why}")]
    Nobody { context: String, why: String },
}

impl ClusterError {
    pub fn code(&self) -> u16 {
        if let ClusterError::Refused(status) = self { status.code } else { 0 }
    }

    /// Whether the object would have to be made anew for what has changed.
    pub fn is_immutable(&self) -> bool {
        matches!(self, ClusterError::Refused(status) if status.is_immutable())
    }

    /// Whether the server is away: it does not answer, or a load balancer before it says so.
    pub fn is_away(&self) -> bool {
        matches!(self, ClusterError::Unreachable { .. } | ClusterError::Slow { .. }) || is_gateways(self.code())
    }

    /// Whether the same request may succeed in a moment.
    pub fn is_passing(&self) -> bool {
        matches!(self, ClusterError::Unreachable { .. }) || matches!(self.code(), 429 | 500) || is_gateways(self.code())
    }

    /// The failure of a command that was doing something, such as `reading Pods`.
    pub fn while_doing(self, what: &str, kind: &str) -> Failure {
        Failure::Message(format!("{what}: {}", self.explained(kind)))
    }

    /// Why, and what to do. `kind` is that of the object.
    pub fn explained(&self, kind: &str) -> String {
        match self {
            ClusterError::Refused(status) => status.explain(kind),
            other => other.to_string(),
        }
    }
}

/// The answers of a load balancer whose server is away, and of a server that starts or ends.
pub fn is_gateways(code: u16) -> bool {
    matches!(code, 502..=504)
}

/// An error with what has caused it, each once, and without passwords.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    if let Some(words) = of_certificate(error) {
        return words;
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    printable::line(&without_passwords(&text)).chars().take(1000).collect()
}

/// With `xxxxx` for the passwords of addresses, as Go's `URL.Redacted`.
pub fn without_passwords(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://").map(|at| at + 3) {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '`' | '"')).unwrap_or(rest.len());
        let Some(host) = rest[..end].rfind('@') else { continue };
        let user = rest[..host].split(':').next().unwrap_or_default();
        let password = if user.len() < host { ":xxxxx" } else { "" };
        out.extend([user, password]);
        rest = &rest[host..];
    }
    out + rest
}

/// What to do about a certificate that was not taken.
fn of_certificate(error: &(dyn Error + 'static)) -> Option<String> {
    let rustls::Error::InvalidCertificate(error) = of_tls(error)? else { return None };
    Some(match error {
        // Authorities of clusters that were made anew have the name that they had, and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "none of the authorities of the kubeconfig has signed its certificate: \
             give the right one as `certificate-authority` of the cluster"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is that of another name: give an address that it is for, or its name as `tls-server-name` of the cluster"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired, or the clock of this machine is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or the clock of this machine is wrong"
        }
        // webpki has the word in its own type.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "its certificate is that of an authority (CA:TRUE, as `openssl req -x509` makes it), which wharf does not take from a server: \
             make one with `-addext basicConstraints=critical,CA:FALSE`, or, where nobody can be in between, set `insecure-skip-tls-verify: true`"
        }
        _ => return None,
    }
    .into())
}

fn of_tls<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An error in one of input and output is not its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_addresses_are_hidden() {
        for (text, shown) in [
            ("http://user:PW@127.0.0.1:1/", "http://user:xxxxx@127.0.0.1:1/"),
            ("proxy foo://u:PW@h:1/ and https://v:P:W@h?x", "proxy foo://u:xxxxx@h:1/ and https://v:xxxxx@h?x"),
            ("http://user@h/a:b@c", "http://user@h/a:b@c"),
            ("http://:PW@h", "http://:xxxxx@h"),
            ("http://h:80/a@b", "http://h:80/a@b"),
            ("`http://u:p@x@h`", "`http://u:xxxxx@h`"),
            ("no address: a:b@c", "no address: a:b@c"),
            ("http://", "http://"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }

    #[test]
    fn a_certificate_that_is_not_taken_says_what_to_do() {
        for (error, words) in [
            (CertificateError::UnknownIssuer, "`certificate-authority`"),
            (CertificateError::NotValidForName, "`tls-server-name`"),
            (CertificateError::Expired, "the clock"),
        ] {
            let wrapped = io::Error::other(io::Error::other(rustls::Error::InvalidCertificate(error)));
            assert!(chain(&wrapped).contains(words), "{}", chain(&wrapped));
        }
    }
}
