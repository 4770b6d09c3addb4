//! The edge's end of the link, as a state machine that outlives every connection.
//!
//! # Guarantees
//! - An ack leaves only after the driver said [`EdgeSession::stored`].
//! - The newest value of each property and the newest state of each device is sent until the cloud
//!   confirms it, across any number of connections. A device has at most one report of values and
//!   one of state unconfirmed, so that a cloud which does not keep order still cannot let an older
//!   value overtake a newer one.
//! - Keepalives go before acks, acks before reports.
//!
//! # Assumptions
//! - After each input the driver drains [`EdgeSession::poll_event`], and
//!   [`EdgeSession::poll_transmit`] as long as the socket takes more. A report is built when it is
//!   taken, with the values of that moment: a slow socket means fewer, fuller reports, never a queue.
//! - What must survive a crash of the edge is in the driver's store. A confirmation returns the mark
//!   that came with each value; the driver compares it with what it holds.
//!
//! Nothing here grows with the length of an outage: reports are keyed by device and property, acks
//! and deliveries belong to a connection and are dropped with it (the cloud repeats).

mod reports;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::Now;
use crate::frame::{Envelope, Route};
use crate::id::{DeviceId, IdSource, MessageId, NodeName};
use crate::message::{ObjectChange, Received, ToCloud, ToEdge, TwinValues};

use reports::Reports;
pub use reports::{Confirmed, StateValue};

/// The first keepalive can hit an upstream cloud before it has registered the session and is then
/// lost, so a second follows soon.
const SECOND_KEEPALIVE: Duration = Duration::from_secs(2);

/// How often the device list is asked for until it has come. An upstream cloud never sends it.
const LIST_RETRY: Duration = Duration::from_secs(60);

/// Deliveries that may wait for the driver's store at once. Twice what our cloud keeps outstanding;
/// what is over it is dropped unacked, and the cloud repeats it.
const MAX_DELIVERIES: usize = 1024;

/// Acks that may wait for the socket. Each is an answer to one received message, so this fills only
/// if the socket takes nothing while it still gives; the oldest go first, and the cloud repeats.
const MAX_ACKS: usize = 2048;

/// An ack repeats the route; a longer one is no route of this protocol.
const MAX_ROUTE_BYTES: usize = 2048;

/// What the driver of an [`EdgeSession`] configures.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// This node.
    pub node: NodeName,
    /// Time between keepalives. The cloud ends a session after twice this or more.
    pub heartbeat: Duration,
    /// 64 random bits; they make the message ids of this session unlike those of others.
    pub seed: u64,
}

/// What goes to the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A text message.
    Message(String),
    /// A websocket ping: its pong shows that the link still carries.
    Ping,
}

/// What the driver has to act on.
#[derive(Clone, Debug)]
pub enum EdgeEvent {
    /// Store or remove an object, then answer with [`EdgeSession::stored`] or
    /// [`EdgeSession::refused`], naming `delivery`.
    Store {
        /// Names the message.
        delivery: MessageId,
        /// What to do.
        change: ObjectChange,
    },
    /// The cloud's list of this node's devices.
    Devices(Vec<DeviceId>),
    /// The cloud has dealt with a report.
    Confirmed(Confirmed),
    /// The first message of this connection: the cloud is really there.
    Alive,
    /// A message could not be understood and was skipped; for the log.
    Skipped(String),
    /// The link is dead: close it and connect again.
    Close(CloseReason),
}

/// Why a session gives up a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Nothing was heard, not even a pong, for one and a half heartbeats.
    Silent,
}

/// The edge's end of the link. See the module documentation.
#[derive(Debug)]
pub struct EdgeSession {
    options: EdgeOptions,
    ids: IdSource,
    reports: Reports,
    events: VecDeque<EdgeEvent>,
    live: Option<Live>,
}

/// What belongs to one connection.
#[derive(Debug)]
struct Live {
    /// Something came from the cloud.
    alive: bool,
    /// The first keepalive has been sent.
    greeted: bool,
    heard: Instant,
    keepalive_at: Instant,
    ping_at: Instant,
    list_at: Option<Instant>,
    /// Deliveries that the driver is storing, and the route that the ack will copy.
    deliveries: BTreeMap<MessageId, Route>,
    acks: VecDeque<ToCloud>,
    closing: bool,
}

