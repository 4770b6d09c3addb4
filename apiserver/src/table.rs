//! Server-side printing: the columns of a kind and the cells of an object. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kinds::{BuiltIn, Kind, Origin};

/// How much of each object a table row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub fn parse(text: Option<&str>) -> Result<Self, String> {
        match text {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: \
                 {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            )),
        }
    }
}

/// `columnDefinitions` of a kind.
pub fn columns(kind: &Kind) -> Value {
    let definitions: Vec<Value> = match &kind.origin {
        Origin::BuiltIn(built_in) => built_in_columns(*built_in)
            .iter()
            .map(|(name, priority)| plain(name, *priority))
            .collect(),
        Origin::Custom(custom) => {
            let mut definitions = vec![plain("Name", 0)];
            for column in &custom.columns {
                definitions.push(json!({
                    "name": column.name, "type": column.kind, "format": column.format,
                    "description": column.description, "priority": column.priority,
                }));
            }
            if custom.columns.is_empty() {
                definitions.push(json!({
                    "name": "Age", "type": "date", "format": "", "priority": 0,
                    "description": "Time since the object was created.",
                }));
            }
            definitions
        }
    };
    Value::Array(definitions)
}

fn plain(name: &str, priority: i64) -> Value {
    let (kind, format) = match name {
        "Name" => ("string", "name"),
        "Data" | "Count" => ("integer", ""),
        _ => ("string", ""),
    };
    let description = match name {
        "Name" => "Unique within its namespace and kind.",
        "Age" => "Time since the object was created.",
        _ => "",
    };
    json!({"name": name, "type": kind, "format": format, "description": description,
           "priority": priority})
}

type Columns = &'static [(&'static str, i64)];

fn built_in_columns(kind: BuiltIn) -> Columns {
    match kind {
        BuiltIn::Namespace => &[("Name", 0), ("Status", 0), ("Age", 0)],
        BuiltIn::Node => &[
            ("Name", 0),
            ("Status", 0),
            ("Roles", 0),
            ("Age", 0),
            ("Version", 0),
            ("Internal-IP", 1),
            ("External-IP", 1),
            ("OS-Image", 1),
            ("Kernel-Version", 1),
            ("Container-Runtime", 1),
        ],
        BuiltIn::ConfigMap => &[("Name", 0), ("Data", 0), ("Age", 0)],
        BuiltIn::Secret => &[("Name", 0), ("Type", 0), ("Data", 0), ("Age", 0)],
        BuiltIn::ServiceAccount | BuiltIn::Pod => &[("Name", 0), ("Age", 0)],
        BuiltIn::Lease => &[("Name", 0), ("Holder", 0), ("Age", 0)],
        BuiltIn::Event | BuiltIn::EventsEvent => &[
            ("Last Seen", 0),
            ("Type", 0),
            ("Reason", 0),
            ("Object", 0),
            ("Subobject", 1),
            ("Source", 1),
            ("Message", 0),
            ("First Seen", 1),
            ("Count", 1),
            ("Name", 1),
        ],
        BuiltIn::CustomResourceDefinition | BuiltIn::Role | BuiltIn::ClusterRole => {
            &[("Name", 0), ("Created At", 0)]
        }
        BuiltIn::RoleBinding | BuiltIn::ClusterRoleBinding => &[
            ("Name", 0),
            ("Role", 0),
            ("Age", 0),
            ("Users", 1),
            ("Groups", 1),
            ("ServiceAccounts", 1),
        ],
    }
}

/// The cells of one object. Built-in events are read in their stored (core/v1) form.
pub fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    match &kind.origin {
        Origin::BuiltIn(built_in) => built_in_cells(*built_in, object, now),
        Origin::Custom(custom) => {
            let mut cells = vec![json!(text(object, "/metadata/name"))];
            for column in &custom.columns {
                let found = column.path.as_ref().map(|path| path.query(object));
                let value = found.and_then(|list| list.first());
                cells.push(value.map_or(Value::Null, |value| cell(&column.kind, value, now)));
            }
            if custom.columns.is_empty() {
                cells.push(age(object, "/metadata/creationTimestamp", now));
            }
            cells
        }
    }
}

fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match kind {
        "date" => match value.as_str() {
            Some(text) => json!(since(text, now).unwrap_or_else(|| "<invalid>".into())),
            None => Value::Null,
        },
        "integer" => match value.as_i64().or_else(|| value.as_f64().map(truncate)) {
            Some(number) => json!(number),
            None => Value::Null,
        },
        "number" if value.is_number() => value.clone(),
        "boolean" if value.is_boolean() => value.clone(),
        "string" => match value {
            Value::String(_) => value.clone(),
            Value::Null => Value::Null,
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                json!(value.to_string())
            }
        },
        _ => Value::Null,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an integer cell drops the fraction")]
fn truncate(number: f64) -> i64 {
    number as i64
}

fn built_in_cells(kind: BuiltIn, object: &Value, now: Timestamp) -> Vec<Value> {
    let name = json!(text(object, "/metadata/name"));
    let age = || age(object, "/metadata/creationTimestamp", now);
    let count =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_object).map_or(0, Map::len);
    match kind {
        BuiltIn::Namespace => vec![name, json!(text(object, "/status/phase")), age()],
        BuiltIn::Node => node_cells(object, &age()),
        BuiltIn::ConfigMap => vec![name, json!(count("/data") + count("/binaryData")), age()],
        BuiltIn::Secret => {
            vec![name, json!(text(object, "/type")), json!(count("/data")), age()]
        }
        BuiltIn::ServiceAccount | BuiltIn::Pod => vec![name, age()],
        BuiltIn::Lease => vec![name, json!(text(object, "/spec/holderIdentity")), age()],
        BuiltIn::Event | BuiltIn::EventsEvent => event_cells(object, now),
        BuiltIn::CustomResourceDefinition | BuiltIn::Role | BuiltIn::ClusterRole => {
            vec![name, json!(text(object, "/metadata/creationTimestamp"))]
        }
        BuiltIn::RoleBinding | BuiltIn::ClusterRoleBinding => {
            let role =
                format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
            let subjects = |kind: &str| json!(subjects(object, kind));
            let service_accounts = subjects("ServiceAccount");
            vec![name, json!(role), age(), subjects("User"), subjects("Group"), service_accounts]
        }
    }
}

fn subjects(object: &Value, kind: &str) -> String {
    let list = object.get("subjects").and_then(Value::as_array);
    let names = list.into_iter().flatten().filter(|s| text(s, "/kind") == kind).map(|subject| {
        let (namespace, name) = (text(subject, "/namespace"), text(subject, "/name"));
        if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
    });
    names.collect::<Vec<_>>().join(", ")
}

fn node_cells(node: &Value, age: &Value) -> Vec<Value> {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|c| text(c, "/type") == "Ready");
    let mut status = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node.pointer("/spec/unschedulable") == Some(&json!(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in labels.into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.push(role),
            _ if key == "kubernetes.io/role" => roles.extend(value.as_str()),
            _ => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let address = |kind: &str| {
        let found = addresses.into_iter().flatten().find(|a| text(a, "/type") == kind);
        or(found.map_or("", |address| text(address, "/address")), "<none>")
    };
    let node_info = |name: &str| or(text(node, &format!("/status/nodeInfo/{name}")), "<unknown>");
    let mut kernel = text(node, "/status/nodeInfo/kernelVersion").to_owned();
    let architecture = text(node, "/status/nodeInfo/architecture");
    if !kernel.is_empty() && !architecture.is_empty() {
        kernel = format!("{kernel} ({architecture})");
    }
    vec![
        json!(text(node, "/metadata/name")),
        json!(status),
        json!(if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }),
        age.clone(),
        json!(text(node, "/status/nodeInfo/kubeletVersion")),
        address("InternalIP"),
        address("ExternalIP"),
        node_info("osImage"),
        or(&kernel, "<unknown>"),
        node_info("containerRuntimeVersion"),
    ]
}

