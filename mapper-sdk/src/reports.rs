//! What edgecore is owed: the latest value of every reported property and the latest state of every
//! device. A newer value replaces an older one that was not sent yet, so the size is bounded by the
//! number of properties, however long edgecore is away. Start at [`Outbox`].

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use dmi_proto::v1beta1 as dmi;
use tokio::sync::Notify;

use crate::{device::DeviceState, property::Sample, spec::ObjectId};

/// Twins in one call. Keeps a message below gRPC's usual 4 MiB even with long values.
const MAX_TWINS: usize = 1000;

/// One call to edgecore.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Report {
    State { id: ObjectId, state: DeviceState },
    Twins { id: ObjectId, twins: Vec<dmi::Twin> },
}

impl Report {
    pub(crate) const fn id(&self) -> &ObjectId {
        match self {
            Self::State { id, .. } | Self::Twins { id, .. } => id,
        }
    }
}

/// The pure part: what is known, what is owed, in which order.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    devices: HashMap<ObjectId, Slot>,
    /// Devices that are owed something, each at most once.
    queue: VecDeque<ObjectId>,
}

#[derive(Debug, Default)]
struct Slot {
    twins: BTreeMap<String, Owed<dmi::Twin>>,
    state: Option<Owed<DeviceState>>,
    queued: bool,
}

#[derive(Debug)]
struct Owed<T> {
    latest: T,
    unsent: bool,
}

impl Outbox {
    /// Starts keeping what a device reports. Reports of devices that are not open are dropped.
    pub(crate) fn open(&mut self, id: &ObjectId) {
        self.devices.entry(id.clone()).or_default();
    }

    /// Forgets a device and everything owed about it.
    pub(crate) fn close(&mut self, id: &ObjectId) {
        self.devices.remove(id);
        self.queue.retain(|queued| queued != id);
    }

    pub(crate) fn put_samples(&mut self, id: &ObjectId, samples: Vec<Sample>) {
        let Some(slot) = self.devices.get_mut(id) else { return };
        for sample in samples {
            let (property, latest) = (sample.property.clone(), twin(sample));
            slot.twins.insert(property, Owed { latest, unsent: true });
        }
        slot.enqueue(id, &mut self.queue);
    }

    pub(crate) fn put_state(&mut self, id: &ObjectId, state: DeviceState) {
        let Some(slot) = self.devices.get_mut(id) else { return };
        slot.state = Some(Owed { latest: state, unsent: true });
        slot.enqueue(id, &mut self.queue);
    }

    pub(crate) fn forget_property(&mut self, id: &ObjectId, property: &str) {
        if let Some(slot) = self.devices.get_mut(id) {
            slot.twins.remove(property);
        }
    }

    /// The next thing to send; it counts as sent unless it is given back with [`Outbox::put_back`].
    pub(crate) fn take(&mut self) -> Option<Report> {
        while let Some(id) = self.queue.pop_front() {
            let Some(slot) = self.devices.get_mut(&id) else { continue };
            slot.queued = false;
            if let Some(state) = slot.state.as_mut().filter(|state| state.unsent) {
                state.unsent = false;
                let report = Report::State { id: id.clone(), state: state.latest };
                if slot.twins.values().any(|owed| owed.unsent) {
                    slot.queued = true;
                    self.queue.push_front(id);
                }
                return Some(report);
            }
            let unsent = slot.twins.values_mut().filter(|owed| owed.unsent);
            let twins: Vec<_> = unsent
                .take(MAX_TWINS)
                .map(|owed| {
                    owed.unsent = false;
                    owed.latest.clone()
                })
                .collect();
            if twins.len() == MAX_TWINS {
                slot.enqueue(&id, &mut self.queue);
            }
            if !twins.is_empty() {
                return Some(Report::Twins { id, twins });
            }
        }
        None
    }

    /// A report that was not delivered is owed again, with the latest values by then.
    pub(crate) fn put_back(&mut self, report: &Report) {
        let Some(slot) = self.devices.get_mut(report.id()) else { return };
        match report {
            Report::State { .. } => {
                if let Some(state) = &mut slot.state {
                    state.unsent = true;
                }
            }
            Report::Twins { twins, .. } => {
                for twin in twins {
                    if let Some(owed) = slot.twins.get_mut(&twin.property_name) {
                        owed.unsent = true;
                    }
                }
            }
        }
        slot.enqueue(report.id(), &mut self.queue);
    }

