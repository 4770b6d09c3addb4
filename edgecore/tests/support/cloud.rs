//! A cloud that does what it should unless a test tells it otherwise: it enrols, sends the list and
//! the objects at each connect, takes acks, confirms reports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{SinkExt, StreamExt};
use hub_proto::frame::Envelope;
use hub_proto::id::{DeviceId, IdSource, MessageId, ObjectKey, ObjectKind, Revision};
use hub_proto::message::{Change, ObjectChange, ToCloud, ToEdge, TwinValues};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;

pub const BEARER: &str = "eyJh.eyJl.c2ln";

#[derive(Default)]
pub struct State {
    /// What the edge should hold: key to revision and object.
    pub objects: BTreeMap<ObjectKey, (u64, serde_json::Value)>,
    /// What it has acked: key to revision; removed when a deletion was acked.
    pub acked: BTreeMap<ObjectKey, u64>,
    /// Acks in the order in which they came.
    pub ack_log: Vec<(ObjectKey, Option<u64>)>,
    pub refused: Vec<String>,
    /// The newest values by device and property.
    pub values: BTreeMap<(String, String), TwinValues>,
    /// Every value in the order in which it came.
    pub value_log: Vec<(String, String, String)>,
    pub states: BTreeMap<String, (String, Option<String>)>,
    pub keepalives: usize,
    pub lists_asked: usize,
    pub connects: usize,
    pub node_ids: Vec<String>,
    /// Whether reports are confirmed.
    pub confirming: bool,
    /// Whether the list is sent at connect.
    pub listing: bool,
    /// Foreign messages sent and the acks that came for them.
    pub foreign_acked: usize,
    sent: BTreeMap<MessageId, (ObjectKey, Option<u64>)>,
    foreign: Vec<MessageId>,
    live: Option<mpsc::UnboundedSender<Order>>,
}

enum Order {
    Put(ObjectKey),
    Delete(ObjectKey, String),
    Text(String),
    Cut,
}

pub struct Cloud {
    pub hub: SocketAddr,
    pub enrol: SocketAddr,
    state: Arc<Mutex<State>>,
    pki: Arc<Pki>,
    hub_task: Option<JoinHandle<()>>,
    enrol_task: JoinHandle<()>,
}

