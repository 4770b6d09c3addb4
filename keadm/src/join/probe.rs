//! Is the cloud there, and is it the one that issued the token? Every way to fail has its own words:
//! upstream answers all of them with one time-out after five minutes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::exit::{Exit, Failure};
use crate::http;
use crate::join::endpoint::Endpoint;
use crate::token::Token;

/// For each act: long enough for a slow radio link, short enough for a person who waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Checks both ports; returns what was found, as words.
///
/// # Errors
/// [`Exit::Unreachable`] for a name that does not resolve, a refused or silent port, or one that does
/// not speak TLS; [`Exit::Refused`] for a cloud with another CA, or a certificate for other names.
pub async fn cloud(hub: &Endpoint, certport: u16, token: &Token) -> anyhow::Result<String> {
    let enrol = hub.at(certport);
    // The CA is not known yet, so this connection trusts anybody; the token's hash decides below.
    let stream = connect(&enrol, "the enrolment port").await?;
    let stream = handshake(stream, &enrol, trusting_anybody()?, "the enrolment port").await?;
    let doing = format!("fetching the CA from https://{enrol}/ca.crt");
    let (status, ca) = in_time(&doing, http::get(stream, &enrol.to_string(), "/ca.crt")).await?;
    if status != 200 {
        return Err(Failure::new(Exit::Refused, doing)
            .because(format!("it answered {status}"))
            .next("is this port cloudcore's enrolment port? name it: --certport PORT")
            .into());
    }
    if !token.pins(&ca) {
        return Err(Failure::new(
            Exit::Refused,
            format!("checking the CA of {enrol} against the token"),
        )
        .because("the hash differs: the token was issued by another cloudcore, or somebody is in between")
        .next("get a token from this very cloud: keadm gettoken")
        .into());
    }
    let pinned = trusting_only(&ca)?;
    for (place, what) in [(&enrol, "the enrolment port"), (hub, "the hub port")] {
        let stream = connect(place, what).await?;
        drop(handshake(stream, place, pinned.clone(), what).await?);
    }
    Ok("CA as in the token, certificate good for this address".into())
}

async fn in_time<T>(
    doing: &str,
    act: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    match tokio::time::timeout(PATIENCE, act).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            Err(Failure::new(Exit::Unreachable, doing).because(format!("{error:#}")).into())
        }
        Err(_) => Err(Failure::new(Exit::Unreachable, doing)
            .because(format!("time-out: no answer within {} s", PATIENCE.as_secs()))
            .into()),
    }
}

/// Resolves and connects, trying every address.
async fn connect(place: &Endpoint, what: &str) -> anyhow::Result<TcpStream> {
    let doing = format!("connecting to {what} {place}");
    let unreachable = |cause: String, next: String| {
        anyhow::Error::from(
            Failure::new(Exit::Unreachable, doing.clone()).because(cause).next(next),
        )
    };
    let resolve = tokio::net::lookup_host((place.host(), place.port()));
    let addresses = match tokio::time::timeout(PATIENCE, resolve).await {
        Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
        Ok(Err(error)) => {
            return Err(unreachable(
                format!("DNS: the name does not resolve ({error})"),
                format!("getent hosts {}", place.host()),
            ));
        }
        Err(_) => {
            let text = "DNS: no answer from the resolver".to_owned();
            return Err(unreachable(text, format!("getent hosts {}", place.host())));
        }
    };
    let mut last = None;
    for address in addresses {
        match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(io::ErrorKind::TimedOut.into()),
        }
    }
    let (cause, next) = name_connect_error(last, place);
    Err(unreachable(cause, next))
}

fn name_connect_error(error: Option<io::Error>, place: &Endpoint) -> (String, String) {
    let Some(error) = error else {
        return ("DNS: the name has no address".into(), format!("getent hosts {}", place.host()));
    };
    if error.kind() == io::ErrorKind::ConnectionRefused {
        let cause = "refused: the machine answers, nothing listens on this port";
        (cause.into(), "start cloudcore there, or check the port".into())
    } else if error.kind() == io::ErrorKind::TimedOut {
        let cause = "time-out: packets are dropped on the way";
        (cause.into(), format!("check routes and firewalls to {place}"))
    } else {
        (format!("network: {error}"), format!("check routes to {place}"))
    }
}

async fn handshake(
    stream: TcpStream,
    place: &Endpoint,
    config: Arc<ClientConfig>,
    what: &str,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let doing = format!("opening TLS to {what} {place}");
    let name = ServerName::try_from(place.host().to_owned())?;
    let error = match tokio::time::timeout(
        PATIENCE,
        TlsConnector::from(config).connect(name, stream),
    )
    .await
    {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let failure = if let Some(rustls::Error::InvalidCertificate(problem)) = tls {
        Failure::new(Exit::Refused, doing).because(format!("TLS: {problem}")).next(format!(
            "add {} to enrol.advertise in cloudcore.yaml and restart cloudcore \
             (and compare the clocks of both machines)",
            place.host()
        ))
    } else {
        Failure::new(Exit::Unreachable, doing)
            .because(format!("TLS: {error}"))
            .next("is this cloudcore's port? check --cloudcore-ipport and --certport")
    };
    Err(failure.into())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn trusting_anybody() -> anyhow::Result<Arc<ClientConfig>> {
    Ok(Arc::new(
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider())))
            .with_no_client_auth(),
    ))
}

fn trusting_only(ca: &[u8]) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.to_vec())).map_err(|error| {
        anyhow!(Failure::new(Exit::Refused, "reading the cloud's CA certificate").because(error))
    })?;
    Ok(Arc::new(
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth(),
    ))
}

/// Accepts any certificate; used once, to fetch the CA whose hash the token holds.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
