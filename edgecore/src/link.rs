//! The websocket to the cloud: dials, carries frames both ways, and says when it is up or down.
//!
//! It knows no message. What is sent and when is the session's business, which the agent owns; this
//! task gives it a channel to the socket for as long as the socket lives. A socket that takes
//! nothing fills that short channel, and the session then makes nothing.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hub_proto::backoff::Backoff;
use hub_proto::edge::Transmit;
use hub_proto::frame::MAX_MESSAGE_BYTES;
use hub_proto::id::NodeName;
use hub_proto::wire;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};

use crate::config::{Cloud, Endpoint};
use crate::identity::{Files, Identity, enrol};

/// TCP, TLS and upgrade together. A black hole costs this much of a reconnect.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// A frame that is not taken for this long means that the link is stuck.
const WRITE_DEADLINE: Duration = Duration::from_secs(15);

/// A connection that lasted this long was good: the next reconnect starts with the shortest delay. Long
/// enough to tell a cloud that accepts and hangs up from a link that is cut now and then.
const STABLE: Duration = Duration::from_secs(2);

/// Frames between the session and the socket. Short: what waits here cannot be overtaken.
const OUTGOING: usize = 4;

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// What the link tells the agent.
#[derive(Debug)]
pub enum LinkEvent {
    /// A connection is up; frames for it go into the channel. Dropping the channel closes it.
    Up(mpsc::Sender<Transmit>),
    /// A message came.
    Frame(Bytes),
    /// A pong or a ping came.
    Heard,
    /// The connection is gone.
    Down(String),
    /// There is no connection, for this reason; it is tried again by itself.
    Waiting(String),
}

/// What the link needs to know.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// This node.
    pub node: NodeName,
    /// Where the cloud is.
    pub cloud: Cloud,
    /// Where the key and certificates are.
    pub data_dir: PathBuf,
    /// Random bits for the delays.
    pub seed: u64,
}

