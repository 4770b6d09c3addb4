//! The devices and mappers of this node: who serves whom, what each mapper has accepted, and what it
//! is still owed. Pure.
//!
//! Level-triggered: for each mapper and object, what the mapper should have is compared with what it
//! has accepted, and the difference is a call. It stays owed until the mapper accepts it. A mapper
//! that registers says by that what it has: exactly what the answer holds.
//!
//! Binding: a device belongs to the mapper of its protocol that registered last. Calls to one mapper
//! go one at a time, in the order: removed devices, models, devices, removed models. A device waits
//! until its model is here and the mapper has accepted it.

mod mapper;
mod owed;
mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crds::{Device, DeviceModel, DeviceModelSpec, DeviceSpec};
use dmi_proto::v1beta1 as dmi;
use hub_proto::id::{DeviceId, ObjectKey, ObjectKind};

use crate::dmi::convert::{self, StateReporting};
use crate::store::{Has, MapperRow};
use mapper::Mapper;

pub use mapper::{CallOutcome, Health};

/// Mappers that may be known at once. A node has a handful; the bound is for whoever registers new
/// names in a loop.
pub const MAX_MAPPERS: usize = 64;

/// A call that a mapper is owed.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// `CreateDeviceModel`
    CreateModel(dmi::DeviceModel),
    /// `UpdateDeviceModel`
    UpdateModel(dmi::DeviceModel),
    /// `RemoveDeviceModel`
    RemoveModel(ObjectKey),
    /// `RegisterDevice`
    RegisterDevice(dmi::Device),
    /// `UpdateDevice`
    UpdateDevice(dmi::Device),
    /// `RemoveDevice`
    RemoveDevice(DeviceId),
}

/// A call and whom it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// The mapper's name.
    pub mapper: String,
    /// The registration it was made for; an outcome for an older one means nothing.
    pub generation: u64,
    /// What to call.
    pub call: Call,
    /// What is known until it is answered; to be recorded.
    pub meanwhile: Accepted,
}

/// What a registering mapper is told.
#[derive(Debug, Default)]
pub struct Answer {
    /// Models: those of the devices, and those of the protocol that no device uses yet.
    pub models: Vec<dmi::DeviceModel>,
    /// Devices, merged with their models.
    pub devices: Vec<dmi::Device>,
    /// What the mapper has by taking the answer.
    pub accepted: Vec<(ObjectKey, Has)>,
}

/// What is known about one device.
#[derive(Clone, Debug)]
pub struct HeldDevice {
    /// The device as the user wrote it.
    pub spec: DeviceSpec,
    /// The object's uid; another one under the same name is another device.
    pub uid: String,
    reporting: StateReporting,
    /// The version that a mapper should have; `None` while the device cannot be told to one.
    offer: Option<u64>,
    /// Why it cannot.
    problem: Option<String>,
}

#[derive(Clone, Debug)]
struct HeldModel {
    spec: DeviceModelSpec,
    version: u64,
    problem: Option<String>,
}

/// What a mapper has of an object now, to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The mapper's name.
    pub mapper: String,
    /// The object.
    pub key: ObjectKey,
    /// What it has of it; `None` if it does not have it.
    pub has: Option<Has>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Fleet {
    models: BTreeMap<ObjectKey, HeldModel>,
    devices: BTreeMap<DeviceId, HeldDevice>,
    /// Which devices refer to a model, whether it is here or not.
    users: BTreeMap<ObjectKey, BTreeSet<DeviceId>>,
    mappers: BTreeMap<String, Mapper>,
    generations: u64,
}

impl Fleet {
    // === objects ===

    /// Takes a device or model as JSON text. What does not read as one is held with its problem, so
    /// that it can be seen; it is told to no mapper.
    pub fn upsert(&mut self, key: &ObjectKey, uid: &str, body: &str) {
        match key.kind() {
            ObjectKind::DeviceModel => self.upsert_model(key, body),
            ObjectKind::Device => {
                if let Some(id) = key.device_id() {
                    self.upsert_device(key, &id, uid, body);
                }
            }
        }
    }

