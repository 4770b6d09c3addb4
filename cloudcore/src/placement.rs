//! Pure index: which objects each node should hold, and what changes there with each event.
//!
//! # Rules
//! * A node holds the devices whose `spec.nodeName` names it, and the models they refer to.
//! * A device whose model is missing, that does not fit its model, or that cannot be read, is *parked*:
//!   still the node's, not sent. What the edge has of it stays there and keeps working; deleting a model
//!   or misspelling a property by accident stops nothing.
//! * Only what an edge can act on counts as a change. A new resourceVersion with the same content (a
//!   status write, managedFields) changes nothing and is not sent.
//! * An edited model is sent to the nodes that use it, alone: edges merge it into their devices.

mod document;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crds::{DeviceModelSpec, DeviceSpec, validate};
use hub_proto::cloud::{Desired, Snapshot};
use hub_proto::id::{DeviceId, NodeName, ObjectKey, ObjectKind, Revision};

pub use document::{BadObject, DeviceDoc, ModelDoc, ObjectDoc};

/// Problems of one device that are named; more would not fit a condition's message.
const NAMED: usize = 5;

/// Why a device is not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parked {
    /// `spec.deviceModelRef` is empty.
    NoModelReference,
    /// The model does not exist.
    ModelNotFound(ObjectKey),
    /// The object is not a Device we understand.
    Unreadable(String),
    /// The device by itself, or against its model, could only fail later.
    Invalid(String),
}

/// What changes on one node.
#[derive(Clone, Debug)]
pub enum Change {
    /// It should hold this.
    Upsert(Desired),
    /// It should not hold this any more.
    Remove(ObjectKey),
    /// The device is the node's, but is not to be sent now.
    Park(DeviceId),
}

/// Changes in the order in which they should be sent.
pub type Changes = Vec<(NodeName, Change)>;

/// The index. O(1) per device event, O(users) per model event.
#[derive(Debug, Default)]
pub struct Placement {
    models: HashMap<ObjectKey, Model>,
    devices: HashMap<DeviceId, Placed>,
    nodes: HashMap<NodeName, NodeIndex>,
    /// Devices by the model they refer to, whether it exists or not.
    users: HashMap<ObjectKey, BTreeSet<DeviceId>>,
}

#[derive(Debug)]
struct Model {
    object: ObjectDoc,
    /// What devices are checked against, or why nothing can be.
    spec: Result<DeviceModelSpec, String>,
}

#[derive(Debug)]
struct Placed {
    node: Option<NodeName>,
    /// The model it refers to.
    model: Option<ObjectKey>,
    unreadable: Option<String>,
    /// Why it does not fit, looked at whenever it or its model changes.
    invalid: Option<String>,
    object: ObjectDoc,
}

#[derive(Debug, Default)]
struct NodeIndex {
    devices: BTreeSet<DeviceId>,
    /// How many of its devices refer to the model.
    models: BTreeMap<ObjectKey, usize>,
}

impl Placement {
    /// A model was added or changed.
    pub fn apply_model(&mut self, key: &ObjectKey, model: ModelDoc) -> Changes {
        let known = self.models.get(key);
        if known.is_some_and(|known| known.object.same_content(&model.object)) {
            return Changes::new();
        }
        let appeared = known.is_none();
        self.models.insert(key.clone(), Model { object: model.object, spec: model.spec });

        let mut changes = Changes::new();
        let Some(users) = self.users.get(key).cloned() else { return changes };
        let mut told = BTreeSet::new();
        for id in &users {
            let refit = self.check_again(id);
            let Some(device) = self.devices.get(id) else { continue };
            let Some(node) = &device.node else { continue };
            if told.insert(node.clone())
                && let Some(change) = self.upsert_model(key)
            {
                changes.push((node.clone(), change));
            }
            if appeared || refit {
                changes.push((node.clone(), self.present(id, device)));
            }
        }
        changes
    }

    /// A model was deleted. Its devices are parked; no edge is told to drop it.
    pub fn delete_model(&mut self, key: &ObjectKey) -> Changes {
        if self.models.remove(key).is_none() {
            return Changes::new();
        }
        let users = self.users.get(key).into_iter().flatten();
        users
            .filter_map(|id| {
                let node = self.devices.get(id)?.node.clone()?;
                Some((node, Change::Park(id.clone())))
            })
            .collect()
    }

