//! The one mind of the node: every event comes here, and every effect starts here.
//!
//! [`Agent`] is synchronous and pure: an event and the time in, effects out. [`driver`] selects the
//! events and performs the effects.
//!
//! - A delivery of the cloud is stored first, applied to the fleet when it is on disk, and acked then.
//! - A mapper's report is taken into the twin and answered at once; it reaches the session at once
//!   and the disk within [`FLUSH_EVERY`]. A power cut can so take back a quarter of a second of
//!   values that the cloud has not confirmed; the mapper reports its current ones again.

pub mod driver;
mod mappers;
mod status;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hub_proto::Now;
use hub_proto::edge::{Confirmed, EdgeEvent, EdgeOptions, EdgeSession, Transmit};
use hub_proto::id::DeviceId;
use hub_proto::message::Change;
use tokio::sync::oneshot;
use tonic::Status;

use crate::dmi::mapper::MapperEvent;
use crate::dmi::server::DmiRequest;
use crate::fleet::{Accepted, Fleet, Order};
use crate::metrics::Metrics;
use crate::store::{Done, Snapshot, Write};
use crate::twin::{News, Twins};

/// How long a changed twin may wait for the disk. One commit then takes all that changed.
pub const FLUSH_EVERY: Duration = Duration::from_millis(250);

/// How long to wait after the store could not write.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// Writes under way at which the agent stops reading from the link; half of what the store's queue
/// holds, so that the agent's own writes always find room.
pub const MAX_WRITES: usize = crate::store::QUEUE / 2;

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// The link is up.
    LinkUp,
    /// A message of the cloud.
    Frame(Bytes),
    /// A sign of life of the link.
    Heard,
    /// The link is down.
    LinkDown(String),
    /// The link cannot be brought up, for this reason.
    LinkWaiting(String),
    /// A write is on disk, or failed.
    Stored(Done),
    /// A mapper asks something.
    Dmi(DmiRequest),
    /// A mapper came, went or answered.
    Mapper(MapperEvent),
    /// Somebody wants to see how things are.
    Status(Question),
    /// Time has passed.
    Timeout,
}

/// A question of the ops endpoint.
#[derive(Debug)]
pub struct Question {
    /// Whether each device is wanted too; probes do without.
    pub with_devices: bool,
    /// The way back.
    pub reply: oneshot::Sender<serde_json::Value>,
}

/// Something is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Write to disk.
    Store(Write),
    /// Keep a connection to a mapper, in place of any earlier one.
    Dial {
        /// The mapper's name.
        name: String,
        /// Its registration.
        generation: u64,
        /// The path of its socket.
        address: String,
    },
    /// Let go of a mapper.
    HangUp(String),
    /// Call a mapper.
    Call(Box<Order>),
    /// Close the link; it comes back by itself.
    CloseLink,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Agent {
    session: EdgeSession,
    fleet: Fleet,
    twins: Twins,
    metrics: Metrics,
    effects: Vec<Effect>,
    writes: usize,
    flushing: bool,
    flush_at: Option<Instant>,
    link: LinkState,
    store_problem: Option<String>,
    /// Registrations that are being stored, in that order.
    registering: VecDeque<Registering>,
}

/// The answer to a registration, which goes out when it is on disk: a mapper of the upstream framework
/// registers once in its life.
type Registering = (
    dmi_proto::v1beta1::MapperRegisterResponse,
    oneshot::Sender<Result<dmi_proto::v1beta1::MapperRegisterResponse, Status>>,
);

#[derive(Debug, Default)]
struct LinkState {
    connected: bool,
    alive: bool,
    since_ms: u64,
    last_error: Option<String>,
    connects: u64,
    /// The cloud's list came over this connection, so it is one that tells all.
    listed: bool,
}

impl Agent {
    /// An agent that knows what the store held. The effects dial the mappers that were known.
    #[must_use]
    pub fn new(
        options: EdgeOptions,
        snapshot: Snapshot,
        metrics: Metrics,
        now: Now,
    ) -> (Self, Vec<Effect>) {
        let mut agent = Self {
            session: EdgeSession::new(options),
            fleet: Fleet::default(),
            twins: Twins::default(),
            metrics,
            effects: Vec::new(),
            writes: 0,
            flushing: false,
            flush_at: None,
            link: LinkState::default(),
            store_problem: None,
            registering: VecDeque::new(),
        };
        for (key, uid, body) in &snapshot.objects {
            agent.fleet.upsert(key, uid, body);
        }
        let mut accepted = snapshot.accepted;
        for row in snapshot.mappers {
            let (name, address) = (row.name.clone(), row.address.clone());
            let had = accepted.remove(&name).unwrap_or_default();
            let generation = agent.fleet.restore(row, had, now.instant);
            agent.dial(name, generation, address);
        }
        let news = agent.twins.restore(snapshot.twins, snapshot.states);
        agent.tell(news);
        agent.settle(now);
        let effects = std::mem::take(&mut agent.effects);
        (agent, effects)
    }

