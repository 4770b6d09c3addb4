//! The schemas of the built-in kinds, from the published component schemas.
//!
//! `core-schemas.json` is the real server's OpenAPI v3 document cut to the kinds served here, without
//! descriptions. These schemas know structure and list types, no value checks: built-in kinds are
//! validated in code.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::{Additional, Kind, ListKind, Node, Schema};

/// The component schemas themselves, for publishing and explaining.
pub const CORE_SCHEMAS: &str = include_str!("core-schemas.json");

/// References are followed this deep; only the schema of schemas nests further.
const DEPTH_LIMIT: usize = 12;
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

static KINDS: LazyLock<Kinds> = LazyLock::new(Kinds::read);
static TEXT: LazyLock<Node> =
    LazyLock::new(|| Node { kind: Some(Kind::String), ..Node::default() });

struct Kinds {
    /// By group and kind; `None` as group key is not needed: core is "".
    by_kind: BTreeMap<(String, String), Schema>,
    object_meta: Node,
}

impl Kinds {
    fn read() -> Self {
        // The file is part of the program: a test reads every kind, so an unreadable one cannot ship.
        let all: Value = serde_json::from_str(CORE_SCHEMAS).unwrap_or_default();
        let mut by_kind = BTreeMap::new();
        for schema in all.as_object().into_iter().flatten().map(|(_, schema)| schema) {
            let names = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
            for name in names.into_iter().flatten() {
                let part = |key| name.get(key).and_then(Value::as_str).unwrap_or_default();
                let key = (part("group").to_owned(), part("kind").to_owned());
                by_kind.insert(key, Schema { root: node(&all, schema, 0) });
            }
        }
        let meta = all.get(META).cloned().unwrap_or_default();
        Self { by_kind, object_meta: node(&all, &meta, 0) }
    }
}

/// The schema of a built-in kind, by the group of its apiVersion (`""` for core).
#[must_use]
pub fn builtin(group: &str, kind: &str) -> Option<&'static Schema> {
    KINDS.by_kind.get(&(group.to_owned(), kind.to_owned()))
}

/// The type of `metadata`.
pub(crate) fn object_meta() -> &'static Node {
    &KINDS.object_meta
}

/// The type of apiVersion and kind.
pub(crate) fn text() -> &'static Node {
    &TEXT
}

fn node(all: &Value, schema: &Value, depth: usize) -> Node {
    let alone = schema.get("allOf").and_then(|a| a.get(0));
    if let Some(name) = schema.get("$ref").or_else(|| alone?.get("$ref")) {
        let name = name.as_str().unwrap_or_default();
        return referred(all, name.rsplit('/').next().unwrap_or_default(), depth);
    }
    let kind = match schema.get("type").and_then(Value::as_str) {
        Some("object") => Some(Kind::Object),
        Some("array") => Some(Kind::Array),
        Some("string") => Some(Kind::String),
        Some("integer") => Some(Kind::Integer),
        Some("number") => Some(Kind::Number),
        Some("boolean") => Some(Kind::Boolean),
        Some(_) | None => None,
    };
    let mut out = Node { kind, preserve: kind.is_none(), ..Node::default() };
    for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let mut part = node(all, child, depth + 1);
        let is_struct = part.kind == Some(Kind::Object) && !part.properties.is_empty();
        part.implied = is_struct && child.get("default").is_some_and(Value::is_object);
        out.properties.insert(name.clone(), part);
    }
    if let Some(items) = schema.get("items") {
        out.items = Some(Box::new(node(all, items, depth + 1)));
    }
    if let Some(values) = schema.get("additionalProperties") {
        out.additional = match values {
            Value::Object(_) => Additional::Of(Box::new(node(all, values, depth + 1))),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Additional::Any,
        };
    }
    out.list = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListKind::Set,
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let keys = keys.into_iter().flatten().filter_map(Value::as_str);
            ListKind::Map(keys.map(str::to_owned).collect())
        }
        Some(_) | None => ListKind::Atomic,
    };
    let map_type = schema.get("x-kubernetes-map-type").and_then(Value::as_str);
    out.atomic_map = map_type == Some("atomic");
    // Objects without any declared member are free-form (FieldsV1 and the like).
    let closed = !out.properties.is_empty() || !matches!(out.additional, Additional::None);
    out.preserve |= kind == Some(Kind::Object) && !closed;
    out
}

fn referred(all: &Value, name: &str, depth: usize) -> Node {
    if name.ends_with(".Quantity") || name.ends_with(".IntOrString") {
        return Node { int_or_string: true, ..Node::default() };
    }
    // Schemas inside CRDs are leaves of an atomic list: their inside never matters here.
    if depth > DEPTH_LIMIT || name.contains(".JSONSchemaProps") {
        return Node { preserve: true, ..Node::default() };
    }
    match all.get(name) {
        Some(schema) => node(all, schema, depth + 1),
        None => Node { preserve: true, ..Node::default() },
    }
}
