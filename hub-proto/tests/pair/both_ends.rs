//! Both sessions on one clock, with a wire in between that a test can cut, and two crash-prone drivers.
//!
//! What survives is explicit: [`Pair::api`] and [`Pair::status`] are Kubernetes, [`Pair::store`] and
//! [`Pair::outbox`] are the edge's disk. Everything else goes with a crash.
//!
//! A little over 500 lines: one world, whose parts all move each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hub_proto::Now;
use hub_proto::cloud::{self, CloudConfig, CloudSession, Desired, Snapshot};
use hub_proto::edge::Confirmed;
use hub_proto::edge::{EdgeEvent, EdgeOptions, EdgeSession, Transmit};
use hub_proto::id::{DeviceId, IdSource, MessageId, NodeName, ObjectKey, ObjectKind, Revision};
use hub_proto::message::{Change, ObjectChange, TwinReport, TwinValue, TwinValues};
use serde_json::value::RawValue;

/// One object in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub uid: u64,
    pub revision: u64,
    /// The model, for a device.
    pub model: Option<ObjectKey>,
}

/// One object on the edge's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub uid: String,
    pub revision: u64,
    pub model: Option<ObjectKey>,
}

/// One value on the edge's disk.
#[derive(Clone, Debug)]
pub struct Value {
    pub number: u64,
    pub confirmed: u64,
}

pub struct Pair {
    pub now: Now,
    seed: u64,
    next_revision: u64,
    // Kubernetes
    pub api: BTreeMap<ObjectKey, Object>,
    pub status: BTreeMap<(DeviceId, String), u64>,
    // the edge's disk
    pub store: BTreeMap<ObjectKey, Stored>,
    pub outbox: BTreeMap<(DeviceId, String), Value>,
    // volatile
    cloud: Option<CloudSession>,
    edge: EdgeSession,
    /// Models delivered on this connection: a device list must not take them for left over.
    fresh_models: BTreeSet<ObjectKey>,
    /// The device list of this connection has come.
    listed: bool,
    to_edge: VecDeque<String>,
    to_cloud: VecDeque<String>,
    cloud_events: VecDeque<cloud::Event>,
    edge_events: VecDeque<EdgeEvent>,
    pub connected: bool,
}

