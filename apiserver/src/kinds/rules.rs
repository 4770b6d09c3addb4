//! What is special about each built-in kind: what the server fills in, and what it refuses.
//! Pure: (new, old) in, causes out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{BuiltIn, events};
use crate::status::Cause;

/// The part of an object that a request writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Main,
    Status,
    /// Only namespaces have it: `/finalize`.
    Finalize,
    /// The replica count, through `/scale`.
    Scale,
}

/// ConfigMap and Secret hold at most this many bytes of data (1 MiB).
const DATA_LIMIT: usize = 1 << 20;

/// What the decoder of a kind fills in, for the writer to own.
pub fn default(built_in: BuiltIn, new: &mut Value) {
    match built_in {
        BuiltIn::Namespace => label_namespace(new),
        BuiltIn::Secret => prepare_secret(new),
        BuiltIn::Node
        | BuiltIn::ConfigMap
        | BuiltIn::ServiceAccount
        | BuiltIn::Pod
        | BuiltIn::Event
        | BuiltIn::Lease
        | BuiltIn::EventsEvent
        | BuiltIn::CustomResourceDefinition
        | BuiltIn::Role
        | BuiltIn::RoleBinding
        | BuiltIn::ClusterRole
        | BuiltIn::ClusterRoleBinding => {}
    }
}

/// Every namespace can be selected by its name.
fn label_namespace(new: &mut Value) {
    let name = new.pointer("/metadata/name").cloned().unwrap_or(Value::Null);
    if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert("kubernetes.io/metadata.name".into(), name);
        }
    }
}

/// Fills in what the server owns. `old` is absent on creation.
pub fn prepare(built_in: BuiltIn, new: &mut Value, old: Option<&Value>, part: Part) {
    match built_in {
        BuiltIn::Namespace => prepare_namespace(new, old, part),
        BuiltIn::Node => prepare_node(new, old, part),
        BuiltIn::Event => events::complete(new),
        BuiltIn::CustomResourceDefinition => keep_parts(new, old, part),
        BuiltIn::EventsEvent
        | BuiltIn::Secret
        | BuiltIn::ConfigMap
        | BuiltIn::ServiceAccount
        | BuiltIn::Pod
        | BuiltIn::Lease
        | BuiltIn::Role
        | BuiltIn::RoleBinding
        | BuiltIn::ClusterRole
        | BuiltIn::ClusterRoleBinding => {}
    }
}

fn prepare_namespace(new: &mut Value, old: Option<&Value>, part: Part) {
    match (old, part) {
        (None, _) => {
            set(new, "spec", json!({"finalizers": ["kubernetes"]}));
            set(new, "status", json!({"phase": "Active"}));
        }
        (Some(old), Part::Main | Part::Scale) => {
            copy(new, old, "spec");
            copy(new, old, "status");
        }
        (Some(old), Part::Status) => copy(new, old, "spec"),
        (Some(old), Part::Finalize) => copy(new, old, "status"),
    }
    if new.pointer("/metadata/deletionTimestamp").is_some() {
        let status = new.as_object_mut().map(|map| map.entry("status").or_insert(json!({})));
        if let Some(status) = status {
            status["phase"] = json!("Terminating");
        }
    }
}

fn prepare_node(new: &mut Value, old: Option<&Value>, part: Part) {
    match (old, part) {
        (None, _) => {
            if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut)
                && !status.contains_key("allocatable")
                && let Some(capacity) = status.get("capacity").cloned()
            {
                status.insert("allocatable".into(), capacity);
            }
        }
        (Some(old), Part::Main | Part::Scale) => copy(new, old, "status"),
        // A kubelet may label its node through /status.
        (Some(old), Part::Status | Part::Finalize) => copy(new, old, "spec"),
    }
}

/// Main writes keep the old status, status writes keep everything else.
fn keep_parts(new: &mut Value, old: Option<&Value>, part: Part) {
    let Some(old) = old else { return };
    match part {
        Part::Main | Part::Scale => copy(new, old, "status"),
        Part::Status | Part::Finalize => copy(new, old, "spec"),
    }
}

