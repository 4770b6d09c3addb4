//! The only writer of device status: what nodes report and what cloudcore knows becomes
//! `DeviceStatus.status` and `Device.status`, coalesced, at a bounded rate.
//!
//! [`book::Book`] decides (pure); the task here performs: writes in a small pool, confirmations back
//! to the sessions, the clock.

pub mod action;
pub mod book;
pub mod conditions;
mod deadlines;
mod seen;
mod write;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hub_proto::id::{DeviceId, MessageId, NodeName, ObjectKey, Revision};
use hub_proto::message::{StateReport, TwinReport};
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::clock;
use crate::hub::nodes::SessionId;
use crate::ops::Metrics;
use crate::placement::Parked;
use crate::stop::Stop;

use action::Verdict;
use book::Book;
pub use seen::{DeviceSeen, ModelSeen, PropertySeen, StatusSeen};
use write::Writer;

/// Status writes at the same time. Enough to hide the API server's latency, few enough to be polite.
const WRITERS: usize = 8;

/// Everything status is told.
#[derive(Debug)]
pub enum StatusInput {
    /// The first lists are complete: from here on writing is safe.
    Listed,
    /// A model as it is.
    Model(ModelSeen),
    /// A model is gone.
    ModelGone(ObjectKey),
    /// A device as it is.
    Device(Box<DeviceSeen>),
    /// A device is gone.
    DeviceGone(DeviceId),
    /// Whether the device can be delivered has been looked at anew.
    Parked {
        /// Which device.
        device: DeviceId,
        /// Why it is not delivered, if it is not.
        parked: Option<Parked>,
    },
    /// A DeviceStatus as it stands in the API.
    Observed(Box<StatusSeen>),
    /// A DeviceStatus is gone from the API.
    ObservedGone(DeviceId),
    /// A session began.
    Connected {
        /// Whose.
        node: NodeName,
        /// Which.
        session: SessionId,
        /// Where confirmations of its reports go.
        confirm: mpsc::Sender<MessageId>,
    },
    /// A session ended.
    Disconnected {
        /// Whose.
        node: NodeName,
        /// Which.
        session: SessionId,
    },
    /// Values.
    Twin {
        /// Who says it.
        node: NodeName,
        /// In which session.
        session: SessionId,
        /// The report, to be confirmed.
        id: MessageId,
        /// What it says.
        report: TwinReport,
    },
    /// A state.
    State {
        /// Who says it.
        node: NodeName,
        /// In which session.
        session: SessionId,
        /// The report, to be confirmed.
        id: MessageId,
        /// What it says.
        report: StateReport,
    },
    /// The node has committed the device.
    Stored {
        /// Who says it.
        node: NodeName,
        /// Which device.
        device: DeviceId,
        /// Which revision.
        revision: Revision,
    },
    /// The node does not take the device.
    Refused {
        /// Who says it.
        node: NodeName,
        /// Which device.
        device: DeviceId,
        /// Why.
        reason: String,
    },
}

/// The task that owns the book.
pub struct Status {
    book: Book,
    inputs: mpsc::Receiver<StatusInput>,
    sessions: HashMap<NodeName, (SessionId, mpsc::Sender<MessageId>)>,
    writer: Arc<Writer>,
    metrics: Arc<Metrics>,
}

impl Status {
    /// Prepares the task. `lease` is how long a node without a session still counts as there.
    #[must_use]
    pub fn new(
        client: Client,
        interval: Duration,
        lease: Duration,
        inputs: mpsc::Receiver<StatusInput>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            book: Book::new(interval, lease),
            inputs,
            sessions: HashMap::new(),
            writer: Arc::new(Writer::new(client)),
            metrics,
        }
    }

    /// Runs until told to stop. What is due then is written by whoever starts next: edges send what
    /// was not confirmed again.
    pub async fn run(mut self, stop: Stop) {
        let mut writes = JoinSet::new();
        loop {
            let now = clock::now();
            while writes.len() < WRITERS
                && let Some(write) = self.book.next_write(now)
            {
                let writer = Arc::clone(&self.writer);
                writes.spawn(async move {
                    let outcome = writer.perform(&write).await;
                    (write, outcome)
                });
            }
            self.metrics.status_queue(self.book.owed());
            let wake = self.book.poll_timeout().filter(|_| writes.len() < WRITERS);
            tokio::select! {
                () = stop.wait() => break,
                Some(done) = writes.join_next() => match done {
                    Ok((write, outcome)) => {
                        self.metrics.status_written(write.target(), &outcome);
                        let confirms = self.book.written(&write, outcome, clock::now());
                        self.confirm(confirms);
                    }
                    Err(error) => tracing::error!(%error, "a status write ended abnormally"),
                },
                input = self.inputs.recv() => match input {
                    Some(input) => self.take(input),
                    None => break,
                },
                () = sleep_until(wake.unwrap_or(now.instant).into()), if wake.is_some() => {
                    self.book.handle_timeout(clock::now());
                }
            }
        }
        writes.shutdown().await;
    }

    fn take(&mut self, input: StatusInput) {
        let now = clock::now();
        match input {
            StatusInput::Listed => self.book.listed(now),
            StatusInput::Model(model) => self.book.model(model, now),
            StatusInput::ModelGone(key) => self.book.model_gone(&key, now),
            StatusInput::Device(device) => {
                let confirms = self.book.device(*device, now);
                self.confirm(confirms);
            }
            StatusInput::DeviceGone(id) => {
                let confirms = self.book.device_gone(&id, now);
                self.confirm(confirms);
            }
            StatusInput::Parked { device, parked } => self.book.parked(&device, parked, now),
            StatusInput::Observed(seen) => self.book.observed(*seen, now),
            StatusInput::ObservedGone(id) => self.book.observed_gone(&id, now),
            StatusInput::Connected { node, session, confirm } => {
                self.book.connected(&node, session, now);
                self.sessions.insert(node, (session, confirm));
            }
            StatusInput::Disconnected { node, session } => {
                if self.sessions.get(&node).is_some_and(|(current, _)| *current == session) {
                    self.sessions.remove(&node);
                    self.book.disconnected(&node, now);
                }
            }
            StatusInput::Twin { node, session: _, id, report } => {
                let verdict = self.book.twin(&node, &id, &report, now);
                self.judge(&node, id, &report.device, verdict);
            }
            StatusInput::State { node, session: _, id, report } => {
                let verdict = self.book.state(&node, &id, &report, now);
                self.judge(&node, id, &report.device, verdict);
            }
            StatusInput::Stored { node, device, revision } => {
                self.book.stored(&node, &device, revision, now);
            }
            StatusInput::Refused { node, device, reason } => {
                self.book.refused(&node, &device, reason, now);
            }
        }
    }

    fn judge(&self, node: &NodeName, id: MessageId, device: &DeviceId, verdict: Verdict) {
        match verdict {
            Verdict::Later => self.metrics.report("written"),
            Verdict::Unchanged => {
                self.metrics.report("unchanged");
                self.confirm(vec![(node.clone(), id)]);
            }
            Verdict::Refused(reason) => {
                // Confirmed all the same: sending it again would not make it better.
                self.metrics.report("refused");
                tracing::warn!(%node, %device, reason, "report refused");
                self.confirm(vec![(node.clone(), id)]);
            }
        }
    }

    fn confirm(&self, confirms: Vec<(NodeName, MessageId)>) {
        for (node, id) in confirms {
            // A session that is gone or behind: the edge sends the report again.
            if let Some((_, confirm)) = self.sessions.get(&node)
                && confirm.try_send(id).is_err()
            {
                self.metrics.lost_confirms.inc();
            }
        }
    }
}