fn event_cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let seen = |pointers: &[&str]| {
        let time = pointers.iter().map(|p| text(event, p)).find(|time| !time.is_empty());
        time.and_then(|time| since(time, now)).unwrap_or_else(|| "<unknown>".into())
    };
    let first = seen(&["/firstTimestamp", "/eventTime"]);
    let last =
        seen(&["/series/lastObservedTime", "/lastTimestamp", "/firstTimestamp", "/eventTime"]);
    let number = |pointer: &str| event.pointer(pointer).and_then(Value::as_i64).filter(|n| *n > 0);
    let count = number("/series/count").or(number("/count")).unwrap_or(1);
    let kind = text(event, "/involvedObject/kind").to_ascii_lowercase();
    let name = text(event, "/involvedObject/name");
    let object = if name.is_empty() { kind } else { format!("{kind}/{name}") };
    let first_of = |a: &str, b: &str| {
        let value = text(event, a);
        if value.is_empty() { text(event, b).to_owned() } else { value.to_owned() }
    };
    let component = first_of("/source/component", "/reportingComponent");
    let instance = first_of("/source/host", "/reportingInstance");
    let source = if instance.is_empty() { component } else { format!("{component}, {instance}") };
    vec![
        json!(last),
        json!(text(event, "/type")),
        json!(text(event, "/reason")),
        json!(object),
        json!(text(event, "/involvedObject/fieldPath")),
        json!(source),
        json!(text(event, "/message").trim()),
        json!(first),
        json!(count),
        json!(text(event, "/metadata/name")),
    ]
}

fn or(value: &str, otherwise: &str) -> Value {
    json!(if value.is_empty() { otherwise } else { value })
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn age(object: &Value, pointer: &str, now: Timestamp) -> Value {
    json!(since(text(object, pointer), now).unwrap_or_else(|| "<unknown>".into()))
}

/// How long ago a time was, the way kubectl prints ages; `None` when it is no time.
pub fn since(time: &str, now: Timestamp) -> Option<String> {
    let time: Timestamp = time.parse().ok()?;
    Some(human(now.as_second() - time.as_second()))
}

/// A number of seconds in at most two units, as kubectl prints it.
pub fn human(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let two = |big: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match (seconds, minutes, hours, days) {
        (..120, ..) => format!("{seconds}s"),
        (_, ..10, ..) => two(minutes, 'm', seconds % 60, 's'),
        (_, ..180, ..) => format!("{minutes}m"),
        (_, _, ..8, _) => two(hours, 'h', minutes % 60, 'm'),
        (_, _, ..48, _) => format!("{hours}h"),
        (_, _, ..192, _) => two(days, 'd', hours % 24, 'h'),
        (_, _, _, ..730) => format!("{days}d"),
        (_, _, _, ..2920) => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// One row: the cells, and as much of the object as asked for. `shown` is the object in the
/// requested version, `stored` the form the cells are read from.
pub fn row(
    kind: &Kind,
    shown: &Value,
    stored: &Value,
    include: Include,
    version: &str,
    now: Timestamp,
) -> Value {
    let read = if kind.custom().is_some() { shown } else { stored };
    let object = match include {
        Include::None => Value::Null,
        Include::Metadata => metadata_only(shown, version),
        Include::Object => shown.clone(),
    };
    json!({"cells": cells(kind, read, now), "object": object})
}

/// A table around rows. `columns` is null in all but the first frame of a watch.
pub fn table(metadata: Value, columns: Value, rows: Vec<Value>, version: &str) -> Value {
    json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
           "columnDefinitions": columns, "rows": rows})
}

/// The PartialObjectMetadata of an object.
pub fn metadata_only(object: &Value, version: &str) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"),
           "metadata": metadata})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kinds;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (14_460, "4h1m"),
            (8 * 3600, "8h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (9 * 86_400, "9d"),
            (324 * 86_400, "324d"),
            (800 * 86_400, "2y70d"),
            (3000 * 86_400, "8y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn a_node_shows_readiness_and_roles() {
        let kinds = Kinds::new(Vec::new());
        let kind = kinds.get("", "v1", "nodes").unwrap();
        let node = json!({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/agent": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                       "nodeInfo": {"kubeletVersion": "v1"}}});
        let now = "2026-01-01T00:00:05Z".parse().unwrap();
        let cells = cells(kind, &node, now);
        assert_eq!(
            cells[..5],
            [
                json!("n"),
                json!("Ready,SchedulingDisabled"),
                json!("agent,edge"),
                json!("5s"),
                json!("v1")
            ]
        );
        assert_eq!(cells.len(), columns(kind).as_array().unwrap().len());
    }

    #[test]
    fn every_built_in_kind_has_as_many_cells_as_columns() {
        let kinds = Kinds::new(Vec::new());
        for kind in kinds.iter() {
            let cells = cells(kind, &json!({"metadata": {"name": "x"}}), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), columns(kind).as_array().unwrap().len(), "{}", kind.kind);
        }
    }
}