    fn upsert_model(&mut self, key: &ObjectKey, body: &str) {
        let (spec, problem) = match serde_json::from_str::<DeviceModel>(body) {
            Ok(model) => (model.spec, None),
            Err(error) => (DeviceModelSpec::default(), Some(format!("not a DeviceModel: {error}"))),
        };
        let version = version::of_model(&convert::model(key, &spec));
        self.models.insert(key.clone(), HeldModel { spec, version, problem });
        self.model_changed(key);
    }

    fn upsert_device(&mut self, key: &ObjectKey, id: &DeviceId, uid: &str, body: &str) {
        self.forget_user(id);
        let mut held = match serde_json::from_str::<Device>(body) {
            Ok(device) => HeldDevice {
                reporting: reporting(&device),
                spec: device.spec,
                uid: uid.to_owned(),
                offer: None,
                problem: None,
            },
            Err(error) => HeldDevice {
                spec: DeviceSpec::default(),
                uid: uid.to_owned(),
                reporting: StateReporting::default(),
                offer: None,
                problem: Some(format!("not a Device: {error}")),
            },
        };
        if let Some(model) = model_key(id, &held.spec) {
            self.users.entry(model).or_default().insert(id.clone());
        }
        if held.problem.is_none() {
            self.make_offer(id, &mut held);
        }
        self.devices.insert(id.clone(), held);
        self.mark_everywhere(key);
        self.mark_model_of(id);
    }

    /// Drops an object.
    pub fn remove(&mut self, key: &ObjectKey) {
        match key.device_id() {
            Some(id) => {
                let model = self.devices.get(&id).and_then(|held| model_key(&id, &held.spec));
                self.forget_user(&id);
                self.devices.remove(&id);
                self.mark_everywhere(key);
                if let Some(model) = model {
                    self.mark_everywhere(&model);
                }
            }
            None => {
                self.models.remove(key);
                self.model_changed(key);
            }
        }
    }

    /// The device, if this node holds it.
    #[must_use]
    pub fn device(&self, id: &DeviceId) -> Option<&HeldDevice> {
        self.devices.get(id)
    }

    /// All devices.
    pub fn devices(&self) -> impl Iterator<Item = (&DeviceId, &HeldDevice)> {
        self.devices.iter()
    }

    /// The device's model, if this node holds it.
    #[must_use]
    pub fn model_of(&self, id: &DeviceId) -> Option<&DeviceModelSpec> {
        let held = self.devices.get(id)?;
        Some(&self.models.get(&model_key(id, &held.spec)?)?.spec)
    }