    /// A device was added or changed.
    pub fn apply_device(&mut self, id: &DeviceId, device: DeviceDoc) -> Changes {
        let invalid = self.check(&device.spec, device.model.as_ref());
        let mut next = Placed {
            node: device.node,
            model: device.model,
            unreadable: device.unreadable,
            invalid,
            object: device.object,
        };
        let Some(known) = self.devices.remove(id) else {
            let mut changes = self.link(id, &next);
            self.show(id, next, &mut changes);
            return changes;
        };
        if known.object.same_content(&next.object) {
            // Same content means same node, model and readability: keep the revision that was sent.
            self.devices.insert(id.clone(), known);
            return Changes::new();
        }
        if next.unreadable.is_some() {
            // It stays where it was until it can be read again.
            (next.node, next.model) = (known.node.clone(), known.model.clone());
        }
        let mut changes = Changes::new();
        if known.node != next.node {
            self.hide(id, &known, &mut changes);
            changes.extend(self.link(id, &next));
            self.show(id, next, &mut changes);
        } else if known.model != next.model {
            // The new model first, then the device, then the old model goes.
            changes.extend(self.link(id, &next));
            let gone = self.unlink_model(id, &known);
            self.show(id, next, &mut changes);
            changes.extend(gone);
        } else {
            self.show(id, next, &mut changes);
        }
        changes
    }

    /// A device was deleted.
    pub fn delete_device(&mut self, id: &DeviceId) -> Changes {
        let mut changes = Changes::new();
        if let Some(known) = self.devices.remove(id) {
            self.hide(id, &known, &mut changes);
        }
        changes
    }

