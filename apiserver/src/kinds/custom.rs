//! Kinds from CustomResourceDefinitions.

use std::sync::Arc;

use serde_json::Value;
use serde_json_path::JsonPath;

use super::{Kind, Origin, resource_name};
use crate::schema::{Schema, SchemaError};

/// What a definition adds to a served kind.
pub struct Custom {
    /// Name of the definition: `plural.group`.
    pub crd_name: String,
    pub crd_uid: String,
    /// Generation of the definition when this was read.
    pub generation: i64,
    pub storage_version: String,
    pub schema: Schema,
    pub columns: Vec<Column>,
    /// Field selectors, as dotted paths.
    pub selectable: Vec<String>,
    pub scale: Option<Scale>,
    /// Sent as a Warning with every answer when the version is deprecated.
    pub deprecation: Option<String>,
    /// The definition is being deleted: nothing more can be created.
    pub terminating: bool,
}

/// One additional printer column.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub kind: String,
    pub format: String,
    pub description: String,
    pub priority: i64,
    /// Compiled; `None` when the definition's path cannot be read (the cells stay empty).
    pub path: Option<JsonPath>,
}

/// Where the scale subresource reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub label_selector: Option<String>,
}

/// Verbs of custom resources, in the order in which discovery lists them.
pub const VERBS: &[&str] =
    &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// The kinds that a definition asks to serve, one a served version.
pub fn kinds(crd: &Value) -> Result<Vec<Arc<Kind>>, SchemaError> {
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
    let versions = versions.map(Vec::as_slice).unwrap_or_default();
    let storage = versions.iter().find(|version| flag(version, "/storage"));
    let storage_version = storage.map(|version| text(version, "/name")).unwrap_or_default();
    versions
        .iter()
        .filter(|version| flag(version, "/served"))
        .map(|version| Ok(Arc::new(kind(crd, version, &storage_version)?)))
        .collect()
}

fn kind(crd: &Value, version: &Value, storage_version: &str) -> Result<Kind, SchemaError> {
    let group = text(crd, "/spec/group");
    let plural = text(crd, "/spec/names/plural");
    let name = text(crd, "/spec/names/kind");
    let null = Value::Null;
    let schema = version.pointer("/schema/openAPIV3Schema").unwrap_or(&null);
    let custom = Custom {
        crd_name: text(crd, "/metadata/name"),
        crd_uid: text(crd, "/metadata/uid"),
        generation: crd.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1),
        storage_version: storage_version.to_owned(),
        schema: Schema::parse(schema)?,
        columns: columns(version),
        selectable: selectable(version),
        scale: scale(version),
        deprecation: deprecation(version, &group, &name),
        terminating: crd.pointer("/metadata/deletionTimestamp").is_some(),
    };
    Ok(Kind {
        version: text(version, "/name"),
        list_kind: or(text(crd, "/spec/names/listKind"), || format!("{name}List")),
        singular: or(text(crd, "/spec/names/singular"), || name.to_ascii_lowercase()),
        short_names: strings(crd, "/spec/names/shortNames"),
        categories: strings(crd, "/spec/names/categories"),
        namespaced: text(crd, "/spec/scope") == "Namespaced",
        resource: resource_name(&group, &plural),
        verbs: VERBS,
        status: version.pointer("/subresources/status").is_some(),
        group,
        kind: name,
        plural,
        origin: Origin::Custom(Box::new(custom)),
    })
}

fn columns(version: &Value) -> Vec<Column> {
    let column = |column: &Value| Column {
        name: text(column, "/name"),
        kind: text(column, "/type"),
        format: text(column, "/format"),
        description: text(column, "/description"),
        priority: column.pointer("/priority").and_then(Value::as_i64).unwrap_or(0),
        path: json_path(&text(column, "/jsonPath")),
    };
    let list = version.pointer("/additionalPrinterColumns").and_then(Value::as_array);
    list.map(|list| list.iter().map(column).collect()).unwrap_or_default()
}

/// Compiles the kubectl dialect (`.a.b\.c[?(@.t=="x")].y`) as a standard JSONPath.
pub fn json_path(path: &str) -> Option<JsonPath> {
    let mut standard = String::from("$");
    let mut segment = String::new();
    let flush = |segment: &mut String, standard: &mut String| {
        if !segment.is_empty() {
            let quoted = segment.replace('\\', "\\\\").replace('\'', "\\'");
            standard.push_str(&format!("['{quoted}']"));
            segment.clear();
        }
    };
    let mut chars = path.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => segment.extend(chars.next()),
            '.' => flush(&mut segment, &mut standard),
            '[' => {
                flush(&mut segment, &mut standard);
                standard.push('[');
                let mut depth = 1;
                while depth > 0 {
                    let c = chars.next()?;
                    depth += i32::from(c == '[') - i32::from(c == ']');
                    standard.push(c);
                }
            }
            _ => segment.push(c),
        }
    }
    flush(&mut segment, &mut standard);
    JsonPath::parse(&standard).ok()
}

fn selectable(version: &Value) -> Vec<String> {
    let list = version.pointer("/selectableFields").and_then(Value::as_array);
    let path = |field: &Value| text(field, "/jsonPath").trim_start_matches('.').to_owned();
    list.map(|list| list.iter().map(path).collect()).unwrap_or_default()
}

fn scale(version: &Value) -> Option<Scale> {
    let scale = version.pointer("/subresources/scale")?;
    Some(Scale {
        spec_replicas: text(scale, "/specReplicasPath"),
        status_replicas: text(scale, "/statusReplicasPath"),
        label_selector: Some(text(scale, "/labelSelectorPath")).filter(|path| !path.is_empty()),
    })
}

fn deprecation(version: &Value, group: &str, kind: &str) -> Option<String> {
    if !flag(version, "/deprecated") {
        return None;
    }
    let name = text(version, "/name");
    Some(or(text(version, "/deprecationWarning"), || {
        format!("{group}/{name} {kind} is deprecated")
    }))
}

/// Whether a definition's condition is true.
pub fn condition(crd: &Value, kind: &str) -> bool {
    let conditions = crd.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|list| {
        list.iter().any(|c| text(c, "/type") == kind && text(c, "/status") == "True")
    })
}

fn or(text: String, otherwise: impl FnOnce() -> String) -> String {
    if text.is_empty() { otherwise() } else { text }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

fn strings(value: &Value, pointer: &str) -> Vec<String> {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn printer_paths_read_fields_filters_and_escaped_dots() {
        let object = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]},
                            "metadata": {"labels": {"a.b/c": "x"}}, "list": [1, 2]});
        let read = |path: &str| {
            json_path(path).unwrap().query(&object).first().cloned().unwrap_or(Value::Null)
        };
        assert_eq!(read(".status.conditions[?(@.type==\"Ready\")].status"), "True");
        assert_eq!(read(r".metadata.labels.a\.b/c"), "x");
        assert_eq!(read(".list[1]"), 2);
        assert_eq!(read(".nothing.here"), Value::Null);
        assert!(json_path(".a[").is_none());
    }
}