    /// How many models and devices are held.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.models.len(), self.devices.len())
    }

    fn model_changed(&mut self, key: &ObjectKey) {
        let users: Vec<DeviceId> = self.users.get(key).into_iter().flatten().cloned().collect();
        self.mark_everywhere(key);
        for id in users {
            if let Some(mut held) = self.devices.remove(&id) {
                if held.offer.is_some() || !held.is_malformed() {
                    self.make_offer(&id, &mut held);
                }
                self.devices.insert(id.clone(), held);
            }
            self.mark_everywhere(&id.object_key());
        }
    }

    /// Works out what a mapper should have of a device, or why it can have nothing.
    fn make_offer(&self, id: &DeviceId, held: &mut HeldDevice) {
        held.offer = None;
        held.problem = None;
        match self.told(id, held) {
            Ok((device, model)) => held.offer = Some(version::of_device(&device, model)),
            Err(problem) => held.problem = Some(problem),
        }
    }

    /// The device as a mapper gets it, and the version of its model.
    fn told(&self, id: &DeviceId, held: &HeldDevice) -> Result<(dmi::Device, u64), String> {
        if held.spec.protocol_name().is_none() {
            return Err(
                "spec.protocol.protocolName is missing, so no mapper serves the device".into()
            );
        }
        let key = model_key(id, &held.spec).ok_or("spec.deviceModelRef is missing")?;
        let model = self.models.get(&key).ok_or_else(|| format!("{key} is not here yet"))?;
        if let Some(problem) = &model.problem {
            return Err(format!("{key}: {problem}"));
        }
        // A property that the model lacks crashes released Go mappers, for good.
        if let Some(stray) = held
            .spec
            .properties
            .iter()
            .find(|property| model.spec.property(&property.name).is_none())
        {
            return Err(format!("property {:?} is not in {key}", stray.name));
        }
        let merged = crds::merge::merge(&held.spec, &model.spec);
        let told =
            convert::device(id, &merged, held.reporting).map_err(|error| error.to_string())?;
        Ok((told, model.version))
    }

    fn forget_user(&mut self, id: &DeviceId) {
        let Some(key) = self.devices.get(id).and_then(|held| model_key(id, &held.spec)) else {
            return;
        };
        if let Some(users) = self.users.get_mut(&key) {
            users.remove(id);
            if users.is_empty() {
                self.users.remove(&key);
            }
        }
        self.mark_everywhere(&key);
    }

    fn mark_model_of(&mut self, id: &DeviceId) {
        if let Some(key) = self.devices.get(id).and_then(|held| model_key(id, &held.spec)) {
            self.mark_everywhere(&key);
        }
    }

    // === mappers ===

    /// A mapper that was known before a restart, with what it had accepted.
    pub fn restore(
        &mut self,
        row: MapperRow,
        accepted: Vec<(ObjectKey, Has)>,
        now: Instant,
    ) -> u64 {
        self.generations += 1;
        let generation = self.generations;
        let mapper = Mapper::new(row, generation, accepted.into_iter().collect(), now);
        self.add(mapper);
        generation
    }

    /// A mapper registers. Returns what it is told and the generation of this registration. Without
    /// `with_data` it is told nothing now, and everything by calls.
    ///
    /// # Errors
    /// Too many mappers.
    pub fn register(
        &mut self,
        row: MapperRow,
        with_data: bool,
        now: Instant,
    ) -> Result<(Answer, u64), TooManyMappers> {
        if self.mappers.len() >= MAX_MAPPERS && !self.mappers.contains_key(&row.name) {
            return Err(TooManyMappers);
        }
        self.generations += 1;
        let generation = self.generations;
        let name = row.name.clone();
        self.add(Mapper::new(row, generation, BTreeMap::new(), now));
        let answer = if with_data { self.answer(&name) } else { Answer::default() };
        if let Some(mapper) = self.mappers.get_mut(&name) {
            mapper.accepted = answer.accepted.iter().cloned().collect();
            // A call must not overtake the answer on its way into the mapper.
            mapper.hold(now);
        }
        self.mark_all_for(&name);
        Ok((answer, generation))
    }

    fn add(&mut self, mapper: Mapper) {
        let name = mapper.row.name.clone();
        let protocol = mapper.row.protocol.clone();
        let before = self.mappers.insert(name, mapper).map(|old| old.row.protocol);
        // Whoever served the protocols before may serve them no longer.
        let touched: Vec<String> = self
            .mappers
            .values()
            .filter(|mapper| {
                mapper.row.protocol == protocol || Some(&mapper.row.protocol) == before.as_ref()
            })
            .map(|mapper| mapper.row.name.clone())
            .collect();
        for name in touched {
            self.mark_all_for(&name);
        }
    }

    /// The mapper's connection is up.
    pub fn mapper_up(&mut self, name: &str, generation: u64) {
        if let Some(mapper) = self.current(name, generation) {
            mapper.up();
        }
    }

    /// The mapper's connection is gone; what was asked of it may or may not have happened.
    pub fn mapper_down(&mut self, name: &str, generation: u64, now: Instant) {
        let Some(mapper) = self.current(name, generation) else { return };
        if let Some(key) = mapper.down(now) {
            self.mark(name, &key);
        }
    }

    /// A call has ended. Returns what the mapper has now.
    pub fn done(
        &mut self,
        name: &str,
        generation: u64,
        outcome: &CallOutcome,
        now: Instant,
    ) -> Option<Accepted> {
        let mapper = self.current(name, generation)?;
        let (key, accepted) = mapper.done(outcome, now)?;
        let has = mapper.accepted.get(&key).copied();
        if accepted {
            self.mark(name, &key);
        }
        // Devices may have waited for it: it is there now, or its removal was refused.
        if key.kind() == ObjectKind::DeviceModel {
            let users: Vec<DeviceId> =
                self.users.get(&key).into_iter().flatten().cloned().collect();
            for id in users {
                self.mark(name, &id.object_key());
            }
        }
        Some(Accepted { mapper: name.to_owned(), key, has })
    }

    /// The next call that is due, of any mapper.
    pub fn poll_call(&mut self, now: Instant) -> Option<Order> {
        let names: Vec<String> = self
            .mappers
            .iter()
            .filter(|(_, mapper)| mapper.can_take_a_call(now))
            .map(|(name, _)| name.clone())
            .collect();
        names.into_iter().find_map(|name| self.next_call(&name, now))
    }

    /// When [`Fleet::poll_call`], [`Fleet::lost`] or [`Fleet::forgotten`] may have something new.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.mappers.values().filter_map(Mapper::next_time).min()
    }

    /// Mappers whose grace is over since the last call: the devices they serve.
    pub fn lost(&mut self, now: Instant) -> Vec<(String, Vec<DeviceId>)> {
        let names: Vec<String> = self
            .mappers
            .values_mut()
            .filter_map(|mapper| mapper.becomes_lost(now).then(|| mapper.row.name.clone()))
            .collect();
        names
            .into_iter()
            .map(|name| {
                let served = self.served(&name);
                (name, served)
            })
            .collect()
    }

    /// Mappers that another of the same protocol has replaced and that cannot be reached: there is
    /// nobody left to tell anything. They are dropped.
    pub fn forgotten(&mut self) -> Vec<String> {
        let names: Vec<String> = self
            .mappers
            .values()
            .filter(|mapper| mapper.health == Health::Lost && !self.owns(mapper))
            .map(|mapper| mapper.row.name.clone())
            .collect();
        for name in &names {
            self.mappers.remove(name);
        }
        names
    }

    /// What is known about the mappers, for the ops endpoint: row, health, accepted, owed.
    pub fn mappers(&self) -> impl Iterator<Item = (&MapperRow, Health, usize, usize)> {
        self.mappers.values().map(|mapper| {
            let owed = mapper.owed.len() + mapper.waiting.len() + usize::from(mapper.is_busy());
            (&mapper.row, mapper.health, mapper.accepted.len(), owed)
        })
    }

    /// Whether the mapper of this device has accepted what is wanted now, and which mapper it is.
    #[must_use]
    pub fn accepted_by(&self, id: &DeviceId) -> Option<&str> {
        let offer = self.devices.get(id)?.offer?;
        let key = id.object_key();
        let mut mappers = self.mappers.values();
        let mapper =
            mappers.find(|mapper| mapper.accepted.get(&key) == Some(&Has::Version(offer)))?;
        Some(&mapper.row.name)
    }

    fn served(&self, name: &str) -> Vec<DeviceId> {
        let Some(mapper) = self.mappers.get(name).filter(|mapper| self.owns(mapper)) else {
            return Vec::new();
        };
        let serves = |held: &HeldDevice| held.spec.protocol_name() == Some(&mapper.row.protocol);
        self.devices.iter().filter(|(_, held)| serves(held)).map(|(id, _)| id.clone()).collect()
    }
}

/// There are [`MAX_MAPPERS`] already.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node already knows {MAX_MAPPERS} mappers")]
pub struct TooManyMappers;

impl HeldDevice {
    /// Why the device cannot be told to a mapper, if it cannot.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn is_malformed(&self) -> bool {
        self.problem.as_deref().is_some_and(|problem| problem.starts_with("not a Device"))
    }
}

fn model_key(id: &DeviceId, spec: &DeviceSpec) -> Option<ObjectKey> {
    ObjectKey::new(ObjectKind::DeviceModel, id.namespace(), spec.model_name()?).ok()
}

/// `spec.stateReport` wins over the place that upstream used before 1.23.
fn reporting(device: &Device) -> StateReporting {
    match (&device.spec.state_report, &device.status) {
        (Some(report), _) => StateReporting {
            to_cloud: report.report_to_cloud,
            cycle_ms: report.report_cycle.unwrap_or_default(),
        },
        (None, Some(status)) => StateReporting {
            to_cloud: status.report_to_cloud,
            cycle_ms: status.report_cycle.unwrap_or_default(),
        },
        (None, None) => StateReporting::default(),
    }
}

#[cfg(test)]
mod tests;
