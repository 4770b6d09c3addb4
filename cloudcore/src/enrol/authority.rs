//! The certificate authority of an installation: what it signs, and for whom.

use std::net::IpAddr;
use std::time::Duration;

use hub_proto::id::NodeName;
use hub_proto::wire::{CERTIFICATE_NODE_PREFIX, CERTIFICATE_ORGANIZATION};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use super::keys::{self, KeyError};

/// Names in the authority and the server certificate; upstream's, so that tools recognise them.
const NAME: &str = "KubeEdge";
/// Life of the authority and of server certificates: upstream's 364 × 100 days. Whoever holds the
/// Secret can issue new ones at any time; an early expiry would only strand gateways.
const LONG: Duration = Duration::from_secs(364 * 100 * 86400);
/// Certificates start in the past, so that a gateway whose clock is behind accepts them.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Why something is not signed or not loaded.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The stored key is unusable.
    #[error("stored key: {0}")]
    Key(#[from] KeyError),
    /// The certificate library refused.
    #[error("cannot make a certificate: {0}")]
    Sign(#[from] rcgen::Error),
    /// A stored certificate cannot be read, or belongs to another key.
    #[error("stored certificate: {0}")]
    Certificate(String),
    /// The request for a certificate is not acceptable; the text is for the one who asked.
    #[error("{0}")]
    Request(&'static str),
}

/// The authority: certificate and key.
pub struct Authority {
    certificate: Vec<u8>,
    key_der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// A server certificate with its key, both DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCertificate {
    /// The certificate.
    pub certificate: Vec<u8>,
    /// The key, SEC 1.
    pub key: Vec<u8>,
}

impl Authority {
    /// Makes a new authority. `unix_secs` is the present time.
    ///
    /// # Errors
    /// The certificate library refuses, which it does not for these parameters.
    pub fn generate(unix_secs: u64) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(NAME, None, unix_secs, LONG);
        params.serial_number = Some(SerialNumber::from(1024));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.self_signed(&key)?.der().to_vec();
        let key_der = keys::sec1(&key)?;
        Ok(Self { certificate, key_der, issuer: Issuer::new(params, key) })
    }

    /// Takes an authority as it is stored: certificate DER, key DER (SEC 1 or PKCS#8).
    ///
    /// # Errors
    /// Either cannot be read, or they do not belong together.
    pub fn load(certificate: Vec<u8>, key_der: Vec<u8>) -> Result<Self, AuthorityError> {
        let key = keys::read(&key_der)?;
        let parsed = parse_certificate(&certificate)?;
        if parsed.public_key().subject_public_key.as_ref() != rcgen::PublicKeyData::der_bytes(&key)
        {
            return Err(AuthorityError::Certificate("it belongs to another key".into()));
        }
        let der = CertificateDer::from(certificate.as_slice());
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { certificate, key_der, issuer })
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The key as it is stored. Upstream's join tokens are signed with these very bytes.
    #[must_use]
    pub fn key_der(&self) -> &[u8] {
        &self.key_der
    }

    /// Hex SHA-256 of the certificate, which a join token starts with.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        Sha256::digest(&self.certificate).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Issues the certificate for cloudcore's own ports.
    ///
    /// # Errors
    /// A name that cannot stand in a certificate.
    pub fn issue_server(
        &self,
        names: &[String],
        unix_secs: u64,
    ) -> Result<ServerCertificate, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(NAME, Some(NAME), unix_secs, LONG);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names =
            names.iter().map(|name| alt_name(name)).collect::<Result<_, _>>()?;
        let certificate = params.signed_by(&key, &self.issuer)?.der().to_vec();
        Ok(ServerCertificate { certificate, key: keys::sec1(&key)? })
    }

    /// Whether a stored server certificate still serves: ours, these names, not about to end.
    #[must_use]
    pub fn serves(&self, stored: &ServerCertificate, names: &[String], unix_secs: u64) -> bool {
        let Ok(certificate) = parse_certificate(&stored.certificate) else { return false };
        let Ok(key) = keys::read(&stored.key) else { return false };
        let Ok(authority) = parse_certificate(&self.certificate) else { return false };
        let now = i64::try_from(unix_secs).unwrap_or(i64::MAX);
        let ends = certificate.validity().not_after.timestamp();
        certificate.public_key().subject_public_key.as_ref()
            == rcgen::PublicKeyData::der_bytes(&key)
            && signed_by(&certificate, &authority)
            && ends > now.saturating_add(30 * 86400)
            && has_names(&certificate, names)
    }

    /// Issues a node's certificate from a certificate request (DER).
    ///
    /// Only the public key is taken from the request: the name is the caller's, checked by whoever
    /// let the caller in, and nothing else in a request can widen what the certificate may do.
    ///
    /// # Errors
    /// A request that is unreadable, not for P-256, or not signed by its own key.
    pub fn issue_node(
        &self,
        node: &NodeName,
        request: &[u8],
        ttl: Duration,
        unix_secs: u64,
    ) -> Result<Vec<u8>, AuthorityError> {
        let key = requested_key(request)?;
        let name = format!("{CERTIFICATE_NODE_PREFIX}{node}");
        let mut params = params(&name, Some(CERTIFICATE_ORGANIZATION), unix_secs, ttl);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(&key, &self.issuer)?.der().to_vec())
    }
}