/// Keeps the link up until `stop`, or until nobody listens to the events.
pub async fn run(
    options: LinkOptions,
    events: mpsc::Sender<LinkEvent>,
    mut stop: watch::Receiver<bool>,
) {
    tokio::select! {
        () = keep_up(&options, &events) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn keep_up(options: &LinkOptions, events: &mpsc::Sender<LinkEvent>) {
    let files = Files::new(&options.data_dir);
    let mut backoff = Backoff::reconnect(options.seed);
    let mut last_reason = String::new();
    loop {
        let started = monotonic();
        let reason = match attempt(options, &files, events).await {
            Ended::NobodyListens => return,
            Ended::Lost(reason) => {
                if monotonic().duration_since(started) >= STABLE {
                    backoff.reset();
                }
                tracing::info!(%reason, "link is down");
                last_reason.clear();
                LinkEvent::Down(reason)
            }
            Ended::NotReached(reason) => {
                // The same failure again and again is said once; the ops endpoint shows it.
                if reason == last_reason {
                    tracing::debug!(%reason, "cloud not reached");
                } else {
                    tracing::warn!(%reason, "cloud not reached; trying on, devices work meanwhile");
                    last_reason.clone_from(&reason);
                }
                LinkEvent::Waiting(reason)
            }
        };
        if events.send(reason).await.is_err() {
            return;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

enum Ended {
    /// There was a connection.
    Lost(String),
    /// There was none.
    NotReached(String),
    NobodyListens,
}

async fn attempt(options: &LinkOptions, files: &Files, events: &mpsc::Sender<LinkEvent>) -> Ended {
    let identity = match identity(options, files).await {
        Ok(identity) => identity,
        Err(reason) => return Ended::NotReached(reason),
    };
    let hub = &options.cloud.hub;
    let socket = match tokio::time::timeout(CONNECT_DEADLINE, connect(options, &identity)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(reason)) => return Ended::NotReached(reason),
        Err(_) => {
            return Ended::NotReached(format!(
                "connecting to {hub}: no answer in {CONNECT_DEADLINE:?}"
            ));
        }
    };
    tracing::info!(%hub, "link is up");
    let (outgoing, frames) = mpsc::channel(OUTGOING);
    if events.send(LinkEvent::Up(outgoing)).await.is_err() {
        return Ended::NobodyListens;
    }
    let (sink, stream) = socket.split();
    // Reading goes on while a write waits: two ends that both only write would wait for ever.
    tokio::select! {
        ended = read(stream, events) => ended,
        ended = write(sink, frames) => Ended::Lost(ended),
        renewed = renew_when_due(options, files, identity) => Ended::Lost(renewed),
    }
}

/// The identity from the files, or a new one by joining.
async fn identity(options: &LinkOptions, files: &Files) -> Result<Identity, String> {
    let now = unix_s();
    let missing = match files.load(&options.node, now) {
        Ok(identity) => return Ok(identity),
        Err(error) => error,
    };
    let cloud = &options.cloud;
    match enrol::join(files, &cloud.enrol, cloud.token_file.as_ref(), &options.node, now).await {
        Ok(identity) => {
            tracing::info!(enrol = %cloud.enrol, node = %options.node, "joined");
            Ok(identity)
        }
        Err(error) => Err(format!("{missing}; joining failed: {error}")),
    }
}

async fn connect(options: &LinkOptions, identity: &Identity) -> Result<Socket, String> {
    let hub = &options.cloud.hub;
    let failed = |doing: &str, error: &dyn std::fmt::Display| format!("{doing} {hub}: {error}");
    let tls = identity.tls().map_err(|error| error.to_string())?;
    let name = hub.server_name().ok_or_else(|| format!("{hub} is no host"))?;
    let tcp = TcpStream::connect((hub.host(), hub.port()))
        .await
        .map_err(|error| failed("connecting to", &error))?;
    tcp.set_nodelay(true).map_err(|error| failed("setting up the connection to", &error))?;
    let stream = TlsConnector::from(tls)
        .connect(name, tcp)
        .await
        .map_err(|error| failed("talking TLS to", &error))?;
    let request = upgrade(hub, &options.cloud.project, &options.node)
        .map_err(|error| failed("asking", &error))?;
    let limits = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    match tokio_tungstenite::client_async_with_config(request, stream, Some(limits)).await {
        Ok((socket, _)) => Ok(socket),
        Err(WsError::Http(answer)) => Err(format!("{hub} refused this node: {}", answer.status())),
        Err(error) => Err(failed("opening the websocket to", &error)),
    }
}

fn upgrade(hub: &Endpoint, project: &str, node: &NodeName) -> http::Result<http::Request<()>> {
    let path = wire::events_path(project, node);
    http::Request::get(format!("wss://{hub}{path}"))
        .header("Host", hub.to_string())
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", generate_key())
        .header(wire::HEADER_NODE_ID, node.as_str())
        .header(wire::HEADER_PROJECT_ID, project)
        .header(wire::HEADER_CONNECTION_USE, wire::USE_MESSAGES)
        .body(())
}

async fn read(
    mut stream: futures_util::stream::SplitStream<Socket>,
    events: &mpsc::Sender<LinkEvent>,
) -> Ended {
    loop {
        let event = match stream.next().await {
            Some(Ok(Message::Text(text))) => LinkEvent::Frame(text.into()),
            Some(Ok(Message::Binary(bytes))) => LinkEvent::Frame(bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => LinkEvent::Heard,
            Some(Ok(Message::Close(_))) | None => return Ended::Lost("the cloud closed it".into()),
            Some(Err(WsError::Io(error))) if error.kind() == ErrorKind::UnexpectedEof => {
                return Ended::Lost("the cloud went away".into());
            }
            Some(Err(error)) => return Ended::Lost(error.to_string()),
        };
        if events.send(event).await.is_err() {
            return Ended::NobodyListens;
        }
    }
}

/// Ends when a write fails or when the agent lets go of the channel.
async fn write(
    mut sink: futures_util::stream::SplitSink<Socket, Message>,
    mut frames: mpsc::Receiver<Transmit>,
) -> String {
    while let Some(frame) = frames.recv().await {
        let message = match frame {
            Transmit::Message(text) => Message::text(text),
            Transmit::Ping => Message::Ping(Bytes::new()),
        };
        match tokio::time::timeout(WRITE_DEADLINE, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("the cloud took nothing for {WRITE_DEADLINE:?}"),
        }
    }
    "given up: nothing was heard from the cloud".into()
}

/// Renews the certificate at two thirds of its life. Ends the connection once, so that the next one
/// shows the new certificate.
async fn renew_when_due(options: &LinkOptions, files: &Files, identity: Identity) -> String {
    let mut wait = Backoff::new(Duration::from_secs(30), Duration::from_hours(1), options.seed);
    loop {
        let due_in = u64::try_from(identity.renew_at() - unix_s()).unwrap_or(0);
        // In steps: a clock that is set while we sleep must not cost the certificate.
        tokio::time::sleep(Duration::from_secs(due_in.clamp(10, 3600))).await;
        if unix_s() < identity.renew_at() {
            continue;
        }
        let enrol = &options.cloud.enrol;
        match enrol::renew(files, enrol, &identity, &options.node, unix_s()).await {
            Ok(_) => return "certificate renewed".into(),
            Err(error) => tracing::warn!(%error, "certificate not renewed; trying again"),
        }
        tokio::time::sleep(wait.next_delay()).await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the link is a driver: it owns the clock it sleeps by"
)]
fn monotonic() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "certificates are valid by the wall clock")]
fn unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