    /// Everything is owed again: edgecore is a new one, or forgot us.
    pub(crate) fn owe_everything(&mut self) {
        for (id, slot) in &mut self.devices {
            slot.state.iter_mut().for_each(|state| state.unsent = true);
            slot.twins.values_mut().for_each(|twin| twin.unsent = true);
            slot.enqueue(id, &mut self.queue);
        }
    }

    /// The latest twins of a device, for a question that must not touch the hardware.
    pub(crate) fn latest(&self, id: &ObjectId) -> Vec<dmi::Twin> {
        self.devices
            .get(id)
            .map(|slot| slot.twins.values().map(|owed| owed.latest.clone()).collect())
            .unwrap_or_default()
    }
}

impl Slot {
    fn enqueue(&mut self, id: &ObjectId, queue: &mut VecDeque<ObjectId>) {
        if !std::mem::replace(&mut self.queued, true) {
            queue.push_back(id.clone());
        }
    }
}

/// The outbox shared by the device tasks, which fill it, and the link, which empties it.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    outbox: Mutex<Outbox>,
    wake: Notify,
}

impl Reports {
    /// Locks the outbox; never across an await. A panic elsewhere cannot leave it half changed in a
    /// way that matters, so poisoning is ignored.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Resolves after a [`Reports::wake`], also one from before the call.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}

fn twin(sample: Sample) -> dmi::Twin {
    let data_type = sample.value.data_type().name().to_owned();
    let metadata = |timestamp: u64| {
        std::collections::HashMap::from([
            ("timestamp".to_owned(), timestamp.to_string()),
            ("type".to_owned(), data_type.clone()),
        ])
    };
    // Upstream's edgecore crashes on a twin without either half, so both are always there.
    let observed_desired = sample.desired.map_or_else(dmi::TwinProperty::default, |desired| {
        let mut metadata = metadata(desired.since_ms);
        metadata.insert("state".to_owned(), desired.state.to_owned());
        metadata.extend(desired.reason.map(|reason| ("reason".to_owned(), reason)));
        dmi::TwinProperty { value: desired.text, metadata }
    });
    let reported =
        dmi::TwinProperty { value: sample.value.to_string(), metadata: metadata(sample.at_ms) };
    dmi::Twin {
        property_name: sample.property,
        observed_desired: Some(observed_desired),
        reported: Some(reported),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{property::ObservedDesired, value::Value};

    fn id(name: &str) -> ObjectId {
        ObjectId::new("default", name).unwrap()
    }

    fn sample(property: &str, value: i64) -> Sample {
        let at_ms = 1_700_000_000_000;
        Sample { property: property.into(), value: Value::Int(value), at_ms, desired: None }
    }

    fn values(report: Option<Report>) -> Vec<String> {
        let Some(Report::Twins { twins, .. }) = report else { panic!("not twins: {report:?}") };
        twins.into_iter().map(|twin| twin.reported.unwrap().value).collect()
    }

    #[test]
    fn a_newer_value_replaces_one_that_was_not_sent() {
        let mut outbox = Outbox::default();
        outbox.open(&id("a"));
        for value in 0..1000 {
            outbox.put_samples(&id("a"), vec![sample("temp", value)]);
        }
        assert_eq!(values(outbox.take()), ["999"]);
        assert_eq!(outbox.take(), None);
    }

    #[test]
    fn what_could_not_be_delivered_goes_again_with_the_latest_value() {
        let mut outbox = Outbox::default();
        outbox.open(&id("a"));
        outbox.put_samples(&id("a"), vec![sample("x", 1), sample("y", 1)]);
        let failed = outbox.take().unwrap();
        outbox.put_samples(&id("a"), vec![sample("x", 2)]);
        outbox.put_back(&failed);
        assert_eq!(values(outbox.take()), ["2", "1"]);
        assert_eq!(outbox.take(), None);
    }

    #[test]
    fn the_state_goes_first_and_everything_goes_again_to_a_new_edgecore() {
        let mut outbox = Outbox::default();
        outbox.open(&id("a"));
        outbox.put_samples(&id("a"), vec![sample("x", 1)]);
        outbox.put_state(&id("a"), DeviceState::Online);
        for _ in 0..2 {
            let state = Report::State { id: id("a"), state: DeviceState::Online };
            assert_eq!(outbox.take(), Some(state));
            assert_eq!(values(outbox.take()), ["1"]);
            assert_eq!(outbox.take(), None);
            outbox.owe_everything();
        }
    }

    #[test]
    fn a_device_that_is_gone_owes_nothing_and_takes_nothing() {
        let mut outbox = Outbox::default();
        outbox.open(&id("a"));
        outbox.put_samples(&id("a"), vec![sample("x", 1)]);
        let taken = outbox.take().unwrap();
        outbox.close(&id("a"));
        outbox.put_back(&taken);
        outbox.put_samples(&id("a"), vec![sample("x", 2)]);
        outbox.put_state(&id("a"), DeviceState::Offline);
        assert_eq!(outbox.take(), None);
        assert!(outbox.latest(&id("a")).is_empty());
    }

    #[test]
    fn a_wide_device_is_split_and_devices_take_turns() {
        let mut outbox = Outbox::default();
        outbox.open(&id("wide"));
        outbox.open(&id("small"));
        let samples = (0..1500).map(|n| sample(&format!("p{n:04}"), n)).collect();
        outbox.put_samples(&id("wide"), samples);
        outbox.put_samples(&id("small"), vec![sample("x", 1)]);
        assert_eq!(values(outbox.take()).len(), 1000);
        assert_eq!(values(outbox.take()), ["1"]);
        assert_eq!(values(outbox.take()).len(), 500);
        assert_eq!(outbox.take(), None);
    }

    #[test]
    fn a_twin_carries_sample_time_type_and_what_became_of_the_desired_value() {
        let desired = Some(ObservedDesired {
            text: "200".into(),
            state: "refused",
            reason: Some("200 is above the maximum 90".into()),
            since_ms: 5,
        });
        let twin = twin(Sample { desired, ..sample("temp", 7) });
        let reported = twin.reported.unwrap();
        assert_eq!(reported.value, "7");
        assert_eq!(reported.metadata["timestamp"], "1700000000000");
        assert_eq!(reported.metadata["type"], "int");
        let observed = twin.observed_desired.unwrap();
        assert_eq!(observed.value, "200");
        assert_eq!(observed.metadata["state"], "refused");
        assert_eq!(observed.metadata["reason"], "200 is above the maximum 90");
    }

    /// What may happen between a device and edgecore.
    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u8, i64),
        Deliver,
        Fail,
        NewEdge,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u8..3, 0_u8..3, any::<i64>()).prop_map(|(d, p, v)| Step::Put(d, p, v)),
            3 => Just(Step::Deliver),
            2 => Just(Step::Fail),
            1 => Just(Step::NewEdge),
        ]
    }

    proptest! {
        /// Promise P3: the latest value of every property arrives, and nothing older after it.
        #[test]
        fn the_latest_value_of_every_property_arrives_last(steps in proptest::collection::vec(step(), 0..200)) {
            let mut outbox = Outbox::default();
            let mut latest = HashMap::new();
            let mut arrived = HashMap::new();
            let mut deliver = |report: Option<Report>| {
                let Some(Report::Twins { id, twins }) = report else { return };
                for twin in twins {
                    let key = (id.name().to_owned(), twin.property_name);
                    arrived.insert(key, twin.reported.unwrap().value);
                }
            };
            for step in steps {
                match step {
                    Step::Put(device, property, value) => {
                        let (device, property) = (format!("d{device}"), format!("p{property}"));
                        outbox.open(&id(&device));
                        outbox.put_samples(&id(&device), vec![sample(&property, value)]);
                        latest.insert((device, property), value.to_string());
                    }
                    Step::Deliver => deliver(outbox.take()),
                    Step::Fail => {
                        if let Some(report) = outbox.take() {
                            outbox.put_back(&report);
                        }
                    }
                    Step::NewEdge => outbox.owe_everything(),
                }
            }
            while let Some(report) = outbox.take() {
                deliver(Some(report));
            }
            prop_assert_eq!(arrived, latest);
        }
    }
}
