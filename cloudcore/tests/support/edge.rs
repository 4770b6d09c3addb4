//! A scripted edge: joins, connects, and says what the test tells it to.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hub_proto::frame::Envelope;
use hub_proto::id::{DeviceId, IdSource, MessageId, NodeName};
use hub_proto::message::{
    Received, StateReport, ToCloud, ToEdge, TwinReport, TwinValue, TwinValues,
};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{PATIENCE, World};

/// A node's key and certificate.
pub struct Identity {
    pub ca: Vec<u8>,
    pub certificate: Vec<u8>,
    pub key: KeyPair,
}

/// One HTTP/1.1 exchange. Returns the status and the body.
pub async fn http<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    head: &str,
    body: &[u8],
) -> std::io::Result<(u16, Vec<u8>)> {
    let request =
        format!("{head}Host: test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(request.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        Err(error) if answer.is_empty() => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let bad = || std::io::Error::other("no HTTP answer");
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(bad)?;
    let status = std::str::from_utf8(&answer[..end]).ok();
    let status = status.and_then(|head| head.split(' ').nth(1)?.parse().ok()).ok_or_else(bad)?;
    Ok((status, answer[end + 4..].to_vec()))
}

/// TLS to one of our ports, trusting `ca`, showing `identity` if there is one.
pub async fn tls(
    address: SocketAddr,
    ca: &[u8],
    identity: Option<&Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        Some(identity) => {
            let chain = vec![CertificateDer::from(identity.certificate.clone())];
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.serialize_der()));
            config.with_client_auth_cert(chain, key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(address.ip().to_string()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

pub fn certificate_request(key: &KeyPair, node: &str) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    params.serialize_request(key).unwrap().der().to_vec()
}

/// Fetches the authority's certificate as a gateway does: trusting nobody yet, then checking the hash.
pub async fn fetch_ca(world: &World) -> Vec<u8> {
    let secrets: kube::Api<k8s_openapi::api::core::v1::Secret> =
        kube::Api::namespaced(world.client.clone(), "kubeedge");
    let ca = secrets.get("casecret").await.unwrap().data.unwrap()["cadata"].0.clone();
    let stream = tls(world.enrol, &ca, None).await.unwrap();
    let (status, body) = http(stream, "GET /ca.crt HTTP/1.1\r\n", &[]).await.unwrap();
    assert_eq!((status, &body), (200, &ca));
    body
}

/// Asks for a certificate; the status and the answer.
pub async fn ask(
    world: &World,
    ca: &[u8],
    node: &str,
    authorization: &str,
    shown: Option<&Identity>,
    body: &[u8],
) -> (u16, Vec<u8>) {
    let stream = tls(world.enrol, ca, shown).await.unwrap();
    let head = format!("GET /edge.crt HTTP/1.1\r\nNodename: {node}\r\n{authorization}");
    http(stream, &head, body).await.unwrap()
}

/// Joins a node with the stored token.
pub async fn join(world: &World, node: &str) -> Identity {
    let ca = fetch_ca(world).await;
    let token = world.token().await;
    let (_, jwt) = token.split_once('.').unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let request = certificate_request(&key, node);
    let (status, certificate) =
        ask(world, &ca, node, &format!("Authorization: Bearer {jwt}\r\n"), None, &request).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&certificate));
    Identity { ca, certificate, key }
}

/// A connected edge.
pub struct Edge {
    pub socket: WebSocketStream<TlsStream<TcpStream>>,
    pub node: String,
    ids: IdSource,
    seen: VecDeque<Received<ToEdge>>,
}

