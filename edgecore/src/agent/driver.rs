//! The loop around the agent: select an event, let the agent handle it, perform the effects.

use std::collections::HashMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, bail};
use hub_proto::Now;
use hub_proto::edge::Transmit;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Agent, Effect, Event, Question};
use crate::dmi::mapper::{self, MapperEvent};
use crate::dmi::server::DmiRequest;
use crate::fleet::Call;
use crate::link::LinkEvent;
use crate::store::{Store, Write};

/// Requests of mappers that are handled before anything else gets a turn.
const DMI_BATCH: usize = 64;

/// Where events come from.
#[derive(Debug)]
pub struct Inputs {
    /// The link.
    pub link: mpsc::Receiver<LinkEvent>,
    /// Requests of mappers.
    pub dmi: mpsc::Receiver<DmiRequest>,
    /// Questions of the ops endpoint.
    pub status: mpsc::Receiver<Question>,
    /// Time to go.
    pub stop: watch::Receiver<bool>,
}

/// Runs the agent until `stop`, then writes what is left and closes the store.
///
/// # Errors
/// The store's thread or the link's task is gone.
pub async fn run(
    mut agent: Agent,
    first: Vec<Effect>,
    mut store: Store,
    mut inputs: Inputs,
) -> anyhow::Result<()> {
    let (mapper_events, mut mappers) = mpsc::channel(64);
    let mut hands =
        Hands { writes: store.writes, link: None, mappers: HashMap::new(), mapper_events };
    hands.perform(&mut agent, first);
    let mut requests = Vec::with_capacity(DMI_BATCH);
    let stopping = inputs.stop.clone();
    let result = loop {
        let link_is_full = hands.transmit(&mut agent);
        let timeout = agent.poll_timeout();
        let event = tokio::select! {
            _ = inputs.stop.wait_for(|stop| *stop) => break Ok(()),
            done = store.done.recv() => match done {
                Some(done) => Event::Stored(done),
                None => break Err(anyhow!("the store's thread has ended")),
            },
            event = inputs.link.recv(), if !agent.is_saturated() => match event {
                Some(LinkEvent::Up(frames)) => {
                    hands.link = Some(frames);
                    Event::LinkUp
                }
                Some(LinkEvent::Frame(bytes)) => Event::Frame(bytes),
                Some(LinkEvent::Heard) => Event::Heard,
                Some(LinkEvent::Down(reason)) => {
                    hands.link = None;
                    Event::LinkDown(reason)
                }
                Some(LinkEvent::Waiting(reason)) => Event::LinkWaiting(reason),
                None => break ended(&stopping, "the link's task"),
            },
            count = inputs.dmi.recv_many(&mut requests, DMI_BATCH) => {
                if count == 0 {
                    break ended(&stopping, "the DMI server");
                }
                for request in requests.drain(..) {
                    let effects = agent.handle(Event::Dmi(request), now());
                    hands.perform(&mut agent, effects);
                }
                continue;
            },
            Some(event) = mappers.recv() => Event::Mapper(event),
            Some(question) = inputs.status.recv() => Event::Status(question),
            () = until(timeout) => Event::Timeout,
            () = room(hands.link.as_ref()), if link_is_full => continue,
        };
        let effects = agent.handle(event, now());
        hands.perform(&mut agent, effects);
    };
    let last = agent.last_writes();
    hands.perform(&mut agent, last);
    for (_, task) in hands.mappers.drain() {
        task.task.abort();
    }
    // The thread ends when nobody can write any more, after the last commit.
    drop(hands.writes);
    while store.done.recv().await.is_some() {}
    if store.thread.join().is_err() {
        bail!("the store's thread panicked");
    }
    result
}

/// Other parts end before the agent only when all of it is to stop.
fn ended(stop: &watch::Receiver<bool>, part: &str) -> anyhow::Result<()> {
    if *stop.borrow() { Ok(()) } else { Err(anyhow!("{part} has ended")) }
}

/// What the effects are performed with.
struct Hands {
    writes: mpsc::Sender<Write>,
    link: Option<mpsc::Sender<Transmit>>,
    mappers: HashMap<String, MapperTask>,
    mapper_events: mpsc::Sender<MapperEvent>,
}

struct MapperTask {
    generation: u64,
    calls: mpsc::Sender<Call>,
    task: JoinHandle<()>,
}

impl Hands {
    fn perform(&mut self, agent: &mut Agent, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Store(write) => {
                    // The queue holds twice what the agent lets in, so this does not fail while the
                    // thread lives; if it is gone, the loop ends on its other channel.
                    if let Err(error) = self.writes.try_send(write) {
                        tracing::error!(%error, "a write was not taken by the store");
                        agent.write_lost();
                    }
                }
                Effect::Dial { name, generation, address } => {
                    self.hang_up(&name);
                    let (calls, incoming) = mpsc::channel(1);
                    let events = self.mapper_events.clone();
                    let run = mapper::run(name.clone(), generation, address, incoming, events);
                    let task = tokio::spawn(run);
                    self.mappers.insert(name, MapperTask { generation, calls, task });
                }
                Effect::HangUp(name) => self.hang_up(&name),
                Effect::Call(order) => {
                    if let Some(task) = self.mappers.get(&order.mapper)
                        && task.generation == order.generation
                        && task.calls.try_send(order.call).is_err()
                    {
                        // Its connection has just gone; the event is on its way and sets it right.
                        tracing::debug!(mapper = order.mapper, "call not taken");
                    }
                }
                Effect::CloseLink => self.link = None,
            }
        }
    }

    fn hang_up(&mut self, name: &str) {
        if let Some(old) = self.mappers.remove(name) {
            old.task.abort();
        }
    }

    /// Gives the socket what it takes. True if there may be more than it takes now.
    fn transmit(&mut self, agent: &mut Agent) -> bool {
        let Some(link) = &self.link else { return false };
        loop {
            match link.try_reserve() {
                Ok(room) => match agent.poll_transmit(now()) {
                    Some(frame) => room.send(frame),
                    None => return false,
                },
                Err(mpsc::error::TrySendError::Full(())) => return true,
                Err(mpsc::error::TrySendError::Closed(())) => return false,
            }
        }
    }
}

async fn until(timeout: Option<Instant>) {
    match timeout {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn room(link: Option<&mpsc::Sender<Transmit>>) {
    match link {
        // Closed counts: the event that says so is on its way.
        Some(link) => drop(link.reserve().await.ok()),
        None => std::future::pending().await,
    }
}

/// The time, read in this one place for the agent.
#[expect(clippy::disallowed_methods, reason = "the driver reads the clock for the agent")]
#[must_use]
pub fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now(), unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
}