fn prepare_secret(new: &mut Value) {
    let Some(secret) = new.as_object_mut() else { return };
    secret.entry("type").or_insert_with(|| json!("Opaque"));
    let Some(Value::Object(plain)) = secret.remove("stringData") else { return };
    let data = secret.entry("data").or_insert_with(|| json!({}));
    if let Some(data) = data.as_object_mut() {
        for (key, value) in plain {
            let text = value.as_str().unwrap_or_default();
            data.insert(key, Value::String(STANDARD.encode(text)));
        }
    }
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.into(), value);
    }
}

fn copy(new: &mut Value, old: &Value, key: &str) {
    if let Some(map) = new.as_object_mut() {
        match old.get(key) {
            Some(value) => map.insert(key.into(), value.clone()),
            None => map.remove(key),
        };
    }
}

/// What a body cannot even be decoded for (400 in the real server, whose types are stricter than
/// their schemas): times with the wrong precision, text that is not base64.
pub fn undecodable(built_in: BuiltIn, new: &Value) -> Option<String> {
    let micro: &[&str] = match built_in {
        BuiltIn::Lease => &["/spec/renewTime", "/spec/acquireTime"],
        BuiltIn::Event | BuiltIn::EventsEvent => &["/eventTime", "/series/lastObservedTime"],
        BuiltIn::Secret => return undecodable_data(new, "data"),
        BuiltIn::ConfigMap => return undecodable_data(new, "binaryData"),
        BuiltIn::Namespace
        | BuiltIn::Node
        | BuiltIn::ServiceAccount
        | BuiltIn::Pod
        | BuiltIn::CustomResourceDefinition
        | BuiltIn::Role
        | BuiltIn::RoleBinding
        | BuiltIn::ClusterRole
        | BuiltIn::ClusterRoleBinding => &[],
    };
    micro.iter().find_map(|pointer| bad_micro_time(new.pointer(pointer)?.as_str()?))
}

fn undecodable_data(new: &Value, field: &str) -> Option<String> {
    let data = new.get(field)?.as_object()?;
    data.values().filter_map(Value::as_str).find_map(|text| match STANDARD.decode(text) {
        Ok(_) => None,
        Err(
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _),
        ) => Some(format!("illegal base64 data at input byte {at}")),
        Err(base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding) => {
            Some(format!("illegal base64 data at input byte {}", text.len()))
        }
    })
}

/// MicroTime takes exactly six fractional digits.
fn bad_micro_time(text: &str) -> Option<String> {
    const LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";
    let complain = |rest: &str, expected: &str| {
        Some(format!("parsing time {text:?} as {LAYOUT:?}: cannot parse {rest:?} as {expected:?}"))
    };
    let Some((_, rest)) = text.split_at_checked(19) else {
        return complain(text, "2006");
    };
    let digits = rest.strip_prefix('.').map(|r| r.bytes().take_while(u8::is_ascii_digit).count());
    match digits {
        None | Some(0..=5) => complain(rest, ".000000"),
        Some(6) if text.parse::<jiff::Timestamp>().is_ok() => None,
        Some(6) => complain(text, "2006"),
        Some(_) => complain(&rest[7..], "Z07:00"),
    }
}

/// What the kind refuses. `old` is absent on creation.
pub fn validate(built_in: BuiltIn, new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    match built_in {
        BuiltIn::ConfigMap => validate_config_map(new, old, &mut causes),
        BuiltIn::Secret => validate_secret(new, old, &mut causes),
        BuiltIn::Lease => validate_lease(new, &mut causes),
        BuiltIn::Node => validate_node(new, &mut causes),
        BuiltIn::Event => validate_event(new, &mut causes),
        BuiltIn::EventsEvent => validate_events_event(new, old, &mut causes),
        BuiltIn::RoleBinding | BuiltIn::ClusterRoleBinding => {
            validate_binding(new, old, &mut causes);
        }
        BuiltIn::Role | BuiltIn::ClusterRole => validate_role(new, &mut causes),
        BuiltIn::Namespace
        | BuiltIn::ServiceAccount
        | BuiltIn::Pod
        | BuiltIn::CustomResourceDefinition => {}
    }
    causes
}

