//! One gateway's connection: drives a [`CloudSession`] with a socket, the node's desired state, the
//! confirmations of its reports, and the clock.
//!
//! Queues and what happens when they are full:
//! * changes from placement (`CHANGES`): placement lets go, the connection asks for the whole set anew;
//! * reports on their way to status (`REPORTS`): the socket is not read until there is room, so that
//!   the gateway is slowed down and nobody else;
//! * bytes written and not yet taken by the network (`UNFLUSHED`): nothing more is written; after
//!   `WRITE_DEADLINE` without progress the connection ends.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hub_proto::cloud::{CloudConfig, CloudSession, Counters, Event};
use hub_proto::id::{IdSource, MessageId, NodeName};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tracing::Instrument;

use super::listener::Socket;
use super::nodes::{Nodes, Place};
use crate::clock;
use crate::node_objects::NodeEvent;
use crate::ops::Metrics;
use crate::placement::Change;
use crate::status::StatusInput;
use crate::stop::Stop;
use crate::watches::{Subscribe, Subscription};

/// Confirmations on their way from status to a connection.
const CONFIRMS: usize = 1024;
/// Reports of one connection that status has not taken yet.
const REPORTS: usize = 256;
/// Confirmations and lists that the gateway has not taken yet.
const BACKLOG: usize = 4096;
/// Bytes handed to the socket before it is flushed. Small: what is in there cannot be overtaken.
const UNFLUSHED: usize = 64 * 1024;
/// A flush that takes longer means a peer that is gone or stuck. Long enough for 64 KiB over GPRS.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);
/// Courtesy at the end of a session.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// What every connection shares.
pub struct Hub {
    /// Who is connected.
    pub nodes: Arc<Nodes>,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Session knobs.
    pub session: CloudConfig,
    /// To ask placement for a node's desired state.
    pub placement: mpsc::Sender<Subscribe>,
    /// To tell status what a node says.
    pub status: mpsc::Sender<StatusInput>,
    /// To tell who keeps the Node objects.
    pub node_objects: mpsc::Sender<NodeEvent>,
}

/// Serves one gateway until it or we end.
pub async fn run(
    socket: Socket,
    node: NodeName,
    place: Place,
    ended: oneshot::Receiver<()>,
    hub: &Hub,
    stop: Stop,
) {
    let session = place.session;
    let span = tracing::info_span!("session", %node, id = session.0);
    let (confirm, confirms) = mpsc::channel(CONFIRMS);
    let up = StatusInput::Connected { node: node.clone(), session, confirm };
    if hub.status.send(up).await.is_err() {
        return; // Status stops, and so does everything else.
    }
    let _ = hub.node_objects.send(NodeEvent::Up { node: node.clone(), session }).await;
    let reason = converse(socket, node.clone(), place, ended, confirms, hub, stop);
    let reason = reason.instrument(span.clone()).await;
    span.in_scope(|| tracing::info!(reason, "disconnected"));
    let _ = hub.status.send(StatusInput::Disconnected { node: node.clone(), session }).await;
    let _ = hub.node_objects.send(NodeEvent::Down { node, session }).await;
}

/// The session from snapshot to goodbye; returns why it ended.
async fn converse(
    socket: Socket,
    node: NodeName,
    place: Place,
    ended: oneshot::Receiver<()>,
    confirms: mpsc::Receiver<MessageId>,
    hub: &Hub,
    stop: Stop,
) -> String {
    tracing::info!("connected");
    let subscription = tokio::select! {
        subscription = subscribe(hub, &node) => subscription,
        () = stop.wait() => None,
    };
    let Some(subscription) = subscription else { return "placement has stopped".into() };
    let ids = IdSource::new(rand::random());
    let mut machine = CloudSession::new(node.clone(), ids, hub.session, clock::now());
    machine.set_desired(subscription.snapshot);
    let mut connection = Connection {
        socket,
        machine,
        node,
        place,
        hub,
        changes: subscription.changes,
        confirms,
        reports: VecDeque::new(),
        unflushed: 0,
        unconfirmed: 0,
        counted: Counters::default(),
    };
    let reason = connection.serve(ended, stop).await;
    connection.show(Some(&reason));
    let _ = timeout(CLOSE_DEADLINE, connection.socket.close(None)).await;
    reason
}

async fn subscribe(hub: &Hub, node: &NodeName) -> Option<Subscription> {
    let (reply, answer) = oneshot::channel();
    hub.placement.send(Subscribe { node: node.clone(), reply }).await.ok()?;
    answer.await.ok()
}

