//! Reading `metadata` as a typed ObjectMeta: unknown members go, wrong types are refused.

use serde_json::{Map, Value};

/// What [`decode`] refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaProblem(
    /// The text after `K in version "v" cannot be handled as a K: `.
    pub String,
);

#[derive(Clone, Copy)]
enum Shape {
    Text,
    Integer,
    Boolean,
    Time,
    TextMap,
    TextList,
    Owners,
    ManagedFields,
}

const MEMBERS: [(&str, Shape); 15] = [
    ("name", Shape::Text),
    ("generateName", Shape::Text),
    ("namespace", Shape::Text),
    ("selfLink", Shape::Text),
    ("uid", Shape::Text),
    ("resourceVersion", Shape::Text),
    ("generation", Shape::Integer),
    ("creationTimestamp", Shape::Time),
    ("deletionTimestamp", Shape::Time),
    ("deletionGracePeriodSeconds", Shape::Integer),
    ("labels", Shape::TextMap),
    ("annotations", Shape::TextMap),
    ("ownerReferences", Shape::Owners),
    ("finalizers", Shape::TextList),
    ("managedFields", Shape::ManagedFields),
];

const OWNER_MEMBERS: [(&str, Shape); 6] = [
    ("apiVersion", Shape::Text),
    ("kind", Shape::Text),
    ("name", Shape::Text),
    ("uid", Shape::Text),
    ("controller", Shape::Boolean),
    ("blockOwnerDeletion", Shape::Boolean),
];

/// Brings the `metadata` of an object (or of an embedded one) to what a typed ObjectMeta would
/// hold: unknown, null and empty members are dropped. Returns the dropped unknown paths, each
/// starting with `path` (such as `metadata`).
///
/// # Errors
/// A member of the wrong type, in the words of Go's JSON decoder.
pub fn decode(meta: &mut Value, path: &str) -> Result<Vec<String>, MetaProblem> {
    let Value::Object(map) = meta else {
        return Err(MetaProblem(format!(
            "json: cannot unmarshal {} into Go value of type v1.ObjectMeta",
            go_kind(meta)
        )));
    };
    let mut unknown = Vec::new();
    check_members(map, &MEMBERS, "ObjectMeta", path, &mut unknown)?;
    // An empty list or map says nothing in a typed ObjectMeta, except `managedFields: []`.
    map.retain(|key, value| key == "managedFields" || !is_empty(value));
    Ok(unknown)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Null => true,
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn check_members(
    map: &mut Map<String, Value>,
    members: &[(&str, Shape)],
    owner: &str,
    path: &str,
    unknown: &mut Vec<String>,
) -> Result<(), MetaProblem> {
    map.retain(|key, value| {
        let known = members.iter().any(|(name, _)| name == key);
        if !known {
            unknown.push(format!("{path}.{key}"));
        }
        known && !value.is_null()
    });
    for (key, shape) in members {
        if let Some(value) = map.get_mut(*key) {
            let field = format!("{owner}.{key}");
            check(value, *shape, &field, &format!("{path}.{key}"), unknown)?;
        }
    }
    Ok(())
}

fn check(
    value: &mut Value,
    shape: Shape,
    field: &str,
    path: &str,
    unknown: &mut Vec<String>,
) -> Result<(), MetaProblem> {
    match (shape, &mut *value) {
        (Shape::Text, Value::String(_)) | (Shape::Boolean, Value::Bool(_)) => Ok(()),
        (Shape::Text, _) => Err(mismatch(value, field, "string")),
        (Shape::Boolean, _) => Err(mismatch(value, field, "bool")),
        (Shape::Integer, Value::Number(n)) if n.is_i64() => Ok(()),
        (Shape::Integer, _) => Err(mismatch(value, field, "int64")),
        (Shape::Time, Value::String(text)) => {
            if crate::schema::is_date_time(text) {
                Ok(())
            } else {
                let text = crate::status::quote(text);
                let parse = "\"2006-01-02T15:04:05Z07:00\"";
                Err(MetaProblem(format!(
                    "parsing time {text} as {parse}: cannot parse {text} as \"2006\""
                )))
            }
        }
        (Shape::Time, _) => Err(mismatch(value, field, "string")),
        (Shape::TextMap, Value::Object(map)) => {
            for item in map.values_mut() {
                match item {
                    Value::String(_) => {}
                    Value::Null => *item = Value::String(String::new()),
                    Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                        return Err(mismatch(item, field, "string"));
                    }
                }
            }
            Ok(())
        }
        (Shape::TextMap, _) => Err(mismatch(value, field, "map[string]string")),
        (Shape::TextList, Value::Array(items)) => {
            match items.iter().find(|item| !item.is_string()) {
                Some(item) => Err(mismatch(item, field, "string")),
                None => Ok(()),
            }
        }
        (Shape::TextList, _) => Err(mismatch(value, field, "[]string")),
        (Shape::Owners, Value::Array(items)) => {
            for (i, item) in items.iter_mut().enumerate() {
                let Value::Object(map) = item else {
                    return Err(mismatch(item, field, "v1.OwnerReference"));
                };
                let path = format!("{path}[{i}]");
                check_members(map, &OWNER_MEMBERS, "OwnerReference", &path, unknown).map_err(
                    |MetaProblem(text)| {
                        MetaProblem(
                            text.replace(
                                "field OwnerReference.",
                                "field ObjectMeta.ownerReferences.",
                            ),
                        )
                    },
                )?;
            }
            Ok(())
        }
        (Shape::Owners, _) => Err(mismatch(value, field, "[]v1.OwnerReference")),
        (Shape::ManagedFields, Value::Array(items)) => {
            match items.iter().find(|item| !item.is_object()) {
                Some(item) => Err(mismatch(item, field, "v1.ManagedFieldsEntry")),
                None => Ok(()),
            }
        }
        (Shape::ManagedFields, _) => Err(mismatch(value, field, "[]v1.ManagedFieldsEntry")),
    }
}

fn mismatch(value: &Value, field: &str, wanted: &str) -> MetaProblem {
    let kind = go_kind(value);
    MetaProblem(format!(
        "json: cannot unmarshal {kind} into Go struct field {field} of type {wanted}"
    ))
}

fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
