//! The API over TCP, as `wharf engine -H tcp://ADDRESS:PORT` asks for it: the addresses, and the certificates of clients.
//!
//! Who can use the API is root. So a port is for clients with a certificate of a given authority; without certificates it is on
//! the loopback alone.

use crate::engine::EngineError;
use crate::sys::regular::read_regular_file;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, CertificateError, RootCertStore, ServerConfig};

/// Docker's ports, without TLS and with it.
const PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;
/// Bytes of a file of certificates that are read.
const MOST_OF_FILE: u64 = 1 << 20;

/// `tcp://ADDRESS[:PORT]`, where the API listens. A name other than `localhost` is none: it may lead elsewhere tomorrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpEndpoint {
    pub address: IpAddr,
    /// Docker's by default: 2376 with TLS, else 2375.
    pub port: Option<u16>,
}

/// What clients of a port are checked by, as PEM: dockerd's `--tlscacert`, `--tlscert` and `--tlskey`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities whose client certificates are good.
    pub authorities: PathBuf,
    /// The engine's certificate, and those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A port, and how its clients are checked; `None` on the loopback alone.
pub struct TcpDoor {
    pub listener: TcpListener,
    pub tls: Option<TlsAcceptor>,
}

impl FromStr for TcpEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no address to listen on: write tcp://ADDRESS:PORT, such as tcp://192.0.2.7:2376 or tcp://[::1]:2376"
            )
        };
        let rest = text.strip_prefix("tcp://").ok_or_else(wrong)?.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port = port
            .map(|port| port.parse().ok().filter(|_| port.bytes().all(|b| b.is_ascii_digit())))
            .map_or(Ok(None), |port| port.map(Some).ok_or_else(wrong))?;
        let address = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(inside) => IpAddr::V6(inside.and_then(|inside| inside.parse().ok()).ok_or_else(wrong)?),
            // As Docker: no address is the loopback, and not every address.
            None if matches!(host, "" | "localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
            None => IpAddr::V4(host.parse().map_err(|_| wrong())?),
        };
        Ok(TcpEndpoint { address, port })
    }
}

impl fmt::Display for TcpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (IpAddr::V6(address), None) => write!(f, "tcp://[{address}]"),
            (address, None) => write!(f, "tcp://{address}"),
            (address, Some(port)) => write!(f, "tcp://{}", SocketAddr::new(address, port)),
        }
    }
}

impl TcpEndpoint {
    fn socket_address(self, has_tls: bool) -> SocketAddr {
        SocketAddr::new(self.address, self.port.unwrap_or(if has_tls { TLS_PORT } else { PORT }))
    }
}

/// Looks whether an engine can listen on every endpoint, before it replaces one that does: by its certificates and addresses. A
/// port may be taken, by the engine that goes.
///
/// # Errors
/// As [`listen`].
pub fn check(endpoints: &[TcpEndpoint], tls: Option<&TlsFiles>) -> Result<(), EngineError> {
    let has_tls = tls.map(acceptor).transpose()?.is_some();
    for endpoint in endpoints {
        let address = allowed(endpoint, has_tls)?;
        match std::net::TcpListener::bind(address) {
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => return Err(listening_on(address)(error)),
            _ => {}
        }
    }
    Ok(())
}

fn listening_on(address: SocketAddr) -> impl FnOnce(std::io::Error) -> EngineError {
    EngineError::io(format!("listening on tcp://{address}"))
}

/// The address of an endpoint, where it may be listened on.
fn allowed(endpoint: &TcpEndpoint, has_tls: bool) -> Result<SocketAddr, EngineError> {
    let address = endpoint.socket_address(has_tls);
    if !has_tls && !address.ip().is_loopback() {
        return Err(EngineError::Invalid(format!(
            "the API is not served on {address} without TLS: whoever reaches the port would be root on this machine; give --tlsverify, --tlscacert, --tlscert and --tlskey"
        )));
    }
    Ok(address)
}

/// Listens on every endpoint.
///
/// # Errors
/// An address other than the loopback's without TLS, certificates that cannot be read, a port that is taken.
pub(super) fn listen(endpoints: &[TcpEndpoint], tls: Option<&TlsFiles>) -> Result<Vec<TcpDoor>, EngineError> {
    if endpoints.is_empty() {
        return Ok(Vec::new());
    }
    let tls = tls.map(acceptor).transpose()?;
    let mut doors = Vec::new();
    for endpoint in endpoints {
        let address = allowed(endpoint, tls.is_some())?;
        let listener = std::net::TcpListener::bind(address).map_err(listening_on(address))?;
        listener.set_nonblocking(true).map_err(listening_on(address))?;
        let listener = TcpListener::from_std(listener).map_err(listening_on(address))?;
        match &tls {
            Some(_) => tracing::info!("the API listens on tcp://{address}, for clients with a certificate"),
            None => tracing::warn!(
                "THE API LISTENS ON tcp://{address} WITHOUT TLS: every user and every program of this machine that can connect is root by it. Give --tlsverify, or use the socket"
            ),
        }
        doors.push(TcpDoor { listener, tls: tls.clone() });
    }
    Ok(doors)
}