struct Connection<'a> {
    socket: Socket,
    machine: CloudSession,
    node: NodeName,
    place: Place,
    hub: &'a Hub,
    changes: mpsc::Receiver<Change>,
    confirms: mpsc::Receiver<MessageId>,
    reports: VecDeque<StatusInput>,
    unflushed: usize,
    unconfirmed: usize,
    /// The counters as last added to the metrics.
    counted: Counters,
}

enum Input {
    Socket(Wire),
    Change(Option<Change>),
    Confirm(Option<MessageId>),
    ReportTaken,
    Timeout,
    Superseded,
    Stop,
    StatusGone,
}

enum Wire {
    Received(Message),
    Flushed,
    Ended(String),
}

impl Connection<'_> {
    /// Runs until the session ends; returns why.
    async fn serve(&mut self, mut ended: oneshot::Receiver<()>, stop: Stop) -> String {
        let mut flush_by = None;
        loop {
            if let Err(reason) = self.write().await {
                return reason;
            }
            if let Some(reason) = self.take_events() {
                return reason;
            }
            self.show(None);
            if self.unflushed == 0 {
                flush_by = None;
            } else {
                flush_by.get_or_insert_with(|| clock::now().instant + WRITE_DEADLINE);
            }
            match self.next_input(&mut ended, &stop, flush_by).await {
                Input::Socket(Wire::Received(message)) => {
                    if let Err(reason) = self.received(message) {
                        return reason;
                    }
                }
                Input::Socket(Wire::Flushed) => self.unflushed = 0,
                Input::Socket(Wire::Ended(reason)) => return reason,
                Input::Change(Some(change)) => {
                    self.changed(change);
                    while let Ok(change) = self.changes.try_recv() {
                        self.changed(change);
                    }
                }
                Input::Change(None) => {
                    // More changes than the queue holds: the whole set says it better.
                    let Some(again) = subscribe(self.hub, &self.node).await else {
                        return "placement has stopped".into();
                    };
                    self.machine.set_desired(again.snapshot);
                    self.changes = again.changes;
                }
                Input::Confirm(Some(id)) => {
                    self.confirmed(id);
                    while let Ok(id) = self.confirms.try_recv() {
                        self.confirmed(id);
                    }
                }
                Input::Confirm(None) | Input::StatusGone => return "status has stopped".into(),
                Input::ReportTaken => {}
                Input::Timeout => {
                    let now = clock::now();
                    if flush_by.is_some_and(|by| now.instant >= by) {
                        return "the gateway takes nothing any more".into();
                    }
                    self.machine.handle_timeout(now);
                }
                Input::Superseded => return "superseded by a newer connection".into(),
                Input::Stop => return "cloudcore stops".into(),
            }
        }
    }

    async fn next_input(
        &mut self,
        ended: &mut oneshot::Receiver<()>,
        stop: &Stop,
        flush_by: Option<std::time::Instant>,
    ) -> Input {
        let wake = self.machine.poll_timeout().into_iter().chain(flush_by).min();
        let wake = wake.unwrap_or_else(|| clock::now().instant + WRITE_DEADLINE);
        let reading = self.reports.len() < REPORTS && self.machine.backlog() < BACKLOG;
        let flushing = self.unflushed > 0;
        let socket = &mut self.socket;
        let wire = poll_fn(|cx| {
            if flushing && let Poll::Ready(flushed) = socket.poll_flush_unpin(cx) {
                return Poll::Ready(match flushed {
                    Ok(()) => Wire::Flushed,
                    Err(error) => Wire::Ended(ending(&error)),
                });
            }
            if !reading {
                return Poll::Pending;
            }
            socket.poll_next_unpin(cx).map(|next| match next {
                Some(Ok(message)) => Wire::Received(message),
                Some(Err(error)) => Wire::Ended(ending(&error)),
                None => Wire::Ended("closed by the gateway".into()),
            })
        });
        let reports = &mut self.reports;
        tokio::select! {
            _ = ended => Input::Superseded,
            () = stop.wait() => Input::Stop,
            confirm = self.confirms.recv() => Input::Confirm(confirm),
            change = self.changes.recv() => Input::Change(change),
            permit = self.hub.status.reserve(), if !reports.is_empty() => match permit {
                Ok(permit) => {
                    if let Some(report) = reports.pop_front() {
                        permit.send(report);
                    }
                    Input::ReportTaken
                }
                Err(_) => Input::StatusGone,
            },
            wire = wire => Input::Socket(wire),
            () = sleep_until(wake.into()) => Input::Timeout,
        }
    }

    /// Hands the socket what the session has to say, as long as it takes it without waiting: a stuck
    /// peer must not keep us from hearing that we are to stop, or are superseded.
    async fn write(&mut self) -> Result<(), String> {
        while self.unflushed < UNFLUSHED {
            let socket = &mut self.socket;
            match poll_fn(|cx| Poll::Ready(socket.poll_ready_unpin(cx))).await {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Err(ending(&error)),
                Poll::Pending => return Ok(()),
            }
            // Only now: what is most urgent may have changed while the socket was busy.
            let Some(text) = self.machine.poll_transmit(clock::now()) else { return Ok(()) };
            self.unflushed += text.len();
            self.socket.start_send_unpin(Message::text(text)).map_err(|error| ending(&error))?;
        }
        Ok(())
    }

    fn received(&mut self, message: Message) -> Result<(), String> {
        let bytes = match &message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes.as_ref(),
            // The answer to a ping stands in the write buffer; flush it.
            Message::Ping(_) => {
                self.unflushed += 1;
                return Ok(());
            }
            Message::Pong(_) | Message::Frame(_) => return Ok(()),
            Message::Close(_) => return Err("closed by the gateway".into()),
        };
        self.machine.receive(bytes, clock::now()).map_err(|error| error.to_string())
    }

    fn changed(&mut self, change: Change) {
        match change {
            Change::Upsert(desired) => self.machine.upsert(desired),
            Change::Remove(key) => self.machine.remove(key),
            Change::Park(device) => self.machine.park(device),
        }
    }

    fn confirmed(&mut self, id: MessageId) {
        self.unconfirmed = self.unconfirmed.saturating_sub(1);
        self.machine.report_done(id);
    }

    /// Passes on what the session found out. A reason means: it is over.
    fn take_events(&mut self) -> Option<String> {
        while let Some(event) = self.machine.poll_event() {
            let (node, session) = (self.node.clone(), self.place.session);
            match event {
                Event::Twin { id, report } => {
                    self.unconfirmed += 1;
                    self.reports.push_back(StatusInput::Twin { node, session, id, report });
                }
                Event::State { id, report } => {
                    self.unconfirmed += 1;
                    self.reports.push_back(StatusInput::State { node, session, id, report });
                }
                Event::Stored { key, revision } => {
                    tracing::debug!(%key, %revision, "stored on the node");
                    if let Some(device) = key.device_id() {
                        self.reports.push_back(StatusInput::Stored { node, device, revision });
                    }
                }
                Event::Dropped(key) => tracing::debug!(%key, "dropped by the node"),
                Event::Refused { key, reason } => {
                    tracing::warn!(%key, reason, "not taken by the node");
                    self.note(&format!("{key}: {reason}"));
                    if let Some(device) = key.device_id() {
                        self.reports.push_back(StatusInput::Refused { node, device, reason });
                    }
                }
                Event::Synced => tracing::info!("in sync"),
                Event::Unreadable(reason) => {
                    tracing::warn!(reason, "message cannot be read");
                    self.hub.metrics.unreadable_messages.inc();
                    self.note(&reason);
                }
                Event::Foreign(what) => tracing::debug!(what, "message is not for us"),
                Event::Close(reason) => return Some(reason.to_string()),
            }
        }
        None
    }

    fn note(&self, error: &str) {
        let mut view = self.place.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.last_error = Some(error.to_owned());
    }

    /// Brings the view and the metrics up to date.
    fn show(&mut self, error: Option<&str>) {
        let counters = self.machine.counters();
        self.hub.metrics.add_session(&self.counted, &counters);
        self.counted = counters;
        let mut view = self.place.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.owed = self.machine.owed();
        view.unconfirmed = self.unconfirmed;
        view.counters = counters;
        if let Some(error) = error {
            view.last_error = Some(error.to_owned());
        }
    }
}

fn ending(error: &SocketError) -> String {
    // Upstream edges, and whoever is killed, say no goodbye.
    let eof = |error: &std::io::Error| error.kind() == std::io::ErrorKind::UnexpectedEof;
    if matches!(error, SocketError::ConnectionClosed | SocketError::AlreadyClosed)
        || matches!(error, SocketError::Io(error) if eof(error))
    {
        "closed by the gateway".into()
    } else {
        error.to_string()
    }
}
