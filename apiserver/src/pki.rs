//! Keys and certificates: the CA, the server's certificate, the administrator's credentials, and the
//! kubeconfig that carries them.
//!
//! The CA and the administrator's certificate are made once and kept. The server's certificate is
//! made anew at every start, so that it always names the current host and never expires in between.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::clock;

/// Why the keys could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("reading {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("writing {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("making a certificate for {subject}: {source}")]
    Issue { subject: String, source: rcgen::Error },
}

/// Everything the server and its administrator need, in PEM.
pub struct Pki {
    pub ca_cert: String,
    pub server_cert: String,
    pub server_key: String,
    pub admin_cert: String,
    pub admin_key: String,
    pub admin_token: String,
}

impl Pki {
    /// Loads what `dir` holds and makes what is missing.
    pub fn load_or_make(dir: &Path, hostname: &str) -> Result<Self, PkiError> {
        std::fs::create_dir_all(dir).map_err(|source| write_error(dir, source))?;
        let (ca_cert, ca_key) = pair(dir, "ca", make_ca)?;
        let issuer = issuer(&ca_cert, &ca_key)?;
        let (admin_cert, admin_key) = pair(dir, "admin", || make_admin(&issuer))?;
        let (server_cert, server_key) = make_server(&issuer, hostname)?;
        let token_path = dir.join("admin.token");
        let admin_token = match read_optional(&token_path)? {
            Some(token) => token.trim().to_owned(),
            None => {
                let token = random_token();
                write_file(&token_path, &token, 0o600)?;
                token
            }
        };
        Ok(Self { ca_cert, server_cert, server_key, admin_cert, admin_key, admin_token })
    }

    /// The administrator's kubeconfig for a server at `address`, credentials embedded.
    pub fn kubeconfig(&self, address: SocketAddr) -> String {
        let ca = STANDARD.encode(&self.ca_cert);
        let cert = STANDARD.encode(&self.admin_cert);
        let key = STANDARD.encode(&self.admin_key);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: kedge\npreferences: {{}}\n\
             clusters:\n- name: kedge\n  cluster:\n    server: https://{address}\n    \
             certificate-authority-data: {ca}\n\
             users:\n- name: admin\n  user:\n    client-certificate-data: {cert}\n    \
             client-key-data: {key}\n\
             contexts:\n- name: kedge\n  context:\n    cluster: kedge\n    user: admin\n"
        )
    }
}

/// Writes a file so that readers see the old or the new content, never a part.
pub fn write_file(path: &Path, content: &str, mode: u32) -> Result<(), PkiError> {
    let error = |source| write_error(path, source);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(error)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(error)?;
    file.write_all(content.as_bytes()).map_err(error)?;
    file.sync_all().map_err(error)?;
    std::fs::rename(&temporary, path).map_err(error)
}

fn write_error(path: &Path, source: std::io::Error) -> PkiError {
    PkiError::Write { path: path.to_owned(), source }
}

fn read_optional(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.to_owned(), source }),
    }
}

fn pair(
    dir: &Path,
    name: &str,
    make: impl FnOnce() -> Result<(String, String), PkiError>,
) -> Result<(String, String), PkiError> {
    let (cert_path, key_path) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    if let (Some(cert), Some(key)) = (read_optional(&cert_path)?, read_optional(&key_path)?) {
        return Ok((cert, key));
    }
    let (cert, key) = make()?;
    // The key first: a certificate on disk means that its key is there too.
    write_file(&key_path, &key, 0o600)?;
    write_file(&cert_path, &cert, 0o644)?;
    Ok((cert, key))
}

fn issuer(ca_cert: &str, ca_key: &str) -> Result<Issuer<'static, KeyPair>, PkiError> {
    let failed = |source| PkiError::Issue { subject: "the existing CA".into(), source };
    let key = KeyPair::from_pem(ca_key).map_err(failed)?;
    Issuer::from_ca_cert_pem(ca_cert, key).map_err(failed)
}

fn params(common_name: &str, sans: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(sans)?;
    let year = clock::now().to_zoned(jiff::tz::TimeZone::UTC).year();
    // From the start of last year: clocks of freshly installed gateways are often behind.
    params.not_before = rcgen::date_time_ymd(i32::from(year) - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(i32::from(year) + 10, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn make_ca() -> Result<(String, String), PkiError> {
    let failed = |source| PkiError::Issue { subject: "the CA".into(), source };
    let mut params = params("kedge-apiserver-ca", Vec::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(failed)?;
    let cert = params.self_signed(&key).map_err(failed)?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn make_admin(issuer: &Issuer<'_, KeyPair>) -> Result<(String, String), PkiError> {
    let failed = |source| PkiError::Issue { subject: "the administrator".into(), source };
    let mut params = params("kubernetes-admin", Vec::new()).map_err(failed)?;
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf(&params, issuer).map_err(failed)
}

fn make_server(issuer: &Issuer<'_, KeyPair>, hostname: &str) -> Result<(String, String), PkiError> {
    let failed = |source| PkiError::Issue { subject: "the server".into(), source };
    let fixed = [
        "127.0.0.1",
        "::1",
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ];
    let mut sans: Vec<String> = fixed.into_iter().map(str::to_owned).collect();
    if !hostname.is_empty() && hostname.is_ascii() {
        sans.push(hostname.to_owned());
    }
    let mut params = params("kube-apiserver", sans).map_err(failed)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf(&params, issuer).map_err(failed)
}

fn leaf(
    params: &CertificateParams,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, issuer)?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn random_token() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// The name this machine gives itself, or nothing.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_keeps_the_ca_and_the_administrator() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::load_or_make(dir.path(), "gateway").unwrap();
        let second = Pki::load_or_make(dir.path(), "gateway").unwrap();
        assert_eq!(first.ca_cert, second.ca_cert);
        assert_eq!(first.admin_cert, second.admin_cert);
        assert_eq!(first.admin_token, second.admin_token);
        assert_ne!(first.server_cert, second.server_cert);
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        Pki::load_or_make(dir.path(), "").unwrap();
        for name in ["ca.key", "admin.key", "admin.token"] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
}
