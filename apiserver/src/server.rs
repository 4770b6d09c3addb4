//! Connections: TLS, HTTP/1.1 and h2, limits, and a graceful end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::api::{Api, stopped};
use crate::auth;
use crate::pki::Pki;
use crate::routes;

/// How many clients may be connected; more wait in the listen queue.
const CONNECTIONS: usize = 4096;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// The most bytes of headers that a request may have.
const HEADER_LIMIT: usize = 64 * 1024;
/// How long requests under way may take once the server stops.
pub const GRACE: Duration = Duration::from_secs(2);
/// How long a wanted address may stay in use by a predecessor that is just ending.
const BIND_PATIENCE: Duration = Duration::from_secs(5);

/// Binds the listening socket, waiting a little for a predecessor to let go of it.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let pause = Duration::from_millis(100);
    let mut waited = Duration::ZERO;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && waited < BIND_PATIENCE =>
            {
                tokio::time::sleep(pause).await;
                waited += pause;
            }
            Err(error) => return Err(error).with_context(|| format!("listening on {address}")),
        }
    }
}

/// TLS 1.2 and 1.3; a client certificate is asked for but not demanded.
pub fn tls(pki: &Pki) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates = |pem: &str| -> anyhow::Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .context("reading a certificate")
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&pki.ca_cert)? {
        roots.add(certificate).context("trusting our own CA")?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("preparing to verify client certificates")?;
    let key = PrivateKeyDer::from_pem_slice(pki.server_key.as_bytes())
        .context("reading the server key")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choosing TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&pki.server_cert)?, key)
        .context("using the server certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts until the server stops, then lets requests under way finish.
pub async fn accept(listener: TcpListener, tls: TlsAcceptor, api: Arc<Api>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut stopping = api.stopping();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stopping) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = next(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let (tls, api) = (tls.clone(), api.clone());
                connections.spawn(async move {
                    connection(stream, tls, api).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: existing clients go on.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        connections.shutdown().await;
    }
}

async fn next(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, api: Arc<Api>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not turn Nagle's algorithm off");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let (_, session) = stream.get_ref();
    let user = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|certificate| auth::certificate_user(certificate));
    let service = {
        let api = api.clone();
        service_fn(move |request| {
            let (api, user) = (api.clone(), user.clone());
            async move { Ok::<_, Infallible>(routes::answer(api, user, request).await) }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(HEADER_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_LIMIT as u32)
        .max_concurrent_streams(1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut stopping = api.stopping();
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended badly");
    }
}
