//! Joining: a token in, a certificate out. And renewal, the same with the certificate for a token.
//!
//! The first answer, the CA, comes over a connection that nothing vouches for; the token does, by
//! the hash it starts with. Everything after is verified against that CA.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hub_proto::id::NodeName;
use hub_proto::wire;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Files, Identity, IdentityError, trust};
use crate::config::Endpoint;

/// A whole request, connecting included. Generous: a gateway may hang on a slow radio link.
const DEADLINE: Duration = Duration::from_secs(20);

/// Certificates are a kilobyte or two; an error text may be longer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Why a node could not join. The text says what to do next where an operator can do something.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No token file is configured.
    #[error("no cloud.tokenFile is configured; put a token from `keadm gettoken` into one")]
    NoTokenFile,
    /// The token file cannot be read.
    #[error("reading the token {path}: {source}; put a token from `keadm gettoken` there")]
    TokenFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no token.
    #[error("{0} holds no token; expected one line from `keadm gettoken`")]
    TokenMalformed(PathBuf),
    /// Another cloud answered, or the token is of another cloud.
    #[error(
        "the CA at {enrol} has SHA-256 {found}, and the token was made for {expected}; \
         check cloud.enrol, or get a token from this cloud"
    )]
    OtherCa {
        /// Where it was fetched.
        enrol: Endpoint,
        /// Hash of what came.
        found: String,
        /// Hash in the token.
        expected: String,
    },
    /// The cloud refused.
    #[error("{enrol} answered {status} to {path}: {text}{}", next_step(*status))]
    Refused {
        /// Who.
        enrol: Endpoint,
        /// To what.
        path: &'static str,
        /// How.
        status: StatusCode,
        /// What it said.
        text: String,
    },
    /// The cloud cannot be reached.
    #[error("{doing} {enrol}: {reason}")]
    Unreachable {
        /// What was being done.
        doing: &'static str,
        /// To whom.
        enrol: Endpoint,
        /// Why it failed.
        reason: String,
    },
    /// What came is no certificate for this node.
    #[error("what came from the cloud cannot be used: {0}")]
    Identity(#[from] IdentityError),
    /// The request for a certificate could not be made.
    #[error("making the request for a certificate: {0}")]
    Request(#[source] rcgen::Error),
}

fn next_step(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "; the token may have expired, get a new one with `keadm gettoken`"
        }
        _ => "",
    }
}

/// Joins with a token: fetches the CA, checks it against the token, gets a certificate for the
/// node's key, and keeps all of it.
///
/// # Errors
/// See [`EnrolError`]. Nothing is kept unless all of it is good.
pub async fn join(
    files: &Files,
    enrol: &Endpoint,
    token_file: Option<&PathBuf>,
    node: &NodeName,
    unix_s: i64,
) -> Result<Identity, EnrolError> {
    let path = token_file.ok_or(EnrolError::NoTokenFile)?;
    let text = std::fs::read_to_string(path)
        .map_err(|source| EnrolError::TokenFile { path: path.clone(), source })?;
    let (ca_hash, bearer) =
        split_token(text.trim()).ok_or_else(|| EnrolError::TokenMalformed(path.clone()))?;
    let ca = fetch(enrol, unverified(), "/ca.crt", Vec::new(), |request| request).await?;
    let found = hex(&Sha256::digest(&ca));
    if !found.eq_ignore_ascii_case(ca_hash) {
        let expected = ca_hash.to_owned();
        return Err(EnrolError::OtherCa { enrol: enrol.clone(), found, expected });
    }
    let ca = CertificateDer::from(ca.to_vec());
    let key = files.key_or_new()?;
    let tls = Arc::new(tls_versions(&trust(&ca)?)?.with_no_client_auth());
    let csr = request_for(node, &key)?;
    let certificate = fetch(enrol, tls, "/edge.crt", csr, |request| {
        request
            .header("Authorization", format!("Bearer {bearer}"))
            .header("NodeName", node.as_str())
    })
    .await?;
    let certificate = CertificateDer::from(certificate.to_vec());
    let identity = Identity::new(ca, certificate, key, node, unix_s)?;
    files.keep(&identity)?;
    Ok(identity)
}

/// Gets a new certificate for the same key, showing the old one.
///
/// # Errors
/// See [`EnrolError`]. The old certificate stays unless the new one is good.
pub async fn renew(
    files: &Files,
    enrol: &Endpoint,
    identity: &Identity,
    node: &NodeName,
    unix_s: i64,
) -> Result<Identity, EnrolError> {
    let key = files.key_or_new()?;
    let csr = request_for(node, &key)?;
    let certificate = fetch(enrol, identity.tls()?, "/edge.crt", csr, |request| {
        request.header("NodeName", node.as_str())
    })
    .await?;
    let certificate = CertificateDer::from(certificate.to_vec());
    let renewed = Identity::new(identity.ca.clone(), certificate, key, node, unix_s)?;
    files.keep(&renewed)?;
    Ok(renewed)
}

