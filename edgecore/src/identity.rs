//! Who this node is: its key, its certificate and the CA it trusts, as files that are replaced
//! whole or not at all.
//!
//! The key is written before anything is asked for, with mode 0600, and stays: a certificate that
//! arrives always fits the key that is there, whenever the power went.

pub mod enrol;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hub_proto::id::NodeName;
use hub_proto::wire;
use rcgen::{KeyPair, PublicKeyData};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Why there is no usable identity, or why it could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// This node has not joined.
    #[error("this node has not joined")]
    Missing,
    /// What a file holds is no certificate or key.
    #[error("{path} holds no usable {what}: {reason}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The certificate is somebody else's.
    #[error("the certificate is for {found:?}, and this node is {expected:?}")]
    OtherNode {
        /// The certificate's common name.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// The certificate does not belong to the key.
    #[error("the certificate does not belong to the key")]
    OtherKey,
    /// The certificate's time is over.
    #[error("the certificate expired at {0} (seconds since 1970); check this machine's clock")]
    Expired(i64),
    /// TLS refuses the material.
    #[error("TLS cannot use the certificate and key: {0}")]
    Tls(#[source] rustls::Error),
}

/// A node's identity, read and checked.
#[derive(Clone, Debug)]
pub struct Identity {
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: Arc<KeyPair>,
    /// Seconds since 1970 from which the certificate is valid.
    pub not_before: i64,
    /// Seconds since 1970 after which it is not.
    pub not_after: i64,
}

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// The files in `<data_dir>/pki`.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("pki") }
    }

    fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    fn certificate(&self) -> PathBuf {
        self.dir.join("node.crt")
    }

    fn key(&self) -> PathBuf {
        self.dir.join("node.key")
    }

    /// Reads the identity and checks that it is this node's and not expired.
    ///
    /// # Errors
    /// [`IdentityError::Missing`] if the node has not joined; otherwise what is wrong with the files.
    pub fn load(&self, node: &NodeName, unix_s: i64) -> Result<Identity, IdentityError> {
        let ca = read_pem(&self.ca(), "CERTIFICATE")?;
        let certificate = read_pem(&self.certificate(), "CERTIFICATE")?;
        let key = self.load_key()?.ok_or(IdentityError::Missing)?;
        Identity::new(ca.into(), certificate.into(), key, node, unix_s)
    }

    /// The node's key; made on the first call.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds no key.
    pub fn key_or_new(&self) -> Result<KeyPair, IdentityError> {
        if let Some(key) = self.load_key()? {
            return Ok(key);
        }
        let malformed = |reason: rcgen::Error| IdentityError::Malformed {
            path: self.key(),
            what: "key",
            reason: reason.to_string(),
        };
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(malformed)?;
        self.write(&self.key(), key.serialize_pem().as_bytes(), 0o600)?;
        Ok(key)
    }

    fn load_key(&self) -> Result<Option<KeyPair>, IdentityError> {
        let path = self.key();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::File { doing: "reading", path, source }),
        };
        match KeyPair::from_pem(&text) {
            Ok(key) => Ok(Some(key)),
            Err(error) => {
                Err(IdentityError::Malformed { path, what: "key", reason: error.to_string() })
            }
        }
    }

    /// Keeps a certificate and the CA it came from.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn keep(&self, identity: &Identity) -> Result<(), IdentityError> {
        let text =
            |der: &CertificateDer<'_>| pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec()));
        self.write(&self.ca(), text(&identity.ca).as_bytes(), 0o644)?;
        self.write(&self.certificate(), text(&identity.certificate).as_bytes(), 0o644)
    }

    /// Writes a file so that after a power cut either the old or the new one is there, whole.
    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
        let failed = |doing| {
            let path = path.to_owned();
            move |source| IdentityError::File { doing, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(failed("making the directory of"))?;
        let temporary = path.with_extension("new");
        // A leftover of a crash may have another mode.
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
            .map_err(failed("creating"))?;
        file.write_all(bytes).map_err(failed("writing"))?;
        file.sync_all().map_err(failed("syncing"))?;
        fs::rename(&temporary, path).map_err(failed("replacing"))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed("syncing the directory of"))
    }
}

impl Identity {
    /// Puts an identity together and checks that the parts fit each other, the node and the time.
    ///
    /// # Errors
    /// What does not fit.
    pub fn new(
        ca: CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        key: KeyPair,
        node: &NodeName,
        unix_s: i64,
    ) -> Result<Self, IdentityError> {
        let malformed = |reason: String| IdentityError::Malformed {
            path: "node.crt".into(),
            what: "certificate",
            reason,
        };
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| malformed(error.to_string()))?;
        let expected = format!("{}{node}", wire::CERTIFICATE_NODE_PREFIX);
        let common_name = parsed.subject().iter_common_name().next();
        let found = common_name.and_then(|name| name.as_str().ok()).unwrap_or_default();
        if found != expected {
            return Err(IdentityError::OtherNode { found: found.to_owned(), expected });
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(IdentityError::OtherKey);
        }
        let not_before = parsed.validity().not_before.timestamp();
        let not_after = parsed.validity().not_after.timestamp();
        if unix_s > not_after {
            return Err(IdentityError::Expired(not_after));
        }
        let key = Arc::new(key);
        Ok(Self { ca, certificate, key, not_before, not_after })
    }

    /// When the certificate should be renewed: after two thirds of its life, seconds since 1970.
    #[must_use]
    pub fn renew_at(&self) -> i64 {
        self.not_before + (self.not_after - self.not_before) / 3 * 2
    }

    /// TLS as this node: trusts the KubeEdge CA and nothing else, and shows the certificate. No ALPN:
    /// an upstream cloud offers `h2` and would then refuse the websocket.
    ///
    /// # Errors
    /// TLS cannot use the CA, the certificate or the key.
    pub fn tls(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let config = enrol::tls_versions(&trust(&self.ca)?)?
            .with_client_auth_cert(vec![self.certificate.clone()], key)
            .map_err(IdentityError::Tls)?;
        Ok(Arc::new(config))
    }
}

fn trust(ca: &CertificateDer<'static>) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(IdentityError::Tls)?;
    Ok(roots)
}

fn read_pem(path: &Path, label: &'static str) -> Result<Vec<u8>, IdentityError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(IdentityError::Missing);
        }
        Err(source) => {
            return Err(IdentityError::File { doing: "reading", path: path.to_owned(), source });
        }
    };
    let malformed = |reason: String| IdentityError::Malformed {
        path: path.to_owned(),
        what: "certificate",
        reason,
    };
    let parsed = pem::parse(&text).map_err(|error| malformed(error.to_string()))?;
    if parsed.tag() != label {
        return Err(malformed(format!("it holds a {}", parsed.tag())));
    }
    Ok(parsed.into_contents())
}