impl ServerCertificate {
    /// The key as TLS wants it.
    ///
    /// # Errors
    /// The stored key is unusable.
    pub fn tls_key(&self) -> Result<PrivateKeyDer<'static>, KeyError> {
        let key = keys::read(&self.key)?;
        Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
    }
}

/// The node that a client certificate names, if it is a node's.
#[must_use]
pub fn node_of(certificate: &[u8]) -> Option<NodeName> {
    let certificate = parse_certificate(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let (name, more) = (names.next()?.as_str().ok()?, names.next());
    if more.is_some() {
        return None;
    }
    NodeName::parse(name.strip_prefix(CERTIFICATE_NODE_PREFIX)?).ok()
}

fn requested_key(request: &[u8]) -> Result<SubjectPublicKeyInfo, AuthorityError> {
    let unreadable = AuthorityError::Request("the body is not a certificate request in DER form");
    let Ok((rest, request)) = X509CertificationRequest::from_der(request) else {
        return Err(unreadable);
    };
    if !rest.is_empty() {
        return Err(unreadable);
    }
    let info = &request.certification_request_info;
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .ok()
        .filter(|key| rcgen::PublicKeyData::algorithm(key) == &PKCS_ECDSA_P256_SHA256)
        .ok_or(AuthorityError::Request("the key must be an ECDSA key on the curve P-256"))?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, rcgen::PublicKeyData::der_bytes(&key))
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| {
            AuthorityError::Request("the request is not signed by its own key (ECDSA with SHA-256)")
        })?;
    Ok(key)
}

/// What all certificates here have in common.
fn params(
    name: &str,
    organization: Option<&str>,
    unix_secs: u64,
    ttl: Duration,
) -> CertificateParams {
    let mut subject = DistinguishedName::new();
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization);
    }
    subject.push(DnType::CommonName, name);
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_secs);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.not_before = now - BACKDATE;
    params.not_after = now + ttl;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params
}

fn alt_name(name: &str) -> Result<SanType, AuthorityError> {
    Ok(match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into()?),
    })
}

fn parse_certificate(der: &[u8]) -> Result<X509Certificate<'_>, AuthorityError> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
    Ok(certificate)
}

fn signed_by(certificate: &X509Certificate<'_>, authority: &X509Certificate<'_>) -> bool {
    let key = authority.public_key().subject_public_key.as_ref();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
        .is_ok()
}

fn has_names(certificate: &X509Certificate<'_>, names: &[String]) -> bool {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return false };
    let present: Vec<String> = extension
        .value
        .general_names
        .iter()
        .filter_map(|name| {
            if let GeneralName::DNSName(name) = name {
                return Some((*name).to_owned());
            }
            let GeneralName::IPAddress(bytes) = name else { return None };
            let address = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = address.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        })
        .collect();
    let wanted = |name: &String| match name.parse::<IpAddr>() {
        Ok(address) => present.contains(&address.to_string()),
        Err(_) => present.contains(name),
    };
    names.iter().all(wanted)
}

#[cfg(test)]
mod tests;
