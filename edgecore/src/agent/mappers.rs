//! The agent and its mappers: what they ask, what they say, and how calls to them end.

use hub_proto::Now;
use hub_proto::id::DeviceId;
use tonic::Status;

use super::{Agent, Effect};
use crate::dmi::mapper::{MapperChange, MapperEvent};
use crate::dmi::server::{DmiRequest, MapperInfo, ReportedTwin};
use crate::fleet::{Accepted, CallOutcome};
use crate::store::{MapperRow, Write};

impl Agent {
    pub(super) fn dmi(&mut self, request: DmiRequest, now: Now) {
        match request {
            DmiRequest::Register { mapper, with_data, reply } => {
                match self.register(mapper, with_data, now) {
                    Ok(answer) => self.registering.push_back((answer, reply)),
                    Err(status) => {
                        let _ = reply.send(Err(status));
                    }
                }
            }
            DmiRequest::Report { device, twins, reply } => {
                let answer = self.report(&device, twins, now);
                if answer.is_err() {
                    self.metrics.reports_refused.inc();
                }
                let _ = reply.send(answer);
            }
            DmiRequest::State { device, state, reply } => {
                let answer = if self.fleet.device(&device).is_some() {
                    self.metrics.reports_taken.inc();
                    let news = self.twins.state(&device, state, now.unix_ms);
                    self.tell(news);
                    Ok(())
                } else {
                    self.metrics.reports_refused.inc();
                    Err(not_here(&device))
                };
                let _ = reply.send(answer);
            }
        }
    }

    fn register(
        &mut self,
        mapper: MapperInfo,
        with_data: bool,
        now: Now,
    ) -> Result<dmi_proto::v1beta1::MapperRegisterResponse, Status> {
        let row = MapperRow {
            name: mapper.name,
            version: mapper.version,
            api_version: mapper.api_version,
            protocol: mapper.protocol,
            address: mapper.address,
            registered_ms: now.unix_ms,
        };
        let (answer, generation) = self
            .fleet
            .register(row.clone(), with_data, now.instant)
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        tracing::info!(
            mapper = row.name,
            protocol = row.protocol,
            address = row.address,
            devices = answer.devices.len(),
            "mapper registered"
        );
        self.dial(row.name.clone(), generation, row.address.clone());
        self.store(Write::Mapper(row, answer.accepted));
        Ok(dmi_proto::v1beta1::MapperRegisterResponse {
            model_list: answer.models,
            device_list: answer.devices,
        })
    }

    pub(super) fn dial(&mut self, name: String, generation: u64, address: String) {
        self.effects.push(if address.is_empty() {
            Effect::HangUp(name)
        } else {
            Effect::Dial { name, generation, address }
        });
    }

    /// Takes every value that fits; the error names those that do not.
    fn report(
        &mut self,
        device: &DeviceId,
        twins: Vec<ReportedTwin>,
        now: Now,
    ) -> Result<(), Status> {
        let Some(held) = self.fleet.device(device) else { return Err(not_here(device)) };
        let model = self.fleet.model_of(device);
        let mut refused = Vec::new();
        let mut news = Vec::new();
        for twin in twins {
            if held.spec.property(&twin.property).is_none() {
                let name: String = twin.property.chars().take(128).collect();
                refused.push(format!("property {name:?}: device {device} has no such property"));
                continue;
            }
            let samples = (
                twin.reported.map(|value| value.at(now.unix_ms)),
                twin.observed.map(|value| value.at(now.unix_ms)),
            );
            match self.twins.report(device, &twin.property, samples, model, now.unix_ms) {
                Ok(more) => {
                    self.metrics.reports_taken.inc();
                    news.extend(more);
                }
                Err(error) => refused.push(error.to_string()),
            }
        }
        self.tell(news);
        if refused.is_empty() {
            return Ok(());
        }
        tracing::debug!(%device, refused = refused.len(), first = refused[0], "values refused");
        refused.truncate(8);
        Err(Status::invalid_argument(refused.join("; ")))
    }

    pub(super) fn mapper(&mut self, event: MapperEvent, now: Now) {
        let MapperEvent { name, generation, what } = event;
        match what {
            MapperChange::Up => {
                tracing::info!(mapper = name, "mapper takes calls");
                self.fleet.mapper_up(&name, generation);
            }
            MapperChange::Down(reason) => {
                tracing::info!(mapper = name, reason, "connection to mapper is gone");
                self.fleet.mapper_down(&name, generation, now.instant);
            }
            MapperChange::Done(outcome) => {
                if let CallOutcome::Refused(reason) | CallOutcome::Unanswered(reason) = &outcome {
                    self.metrics.mapper_call_failures.inc();
                    tracing::warn!(
                        mapper = name,
                        reason,
                        "call to mapper failed; it is tried again"
                    );
                }
                let accepted = self.fleet.done(&name, generation, &outcome, now.instant);
                if let Some(Accepted { mapper, key, has }) = accepted {
                    self.store(Write::Accepted(mapper, key, has));
                }
            }
        }
    }
}

fn not_here(device: &DeviceId) -> Status {
    Status::not_found(format!("device {device} is not on this node"))
}
