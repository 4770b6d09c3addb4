//! The door for gateways that have no certificate yet, or one that is about to end (HTTPS).
//!
//! | request | who | answer |
//! |---|---|---|
//! | `GET /ca.crt` | anyone | the authority's certificate, DER |
//! | `GET /edge.crt`, a certificate request (DER) as body, header `NodeName` | `Authorization: Bearer <JWT>`, or a client certificate of the same node | the node's certificate, DER |
//! | `GET /readyz` | anyone | `ok` |
//!
//! Every refusal is plain text that says what to do. Tokens are never logged.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hub_proto::id::NodeName;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::authority::{self, Authority};
use super::token;
use crate::clock;
use crate::ops::Metrics;
use crate::stop::Stop;

/// A certificate request for P-256 is some 300 bytes.
const BODY_LIMIT: usize = 16 * 1024;
/// From accept to the end of the answer.
const DEADLINE: Duration = Duration::from_secs(15);
/// Connections served at the same time; the rest waits in the listen queue.
const CONNECTIONS: usize = 256;
/// Certificates per address: this many at once, and one more each [`REFILL`]. Sites join many
/// gateways from behind one address; guessing tokens is hopeless anyway, this only saves work.
const BURST: u32 = 60;
const REFILL: Duration = Duration::from_secs(1);

/// What the door needs.
pub struct Door {
    /// Signs.
    pub authority: Arc<Authority>,
    /// Life of a node's certificate.
    pub ttl: Duration,
    /// Outcomes are counted here.
    pub metrics: Arc<Metrics>,
    /// Per-address budget.
    pub rate: Mutex<RateLimit>,
}

/// Serves until told to stop.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, door: Arc<Door>, stop: Stop) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.wait() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, peer, slot)) = accepted else { continue };
        let (tls, door) = (tls.clone(), Arc::clone(&door));
        connections.spawn(async move {
            if timeout(DEADLINE, converse(stream, peer, tls, door)).await.is_err() {
                tracing::debug!(%peer, "enrolment connection took too long");
            }
            drop(slot);
        });
    }
    connections.shutdown().await;
}

type Slot = tokio::sync::OwnedSemaphorePermit;

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, Slot)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, slot)),
        Err(error) => {
            // Out of file descriptors, say: it passes, or it will be seen here again and again.
            tracing::warn!(%error, "cannot accept an enrolment connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, tls: TlsAcceptor, door: Arc<Door>) {
    let stream = match tls.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%peer, %error, "TLS handshake for enrolment failed");
            return;
        }
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let shown: Option<Arc<[u8]>> = shown.map(|certificate| certificate.as_ref().into());
    let service = service_fn(move |request: Request<Incoming>| {
        let (door, shown) = (Arc::clone(&door), shown.clone());
        async move { Ok::<_, std::convert::Infallible>(door.answer(request, peer.ip(), shown).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(DEADLINE)
        .max_buf_size(32 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "enrolment connection ended early");
    }
}

/// A refusal: the status, the label it is counted under, and what to tell.
struct Refusal(StatusCode, &'static str, String);

impl Door {
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
        shown: Option<Arc<[u8]>>,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "use GET");
        }
        match path.as_str() {
            "/readyz" => text(StatusCode::OK, "ok"),
            "/ca.crt" => der(self.authority.certificate().to_vec()),
            "/edge.crt" => match self.issue(request, peer, shown).await {
                Ok((node, certificate, by)) => {
                    tracing::info!(%node, %peer, by, "issued a node certificate");
                    self.metrics.enrolled(by);
                    der(certificate)
                }
                Err(Refusal(status, outcome, reason)) => {
                    tracing::warn!(%peer, status = status.as_u16(), reason, "refused a node certificate");
                    self.metrics.enrolled(outcome);
                    text(status, &reason)
                }
            },
            _ => text(StatusCode::NOT_FOUND, "here are only /ca.crt, /edge.crt and /readyz"),
        }
    }

    async fn issue(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
        shown: Option<Arc<[u8]>>,
    ) -> Result<(NodeName, Vec<u8>, &'static str), Refusal> {
        let refuse = |status, outcome, reason: &str| Refusal(status, outcome, reason.to_owned());
        let now = clock::now();
        let allowed = {
            let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
            rate.allow(peer, now.instant)
        };
        if !allowed {
            let reason = "too many requests from this address: wait a few seconds and try again";
            return Err(refuse(StatusCode::TOO_MANY_REQUESTS, "rate_limited", reason));
        }
        let name = request.headers().get("nodename").and_then(|value| value.to_str().ok());
        let Some(name) = name else {
            let reason = "the header NodeName is missing: it names the node to be";
            return Err(refuse(StatusCode::BAD_REQUEST, "bad_request", reason));
        };
        let node = NodeName::parse(name)
            .map_err(|error| refuse(StatusCode::BAD_REQUEST, "bad_request", &error.to_string()))?;
        let by = match &shown {
            // TLS has checked that it is ours, in time and for clients; the name is checked here.
            Some(certificate) if authority::node_of(certificate).as_ref() == Some(&node) => {
                "renewed"
            }
            Some(_) => {
                let reason = format!("the client certificate is not that of node {node}");
                return Err(refuse(StatusCode::UNAUTHORIZED, "wrong_certificate", &reason));
            }
            None => {
                let jwt = bearer(request.headers()).ok_or_else(|| {
                    let reason = "a join token (Authorization: Bearer …) or the node's own client \
                                  certificate is needed: see `keadm gettoken`";
                    refuse(StatusCode::UNAUTHORIZED, "no_credentials", reason)
                })?;
                token::verify(&self.authority, jwt, now.unix_ms / 1000).map_err(|error| {
                    refuse(StatusCode::UNAUTHORIZED, "bad_token", &error.to_string())
                })?;
                "joined"
            }
        };
        let body = Limited::new(request.into_body(), BODY_LIMIT).collect().await.map_err(|_| {
            let reason = format!("the body (a certificate request) is over {BODY_LIMIT} bytes");
            refuse(StatusCode::PAYLOAD_TOO_LARGE, "bad_request", &reason)
        })?;
        let certificate = self
            .authority
            .issue_node(&node, &body.to_bytes(), self.ttl, now.unix_ms / 1000)
            .map_err(|error| match error {
                authority::AuthorityError::Request(reason) => {
                    refuse(StatusCode::BAD_REQUEST, "bad_request", reason)
                }
                authority::AuthorityError::Key(_)
                | authority::AuthorityError::Sign(_)
                | authority::AuthorityError::Certificate(_) => {
                    refuse(StatusCode::INTERNAL_SERVER_ERROR, "failed", &error.to_string())
                }
            })?;
        Ok((node, certificate, by))
    }
}

