//! Which devices this mapper should run, and with what spec: pure, level-triggered. Every input
//! (a call from edgecore, a registration answer) becomes the difference to what already runs.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use dmi_proto::v1beta1 as dmi;

use crate::spec::{DeviceSpec, ObjectId};

/// What has to happen to the running devices.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Start(Arc<DeviceSpec>),
    Update(Arc<DeviceSpec>),
    Stop(ObjectId),
}

/// Why a call from edgecore is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FleetError {
    #[error("the request carries no {0}")]
    Missing(&'static str),
    #[error("the {0} has no name")]
    Nameless(&'static str),
    #[error("device {id} speaks protocol {theirs:?}, this mapper {ours:?}")]
    WrongProtocol { id: ObjectId, theirs: String, ours: String },
}

#[derive(Debug)]
pub(crate) struct Fleet {
    protocol: String,
    models: HashMap<ObjectId, dmi::DeviceModel>,
    devices: BTreeMap<ObjectId, dmi::Device>,
    /// The spec each running device was last given.
    running: HashMap<ObjectId, Arc<DeviceSpec>>,
    /// What calls changed since [`Fleet::begin_registration`]: newer than the answer that is under way.
    touched_devices: HashSet<ObjectId>,
    touched_models: HashSet<ObjectId>,
}

impl Fleet {
    pub(crate) fn new(protocol: String) -> Self {
        Self {
            protocol,
            models: HashMap::new(),
            devices: BTreeMap::new(),
            running: HashMap::new(),
            touched_devices: HashSet::new(),
            touched_models: HashSet::new(),
        }
    }

    /// A device that should run like this from now on, known before or not.
    pub(crate) fn put_device(&mut self, device: dmi::Device) -> Result<Vec<Change>, FleetError> {
        let id =
            ObjectId::new(&device.namespace, &device.name).ok_or(FleetError::Nameless("device"))?;
        self.touched_devices.insert(id.clone());
        let theirs = protocol_of(&device);
        if theirs != self.protocol {
            let theirs = theirs.to_owned();
            // Ours until now, somebody else's from here on: that is a removal.
            return match self.drop_device(&id) {
                Some(stop) => Ok(vec![stop]),
                None => Err(FleetError::WrongProtocol { id, theirs, ours: self.protocol.clone() }),
            };
        }
        self.devices.insert(id.clone(), device);
        Ok(self.settle(&id).into_iter().collect())
    }

    /// A device that should not run. Unknown devices are fine.
    pub(crate) fn remove_device(&mut self, id: &ObjectId) -> Vec<Change> {
        self.touched_devices.insert(id.clone());
        self.drop_device(id).into_iter().collect()
    }

    /// A model that is new or different. Devices that waited for it start.
    pub(crate) fn put_model(&mut self, model: dmi::DeviceModel) -> Result<Vec<Change>, FleetError> {
        let id =
            ObjectId::new(&model.namespace, &model.name).ok_or(FleetError::Nameless("model"))?;
        self.touched_models.insert(id.clone());
        self.models.insert(id.clone(), model);
        Ok(self.settle_where(|device, spec| {
            device.namespace() == id.namespace() && spec.device_model_reference == id.name()
        }))
    }

    /// Forgets a model. Devices that run on it go on with what they were given.
    pub(crate) fn remove_model(&mut self, id: &ObjectId) {
        self.touched_models.insert(id.clone());
        self.models.remove(id);
    }

    /// A registration is about to be sent: what calls say from here on is newer than its answer.
    pub(crate) fn begin_registration(&mut self) {
        self.touched_devices.clear();
        self.touched_models.clear();
    }

    /// Takes the answer to a registration as the whole truth, except for what calls said meanwhile.
    pub(crate) fn reconcile(
        &mut self,
        models: Vec<dmi::DeviceModel>,
        devices: Vec<dmi::Device>,
    ) -> Vec<Change> {
        let named =
            |model: dmi::DeviceModel| Some((ObjectId::new(&model.namespace, &model.name)?, model));
        let models: HashMap<_, _> = models.into_iter().filter_map(named).collect();
        let keep = &self.touched_models;
        self.models.retain(|id, _| keep.contains(id) || models.contains_key(id));
        for (id, model) in models {
            if !self.touched_models.contains(&id) {
                self.models.insert(id, model);
            }
        }
        let mut answered = HashSet::new();
        for device in devices {
            let Some(id) = ObjectId::new(&device.namespace, &device.name) else { continue };
            let theirs = protocol_of(&device);
            if theirs != self.protocol {
                tracing::warn!(%id, theirs, ours = self.protocol, "device speaks another protocol");
                continue;
            }
            answered.insert(id.clone());
            if !self.touched_devices.contains(&id) {
                self.devices.insert(id, device);
            }
        }
        let gone: Vec<_> = self
            .devices
            .keys()
            .filter(|id| !answered.contains(*id) && !self.touched_devices.contains(*id))
            .cloned()
            .collect();
        let mut changes: Vec<_> = gone.iter().filter_map(|id| self.drop_device(id)).collect();
        changes.extend(self.settle_where(|_, _| true));
        changes
    }

    /// The device as edgecore described it.
    pub(crate) fn device(&self, id: &ObjectId) -> Option<&dmi::Device> {
        self.devices.get(id)
    }

    /// The spec a device runs with; `None` for unknown ones and those that wait for their model.
    pub(crate) fn running(&self, id: &ObjectId) -> Option<&Arc<DeviceSpec>> {
        self.running.get(id)
    }

    fn drop_device(&mut self, id: &ObjectId) -> Option<Change> {
        self.devices.remove(id);
        self.running.remove(id).map(|_| Change::Stop(id.clone()))
    }

    fn settle_where(
        &mut self,
        wanted: impl Fn(&ObjectId, &dmi::DeviceSpec) -> bool,
    ) -> Vec<Change> {
        let nothing = dmi::DeviceSpec::default();
        let ids: Vec<_> = self
            .devices
            .iter()
            .filter(|(id, device)| wanted(id, device.spec.as_ref().unwrap_or(&nothing)))
            .map(|(id, _)| id.clone())
            .collect();
        ids.iter().filter_map(|id| self.settle(id)).collect()
    }

    /// Brings one device to what its description and model say.
    fn settle(&mut self, id: &ObjectId) -> Option<Change> {
        let device = self.devices.get(id)?;
        let reference = device.spec.as_ref().map_or("", |spec| &spec.device_model_reference);
        let model = ObjectId::new(id.namespace(), reference).and_then(|m| self.models.get(&m));
        let Some(model) = model else {
            if !self.running.contains_key(id) {
                tracing::info!(%id, model = reference, "device waits for its model");
            }
            return None;
        };
        let spec = DeviceSpec::resolve(id.clone(), device, model);
        match self.running.get(id) {
            Some(current) if **current == spec => None,
            known => {
                let spec = Arc::new(spec);
                let change = match known {
                    Some(_) => Change::Update(Arc::clone(&spec)),
                    None => Change::Start(Arc::clone(&spec)),
                };
                self.running.insert(id.clone(), spec);
                Some(change)
            }
        }
    }
}

fn protocol_of(device: &dmi::Device) -> &str {
    device
        .spec
        .as_ref()
        .and_then(|spec| spec.protocol.as_ref())
        .map_or("", |protocol| &protocol.protocol_name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{device, model};

    fn fleet() -> Fleet {
        Fleet::new("modbus".to_owned())
    }

    fn boiler_model() -> dmi::DeviceModel {
        model("boiler", &[("temp", "FLOAT", "ReadOnly", "", "")])
    }

    fn boiler(name: &str, port: u16) -> dmi::Device {
        device(name, "boiler", "modbus", &json!({ "port": port }))
    }

    fn id(name: &str) -> ObjectId {
        ObjectId::new("default", name).unwrap()
    }

    #[test]
    fn a_device_waits_for_its_model_and_starts_when_it_comes() {
        let mut fleet = fleet();
        assert_eq!(fleet.put_device(boiler("b1", 1)), Ok(vec![]));
        let changes = fleet.put_model(boiler_model()).unwrap();
        assert!(matches!(&changes[..], [Change::Start(spec)] if spec.id == id("b1")));
        assert_eq!(fleet.put_model(boiler_model()), Ok(vec![]));
    }

    #[test]
    fn registering_a_known_device_again_is_an_update_or_nothing() {
        let mut fleet = fleet();
        fleet.put_model(boiler_model()).unwrap();
        assert!(matches!(fleet.put_device(boiler("b1", 1)).unwrap()[..], [Change::Start(_)]));
        assert_eq!(fleet.put_device(boiler("b1", 1)), Ok(vec![]));
        assert!(matches!(fleet.put_device(boiler("b1", 2)).unwrap()[..], [Change::Update(_)]));
    }

    #[test]
    fn removing_twice_is_fine() {
        let mut fleet = fleet();
        fleet.put_model(boiler_model()).unwrap();
        fleet.put_device(boiler("b1", 1)).unwrap();
        assert_eq!(fleet.remove_device(&id("b1")), [Change::Stop(id("b1"))]);
        assert_eq!(fleet.remove_device(&id("b1")), []);
    }

    #[test]
    fn a_device_of_another_protocol_is_not_ours() {
        let mut fleet = fleet();
        let strange = device("x", "boiler", "opcua", &json!({}));
        assert!(matches!(fleet.put_device(strange), Err(FleetError::WrongProtocol { .. })));
        fleet.put_model(boiler_model()).unwrap();
        fleet.put_device(boiler("b1", 1)).unwrap();
        let moved = device("b1", "boiler", "opcua", &json!({}));
        assert_eq!(fleet.put_device(moved), Ok(vec![Change::Stop(id("b1"))]));
        assert!(matches!(
            fleet.put_device(dmi::Device::default()),
            Err(FleetError::Nameless("device"))
        ));
    }

    #[test]
    fn a_registration_answer_drops_starts_and_updates_by_difference() {
        let mut fleet = fleet();
        fleet.put_model(boiler_model()).unwrap();
        for name in ["stays", "changes", "goes"] {
            fleet.put_device(boiler(name, 1)).unwrap();
        }
        fleet.begin_registration();
        let duplicated_models = vec![boiler_model(), boiler_model()];
        let answer = vec![boiler("stays", 1), boiler("changes", 2), boiler("comes", 1)];
        let changes = fleet.reconcile(duplicated_models, answer);
        assert_eq!(changes.len(), 3, "{changes:?}");
        assert_eq!(changes[0], Change::Stop(id("goes")));
        assert!(changes.iter().any(|c| matches!(c, Change::Update(s) if s.id == id("changes"))));
        assert!(changes.iter().any(|c| matches!(c, Change::Start(s) if s.id == id("comes"))));
    }

    #[test]
    fn a_call_that_overtakes_the_registration_answer_wins() {
        let mut fleet = fleet();
        fleet.put_model(boiler_model()).unwrap();
        fleet.put_device(boiler("updated", 1)).unwrap();
        fleet.put_device(boiler("removed", 1)).unwrap();
        fleet.begin_registration();
        fleet.put_device(boiler("updated", 2)).unwrap();
        fleet.remove_device(&id("removed"));
        fleet.put_device(boiler("added", 1)).unwrap();
        let stale_answer = vec![boiler("updated", 1), boiler("removed", 1)];
        // "removed" stays away although the answer still lists it.
        assert_eq!(fleet.reconcile(vec![boiler_model()], stale_answer), []);
        let port = |fleet: &Fleet| fleet.running(&id("updated")).unwrap().protocol.clone();
        assert_eq!(port(&fleet), Ok(json!({"port": 2})));
        assert!(fleet.device(&id("removed")).is_none());
        assert!(fleet.device(&id("added")).is_some());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u16),
        Remove(u8),
        Model(u8),
        /// A registration whose answer lists these devices; calls may come before the answer.
        Register(Vec<(u8, u16)>, Vec<(u8, u16)>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let devices = || proptest::collection::vec((0_u8..4, 0_u16..3), 0..4);
        prop_oneof![
            (0_u8..4, 0_u16..3).prop_map(|(d, port)| Step::Put(d, port)),
            (0_u8..4).prop_map(Step::Remove),
            (0_u8..2).prop_map(Step::Model),
            (devices(), devices()).prop_map(|(answer, calls)| Step::Register(answer, calls)),
        ]
    }

    /// Device n is of model n % 2.
    fn nth(n: u8, port: u16) -> dmi::Device {
        let model = format!("m{}", n % 2);
        device(&format!("d{n}"), &model, "modbus", &json!({ "port": port }))
    }

    fn nth_model(n: u8) -> dmi::DeviceModel {
        model(&format!("m{n}"), &[("temp", "FLOAT", "ReadOnly", "", "")])
    }

    proptest! {
        /// Whoever performs the changes, and nothing else, runs exactly what is wanted: each device
        /// with its newest spec, as soon as its model is there.
        #[test]
        fn performing_the_changes_runs_what_is_wanted(steps in proptest::collection::vec(step(), 0..40)) {
            let mut fleet = fleet();
            let mut running: BTreeMap<ObjectId, Arc<DeviceSpec>> = BTreeMap::new();
            let mut wanted: BTreeMap<u8, u16> = BTreeMap::new();
            let mut models: HashSet<u8> = HashSet::new();
            for step in steps {
                let changes = match step {
                    Step::Put(n, port) => {
                        wanted.insert(n, port);
                        fleet.put_device(nth(n, port)).unwrap()
                    }
                    Step::Remove(n) => {
                        wanted.remove(&n);
                        fleet.remove_device(&id(&format!("d{n}")))
                    }
                    Step::Model(n) => {
                        models.insert(n);
                        fleet.put_model(nth_model(n)).unwrap()
                    }
                    Step::Register(answer, calls) => {
                        fleet.begin_registration();
                        let mut changes = Vec::new();
                        for (n, port) in &calls {
                            changes.extend(fleet.put_device(nth(*n, *port)).unwrap());
                        }
                        // The last mention counts, and a call more than the answer.
                        wanted = answer.iter().chain(&calls).copied().collect();
                        models = [0, 1].into();
                        let answer = answer.iter().map(|(n, port)| nth(*n, *port)).collect();
                        changes.extend(fleet.reconcile(vec![nth_model(0), nth_model(1)], answer));
                        changes
                    }
                };
                for change in changes {
                    match change {
                        Change::Start(spec) => {
                            prop_assert!(running.insert(spec.id.clone(), spec).is_none());
                        }
                        Change::Update(spec) => {
                            let old = running.insert(spec.id.clone(), Arc::clone(&spec));
                            prop_assert!(old.is_some_and(|old| old != spec));
                        }
                        Change::Stop(id) => prop_assert!(running.remove(&id).is_some()),
                    }
                }
                let expected: BTreeMap<ObjectId, u16> = wanted
                    .iter()
                    .filter(|(n, _)| models.contains(&(*n % 2)))
                    .map(|(n, port)| (id(&format!("d{n}")), *port))
                    .collect();
                let ports: BTreeMap<ObjectId, u16> = running
                    .iter()
                    .map(|(id, spec)| (id.clone(), spec.protocol.as_ref().unwrap()["port"].as_u64().unwrap().try_into().unwrap()))
                    .collect();
                prop_assert_eq!(ports, expected);
            }
        }
    }
}
