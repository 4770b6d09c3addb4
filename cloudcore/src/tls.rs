//! TLS as both ports speak it, and listening that survives a restart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout_at};

use crate::enrol::authority::{Authority, ServerCertificate};

/// How long a port that is in use is waited for: a predecessor killed a moment ago.
const BIND_PATIENCE: Duration = Duration::from_secs(5);

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// No certificate, no connection.
    Required,
    /// One that is shown must be good; none is fine too.
    Optional,
}

/// The TLS configuration of a port: 1.2 and 1.3, no ALPN, clients judged by our own authority.
///
/// # Errors
/// Certificates or keys that the TLS library does not take.
pub fn server_config(
    authority: &Authority,
    server: &ServerCertificate,
    client: ClientCertificate,
) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let ca = CertificateDer::from(authority.certificate().to_vec());
    let mut roots = RootCertStore::empty();
    roots.add(ca).context("the authority's certificate is refused as a root")?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let verifier: Arc<dyn ClientCertVerifier> = match client {
        ClientCertificate::Required => verifier.build(),
        ClientCertificate::Optional => verifier.allow_unauthenticated().build(),
    }
    .context("cannot judge client certificates")?;
    let key = server.tls_key().context("the server key cannot be read")?;
    let chain = vec![CertificateDer::from(server.certificate.clone())];
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .context("TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("the server certificate and its key are refused")?;
    // A gateway connects rarely and stays; remembering sessions would cost memory per gateway.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Listens, waiting a while for a port that is still in use.
///
/// # Errors
/// The address cannot be had.
pub async fn bind(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let local = listener.local_addr().context("cannot read the bound address")?;
                tracing::info!(%local, "{what} listens");
                return Ok(listener);
            }
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline =>
            {
                let _ = timeout_at(deadline, sleep(Duration::from_millis(100))).await;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("{what}: cannot listen on {address}"));
            }
        }
    }
}
