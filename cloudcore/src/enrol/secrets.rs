//! The three Secrets of an installation, shared with upstream tools by name and form:
//! `casecret {cadata, cakeydata}`, `cloudcoresecret {cloudcoredata, cloudcorekeydata}`,
//! `tokensecret {tokendata}`.
//!
//! Two cloudcores may start at the same time: whoever creates a Secret first wins, the other one
//! reads it. Nothing here is kept anywhere else.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use super::authority::{Authority, AuthorityError, ServerCertificate};
use super::token;

const CA: &str = "casecret";
const CA_CERT: &str = "cadata";
const CA_KEY: &str = "cakeydata";
const SERVER: &str = "cloudcoresecret";
const SERVER_CERT: &str = "cloudcoredata";
const SERVER_KEY: &str = "cloudcorekeydata";
const TOKEN: &str = "tokensecret";
const TOKEN_DATA: &str = "tokendata";

/// Why a Secret could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The API said no, or did not answer.
    #[error("cannot {act} Secret {name}: {source}")]
    Api {
        /// read, create, replace
        act: &'static str,
        /// Which Secret.
        name: &'static str,
        /// What the API said.
        #[source]
        source: Box<kube::Error>,
    },
    /// What is stored is unusable. It is never replaced by itself: gateways depend on it.
    #[error("Secret {name}: {source}")]
    Content {
        /// Which Secret.
        name: &'static str,
        /// What is wrong.
        #[source]
        source: AuthorityError,
    },
    /// A Secret without the keys it must have.
    #[error("Secret {name} has no {key}")]
    Missing {
        /// Which Secret.
        name: &'static str,
        /// Which key.
        key: &'static str,
    },
    /// A token could not be signed.
    #[error("cannot sign a join token: {0}")]
    Token(#[source] jsonwebtoken::errors::Error),
}

/// The Secrets of one namespace.
pub struct Secrets {
    namespaces: Api<Namespace>,
    api: Api<Secret>,
    namespace: String,
}

impl Secrets {
    /// Works in `namespace`, which is created when first needed.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            namespaces: Api::all(client.clone()),
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
        }
    }

    /// The installation's authority: the stored one, or a new one that is then stored.
    ///
    /// # Errors
    /// The API, or a stored authority that is unusable.
    pub async fn authority(&self, unix_secs: u64) -> Result<Authority, SecretError> {
        loop {
            if let Some(stored) = self.get(CA).await? {
                let certificate = field(&stored, CA, CA_CERT)?;
                let key = field(&stored, CA, CA_KEY)?;
                return Authority::load(certificate, key)
                    .map_err(|source| SecretError::Content { name: CA, source });
            }
            let authority = Authority::generate(unix_secs)
                .map_err(|source| SecretError::Content { name: CA, source })?;
            let data = [
                (CA_CERT, authority.certificate().to_vec()),
                (CA_KEY, authority.key_der().to_vec()),
            ];
            if self.create(CA, data).await? {
                tracing::info!(secret = CA, "made a new certificate authority");
                return Ok(authority);
            }
        }
    }

    /// The certificate of cloudcore's own ports, issued anew if it does not serve.
    ///
    /// # Errors
    /// The API, or a name that cannot stand in a certificate.
    pub async fn server(
        &self,
        authority: &Authority,
        names: &[String],
        unix_secs: u64,
    ) -> Result<ServerCertificate, SecretError> {
        loop {
            let stored = self.get(SERVER).await?;
            if let Some(secret) = &stored
                && let Ok(certificate) = field(secret, SERVER, SERVER_CERT)
                && let Ok(key) = field(secret, SERVER, SERVER_KEY)
            {
                let server = ServerCertificate { certificate, key };
                if authority.serves(&server, names, unix_secs) {
                    return Ok(server);
                }
            }
            let server = authority
                .issue_server(names, unix_secs)
                .map_err(|source| SecretError::Content { name: SERVER, source })?;
            let data =
                [(SERVER_CERT, server.certificate.clone()), (SERVER_KEY, server.key.clone())];
            if self.put(SERVER, stored, data).await? {
                tracing::info!(secret = SERVER, ?names, "issued the server certificate");
                return Ok(server);
            }
        }
    }

    /// Makes sure that a join token with at least half of `ttl` before it is stored.
    ///
    /// # Errors
    /// The API.
    pub async fn refresh_token(
        &self,
        authority: &Authority,
        ttl: Duration,
        unix_secs: u64,
    ) -> Result<(), SecretError> {
        loop {
            let stored = self.get(TOKEN).await?;
            if let Some(secret) = &stored
                && let Ok(token) = field(secret, TOKEN, TOKEN_DATA)
                && token::is_fresh(authority, &String::from_utf8_lossy(&token), ttl, unix_secs)
            {
                return Ok(());
            }
            let token = token::sign(authority, ttl, unix_secs).map_err(SecretError::Token)?;
            if self.put(TOKEN, stored, [(TOKEN_DATA, token.into_bytes())]).await? {
                tracing::info!(secret = TOKEN, "signed a new join token");
                return Ok(());
            }
        }
    }

    async fn get(&self, name: &'static str) -> Result<Option<Secret>, SecretError> {
        self.api.get_opt(name).await.map_err(api("read", name))
    }

    /// Creates or replaces what was read before. False: somebody else did meanwhile, look again.
    async fn put<const N: usize>(
        &self,
        name: &'static str,
        stored: Option<Secret>,
        data: [(&str, Vec<u8>); N],
    ) -> Result<bool, SecretError> {
        let Some(mut secret) = stored else { return self.create(name, data).await };
        secret.data = Some(bytes(data));
        match self.api.replace(name, &PostParams::default(), &secret).await {
            Ok(_) => Ok(true),
            Err(error) if is_code(&error, 409) || is_code(&error, 404) => Ok(false),
            Err(error) => Err(api("replace", name)(error)),
        }
    }

    async fn create<const N: usize>(
        &self,
        name: &'static str,
        data: [(&str, Vec<u8>); N],
    ) -> Result<bool, SecretError> {
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            type_: Some("Opaque".into()),
            data: Some(bytes(data)),
            ..Secret::default()
        };
        for attempt in 0.. {
            match self.api.create(&PostParams::default(), &secret).await {
                Ok(_) => return Ok(true),
                Err(error) if is_code(&error, 409) => return Ok(false),
                Err(error) if attempt == 0 && is_code(&error, 404) => {
                    self.create_namespace(name).await?;
                }
                Err(error) => return Err(api("create", name)(error)),
            }
        }
        Ok(false)
    }

    async fn create_namespace(&self, wanted_for: &'static str) -> Result<(), SecretError> {
        let metadata = ObjectMeta { name: Some(self.namespace.clone()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        match self.namespaces.create(&PostParams::default(), &namespace).await {
            Ok(_) => Ok(()),
            Err(error) if is_code(&error, 409) => Ok(()),
            Err(error) => Err(api("create the namespace of", wanted_for)(error)),
        }
    }
}

/// Whether the API answered with this HTTP status.
pub fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

fn api(act: &'static str, name: &'static str) -> impl Fn(kube::Error) -> SecretError {
    move |source| SecretError::Api { act, name, source: Box::new(source) }
}

fn field(secret: &Secret, name: &'static str, key: &'static str) -> Result<Vec<u8>, SecretError> {
    let data = secret.data.as_ref().and_then(|data| data.get(key));
    data.map(|bytes| bytes.0.clone()).ok_or(SecretError::Missing { name, key })
}

fn bytes<const N: usize>(data: [(&str, Vec<u8>); N]) -> BTreeMap<String, ByteString> {
    data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))).collect()
}