    /// Takes an event; returns what is to be done.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Effect> {
        match event {
            Event::LinkUp => self.link_up(now),
            Event::Frame(bytes) => {
                self.metrics.frames_received.inc();
                self.session.receive(&bytes, now);
            }
            Event::Heard => self.session.heard(now),
            Event::LinkDown(reason) => {
                self.session.disconnected();
                self.link = LinkState {
                    connected: false,
                    alive: false,
                    since_ms: now.unix_ms,
                    last_error: Some(reason),
                    connects: self.link.connects,
                    listed: false,
                };
                self.metrics.link_up.set(0);
            }
            Event::LinkWaiting(reason) => self.link.last_error = Some(reason),
            Event::Stored(done) => {
                self.writes = self.writes.saturating_sub(1);
                self.stored(done, now);
            }
            Event::Dmi(request) => self.dmi(request, now),
            Event::Mapper(event) => self.mapper(event, now),
            Event::Status(Question { with_devices, reply }) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.status(with_devices));
            }
            Event::Timeout => self.session.handle_timeout(now),
        }
        self.settle(now);
        std::mem::take(&mut self.effects)
    }

    /// The next thing for the socket.
    pub fn poll_transmit(&mut self, now: Now) -> Option<Transmit> {
        let frame = self.session.poll_transmit(now);
        if frame.is_some() {
            self.metrics.frames_sent.inc();
        }
        frame
    }

    /// When [`Event::Timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.session.poll_timeout(), self.fleet.poll_timeout(), self.flush_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether so many writes wait for the disk that nothing more should come from the link.
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        self.writes >= MAX_WRITES
    }

    /// A write was not taken by the store; it is as if it had failed.
    pub fn write_lost(&mut self) {
        self.writes = self.writes.saturating_sub(1);
        self.flushing = false;
        self.metrics.store_failures.inc();
    }

    /// What must be written before the end.
    pub fn last_writes(&mut self) -> Vec<Effect> {
        self.flushing = false;
        self.flush();
        std::mem::take(&mut self.effects)
    }

    /// Does what follows from any event, until nothing more does.
    fn settle(&mut self, now: Now) {
        while let Some(event) = self.session.poll_event() {
            self.session_event(event, now);
        }
        for (mapper, devices) in self.fleet.lost(now.instant) {
            tracing::warn!(
                mapper,
                devices = devices.len(),
                "mapper is lost; its devices are unknown"
            );
            for device in devices {
                let news = self.twins.unknown(&device, now.unix_ms);
                self.tell(news);
            }
        }
        for name in self.fleet.forgotten() {
            tracing::info!(mapper = name, "mapper was replaced and is forgotten");
            self.effects.push(Effect::HangUp(name.clone()));
            self.store(Write::ForgetMapper(name));
        }
        while let Some(order) = self.fleet.poll_call(now.instant) {
            self.metrics.mapper_calls.inc();
            let Accepted { mapper, key, has } = order.meanwhile.clone();
            self.store(Write::Accepted(mapper, key, has));
            self.effects.push(Effect::Call(Box::new(order)));
        }
        if self.flush_at.is_some_and(|at| now.instant >= at) {
            self.flush();
        }
        if self.twins.has_unsaved() && !self.flushing && self.flush_at.is_none() {
            self.flush_at = Some(now.instant + FLUSH_EVERY);
        }
    }

    // === the cloud ===

    fn link_up(&mut self, now: Now) {
        self.session.connected(now);
        self.store(Write::LinkUp);
        self.link = LinkState {
            connected: true,
            alive: false,
            since_ms: now.unix_ms,
            last_error: None,
            connects: self.link.connects + 1,
            listed: false,
        };
        self.metrics.link_up.set(1);
        self.metrics.connects.inc();
    }

    fn session_event(&mut self, event: EdgeEvent, now: Now) {
        match event {
            EdgeEvent::Store { delivery, change } => {
                self.store(Write::Deliver { delivery, change })
            }
            EdgeEvent::Devices(devices) => {
                self.link.listed = true;
                self.store(Write::Retain(devices));
            }
            EdgeEvent::Confirmed(Confirmed::Values { device, marks }) => {
                for (property, mark) in marks {
                    self.twins.confirmed(&device, &property, mark);
                }
            }
            EdgeEvent::Confirmed(Confirmed::State { device, mark }) => {
                self.twins.state_confirmed(&device, mark);
            }
            EdgeEvent::Alive => {
                self.link.alive = true;
                self.link.since_ms = now.unix_ms;
            }
            EdgeEvent::Skipped(reason) => {
                self.metrics.frames_skipped.inc();
                tracing::warn!(reason, "a message of the cloud was skipped");
            }
            EdgeEvent::Close(_) => {
                tracing::warn!("nothing was heard from the cloud; connecting anew");
                self.effects.push(Effect::CloseLink);
            }
        }
    }

    // === the store ===

    fn store(&mut self, write: Write) {
        self.writes += 1;
        self.effects.push(Effect::Store(write));
    }

    fn stored(&mut self, done: Done, now: Now) {
        let problem = match done {
            Done::Delivered { delivery, change, applied } => match applied {
                Ok(applied) => {
                    if applied {
                        self.apply(&change.key, change.uid.as_deref(), &change.change);
                        self.metrics.objects_applied.inc();
                    }
                    self.session.stored(&delivery);
                    None
                }
                Err(reason) => {
                    self.session.refused(&delivery, &reason);
                    Some(reason)
                }
            },
            Done::Retained(Ok(removed)) => {
                for key in removed {
                    tracing::info!(object = %key, "removed: the cloud no longer has it for this node");
                    self.apply(&key, None, &Change::Delete);
                }
                None
            }
            Done::Flushed { twins, states, result } => {
                self.flushing = false;
                if result.is_err() {
                    self.twins.unsave(twins, states);
                    self.flush_at = Some(now.instant + STORE_RETRY);
                }
                result.err()
            }
            Done::Registered(result) => {
                // With a full disk mappers work on; only a restart would not know this one.
                if let Some((answer, reply)) = self.registering.pop_front() {
                    let _ = reply.send(Ok(answer));
                }
                result.err()
            }
            Done::Retained(Err(reason)) | Done::Other(Err(reason)) => Some(reason),
            Done::Other(Ok(())) => None,
        };
        if problem.is_some() {
            self.metrics.store_failures.inc();
        }
        self.store_problem = problem;
    }

    /// Applies a committed change to what is in memory.
    fn apply(&mut self, key: &hub_proto::id::ObjectKey, uid: Option<&str>, change: &Change) {
        let device = key.device_id();
        match change {
            Change::Upsert { create: _, object } => {
                let uid = uid.unwrap_or_default();
                let model_before = self.model_name(device.as_ref());
                if let Some(id) = &device
                    && self.fleet.device(id).is_some_and(|old| old.uid != uid && !uid.is_empty())
                {
                    self.forget(id); // a successor of the same name
                }
                self.fleet.upsert(key, uid, object.get());
                if self.link.listed
                    && model_before.is_some()
                    && model_before != self.model_name(device.as_ref())
                {
                    // It may have been the last user of a model that was deleted meanwhile.
                    self.store(Write::DropUnusedModels);
                }
                if let Some(id) = &device
                    && let Some(held) = self.fleet.device(id)
                {
                    self.twins.keep_only(id, |name| held.spec.property(name).is_some());
                    if let Some(problem) = held.problem() {
                        tracing::info!(device = %id, problem, "device cannot be told to a mapper");
                    }
                }
            }
            Change::Delete => {
                if let Some(id) = &device {
                    self.forget(id);
                }
                self.fleet.remove(key);
            }
        }
        tracing::debug!(object = %key, "applied");
    }

    fn model_name(&self, device: Option<&DeviceId>) -> Option<String> {
        let held = self.fleet.device(device?)?;
        held.spec.model_name().map(str::to_owned)
    }

    fn forget(&mut self, device: &DeviceId) {
        self.twins.forget(device);
        self.session.forget(device);
    }

    fn flush(&mut self) {
        self.flush_at = None;
        if self.flushing {
            return;
        }
        if let Some(unsaved) = self.twins.take_unsaved() {
            self.flushing = true;
            let crate::twin::Unsaved { twins, gone, states } = unsaved;
            self.store(Write::Flush { twins, gone, states });
        }
    }

    fn tell(&mut self, news: impl IntoIterator<Item = News>) {
        for news in news {
            match news {
                News::Values { device, property, values, mark } => {
                    self.session.report(&device, &property, values, mark);
                }
                News::State { device, state, mark } => self.session.state(&device, state, mark),
            }
        }
    }
}

#[cfg(test)]
mod tests;
