//! Everything the agent knows, as JSON for people and for `keadm`. Built on demand.

use serde_json::{Value, json};

use super::Agent;
use crate::fleet::HeldDevice;
use crate::twin::rfc3339;
use hub_proto::id::DeviceId;

impl Agent {
    pub(super) fn status(&self, with_devices: bool) -> Value {
        let (models, devices) = self.fleet.sizes();
        self.metrics.devices.set(i64::try_from(devices).unwrap_or(i64::MAX));
        self.metrics.models.set(i64::try_from(models).unwrap_or(i64::MAX));
        self.metrics.unconfirmed.set(i64::try_from(self.session.unconfirmed()).unwrap_or(i64::MAX));
        self.metrics.writes_waiting.set(i64::try_from(self.writes).unwrap_or(i64::MAX));
        let mappers: Vec<Value> = self
            .fleet
            .mappers()
            .map(|(row, health, accepted, owed)| {
                json!({
                    "name": row.name,
                    "protocol": row.protocol,
                    "version": row.version,
                    "apiVersion": row.api_version,
                    "address": row.address,
                    "registered": rfc3339(row.registered_ms),
                    "health": health.as_str(),
                    "accepted": accepted,
                    "owed": owed,
                })
            })
            .collect();
        let each: Vec<Value> = if with_devices {
            self.fleet.devices().map(|(id, held)| self.device(id, held)).collect()
        } else {
            Vec::new()
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "link": {
                "connected": self.link.connected,
                "alive": self.link.alive,
                "since": (self.link.since_ms > 0).then(|| rfc3339(self.link.since_ms)),
                "lastError": self.link.last_error,
                "connects": self.link.connects,
                "unconfirmed": self.session.unconfirmed(),
            },
            "store": {
                "models": models,
                "devices": devices,
                "writesWaiting": self.writes,
                "problem": self.store_problem,
            },
            "mappers": mappers,
            "devices": with_devices.then_some(each),
        })
    }

    fn device(&self, id: &DeviceId, held: &HeldDevice) -> Value {
        let state = self.twins.state_of(id);
        let properties: Vec<Value> = held
            .spec
            .properties
            .iter()
            .map(|property| {
                let twin = self.twins.get(id, &property.name);
                let reported = twin.and_then(|twin| twin.reported.as_ref());
                let observed = twin.and_then(|twin| twin.observed.as_ref());
                json!({
                    "name": property.name,
                    "desired": property.desired_value(),
                    "reported": reported.map(|sample| &sample.value),
                    "sampledMs": reported.map(|sample| sample.sampled_ms),
                    "observedDesired": observed.map(|sample| &sample.value),
                    "confirmed": twin.map(|twin| !twin.is_unconfirmed()),
                })
            })
            .collect();
        json!({
            "namespace": id.namespace(),
            "name": id.name(),
            "model": held.spec.model_name(),
            "protocol": held.spec.protocol_name(),
            "acceptedBy": self.fleet.accepted_by(id),
            "problem": held.problem(),
            "state": state.map(|state| &state.state),
            "lastOnline": state.and_then(|state| state.last_online_ms).and_then(rfc3339),
            "properties": properties,
        })
    }
}