impl EdgeSession {
    /// A session without a connection.
    #[must_use]
    pub fn new(options: EdgeOptions) -> Self {
        let ids = IdSource::new(options.seed);
        Self { options, ids, reports: Reports::default(), events: VecDeque::new(), live: None }
    }

    // === the connection ===

    /// A connection is up. Says hello: a keepalive, then the question for the device list.
    pub fn connected(&mut self, now: Now) {
        self.disconnected();
        self.live = Some(Live {
            alive: false,
            greeted: false,
            heard: now.instant,
            keepalive_at: now.instant,
            ping_at: now.instant + self.options.heartbeat / 2,
            list_at: Some(now.instant),
            deliveries: BTreeMap::new(),
            acks: VecDeque::new(),
            closing: false,
        });
    }

    /// The connection is gone. Unconfirmed reports wait for the next one; acks are dropped.
    pub fn disconnected(&mut self) {
        self.live = None;
        self.reports.reopen();
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.live.is_some()
    }

    /// Something came that is no message, such as a pong: the link carries.
    pub fn heard(&mut self, now: Now) {
        if let Some(live) = &mut self.live {
            live.heard = now.instant;
        }
    }

    /// A message came.
    pub fn receive(&mut self, bytes: &[u8], now: Now) {
        let Some(live) = &mut self.live else { return };
        live.heard = now.instant;
        let envelope = match Envelope::decode(bytes) {
            Ok(envelope) => envelope,
            Err(error) => return self.skip(&error),
        };
        if route_bytes(&envelope.route) > MAX_ROUTE_BYTES {
            return self.skip(&"route is longer than any of this protocol");
        }
        if !live.alive {
            live.alive = true;
            self.events.push_back(EdgeEvent::Alive);
        }
        match ToEdge::decode(&envelope) {
            Ok(received) => self.dispatch(received),
            Err(error) => {
                // A cloud that waits for an ack is told why there will be none.
                if let Ok(of) = MessageId::parse(&envelope.header.msg_id)
                    && envelope.header.parent_msg_id.is_empty()
                {
                    live.answer(ToCloud::Refuse {
                        of,
                        route: envelope.route,
                        reason: error.to_string(),
                    });
                }
                self.skip(&error);
            }
        }
    }

    fn dispatch(&mut self, received: Received<ToEdge>) {
        let Some(live) = &mut self.live else { return };
        match received.message {
            ToEdge::Object(change) => {
                let known = live.deliveries.contains_key(&received.id);
                if known || live.deliveries.len() >= MAX_DELIVERIES {
                    return; // being stored already, or too much at once: the cloud repeats it
                }
                live.deliveries.insert(received.id.clone(), received.route);
                self.events.push_back(EdgeEvent::Store { delivery: received.id, change });
            }
            ToEdge::Devices(devices) => {
                live.list_at = None;
                self.events.push_back(EdgeEvent::Devices(devices));
            }
            ToEdge::Confirm(report) => {
                // Only an upstream cloud leaves the question for the list unanswered.
                let forgetful = live.list_at.is_some();
                if let Some(confirmed) = self.reports.confirm(&report, forgetful) {
                    self.events.push_back(EdgeEvent::Confirmed(confirmed));
                }
            }
            // The list and the objects decide; an upstream cloud loses these messages.
            ToEdge::Membership { .. } => {}
            ToEdge::Foreign { wants_ack } => {
                if wants_ack {
                    live.answer(ToCloud::Ack { of: received.id, route: received.route });
                }
            }
        }
    }

    fn skip(&mut self, reason: &dyn std::fmt::Display) {
        let reason: String = reason.to_string().chars().take(512).collect();
        self.events.push_back(EdgeEvent::Skipped(reason));
    }

    // === answers to deliveries ===

    /// The delivery is committed (or needs no change): ack it.
    pub fn stored(&mut self, delivery: &MessageId) {
        if let Some(live) = &mut self.live
            && let Some(route) = live.deliveries.remove(delivery)
        {
            live.answer(ToCloud::Ack { of: delivery.clone(), route });
        }
    }