struct Pki {
    ca: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Cloud {
    pub async fn start() -> Self {
        let pki = Arc::new(Pki::new());
        let state = State { confirming: true, listing: true, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let hub = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let enrol = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (hub_address, enrol_address) = (hub.local_addr().unwrap(), enrol.local_addr().unwrap());
        let enrol_task = tokio::spawn(serve_enrol(enrol, pki.clone()));
        let mut cloud =
            Self { hub: hub_address, enrol: enrol_address, state, pki, hub_task: None, enrol_task };
        cloud.serve(hub);
        cloud
    }

    fn serve(&mut self, listener: TcpListener) {
        self.hub_task =
            Some(tokio::spawn(serve_hub(listener, self.pki.clone(), self.state.clone())));
    }

    /// Stops listening and cuts the connection.
    pub async fn stop_hub(&mut self) {
        let task = self.hub_task.take().unwrap();
        task.abort();
        let _ = task.await;
        self.cut();
    }

    /// Listens again on the same port.
    pub async fn start_hub(&mut self) {
        let listener = TcpListener::bind(self.hub).await.unwrap();
        self.serve(listener);
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn cut(&self) {
        if let Some(live) = self.state().live.take() {
            let _ = live.send(Order::Cut);
        }
    }

    /// Writes a token for this cloud.
    pub fn write_token(&self, path: &Path) {
        let hash: String =
            Sha256::digest(&self.pki.ca).iter().map(|b| format!("{b:02x}")).collect();
        std::fs::write(path, format!("{hash}.{BEARER}\n")).unwrap();
    }

    /// Creates or changes an object; sends it if the edge is here.
    pub fn put(&self, object: serde_json::Value) {
        let key = key_of(&object);
        let revision: u64 =
            object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        let mut state = self.state();
        state.objects.insert(key.clone(), (revision, object));
        state.order(Order::Put(key));
    }

    /// Deletes an object; says so if the edge is here.
    pub fn delete(&self, key: &ObjectKey) {
        let mut state = self.state();
        let (_, object) = state.objects.remove(key).unwrap();
        let uid = object["metadata"]["uid"].as_str().unwrap().to_owned();
        state.order(Order::Delete(key.clone(), uid));
    }

    /// Sends anything.
    pub fn send_text(&self, text: &str) {
        self.state().order(Order::Text(text.to_owned()));
    }

    /// Sends something that is not about devices and wants an ack.
    pub fn send_foreign(&self, id: &str) {
        let id = MessageId::parse(id).unwrap();
        let mut state = self.state();
        state.foreign.push(id.clone());
        state.order(Order::Text(format!(
            r#"{{"header":{{"msg_id":"{id}","resourceversion":"1"}},"route":{{"source":"edgecontroller","group":"resource","operation":"update","resource":"null/node/gw-1"}},"content":{{}}}}"#
        )));
    }

    pub fn all_acked(&self) -> bool {
        let state = self.state();
        state.objects.iter().all(|(key, (revision, _))| state.acked.get(key) == Some(revision))
    }

    pub fn reported(&self, device: &str, property: &str) -> Option<String> {
        let key = (device.to_owned(), property.to_owned());
        self.state().values.get(&key)?.reported.as_ref().map(|value| value.value.clone())
    }

    pub fn device_state(&self, device: &str) -> Option<String> {
        self.state().states.get(device).map(|(state, _)| state.clone())
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.enrol_task.abort();
        if let Some(task) = &self.hub_task {
            task.abort();
        }
    }
}

impl State {
    fn order(&mut self, order: Order) {
        if let Some(live) = &self.live {
            let _ = live.send(order);
        }
    }

    fn message_for(&mut self, key: &ObjectKey, ids: &mut IdSource) -> Option<String> {
        let (revision, object) = self.objects.get(key)?;
        let change = ObjectChange {
            key: key.clone(),
            uid: object["metadata"]["uid"].as_str().map(Into::into),
            revision: Some(Revision(*revision)),
            change: Change::Upsert {
                create: true,
                object: serde_json::value::to_raw_value(object).unwrap(),
            },
        };
        let id = ids.next_id();
        self.sent.insert(id.clone(), (key.clone(), Some(*revision)));
        Some(ToEdge::Object(change).encode(&id, 0).encode())
    }

    /// Takes a message of the edge; returns the answer.
    fn take(&mut self, bytes: &[u8], ids: &mut IdSource) -> Option<String> {
        let received = ToCloud::decode(&Envelope::decode(bytes).unwrap()).unwrap();
        match received.message {
            ToCloud::Keepalive => self.keepalives += 1,
            ToCloud::Ack { of, .. } => {
                if self.foreign.contains(&of) {
                    self.foreign_acked += 1;
                } else if let Some((key, revision)) = self.sent.remove(&of) {
                    self.ack_log.push((key.clone(), revision));
                    match revision {
                        Some(revision) => self.acked.insert(key, revision),
                        None => self.acked.remove(&key),
                    };
                }
            }
            ToCloud::Refuse { reason, .. } => self.refused.push(reason),
            ToCloud::ListDevices(node) => {
                assert_eq!(node.as_str(), "gw-1");
                self.lists_asked += 1;
            }
            ToCloud::Twin(report) => {
                for (property, values) in report.twins {
                    let device = report.device.to_string();
                    if let Some(value) = &values.reported {
                        self.value_log.push((
                            device.clone(),
                            property.clone(),
                            value.value.clone(),
                        ));
                    }
                    self.values.insert((device, property), values);
                }
                if self.confirming {
                    return Some(ToEdge::Confirm(received.id).encode(&ids.next_id(), 0).encode());
                }
            }
            ToCloud::State(report) => {
                let device = report.device.to_string();
                self.states.insert(device, (report.state, report.last_online));
                if self.confirming {
                    return Some(ToEdge::Confirm(received.id).encode(&ids.next_id(), 0).encode());
                }
            }
            ToCloud::Foreign { operation } => panic!("edge sent {operation}"),
        }
        None
    }
}

fn key_of(object: &serde_json::Value) -> ObjectKey {
    let kind = match object["kind"].as_str().unwrap() {
        "Device" => ObjectKind::Device,
        "DeviceModel" => ObjectKind::DeviceModel,
        other => panic!("{other}"),
    };
    let text = |field: &str| object["metadata"][field].as_str().unwrap();
    ObjectKey::new(kind, text("namespace"), text("name")).unwrap()
}

async fn serve_hub(listener: TcpListener, pki: Arc<Pki>, state: Arc<Mutex<State>>) {
    let acceptor = TlsAcceptor::from(pki.server(true));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(session(acceptor.clone(), stream, state.clone()));
    }
}

async fn session(acceptor: TlsAcceptor, stream: TcpStream, state: Arc<Mutex<State>>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let mut node = String::new();
    #[expect(clippy::result_large_err, reason = "the library's signature")]
    let check = |request: &http::Request<()>, response: http::Response<()>| {
        let header =
            |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(header("connectionuse").as_deref(), Some("msg"));
        assert!(header("project_id").is_some() && header("origin").is_none());
        node = header("node_id").unwrap();
        assert_eq!(
            request.uri().path(),
            format!("/e632aba927ea4ac2b575ec1603d56f10/{node}/events")
        );
        Ok(response)
    };
    let Ok(socket) = tokio_tungstenite::accept_hdr_async(stream, check).await else { return };
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    let common_name = parsed.subject().iter_common_name().next().unwrap().as_str().unwrap();
    assert_eq!(common_name, format!("system:node:{node}"));

    let (orders, mut incoming) = mpsc::unbounded_channel();
    let mut ids = IdSource::new(rand::random());
    let (mut sink, mut stream) = socket.split();
    let hello: Vec<String> = {
        let mut state = state.lock().unwrap();
        state.connects += 1;
        state.node_ids.push(node);
        state.live = Some(orders);
        state.sent.clear();
        let keys: Vec<ObjectKey> = state.objects.keys().cloned().collect();
        let devices: Vec<DeviceId> = keys.iter().filter_map(ObjectKey::device_id).collect();
        let list = ToEdge::Devices(devices).encode(&ids.next_id(), 0).encode();
        let objects = keys.iter().filter_map(|key| state.message_for(key, &mut ids));
        let objects: Vec<String> = objects.collect();
        state.listing.then_some(list).into_iter().chain(objects).collect()
    };
    for text in hello {
        if sink.send(Message::text(text)).await.is_err() {
            return;
        }
    }
    loop {
        let answer = tokio::select! {
            message = stream.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    state.lock().unwrap().take(text.as_bytes(), &mut ids)
                }
                Some(Ok(_)) => None,
                Some(Err(_)) | None => return,
            },
            order = incoming.recv() => match order {
                Some(Order::Put(key)) => state.lock().unwrap().message_for(&key, &mut ids),
                Some(Order::Delete(key, uid)) => {
                    let id = ids.next_id();
                    state.lock().unwrap().sent.insert(id.clone(), (key.clone(), None));
                    let change = ObjectChange {
                        key, uid: Some(uid), revision: None, change: Change::Delete,
                    };
                    Some(ToEdge::Object(change).encode(&id, 0).encode())
                }
                Some(Order::Text(text)) => Some(text),
                Some(Order::Cut) | None => return,
            },
        };
        if let Some(text) = answer
            && sink.send(Message::text(text)).await.is_err()
        {
            return;
        }
    }
}