fn validate_config_map(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let empty = Map::new();
    let data = new.get("data").and_then(Value::as_object).unwrap_or(&empty);
    let binary = new.get("binaryData").and_then(Value::as_object).unwrap_or(&empty);
    check_keys("data", data, causes);
    check_keys("binaryData", binary, causes);
    for key in data.keys().filter(|key| binary.contains_key(*key)) {
        let detail = "duplicate of key present in binaryData";
        causes.push(Cause::invalid(format!("data[{key}]"), &json!(key), detail));
    }
    let size: usize = [data, binary].into_iter().map(size).sum();
    if size > DATA_LIMIT {
        causes.push(Cause::too_long("", DATA_LIMIT));
    }
    check_immutable(new, old, &["data", "binaryData"], causes);
}

fn size(data: &Map<String, Value>) -> usize {
    data.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
}

fn check_keys(field: &str, data: &Map<String, Value>, causes: &mut Vec<Cause>) {
    let good = |key: &str| {
        !key.is_empty()
            && key.len() <= 253
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    for key in data.keys().filter(|key| !good(key)) {
        let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or \
                      '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for \
                      validation is '[-._a-zA-Z0-9]+')";
        causes.push(Cause::invalid(format!("{field}[{key}]"), &json!(key), detail));
    }
}

fn check_immutable(new: &Value, old: Option<&Value>, fields: &[&str], causes: &mut Vec<Cause>) {
    let Some(old) = old.filter(|old| old.get("immutable") == Some(&json!(true))) else { return };
    let detail = "field is immutable when `immutable` is set";
    if new.get("immutable") != Some(&json!(true)) {
        causes.push(Cause::forbidden("immutable", detail));
    }
    for field in fields.iter().filter(|field| new.get(**field) != old.get(**field)) {
        causes.push(Cause::forbidden(*field, detail));
    }
}

fn validate_secret(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let empty = Map::new();
    let data = new.get("data").and_then(Value::as_object).unwrap_or(&empty);
    check_keys("data", data, causes);
    if size(data) > DATA_LIMIT * 4 / 3 {
        causes.push(Cause::too_long("data", DATA_LIMIT));
    }
    let required: &[&str] = match new.get("type").and_then(Value::as_str).unwrap_or_default() {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in required.iter().filter(|key| !data.contains_key(**key)) {
        causes.push(Cause::required(format!("data[{key}]"), ""));
    }
    if let Some(old) = old
        && old.get("type") != new.get("type")
    {
        let value = new.get("type").unwrap_or(&Value::Null);
        causes.push(Cause::invalid("type", value, "field is immutable"));
    }
    check_immutable(new, old, &["data"], causes);
}

fn validate_lease(new: &Value, causes: &mut Vec<Cause>) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    if let Some(value) = spec.get("leaseDurationSeconds")
        && value.as_i64().is_some_and(|seconds| seconds <= 0)
    {
        causes.push(Cause::invalid("spec.leaseDurationSeconds", value, "must be greater than 0"));
    }
    if let Some(value) = spec.get("leaseTransitions")
        && value.as_i64().is_some_and(|count| count < 0)
    {
        let detail = "must be greater than or equal to 0";
        causes.push(Cause::invalid("spec.leaseTransitions", value, detail));
    }
}

fn validate_node(new: &Value, causes: &mut Vec<Cause>) {
    let taints = new.pointer("/spec/taints").and_then(Value::as_array);
    for (index, taint) in taints.into_iter().flatten().enumerate() {
        // The real server says metadata here, not spec.
        let path = format!("metadata.taints[{index}]");
        if taint.get("key").and_then(Value::as_str).unwrap_or_default().is_empty() {
            causes.push(Cause::required(format!("{path}.key"), ""));
        }
        let effect = taint.get("effect").and_then(Value::as_str).unwrap_or_default();
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if effect.is_empty() {
            causes.push(Cause::required(format!("{path}.effect"), ""));
        } else if !effects.contains(&effect) {
            causes.push(Cause::not_supported(format!("{path}.effect"), &json!(effect), &effects));
        }
    }
}

fn validate_event(new: &Value, causes: &mut Vec<Cause>) {
    let text = |pointer: &str| new.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let namespace = text("/metadata/namespace");
    let involved = text("/involvedObject/namespace");
    // Events about cluster-scoped objects live in `default`; an empty reference names no object.
    let cluster_scoped = involved.is_empty() && matches!(namespace, "default" | "kube-system" | "");
    let nothing = text("/involvedObject/kind").is_empty() && involved.is_empty();
    if involved != namespace && !cluster_scoped && !nothing {
        let detail = "does not match event.namespace";
        causes.push(Cause::invalid("involvedObject.namespace", &json!(involved), detail));
    }
}

fn validate_events_event(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let text = |name: &str| new.get(name).and_then(Value::as_str).unwrap_or_default();
    if let Some(old) = old {
        // Named as in the stored form: that is what the real server prints.
        let frozen = [
            ("note", "message"),
            ("regarding", "involvedObject"),
            ("reason", "reason"),
            ("type", "type"),
            ("action", "action"),
            ("eventTime", "eventTime"),
            ("related", "related"),
            ("reportingController", "reportingController"),
            ("reportingInstance", "reportingInstance"),
        ];
        for (name, field) in frozen.into_iter().filter(|(name, _)| new.get(name) != old.get(name)) {
            let value = new.get(name).unwrap_or(&Value::Null);
            causes.push(Cause::invalid(field, value, "field is immutable"));
        }
        return;
    }
    for name in ["eventTime", "reportingController", "reportingInstance", "action", "reason"] {
        if text(name).is_empty() {
            causes.push(Cause::required(name, ""));
        }
    }
    let kind = text("type");
    if !matches!(kind, "Normal" | "Warning") {
        causes.push(Cause::invalid("type", &json!(""), &format!("has invalid value: {kind}")));
    }
    let namespace = new.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    let regarding = new.pointer("/regarding/namespace").and_then(Value::as_str).unwrap_or_default();
    if regarding != namespace && !(regarding.is_empty() && namespace == "default") {
        let detail = "does not match event.namespace";
        causes.push(Cause::invalid("involvedObject.namespace", &json!(regarding), detail));
    }
}

fn validate_binding(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let role = new.get("roleRef").unwrap_or(&Value::Null);
    let part = |role: &Value, name: &str| {
        role.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    if let Some(old_role) = old.and_then(|old| old.get("roleRef"))
        && old_role != role
    {
        let shown = json!({"APIGroup": part(role, "apiGroup"), "Kind": part(role, "kind"),
                           "Name": part(role, "name")});
        causes.push(Cause::invalid("roleRef", &shown, "cannot change roleRef"));
    }
    if part(role, "name").is_empty() {
        causes.push(Cause::required("roleRef.name", ""));
    }
}

fn validate_role(new: &Value, causes: &mut Vec<Cause>) {
    let rules = new.get("rules").and_then(Value::as_array);
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        let empty = |name: &str| {
            rule.get(name).and_then(Value::as_array).is_none_or(|list| list.is_empty())
        };
        let path = format!("rules[{index}]");
        if empty("verbs") {
            let detail = "verbs must contain at least one value";
            causes.push(Cause::required(format!("{path}.verbs"), detail));
        }
        if !empty("nonResourceURLs") {
            continue;
        }
        if empty("apiGroups") {
            let detail = "resource rules must supply at least one api group";
            causes.push(Cause::required(format!("{path}.apiGroups"), detail));
        }
        if empty("resources") {
            let detail = "resource rules must supply at least one resource";
            causes.push(Cause::required(format!("{path}.resources"), detail));
        }
    }
}

#[cfg(test)]
mod tests;