impl Pair {
    pub fn new(seed: u64) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "an arbitrary origin; only differences matter"
        )]
        let instant = Instant::now();
        let mut pair = Self {
            now: Now { instant, unix_ms: 1_700_000_000_000 },
            seed,
            next_revision: 1,
            api: BTreeMap::new(),
            status: BTreeMap::new(),
            store: BTreeMap::new(),
            outbox: BTreeMap::new(),
            cloud: None,
            edge: EdgeSession::new(options(0)),
            fresh_models: BTreeSet::new(),
            listed: false,
            to_edge: VecDeque::new(),
            to_cloud: VecDeque::new(),
            cloud_events: VecDeque::new(),
            edge_events: VecDeque::new(),
            connected: false,
        };
        pair.boot_edge();
        pair
    }

    // === the user ===

    /// Creates or changes an object.
    pub fn apply(&mut self, key: &ObjectKey, model: Option<ObjectKey>) {
        let revision = self.revision();
        let uid = self.api.get(key).map_or(revision, |object| object.uid);
        self.api.insert(key.clone(), Object { uid, revision, model });
        self.placement_changed(key);
    }

    /// Deletes an object.
    pub fn delete(&mut self, key: &ObjectKey) {
        self.revision();
        self.api.remove(key);
        self.placement_changed(key);
    }

    /// The device says something new. Written to disk, then told to the session.
    pub fn sample(&mut self, device: &DeviceId, property: &str) {
        if !self.store.contains_key(&device.object_key()) {
            return; // not this node's: no mapper would have it
        }
        let key = (device.clone(), property.to_owned());
        let value = self.outbox.entry(key).or_insert(Value { number: 0, confirmed: 0 });
        value.number += 1;
        let number = value.number;
        self.edge.report(device, property, values(number), number);
        self.flush();
    }

    // === the link ===

    pub fn connect(&mut self) {
        if self.connected {
            return;
        }
        self.connected = true;
        self.seed += 1;
        let node = NodeName::parse("edge-1").unwrap();
        let ids = IdSource::new(self.seed);
        let mut session = CloudSession::new(node, ids, CloudConfig::default(), self.now);
        session.set_desired(self.snapshot());
        self.cloud = Some(session);
        self.fresh_models.clear();
        self.listed = false;
        self.edge.connected(self.now);
        self.flush();
    }

    /// Everything under way is lost, as when the wire is cut at any byte.
    pub fn cut(&mut self) {
        self.connected = false;
        self.cloud = None;
        self.cloud_events.clear();
        self.to_edge.clear();
        self.to_cloud.clear();
        self.edge.disconnected();
        self.collect();
        // What the driver has not begun belongs to the connection: the cloud repeats it.
        self.edge_events.retain(|event| matches!(event, EdgeEvent::Confirmed(_)));
    }

    pub fn deliver_to_edge(&mut self) -> bool {
        let Some(message) = self.to_edge.pop_front() else { return false };
        self.edge.receive(message.as_bytes(), self.now);
        self.flush();
        true
    }

    /// Delivers a message of the edge, perhaps not the oldest: an upstream edge does not keep order.
    pub fn deliver_to_cloud(&mut self, skip: usize) -> bool {
        let index = skip.min(self.to_cloud.len().saturating_sub(1));
        let Some(message) = self.to_cloud.remove(index) else { return false };
        if let Some(cloud) = &mut self.cloud {
            cloud.receive(message.as_bytes(), self.now).unwrap();
        }
        self.flush();
        true
    }

    /// Delivers a message of the edge and leaves it on the wire to come again.
    pub fn duplicate_to_cloud(&mut self) {
        if let Some(message) = self.to_cloud.front().cloned() {
            if let Some(cloud) = &mut self.cloud {
                cloud.receive(message.as_bytes(), self.now).unwrap();
            }
            self.flush();
        }
    }

    pub fn pass_time(&mut self, by: Duration) {
        self.now.instant += by;
        self.now.unix_ms += u64::try_from(by.as_millis()).unwrap();
        if let Some(cloud) = &mut self.cloud {
            cloud.handle_timeout(self.now);
        }
        self.edge.handle_timeout(self.now);
        self.flush();
    }

    // === the drivers, one effect at a time, with a crash between any two ===

    /// The edge performs one effect. `crash` kills it after the effect and before the session hears of it.
    pub fn edge_acts(&mut self, crash: bool) -> bool {
        let Some(event) = self.edge_events.pop_front() else { return false };
        match event {
            EdgeEvent::Store { delivery, change } => {
                self.commit(change);
                if crash {
                    self.crash_edge();
                } else {
                    self.edge.stored(&delivery);
                }
            }
            EdgeEvent::Devices(devices) => {
                self.keep_only(&devices);
                if crash {
                    self.crash_edge();
                }
            }
            EdgeEvent::Confirmed(Confirmed::Values { device, marks }) => {
                if crash {
                    self.crash_edge();
                } else {
                    for (property, mark) in marks {
                        if let Some(value) = self.outbox.get_mut(&(device.clone(), property)) {
                            value.confirmed = value.confirmed.max(mark);
                        }
                    }
                }
            }
            EdgeEvent::Confirmed(Confirmed::State { .. }) | EdgeEvent::Alive => {}
            EdgeEvent::Skipped(reason) => panic!("the edge skipped a message of ours: {reason}"),
            EdgeEvent::Close(_) => self.cut(),
        }
        self.flush();
        true
    }

    /// The cloud performs one effect. `crash` kills it after the effect and before the session hears of it.
    pub fn cloud_acts(&mut self, crash: bool) -> bool {
        let Some(event) = self.cloud_events.pop_front() else { return false };
        match event {
            cloud::Event::Twin { id, report } => {
                self.write_status(&report);
                if crash {
                    self.cut();
                } else {
                    self.confirm(id);
                }
            }
            cloud::Event::State { id, .. } => self.confirm(id),
            cloud::Event::Stored { .. }
            | cloud::Event::Dropped(_)
            | cloud::Event::Refused { .. }
            | cloud::Event::Synced => {}
            cloud::Event::Unreadable(reason) => panic!("the cloud cannot read the edge: {reason}"),
            cloud::Event::Foreign(what) => panic!("the cloud does not know {what}"),
            cloud::Event::Close(_) => self.cut(),
        }
        self.flush();
        true
    }

    pub fn crash_edge(&mut self) {
        self.cut();
        self.boot_edge();
    }

    // === judgement ===

    /// Runs without faults until nothing moves any more.
    pub fn settle(&mut self) {
        // Longer than any pause of a sound session: repeats come after 5 and 10 seconds.
        const QUIET_ROUNDS: usize = 8;
        let mut quiet = 0;
        while quiet < QUIET_ROUNDS {
            self.connect();
            let mut moves = 0;
            while self.deliver_to_edge()
                || self.deliver_to_cloud(0)
                || self.edge_acts(false)
                || self.cloud_acts(false)
            {
                moves += 1;
                assert!(moves < 10_000, "the sessions never come to rest");
            }
            // A keepalive now and then is rest.
            quiet = if moves > 1 { 0 } else { quiet + 1 };
            self.pass_time(Duration::from_secs(2));
        }
    }

    /// What the edge should hold: every device whose model is there, and those models.
    pub fn expected(&self) -> BTreeMap<ObjectKey, Stored> {
        let snapshot = self.snapshot();
        snapshot
            .objects
            .into_iter()
            .map(|desired| {
                let stored = Stored {
                    uid: desired.uid.to_string(),
                    revision: desired.revision.0,
                    model: desired.model,
                };
                (desired.key, stored)
            })
            .collect()
    }

    /// Devices that cannot be delivered now; the edge may hold an older form of them.
    pub fn parked(&self) -> Vec<DeviceId> {
        self.snapshot().parked
    }

    pub fn owed(&self) -> usize {
        self.cloud.as_ref().map_or(0, CloudSession::owed)
    }

    // === inside ===

    fn revision(&mut self) -> u64 {
        self.next_revision += 1;
        self.next_revision
    }

    fn boot_edge(&mut self) {
        self.seed += 1;
        self.edge = EdgeSession::new(options(self.seed));
        self.edge_events.clear();
        for ((device, property), value) in &self.outbox {
            if value.confirmed < value.number {
                self.edge.report(device, property, values(value.number), value.number);
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (key, object) in &self.api {
            let Some(device) = key.device_id() else { continue };
            let Some(model_key) = &object.model else { continue };
            match self.api.get(model_key) {
                Some(model) => {
                    snapshot.objects.push(desired(key, object));
                    if !snapshot.objects.iter().any(|held| held.key == *model_key) {
                        snapshot.objects.push(desired(model_key, model));
                    }
                }
                None => snapshot.parked.push(device),
            }
        }
        snapshot
    }

    /// What a placement index would tell a live session about one change in Kubernetes.
    fn placement_changed(&mut self, changed: &ObjectKey) {
        let snapshot = self.snapshot();
        let Some(cloud) = &mut self.cloud else { return };
        let wanted: BTreeMap<_, _> =
            snapshot.objects.into_iter().map(|held| (held.key.clone(), held)).collect();
        let mut touched = vec![changed.clone()];
        touched.extend(
            self.api
                .iter()
                .filter(|(_, o)| o.model.as_ref() == Some(changed))
                .map(|(k, _)| k.clone()),
        );
        for kind in 0..2 {
            touched.push(model_key(kind)); // a device may have been the last user, or the first
        }
        // Models come before their devices and go after them.
        touched.sort_by_key(|key| (!wanted.contains_key(key), key.clone()));
        for key in touched {
            match wanted.get(&key) {
                Some(held) => cloud.upsert(held.clone()),
                None => match key.device_id() {
                    Some(device) if self.api.contains_key(&key) => cloud.park(device),
                    _ => cloud.remove(key),
                },
            }
        }
        self.flush();
    }

    fn commit(&mut self, change: ObjectChange) {
        let held = self.store.get(&change.key);
        match change.change {
            Change::Upsert { object, .. } => {
                let uid = change.uid.unwrap();
                let revision = change.revision.unwrap().0;
                if let Some(held) = held {
                    // The session's promise: never an older revision of the same object after a newer.
                    assert!(
                        held.uid != uid || held.revision <= revision,
                        "{} went back from {} to {revision}",
                        change.key,
                        held.revision
                    );
                }
                let model = model_of(&change.key, &object);
                if change.key.kind() == ObjectKind::DeviceModel {
                    self.fresh_models.insert(change.key.clone());
                }
                if let Some(model) = &model {
                    assert!(self.store.contains_key(model), "{} came before {model}", change.key);
                }
                self.store.insert(change.key, Stored { uid, revision, model });
            }
            Change::Delete => {
                self.store.remove(&change.key);
                if let Some(device) = change.key.device_id() {
                    self.forget(&device);
                }
            }
        }
        if self.listed {
            self.drop_leftover_models();
        }
    }

    fn keep_only(&mut self, devices: &[DeviceId]) {
        let listed: BTreeSet<_> = devices.iter().collect();
        let gone: Vec<_> = self
            .store
            .keys()
            .filter_map(ObjectKey::device_id)
            .filter(|device| !listed.contains(device))
            .collect();
        for device in gone {
            self.store.remove(&device.object_key());
            self.forget(&device);
        }
        self.listed = true;
        self.drop_leftover_models();
    }

    /// After the list: a model from an earlier connection that no device uses is nobody's.
    fn drop_leftover_models(&mut self) {
        let used: BTreeSet<_> = self.store.values().filter_map(|held| held.model.clone()).collect();
        self.store.retain(|key, _| {
            key.kind() == ObjectKind::Device
                || used.contains(key)
                || self.fresh_models.contains(key)
        });
    }

    fn forget(&mut self, device: &DeviceId) {
        self.edge.forget(device);
        self.outbox.retain(|(owner, _), _| owner != device);
    }

    fn write_status(&mut self, report: &TwinReport) {
        for (property, values) in &report.twins {
            let number: u64 = values.reported.as_ref().unwrap().value.parse().unwrap();
            let written = self.status.entry((report.device.clone(), property.clone())).or_default();
            // The writer keeps the newest sample; an older one is confirmed and dropped.
            *written = number.max(*written);
        }
    }

    fn confirm(&mut self, id: MessageId) {
        if let Some(cloud) = &mut self.cloud {
            cloud.report_done(id);
        }
    }

    fn flush(&mut self) {
        if let Some(cloud) = &mut self.cloud {
            while let Some(message) = cloud.poll_transmit(self.now) {
                self.to_edge.push_back(message);
            }
        }
        while let Some(transmit) = self.edge.poll_transmit(self.now) {
            match transmit {
                Transmit::Message(message) => self.to_cloud.push_back(message),
                Transmit::Ping => self.edge.heard(self.now), // the wire answers pings at once
            }
        }
        self.collect();
    }

    fn collect(&mut self) {
        if let Some(cloud) = &mut self.cloud {
            while let Some(event) = cloud.poll_event() {
                self.cloud_events.push_back(event);
            }
        }
        while let Some(event) = self.edge.poll_event() {
            self.edge_events.push_back(event);
        }
    }
}

pub fn model_key(number: usize) -> ObjectKey {
    ObjectKey::new(ObjectKind::DeviceModel, "ns", &format!("m{number}")).unwrap()
}

pub fn device_key(number: usize) -> ObjectKey {
    ObjectKey::new(ObjectKind::Device, "ns", &format!("d{number}")).unwrap()
}

fn options(seed: u64) -> EdgeOptions {
    EdgeOptions {
        node: NodeName::parse("edge-1").unwrap(),
        heartbeat: Duration::from_secs(15),
        seed: seed | 1 << 63,
    }
}

fn values(number: u64) -> TwinValues {
    let value = TwinValue { value: number.to_string(), sampled_ms: Some(number) };
    TwinValues { reported: Some(value), ..TwinValues::default() }
}

fn desired(key: &ObjectKey, object: &Object) -> Desired {
    let json = serde_json::json!({
        "metadata": {
            "name": key.name(), "namespace": key.namespace(),
            "uid": object.uid.to_string(), "resourceVersion": object.revision.to_string(),
        },
        "model": object.model.as_ref().map(ObjectKey::name),
    });
    let raw = serde_json::value::to_raw_value(&json).unwrap();
    Desired {
        key: key.clone(),
        uid: Arc::from(object.uid.to_string()),
        revision: Revision(object.revision),
        object: Arc::from(raw),
        model: object.model.clone(),
    }
}

fn model_of(key: &ObjectKey, object: &RawValue) -> Option<ObjectKey> {
    let json: serde_json::Value = serde_json::from_str(object.get()).unwrap();
    let name = json["model"].as_str()?;
    Some(ObjectKey::new(ObjectKind::DeviceModel, key.namespace(), name).unwrap())
}