async fn serve_enrol(listener: TcpListener, pki: Arc<Pki>) {
    let acceptor = TlsAcceptor::from(pki.server(false));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let mut bytes = Vec::new();
        let (head, body) = loop {
            let mut chunk = [0; 4096];
            let count = stream.read(&mut chunk).await.unwrap_or(0);
            bytes.extend_from_slice(&chunk[..count]);
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
                assert!(count > 0, "request was cut");
                continue;
            };
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |text| text.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                break (head, bytes[end + 4..].to_vec());
            }
        };
        let (status, answer) = if head.starts_with("get /ca.crt ") {
            ("200 OK", pki.ca.to_vec())
        } else if !head.contains(&format!("authorization: bearer {}", BEARER.to_ascii_lowercase()))
        {
            ("401 Unauthorized", b"token is not valid".to_vec())
        } else {
            ("200 OK", pki.sign(&body))
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", answer.len());
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
    }
}

impl Pki {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "KubeEdge");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().der().clone();
        Self { ca, issuer: Issuer::new(params, key) }
    }

    fn server(&self, mutual: bool) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.ca.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Arc::new(builder.with_single_cert(vec![certificate], key).unwrap())
    }

    fn sign(&self, csr: &[u8]) -> Vec<u8> {
        let csr = CertificateSigningRequestDer::from(csr.to_vec());
        let mut params = CertificateSigningRequestParams::from_der(&csr).unwrap();
        params.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}
