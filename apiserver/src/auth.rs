//! Who is asking: the client certificate of the TLS connection, or a bearer token.

use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// An authenticated user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

impl User {
    /// The server itself, when its controllers write.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// Decides who a request comes from.
pub struct Authenticator {
    /// Only the digest is kept; comparing digests tells nothing about the token by its timing.
    admin_token: [u8; 32],
}

impl Authenticator {
    pub fn new(admin_token: &str) -> Self {
        Self { admin_token: Sha256::digest(admin_token).into() }
    }

    /// The user of a request: certificate first, then token. `None` is 401.
    pub fn user(&self, certificate: Option<&User>, headers: &HeaderMap) -> Option<User> {
        if let Some(user) = certificate {
            return Some(user.clone());
        }
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token.trim()).into();
        (digest == self.admin_token).then(|| User {
            name: "kubernetes-admin".into(),
            groups: vec![MASTERS.into(), "system:authenticated".into()],
        })
    }
}

/// The user that a verified client certificate names: CN is the name, every O a group.
pub fn certificate_user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push("system:authenticated".into());
    Some(User { name, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        headers
    }

    #[test]
    fn the_admin_token_is_the_only_one_accepted() {
        let authenticator = Authenticator::new("secret");
        assert!(authenticator.user(None, &bearer("secret")).is_some_and(|user| user.is_master()));
        assert_eq!(authenticator.user(None, &bearer("secreT")), None);
        assert_eq!(authenticator.user(None, &HeaderMap::new()), None);
    }

    #[test]
    fn a_certificate_names_its_user_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let pki = crate::pki::Pki::load_or_make(dir.path(), "").unwrap();
        let der = pem::parse(pki.admin_cert).unwrap();
        let user = certificate_user(der.contents()).unwrap();
        assert_eq!(user.name, "kubernetes-admin");
        assert!(user.is_master());
    }
}
