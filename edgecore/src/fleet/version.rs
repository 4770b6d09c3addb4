//! A number for what a mapper is told, so that equal content is not told twice. Equal content gives
//! the same number in every run: it is kept on disk beside the mapper.

use dmi_proto::v1beta1 as dmi;
use prost::Message;

/// The version of a model.
pub(super) fn of_model(model: &dmi::DeviceModel) -> u64 {
    // No maps inside: the encoding is the same each time.
    hash(OFFSET, &model.encode_to_vec())
}

/// The version of a device: its own content, and that of its model, for a running device of a
/// released Go mapper takes up a changed model only with an `UpdateDevice`.
pub(super) fn of_device(device: &dmi::Device, model: u64) -> u64 {
    // Maps are encoded in any order, so their entries are hashed one by one and added up.
    let mut plain = device.clone();
    let mut entries = 0_u64;
    if let Some(spec) = &mut plain.spec {
        if let Some(config) = spec.protocol.as_mut().and_then(|p| p.config_data.as_mut()) {
            entries = entries.wrapping_add(take_map(0, &mut config.data));
        }
        for (place, property) in (1_u64..).zip(&mut spec.properties) {
            if let Some(config) = property.visitors.as_mut().and_then(|v| v.config_data.as_mut()) {
                entries = entries.wrapping_add(take_map(place * 8, &mut config.data));
            }
            // The metadata of a desired value is the user's note; only the value is an order.
            if let Some(desired) = &mut property.desired {
                desired.metadata.clear();
            }
            if let Some(push) = &mut property.push_method {
                if let Some(anomaly) = &mut push.anomaly_detection {
                    entries = entries.wrapping_add(take_map(place * 8 + 1, &mut anomaly.data));
                }
                let influx = push.db_method.as_mut().and_then(|db| db.influxdb2.as_mut());
                if let Some(data) = influx.and_then(|i| i.influxdb2_data_config.as_mut()) {
                    for (key, value) in data.tag.drain() {
                        let seed = hash(OFFSET ^ (place * 8 + 2), key.as_bytes());
                        entries = entries.wrapping_add(hash(seed ^ 0xff, value.as_bytes()));
                    }
                }
            }
        }
    }
    let own = hash(OFFSET, &plain.encode_to_vec());
    hash(hash(own, &entries.to_be_bytes()), &model.to_be_bytes())
}

fn take_map(place: u64, map: &mut std::collections::HashMap<String, prost_types::Any>) -> u64 {
    map.drain().fold(0, |sum, (key, any)| {
        let seed = hash(OFFSET ^ place, key.as_bytes());
        let kind = hash(seed ^ 0xff, any.type_url.as_bytes());
        sum.wrapping_add(hash(kind, &any.value))
    })
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a with a last mix. Guards against sending the same twice, not against an adversary.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let sum = bytes
        .iter()
        .fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mixed = (sum ^ (sum >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}
