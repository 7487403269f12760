//! Where the server is: `http://HOST:PORT`, or `https://HOST:PORT` with the certificate of its authority.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use http::Uri;
use http::uri::{PathAndQuery, Scheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A server's address.
#[derive(Clone)]
pub(crate) struct Target {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// A byte stream, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl Target {
    /// Reads `--address` and `--ca`.
    ///
    /// # Errors
    /// The rule that is broken, with the flag's name.
    pub(crate) fn parse(address: &str, authority: Option<&Path>) -> anyhow::Result<Target> {
        const RULE: &str = "--address: must be http://HOST:PORT or https://HOST:PORT";
        let uri: Uri = address.parse().ok().with_context(|| format!("{RULE}, not \"{address}\""))?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else { bail!("{RULE}, not \"{address}\"") };
        let tls = match scheme {
            "http" => None,
            "https" => {
                let path = authority.context("--ca: https needs the PEM file of the server's certificate authority")?;
                Some(connector(path)?)
            }
            _ => bail!("{RULE}, not \"{address}\""),
        };
        ensure!(tls.is_some() || authority.is_none(), "--ca: has no meaning with http://");
        ensure!(matches!(uri.path(), "" | "/"), "{RULE}, without a path, not \"{address}\"");
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Target { uri, host, port, tls })
    }

    /// The full name of a path there.
    pub(super) fn uri(&self, path: &str) -> Uri {
        let mut parts = self.uri.clone().into_parts();
        parts.scheme = Some(if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
        parts.path_and_query = Some(PathAndQuery::try_from(path).expect("paths of methods are well-formed"));
        Uri::from_parts(parts).expect("scheme, host and path are there")
    }

    fn authority(&self) -> &str {
        self.uri.authority().map_or(self.host.as_str(), http::uri::Authority::as_str)
    }

    /// Opens a connection.
    pub(super) async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.with_context(|| format!("--address: {self} cannot be reached"))?;
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(self.host.clone()).context("--address: not a name for TLS")?;
        let stream = tls.connect(name, stream).await;
        Ok(Box::new(stream.with_context(|| format!("--address: {self}: the TLS handshake failed"))?))
    }
}

fn connector(path: &Path) -> anyhow::Result<TlsConnector> {
    let shown = path.display();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).with_context(|| format!("--ca: reading {shown}"))? {
        roots
            .add(certificate.with_context(|| format!("--ca: reading {shown}"))?)
            .with_context(|| format!("--ca: {shown}"))?;
    }
    ensure!(!roots.is_empty(), "--ca: {shown} holds no certificate");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_addresses_are_refused_with_the_flag() {
        for bad in ["", "127.0.0.1:50051", "ftp://a:1", "http://a:1/path", "http://"] {
            let error = Target::parse(bad, None).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with("--address: must be http://HOST:PORT"), "{bad}: {error}");
        }
        let error = Target::parse("https://a:1", None).err().unwrap().to_string();
        assert!(error.starts_with("--ca:"), "{error}");
    }

    #[test]
    fn paths_are_put_behind_the_address() {
        let target = Target::parse("http://127.0.0.1:50051", None).unwrap();
        assert_eq!(target.uri("/a.B/C").to_string(), "http://127.0.0.1:50051/a.B/C");
        assert_eq!(target.to_string(), "http://127.0.0.1:50051");
    }
}