/// The server's end of TLS: 1.2 or 1.3, and no client without a certificate that one of the authorities has signed for clients.
fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, EngineError> {
    let wrong = |path: &Path, why: String| EngineError::Invalid(format!("reading {} for TLS: {why}", path.display()));
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, EngineError> {
        let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
        let list = list.map_err(|error| wrong(path, error.to_string()))?;
        if list.is_empty() { Err(wrong(path, "it has no certificate (PEM)".into())) } else { Ok(list) }
    };
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in certificates(&files.authorities)? {
        roots.add(authority).map_err(|error| wrong(&files.authorities, error.to_string()))?;
    }
    let chain = certificates(&files.certificate)?;
    if let Some(why) = wrong_time(&chain, &roots, &provider) {
        tracing::warn!("no client takes the certificate in {}: {why}", files.certificate.display());
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| wrong(&files.authorities, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| wrong(&files.key, error.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain, key))
        .map_err(|error| wrong(&files.certificate, format!("{error}; its key is to be in {}", files.key.display())))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Why a certificate is not for this time. Whether its authority is one of `roots` is the clients' affair.
fn wrong_time(chain: &[CertificateDer<'_>], roots: &RootCertStore, provider: &CryptoProvider) -> Option<CertificateError> {
    let (own, others) = chain.split_first()?;
    let own = ParsedCertificate::try_from(own).ok()?;
    let algorithms = provider.signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(&own, roots, others, UnixTime::now(), algorithms) {
        Err(rustls::Error::InvalidCertificate(
            why @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        )) => Some(why),
        _ => None,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, EngineError> {
    read_regular_file(path, MOST_OF_FILE).map_err(EngineError::io(format!("reading {} for TLS", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn addresses_are_read_or_refused() {
        for (text, tls, expected) in [
            ("tcp://192.0.2.7:99", true, "192.0.2.7:99"),
            ("tcp://0.0.0.0", true, "0.0.0.0:2376"),
            ("tcp://localhost", false, "127.0.0.1:2375"),
            ("tcp://:4243/", false, "127.0.0.1:4243"),
            ("tcp://[::1]:1", false, "[::1]:1"),
            ("tcp://[::]", true, "[::]:2376"),
        ] {
            let endpoint: TcpEndpoint = text.parse().expect(text);
            assert_eq!(endpoint.socket_address(tls).to_string(), expected, "{text}");
            assert_eq!(endpoint.to_string().parse(), Ok(endpoint), "{text}");
        }
        for wrong in [
            "http://127.0.0.1:1",
            "tcp://name:1",
            "tcp://127.0.0.1:",
            "tcp://127.0.0.1:+1",
            "tcp://127.0.0.1:70000",
            "tcp://::1",
            "tcp://[x]:1",
            "127.0.0.1:1",
            "fd://",
        ] {
            assert!(wrong.parse::<TcpEndpoint>().is_err(), "{wrong}");
        }
    }

    /// An engine that waits for the other end of a FIFO serves nobody.
    #[test]
    fn certificates_are_files_of_bounded_size() {
        let directory = tempfile::tempdir().expect("directory");
        let path = |name: &str| directory.path().join(name);
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        File::create(path("large")).and_then(|file| file.set_len(MOST_OF_FILE + 1)).expect("file");
        for name in ["fifo", "large", "missing"] {
            let files = TlsFiles { authorities: path(name), certificate: path(name), key: path(name) };
            let refused = acceptor(&files).err().expect("refused").to_string();
            assert!(refused.starts_with(&format!("reading {} for TLS: ", path(name).display())), "{refused}");
        }
    }

    #[tokio::test]
    async fn without_tls_there_is_the_loopback_alone() {
        for address in ["tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://192.0.2.1:0"] {
            let refused = listen(&[address.parse().expect(address)], None).err().expect("refused");
            assert!(refused.to_string().contains("without TLS"), "{address}: {refused}");
        }
        assert_eq!(listen(&["tcp://127.0.0.1:0".parse().expect("an address")], None).expect("listens").len(), 1);
    }
}