/// The JWT of an `Authorization` header: two words, of which upstream checks only the second.
fn bearer(headers: &http::HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.contains(' ')).then_some(token)
}

fn text(status: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{reason}\n")));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn der(bytes: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(bytes));
    let binary = http::HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, binary);
    response
}

/// A token bucket per address. Pure; bounded: what is full again is forgotten.
#[derive(Debug, Default)]
pub struct RateLimit {
    buckets: HashMap<IpAddr, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    since: Instant,
}

impl RateLimit {
    /// Addresses remembered; when more come at once, the newcomers wait.
    const ADDRESSES: usize = 10_000;

    /// Takes one from the address's budget, if there is any left.
    pub fn allow(&mut self, peer: IpAddr, now: Instant) -> bool {
        if self.buckets.len() >= Self::ADDRESSES && !self.buckets.contains_key(&peer) {
            self.buckets.retain(|_, bucket| bucket.refilled(now).0 < BURST);
            if self.buckets.len() >= Self::ADDRESSES {
                return false;
            }
        }
        let bucket = self.buckets.entry(peer).or_insert(Bucket { left: BURST, since: now });
        let (left, since) = bucket.refilled(now);
        *bucket = Bucket { left: left.saturating_sub(1), since };
        left > 0
    }
}

impl Bucket {
    fn refilled(&self, now: Instant) -> (u32, Instant) {
        let passed = now.saturating_duration_since(self.since);
        let gained = u32::try_from(passed.as_millis() / REFILL.as_millis()).unwrap_or(u32::MAX);
        let left = self.left.saturating_add(gained);
        if left >= BURST { (BURST, now) } else { (left, self.since + REFILL * gained) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_burst_and_then_a_rate() {
        let mut rate = RateLimit::default();
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let start = clock::now().instant;
        assert!((0..BURST).all(|_| rate.allow(peer, start)));
        assert!(!rate.allow(peer, start));
        assert!(rate.allow("192.0.2.2".parse().unwrap(), start), "another address has its own");
        assert!(rate.allow(peer, start + REFILL));
        assert!(!rate.allow(peer, start + REFILL));
    }

    #[test]
    fn a_flood_of_addresses_is_bounded() {
        let mut rate = RateLimit::default();
        let start = clock::now().instant;
        for n in 0..20_000u32 {
            rate.allow(IpAddr::from(n.to_be_bytes()), start);
        }
        assert!(rate.buckets.len() <= RateLimit::ADDRESSES);
        let late = start + 100 * REFILL;
        assert!(rate.allow("203.0.113.9".parse().unwrap(), late), "full buckets are forgotten");
    }
}