    /// The delivery could not be stored: say why. The cloud may send it again.
    pub fn refused(&mut self, delivery: &MessageId, reason: &str) {
        if let Some(live) = &mut self.live
            && let Some(route) = live.deliveries.remove(delivery)
        {
            let reason = reason.to_owned();
            live.answer(ToCloud::Refuse { of: delivery.clone(), route, reason });
        }
    }

    // === reports ===

    /// One property has a new value to tell. `mark` comes back with the confirmation; a later call
    /// for the same property replaces this one unless it is already under way.
    pub fn report(&mut self, device: &DeviceId, property: &str, values: TwinValues, mark: u64) {
        self.reports.value(device, property, values, mark);
    }

    /// A device has a new state to tell. As with [`EdgeSession::report`], the newest wins.
    pub fn state(&mut self, device: &DeviceId, state: StateValue, mark: u64) {
        self.reports.state(device, state, mark);
    }

    /// The device is no longer this node's: nothing more is told about it.
    pub fn forget(&mut self, device: &DeviceId) {
        self.reports.forget(device);
    }

    /// How many devices have something unconfirmed.
    #[must_use]
    pub fn unconfirmed(&self) -> usize {
        self.reports.len()
    }

    // === time and output ===

    /// When [`EdgeSession::handle_timeout`] is due, if nothing else happens first.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let live = self.live.as_ref()?;
        if live.closing {
            return None;
        }
        [Some(live.keepalive_at), Some(live.ping_at), live.list_at, self.reports.next_retry()]
            .into_iter()
            .flatten()
            .chain([live.heard + self.silence()])
            .min()
    }

    /// Time has passed. What is due comes out of [`EdgeSession::poll_transmit`] and
    /// [`EdgeSession::poll_event`].
    pub fn handle_timeout(&mut self, now: Now) {
        let silence = self.silence();
        let Some(live) = &mut self.live else { return };
        if !live.closing && now.instant >= live.heard + silence {
            live.closing = true;
            self.events.push_back(EdgeEvent::Close(CloseReason::Silent));
        }
        self.reports.retry(now.instant);
    }

    /// The next thing for the socket, most urgent first.
    pub fn poll_transmit(&mut self, now: Now) -> Option<Transmit> {
        let heartbeat = self.options.heartbeat;
        let live = self.live.as_mut().filter(|live| !live.closing)?;
        if now.instant >= live.keepalive_at {
            let wait = if live.greeted { heartbeat } else { SECOND_KEEPALIVE.min(heartbeat) };
            live.greeted = true;
            live.keepalive_at = now.instant + wait;
            return Some(self.message(&ToCloud::Keepalive, now));
        }
        if now.instant >= live.ping_at {
            live.ping_at = now.instant + heartbeat / 2;
            return Some(Transmit::Ping);
        }
        if live.list_at.is_some_and(|at| now.instant >= at) {
            live.list_at = Some(now.instant + LIST_RETRY);
            let ask = ToCloud::ListDevices(self.options.node.clone());
            return Some(self.message(&ask, now));
        }
        if let Some(ack) = live.acks.pop_front() {
            return Some(self.message(&ack, now));
        }
        let sent = self.reports.send(&mut self.ids, now)?;
        Some(Transmit::Message(sent))
    }

    /// The next thing to act on.
    pub fn poll_event(&mut self) -> Option<EdgeEvent> {
        self.events.pop_front()
    }

    fn message(&mut self, message: &ToCloud, now: Now) -> Transmit {
        let id = self.ids.next_id();
        Transmit::Message(message.encode(&id, now.unix_ms).encode())
    }

    /// A break is noticed this long after the last sign of life. Pings go every half heartbeat, so a
    /// link that breaks is given up within one and a half heartbeats of the break.
    fn silence(&self) -> Duration {
        self.options.heartbeat + self.options.heartbeat / 2
    }
}

impl Live {
    fn answer(&mut self, answer: ToCloud) {
        if self.acks.len() >= MAX_ACKS {
            self.acks.pop_front();
        }
        self.acks.push_back(answer);
    }
}

fn route_bytes(route: &Route) -> usize {
    route.source.len() + route.group.len() + route.operation.len() + route.resource.len()
}