impl Edge {
    /// Connects as `claimed`; the HTTP status if it is refused.
    pub async fn try_connect(
        world: &World,
        identity: &Identity,
        claimed: &str,
    ) -> Result<Self, u16> {
        let stream = tls(world.hub, &identity.ca, Some(identity)).await.unwrap();
        let request = http::Request::builder()
            .uri(format!("wss://{}/e632aba927ea4ac2b575ec1603d56f10/{claimed}/events", world.hub))
            .header("Host", world.hub.to_string())
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", tungstenite::handshake::client::generate_key())
            .header("node_id", claimed)
            .header("project_id", "e632aba927ea4ac2b575ec1603d56f10")
            // As an upstream edge after its second attempt.
            .header("ConnectionUse", "msg")
            .header("ConnectionUse", "msg")
            .body(())
            .unwrap();
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(Self {
                socket,
                node: claimed.to_owned(),
                ids: IdSource::new(rand::random()),
                seen: VecDeque::new(),
            }),
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn connect(world: &World, identity: &Identity, node: &str) -> Self {
        let mut edge =
            Self::try_connect(world, identity, node).await.expect("the upgrade is granted");
        edge.say(&ToCloud::Keepalive).await;
        edge
    }

    pub async fn say(&mut self, message: &ToCloud) -> MessageId {
        let id = self.ids.next_id();
        let text = message.encode(&id, 1_795_000_000_000).encode();
        self.socket.send(Message::text(text)).await.unwrap();
        id
    }

    /// The next message; `None` when the cloud has ended the session.
    pub async fn next(&mut self) -> Option<Received<ToEdge>> {
        if let Some(seen) = self.seen.pop_front() {
            return Some(seen);
        }
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("a message in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let envelope = Envelope::decode(text.as_bytes()).unwrap();
                    return Some(ToEdge::decode(&envelope).unwrap());
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Messages until one that fits; the others are dropped.
    pub async fn until<T>(
        &mut self,
        what: &str,
        fits: impl Fn(&Received<ToEdge>) -> Option<T>,
    ) -> T {
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("ended before: {what}"));
            if let Some(found) = fits(&message) {
                return found;
            }
        }
    }

    pub async fn ack(&mut self, message: &Received<ToEdge>) {
        let ack = ToCloud::Ack { of: message.id.clone(), route: message.route.clone() };
        self.say(&ack).await;
    }

    /// Takes and acks objects until one with this name comes; returns its content.
    pub async fn receive(&mut self, name: &str) -> Received<ToEdge> {
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("ended before {name} came"));
            if let ToEdge::Object(object) = &message.message {
                let found = object.key.name() == name;
                self.ack(&message).await;
                if found {
                    return message;
                }
            }
        }
    }

    pub async fn confirmed(&mut self, report: &MessageId) {
        self.until("a confirmation", |message| match &message.message {
            ToEdge::Confirm(id) if id == report => Some(()),
            ToEdge::Confirm(_)
            | ToEdge::Object(_)
            | ToEdge::Membership { .. }
            | ToEdge::Devices(_)
            | ToEdge::Foreign { .. } => None,
        })
        .await;
    }

    /// Reports a value; returns the report's id.
    pub async fn report(
        &mut self,
        device: &str,
        property: &str,
        value: &str,
        sampled_ms: u64,
    ) -> MessageId {
        let value = TwinValue { value: value.into(), sampled_ms: Some(sampled_ms) };
        let values = TwinValues {
            reported: Some(value.clone()),
            observed_desired: (property == "set").then_some(value),
            kind: Some("int".into()),
        };
        let report = TwinReport {
            device: DeviceId::parse(device).unwrap(),
            twins: [(property.to_owned(), values)].into(),
        };
        self.say(&ToCloud::Twin(report)).await
    }

    pub async fn report_state(&mut self, device: &str, state: &str) -> MessageId {
        let report = StateReport {
            device: DeviceId::parse(device).unwrap(),
            state: state.into(),
            last_online: Some("2026-11-22T13:00:00Z".into()),
        };
        self.say(&ToCloud::State(report)).await
    }

    pub async fn ask_list(&mut self) -> MessageId {
        let node = NodeName::parse(&self.node).unwrap();
        self.say(&ToCloud::ListDevices(node)).await
    }

    /// Nothing arrives for a while.
    pub async fn is_quiet(&mut self, duration: Duration) -> bool {
        match timeout(duration, self.next()).await {
            Err(_) => true,
            Ok(Some(message)) => {
                self.seen.push_front(message);
                false
            }
            Ok(None) => false,
        }
    }
}
