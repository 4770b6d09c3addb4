//! What each mapper should have, what it has, and so what it is owed. Pure.

use std::collections::BTreeSet;
use std::time::Instant;

use hub_proto::id::{DeviceId, ObjectKey};
use prost::Message;

use super::mapper::{Mapper, Step, Verb};
use super::{Accepted, Answer, Call, Fleet, Order, model_key};
use crate::dmi::convert;
use crate::store::Has;

/// A registration answer stays under this, for a Go mapper reads 4 MiB at most. What does not fit is
/// told by calls.
const ANSWER_BYTES: usize = 3 * 1024 * 1024;

/// What a mapper should have of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Not to have it.
    Nothing,
    /// To have this version.
    Version(u64),
    /// Whatever it has: the object is here but cannot be told now.
    AsItIs,
}

impl Fleet {
    /// What a mapper is told when it registers.
    pub(super) fn answer(&self, name: &str) -> Answer {
        let mut answer = Answer::default();
        let Some(mapper) = self.mappers.get(name) else { return answer };
        let mut bytes = 0;
        for (key, model) in &self.models {
            if self.wanted(mapper, key) != Wanted::Version(model.version) {
                continue;
            }
            let told = convert::model(key, &model.spec);
            bytes += told.encoded_len();
            if bytes > ANSWER_BYTES {
                return answer;
            }
            answer.models.push(told);
            answer.accepted.push((key.clone(), Has::Version(model.version)));
        }
        for (id, held) in &self.devices {
            let key = id.object_key();
            let Wanted::Version(version) = self.wanted(mapper, &key) else { continue };
            let Ok((told, _)) = self.told(id, held) else { continue };
            bytes += told.encoded_len();
            if bytes > ANSWER_BYTES {
                return answer;
            }
            answer.devices.push(told);
            answer.accepted.push((key, Has::Version(version)));
        }
        answer
    }

    pub(super) fn next_call(&mut self, name: &str, now: Instant) -> Option<Order> {
        loop {
            let mapper = self.mappers.get_mut(name)?;
            for key in mapper.waits_that_are_over(now) {
                self.mark(name, &key);
            }
            let mapper = self.mappers.get_mut(name)?;
            let (step, key) = mapper.owed.pop_first()?;
            let mapper = self.mappers.get(name)?;
            // Things may have changed since it was marked: look again.
            let Some((current, verb)) = self.step(mapper, &key) else { continue };
            if current != step {
                self.mark(name, &key);
                continue;
            }
            let Some(call) = self.call(verb, &key) else { continue };
            let mapper = self.mappers.get_mut(name)?;
            let has = Some(mapper.begin(key.clone(), verb));
            let (name, generation) = (name.to_owned(), mapper.generation);
            let meanwhile = Accepted { mapper: name.clone(), key, has };
            return Some(Order { mapper: name, generation, call, meanwhile });
        }
    }

    fn call(&self, verb: Verb, key: &ObjectKey) -> Option<Call> {
        let Some(id) = key.device_id() else {
            let told = || Some(convert::model(key, &self.models.get(key)?.spec));
            return Some(match verb {
                Verb::Offer(_) => Call::CreateModel(told()?),
                Verb::Update(_) => Call::UpdateModel(told()?),
                Verb::Remove => Call::RemoveModel(key.clone()),
            });
        };
        let told = || Some(self.told(&id, self.devices.get(&id)?).ok()?.0);
        Some(match verb {
            Verb::Offer(_) => Call::RegisterDevice(told()?),
            Verb::Update(_) => Call::UpdateDevice(told()?),
            Verb::Remove => Call::RemoveDevice(id),
        })
    }

    /// Whether the mapper serves its protocol: of those that speak it, the last to register does.
    pub(super) fn owns(&self, mapper: &Mapper) -> bool {
        let rank = |mapper: &Mapper| (mapper.row.registered_ms, mapper.generation);
        !self
            .mappers
            .values()
            .any(|other| other.row.protocol == mapper.row.protocol && rank(other) > rank(mapper))
    }

    pub(super) fn wanted(&self, mapper: &Mapper, key: &ObjectKey) -> Wanted {
        if !self.owns(mapper) {
            return Wanted::Nothing;
        }
        let protocol = mapper.row.protocol.as_str();
        match key.device_id() {
            Some(id) => match self.devices.get(&id) {
                Some(held) if held.is_malformed() => Wanted::AsItIs,
                Some(held) if held.spec.protocol_name() == Some(protocol) => {
                    held.offer.map_or(Wanted::AsItIs, Wanted::Version)
                }
                Some(_) | None => Wanted::Nothing,
            },
            None => {
                let users = || self.users.get(key).into_iter().flatten();
                let used = || {
                    let mut held = users().filter_map(|id| self.devices.get(id));
                    held.any(|held| held.spec.protocol_name() == Some(protocol))
                };
                match self.models.get(key) {
                    Some(model) if model.problem.is_some() => Wanted::AsItIs,
                    Some(model) if model.spec.protocol.as_deref() == Some(protocol) || used() => {
                        Wanted::Version(model.version)
                    }
                    Some(_) | None => Wanted::Nothing,
                }
            }
        }
    }

    /// What is to be done about one object at one mapper.
    pub(super) fn step(&self, mapper: &Mapper, key: &ObjectKey) -> Option<(Step, Verb)> {
        let has = mapper.accepted.get(key).copied();
        let device = key.device_id();
        let version = match self.wanted(mapper, key) {
            Wanted::AsItIs => return None,
            Wanted::Nothing => {
                let step = if device.is_some() { Step::RemoveDevice } else { Step::RemoveModel };
                return has.map(|_| (step, Verb::Remove));
            }
            Wanted::Version(version) => version,
        };
        let verb = match has {
            Some(Has::Version(current)) if current == version => return None,
            Some(Has::Version(_) | Has::Some) => Verb::Update(version),
            Some(Has::Maybe(_)) | None => Verb::Offer(version),
        };
        let Some(id) = device else { return Some((Step::Model, verb)) };
        let model = self.devices.get(&id).and_then(|held| model_key(&id, &held.spec))?;
        let model_version = self.models.get(&model)?.version;
        let ready = mapper.accepted.get(&model) == Some(&Has::Version(model_version));
        ready.then_some((Step::Device, verb))
    }

    pub(super) fn mark(&mut self, name: &str, key: &ObjectKey) {
        let Some(mapper) = self.mappers.get(name) else { return };
        let step = self.step(mapper, key).map(|(step, _)| step);
        if let Some(mapper) = self.mappers.get_mut(name) {
            mapper.owe(key, step);
        }
    }

    pub(super) fn mark_everywhere(&mut self, key: &ObjectKey) {
        let names: Vec<String> = self.mappers.keys().cloned().collect();
        for name in names {
            self.mark(&name, key);
        }
    }

    pub(super) fn mark_all_for(&mut self, name: &str) {
        let models = self.models.keys().cloned();
        let devices = self.devices.keys().map(DeviceId::object_key);
        let accepted = self.mappers.get(name).into_iter().flat_map(|m| m.accepted.keys().cloned());
        let keys: BTreeSet<ObjectKey> = models.chain(devices).chain(accepted).collect();
        for key in keys {
            self.mark(name, &key);
        }
    }

    pub(super) fn current(&mut self, name: &str, generation: u64) -> Option<&mut Mapper> {
        self.mappers.get_mut(name).filter(|mapper| mapper.generation == generation)
    }
}
