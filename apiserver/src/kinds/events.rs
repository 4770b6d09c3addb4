//! Events: one stored form (core/v1), two views.

use serde_json::{Map, Value, json};

/// core/v1 name, events.k8s.io/v1 name.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The stored object as events.k8s.io/v1 shows it.
pub fn to_events_v1(mut value: Value) -> Value {
    if let Some(event) = value.as_object_mut() {
        for (core, events) in RENAMED {
            rename(event, core, events);
        }
        // Not printed when empty, in this view.
        for name in ["reportingController", "reportingInstance"] {
            if event.get(name).is_some_and(|text| text == "") {
                event.remove(name);
            }
        }
        event.insert("apiVersion".into(), json!("events.k8s.io/v1"));
        event.insert("kind".into(), json!("Event"));
    }
    value
}

/// An events.k8s.io/v1 object in its stored form.
pub fn to_core_v1(mut value: Value) -> Value {
    if let Some(event) = value.as_object_mut() {
        for (core, events) in RENAMED {
            rename(event, events, core);
        }
        event.insert("apiVersion".into(), json!("v1"));
        event.insert("kind".into(), json!("Event"));
    }
    complete(&mut value);
    value
}

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.into(), value);
    }
}

/// The members that a real server always prints, empty or not. Works on the stored form.
pub fn complete(event: &mut Value) {
    let Some(event) = event.as_object_mut() else { return };
    let always = [
        ("involvedObject", json!({})),
        ("source", json!({})),
        ("firstTimestamp", Value::Null),
        ("lastTimestamp", Value::Null),
        ("eventTime", Value::Null),
        ("reportingComponent", json!("")),
        ("reportingInstance", json!("")),
    ];
    for (name, empty) in always {
        event.entry(name).or_insert(empty);
    }
}

/// When the event was last seen: what the TTL counts from.
pub fn last_seen(event: &Value) -> Option<jiff::Timestamp> {
    let time = |pointer: &str| event.pointer(pointer)?.as_str()?.parse().ok();
    let times =
        ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    times.into_iter().find_map(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_views_are_inverse() {
        let core = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"},
            "involvedObject": {"name": "d"}, "message": "m", "count": 2, "reason": "R",
            "source": {"component": "c"}, "reportingComponent": "r"});
        let events = to_events_v1(core.clone());
        assert_eq!(events["regarding"]["name"], "d");
        assert_eq!(events["deprecatedCount"], 2);
        assert_eq!(events["reportingController"], "r");
        let mut complete_core = core;
        complete(&mut complete_core);
        assert_eq!(to_core_v1(events), complete_core);
    }
}
