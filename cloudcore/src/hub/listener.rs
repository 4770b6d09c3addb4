//! The port for gateways: TLS with client certificates, then a websocket whose `node_id` must be the
//! certificate's. Both are decided before the upgrade; who is refused gets an HTTP answer and no more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use hub_proto::frame::MAX_MESSAGE_BYTES;
use hub_proto::id::NodeName;
use hub_proto::wire::{HEADER_CONNECTION_USE, HEADER_NODE_ID, USE_MESSAGES};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::connection::{self, Hub};
use super::nodes::Place;
use crate::clock;
use crate::enrol::authority;
use crate::stop::Stop;

/// From accept to the 101.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Handshakes at the same time. A stampede after a restart waits in the listen queue, so that those
/// already connected keep being served; and it takes this many idle strangers to hold up a gateway,
/// for one deadline.
const HANDSHAKES: usize = 512;

/// Accepts gateways until told to stop, then ends every session.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, hub: Arc<Hub>, stop: Stop) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    let mut connections = JoinSet::new();
    loop {
        let slot = tokio::select! {
            () = stop.wait() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection ended abnormally");
                }
                continue;
            }
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { break };
        let accepted = tokio::select! {
            () = stop.wait() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a gateway");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, hub, stop) = (tls.clone(), Arc::clone(&hub), stop.clone());
        connections.spawn(async move {
            let greeted = timeout(HANDSHAKE_DEADLINE, greet(stream, peer, &tls, &hub)).await;
            drop(slot);
            match greeted {
                Ok(Ok((socket, node, place, ended))) => {
                    connection::run(socket, node, place, ended, &hub, stop).await;
                }
                Ok(Err(reason)) => {
                    hub.metrics.rejected_connections.inc();
                    tracing::debug!(%peer, reason, "refused a connection");
                }
                Err(_) => {
                    hub.metrics.rejected_connections.inc();
                    tracing::debug!(%peer, "handshake took too long");
                }
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// The socket of a gateway.
pub type Socket = WebSocketStream<TlsStream<TcpStream>>;
type Greeted = (Socket, NodeName, Place, tokio::sync::oneshot::Receiver<()>);

async fn greet(
    stream: TcpStream,
    peer: SocketAddr,
    tls: &TlsAcceptor,
    hub: &Arc<Hub>,
) -> Result<Greeted, String> {
    // Small control messages must not wait for company.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = tls.accept(stream).await.map_err(|error| format!("TLS: {error}"))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let shown = certificate.and_then(|certificate| authority::node_of(certificate));

    let mut admitted = None;
    #[expect(clippy::result_large_err, reason = "the type is the websocket library's")]
    let admit = |request: &Request, response: Response| match admit(request, shown, hub) {
        Ok(node) => {
            admitted = Some(node);
            Ok(response)
        }
        Err((status, reason)) => Err(refusal(status, reason)),
    };
    let socket =
        tokio_tungstenite::accept_hdr_async_with_config(stream, admit, Some(socket_config()))
            .await
            .map_err(|error| format!("upgrade: {error}"))?;
    let node = admitted.ok_or("upgraded without being admitted")?;
    let since = clock::now().unix_ms;
    let (place, ended) = hub.nodes.enter(&node, peer, since).ok_or("node limit reached")?;
    Ok((socket, node, place, ended))
}

fn admit(
    request: &Request,
    shown: Option<NodeName>,
    hub: &Hub,
) -> Result<NodeName, (StatusCode, String)> {
    let headers = request.headers();
    let mut names = headers.get_all(HEADER_NODE_ID).iter();
    let (Some(claimed), None) = (names.next(), names.next()) else {
        let reason = format!("exactly one header {HEADER_NODE_ID} is needed");
        return Err((StatusCode::BAD_REQUEST, reason));
    };
    let claimed = claimed.to_str().ok().and_then(|name| NodeName::parse(name).ok());
    let Some(claimed) = claimed else {
        return Err((StatusCode::BAD_REQUEST, format!("{HEADER_NODE_ID} is not a node name")));
    };
    let Some(shown) = shown else {
        let reason = "the client certificate names no node (CN system:node:<name>)";
        return Err((StatusCode::UNAUTHORIZED, reason.into()));
    };
    if shown != claimed {
        let reason = format!("the certificate is of node {shown}, the request of {claimed}");
        return Err((StatusCode::FORBIDDEN, reason));
    }
    // An upstream edge adds the header once more with every attempt.
    let mut uses = headers.get_all(HEADER_CONNECTION_USE).iter();
    if !uses.all(|value| value.as_bytes() == USE_MESSAGES.as_bytes()) {
        let reason = format!("{HEADER_CONNECTION_USE} must be {USE_MESSAGES}");
        return Err((StatusCode::BAD_REQUEST, reason));
    }
    if !hub.nodes.has_room(&claimed) {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "the node limit is reached".into()));
    }
    Ok(claimed)
}

fn refusal(status: StatusCode, reason: String) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(format!("{reason}\n")));
    *response.status_mut() = status;
    response
}

fn socket_config() -> WebSocketConfig {
    // The default read buffer of 128 KiB per gateway would be most of its memory.
    WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(16 * 1024)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}