    /// Everything the node should hold.
    #[must_use]
    pub fn snapshot(&self, node: &NodeName) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let Some(index) = self.nodes.get(node) else { return snapshot };
        for key in index.models.keys() {
            if let Some(model) = self.models.get(key) {
                snapshot.objects.push(model.object.desired(key.clone(), None));
            }
        }
        for id in &index.devices {
            let Some(device) = self.devices.get(id) else { continue };
            match self.present(id, device) {
                Change::Upsert(desired) => snapshot.objects.push(desired),
                Change::Park(id) => snapshot.parked.push(id),
                Change::Remove(_) => {}
            }
        }
        snapshot
    }

    /// Why the device is not delivered, if it is not.
    #[must_use]
    pub fn parked(&self, id: &DeviceId) -> Option<Parked> {
        self.devices.get(id).and_then(|device| self.why_parked(device))
    }

    /// The revision under which the device is sent.
    #[must_use]
    pub fn revision(&self, id: &DeviceId) -> Option<Revision> {
        self.devices.get(id).map(|device| device.object.revision)
    }

    /// How many models there are.
    #[must_use]
    pub fn models(&self) -> usize {
        self.models.len()
    }

    /// How many devices there are.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// Keys of a kind in one namespace, or in all.
    #[must_use]
    pub fn keys(&self, kind: ObjectKind, namespace: Option<&str>) -> Vec<ObjectKey> {
        let here = |key: &ObjectKey| namespace.is_none_or(|namespace| key.namespace() == namespace);
        match kind {
            ObjectKind::DeviceModel => {
                self.models.keys().filter(|key| here(key)).cloned().collect()
            }
            ObjectKind::Device => {
                self.devices.keys().map(DeviceId::object_key).filter(here).collect()
            }
        }
    }

    /// Numbers for metrics: models, devices, parked devices.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let parked = self.devices.values().filter(|d| self.why_parked(d).is_some()).count();
        (self.models.len(), self.devices.len(), parked)
    }

    fn why_parked(&self, device: &Placed) -> Option<Parked> {
        if let Some(reason) = &device.unreadable {
            return Some(Parked::Unreadable(reason.clone()));
        }
        match &device.model {
            None => Some(Parked::NoModelReference),
            Some(model) if !self.models.contains_key(model) => {
                Some(Parked::ModelNotFound(model.clone()))
            }
            Some(_) => device.invalid.clone().map(Parked::Invalid),
        }
    }

    /// Everything that is wrong with a device, against its model if that is there.
    fn check(&self, spec: &DeviceSpec, model: Option<&ObjectKey>) -> Option<String> {
        let model_spec = match model.and_then(|key| self.models.get(key)) {
            Some(Model { spec: Err(reason), .. }) => return Some(format!("its model: {reason}")),
            Some(Model { spec: Ok(spec), .. }) => Some(spec),
            None => None,
        };
        let of_model = model_spec.map(validate::model).unwrap_or_default();
        let of_device = validate::device(spec, model_spec);
        let wrong = |problem: &&validate::Problem| problem.severity == validate::Severity::Error;
        let problems: Vec<_> = of_model
            .iter()
            .filter(wrong)
            .map(|problem| format!("its model: {problem}"))
            .chain(of_device.iter().filter(wrong).map(ToString::to_string))
            .take(NAMED)
            .collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    /// Looks at a device anew after its model changed. Returns whether the answer is another.
    fn check_again(&mut self, id: &DeviceId) -> bool {
        let Some(device) = self.devices.get(id) else { return false };
        let Some(spec) = device.object.device_spec() else { return false };
        let invalid = self.check(&spec, device.model.as_ref());
        let Some(device) = self.devices.get_mut(id) else { return false };
        std::mem::replace(&mut device.invalid, invalid.clone()) != invalid
    }

    fn present(&self, id: &DeviceId, device: &Placed) -> Change {
        match self.why_parked(device) {
            Some(_) => Change::Park(id.clone()),
            None => Change::Upsert(device.object.desired(id.object_key(), device.model.clone())),
        }
    }

    fn upsert_model(&self, key: &ObjectKey) -> Option<Change> {
        let model = self.models.get(key)?;
        Some(Change::Upsert(model.object.desired(key.clone(), None)))
    }

    /// Enters a device into the indexes; the model goes to the node with its first user there.
    fn link(&mut self, id: &DeviceId, device: &Placed) -> Changes {
        if let Some(model) = &device.model {
            self.users.entry(model.clone()).or_default().insert(id.clone());
        }
        let Some(node) = &device.node else { return Changes::new() };
        let index = self.nodes.entry(node.clone()).or_default();
        index.devices.insert(id.clone());
        let Some(model) = &device.model else { return Changes::new() };
        let users = index.models.entry(model.clone()).or_default();
        *users += 1;
        if *users > 1 {
            return Changes::new();
        }
        self.upsert_model(model).map(|change| (node.clone(), change)).into_iter().collect()
    }

    fn show(&mut self, id: &DeviceId, device: Placed, changes: &mut Changes) {
        if let Some(node) = &device.node {
            changes.push((node.clone(), self.present(id, &device)));
        }
        self.devices.insert(id.clone(), device);
    }

    fn hide(&mut self, id: &DeviceId, known: &Placed, changes: &mut Changes) {
        if let Some(node) = &known.node {
            changes.push((node.clone(), Change::Remove(id.object_key())));
            if let Some(index) = self.nodes.get_mut(node) {
                index.devices.remove(id);
            }
        }
        changes.extend(self.unlink_model(id, known));
        if let Some(node) = &known.node
            && self.nodes.get(node).is_some_and(|index| index.devices.is_empty())
        {
            self.nodes.remove(node);
        }
    }

    /// Takes a device off its model's users; the last one on a node takes the model along.
    fn unlink_model(&mut self, id: &DeviceId, known: &Placed) -> Option<(NodeName, Change)> {
        let model = known.model.as_ref()?;
        if let Some(users) = self.users.get_mut(model) {
            users.remove(id);
            if users.is_empty() {
                self.users.remove(model);
            }
        }
        let node = known.node.as_ref()?;
        let index = self.nodes.get_mut(node)?;
        let users = index.models.get_mut(model)?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        index.models.remove(model);
        Some((node.clone(), Change::Remove(model.clone())))
    }
}

impl ObjectDoc {
    /// The specification of a Device, read from what is sent.
    fn device_spec(&self) -> Option<DeviceSpec> {
        #[derive(serde::Deserialize)]
        struct Document {
            #[serde(default)]
            spec: DeviceSpec,
        }
        serde_json::from_str::<Document>(self.object.get()).ok().map(|document| document.spec)
    }

    fn same_content(&self, other: &Self) -> bool {
        self.uid == other.uid && self.digest == other.digest
    }

    fn desired(&self, key: ObjectKey, model: Option<ObjectKey>) -> Desired {
        Desired {
            key,
            uid: Arc::clone(&self.uid),
            revision: self.revision,
            object: Arc::clone(&self.object),
            model,
        }
    }
}

#[cfg(test)]
mod tests;