/// `<64 hex digits>.<header>.<claims>.<signature>`: the CA's hash, and the bearer token.
fn split_token(token: &str) -> Option<(&str, &str)> {
    let (hash, bearer) = token.split_once('.')?;
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_bearer = bearer.split('.').count() == 3
        && bearer.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=.".contains(&byte));
    (is_hash && is_bearer).then_some((hash, bearer))
}

/// What upstream asks for, to the letter where a verifier might care: O and CN.
fn request_for(node: &NodeName, key: &KeyPair) -> Result<Vec<u8>, EnrolError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, wire::CERTIFICATE_ORGANIZATION);
    name.push(DnType::CommonName, format!("{}{node}", wire::CERTIFICATE_NODE_PREFIX));
    params.distinguished_name = name;
    let request = params.serialize_request(key).map_err(EnrolError::Request)?;
    Ok(request.der().to_vec())
}

/// One GET on its own connection; with a body, as the protocol has it.
async fn fetch(
    enrol: &Endpoint,
    tls: Arc<ClientConfig>,
    path: &'static str,
    body: Vec<u8>,
    headers: impl FnOnce(http::request::Builder) -> http::request::Builder,
) -> Result<Bytes, EnrolError> {
    let exchange = async {
        let tcp = TcpStream::connect((enrol.host(), enrol.port()))
            .await
            .map_err(|error| ("connecting to", error.to_string()))?;
        let name = enrol.server_name().ok_or(("naming", "not a host".to_owned()))?;
        let stream = TlsConnector::from(tls)
            .connect(name, tcp)
            .await
            .map_err(|error| ("talking TLS to", error.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ("talking HTTP to", error.to_string()))?;
        let request = headers(Request::get(path).header("Host", enrol.to_string()))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ("asking", error.to_string()))?;
        let answer = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|error| ("asking", error.to_string()))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| ("reading the answer of", error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        // The connection does the work of the request; it ends with it.
        tokio::pin!(connection);
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(("talking HTTP to", error.to_string())),
            },
        }
    };
    let timed = tokio::time::timeout(DEADLINE, exchange).await;
    let (status, body) = timed
        .unwrap_or_else(|_| Err(("waiting for", format!("no answer in {DEADLINE:?}"))))
        .map_err(|(doing, reason)| EnrolError::Unreachable {
            doing,
            enrol: enrol.clone(),
            reason,
        })?;
    if status != StatusCode::OK {
        let text: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
        return Err(EnrolError::Refused { enrol: enrol.clone(), path, status, text });
    }
    Ok(body)
}

/// TLS 1.2 and 1.3 with ring, trusting `roots`.
pub(super) fn tls_versions(
    roots: &RootCertStore,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, IdentityError> {
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(IdentityError::Tls)?
        .with_root_certificates(roots.clone()))
}

/// TLS that believes anybody. Only for the CA, whose hash the token holds.
fn unverified() -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map(|builder| {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider.clone())))
                .with_no_client_auth()
        });
    match builder {
        Ok(config) => Arc::new(config),
        // ring supports every version there is; the type does not say so. No roots: nothing passes.
        Err(_) => Arc::new(
            ClientConfig::builder()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth(),
        ),
    }
}

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
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_hash_and_a_jwt() {
        let hash = "0a".repeat(32);
        let token = format!("{hash}.e30.e30.c2ln");
        assert_eq!(split_token(&token), Some((hash.as_str(), "e30.e30.c2ln")));
        for bad in ["", "x", &hash, &format!("{hash}.a.b"), &format!("{hash}.a.b.c.d"), "zz.a.b.c"]
        {
            assert_eq!(split_token(bad), None, "{bad}");
        }
        assert_eq!(split_token(&format!("{hash}.a.b\r\nX: y.c")), None);
    }

    #[test]
    fn a_certificate_is_kept_whole_and_checked_when_read() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        let node = NodeName::parse("gw-1").unwrap();
        assert!(matches!(files.load(&node, 0), Err(IdentityError::Missing)));
        let key = files.key_or_new().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(dir.path().join("pki/node.key")).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);

        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "system:node:gw-1");
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        let certificate = params.self_signed(&key).unwrap();
        let der = certificate.der().clone();
        let now = 1_767_225_600 + 86_400; // 2026-01-02
        let identity = Identity::new(der.clone(), der, key, &node, now).unwrap();
        files.keep(&identity).unwrap();

        let read = files.load(&node, now).unwrap();
        assert_eq!(read.renew_at() - read.not_before, 60 * 86_400);
        read.tls().unwrap();
        let other = NodeName::parse("gw-2").unwrap();
        assert!(matches!(files.load(&other, now), Err(IdentityError::OtherNode { .. })));
        let late = now + 365 * 86_400;
        assert!(matches!(files.load(&node, late), Err(IdentityError::Expired(_))));
        std::fs::remove_file(dir.path().join("pki/node.key")).unwrap();
        files.key_or_new().unwrap();
        assert!(matches!(files.load(&node, now), Err(IdentityError::OtherKey)));
    }
}
