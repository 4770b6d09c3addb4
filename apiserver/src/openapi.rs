//! OpenAPI: what `kubectl explain` and field validation need, built from the schemas at hand.
//!
//! Custom kinds are described by their definition, built-in ones by the component schemas that a real
//! server publishes. Documents are built when asked
//! for and not kept; the index only needs their hashes, which follow from what they are built from.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha512};

use crate::kinds::{Kind, Kinds, Origin, join_version};
use crate::schema::CORE_SCHEMAS;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const REF: &str = "#/components/schemas/";

static CORE: LazyLock<Map<String, Value>> =
    LazyLock::new(|| serde_json::from_str(CORE_SCHEMAS).unwrap_or_default());

/// `$ref` when its value is text (a schema of schemas has a *property* of that name).
fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(REF)
}

/// The path of a group version's document below `/openapi/v3/`.
fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// All documents: (group, version).
fn documents(kinds: &Kinds) -> Vec<(String, String)> {
    let mut list = vec![(String::new(), "v1".to_owned())];
    for group in kinds.groups() {
        for version in kinds.versions(&group) {
            list.push((group.clone(), version));
        }
    }
    list
}

/// `/openapi/v3`
pub fn index(kinds: &Kinds) -> Value {
    let mut paths = Map::new();
    for (group, version) in documents(kinds) {
        let path = document_path(&group, &version);
        let hash = hash(kinds, &group, &version);
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": paths })
}

/// The group version that a path below `/openapi/v3/` means.
pub fn find(kinds: &Kinds, path: &str) -> Option<(String, String)> {
    documents(kinds).into_iter().find(|(group, version)| document_path(group, version) == path)
}

/// Changes whenever the document does.
pub fn hash(kinds: &Kinds, group: &str, version: &str) -> String {
    let mut digest = Sha512::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    digest.update(join_version(group, version));
    for kind in kinds.of_version(group, version) {
        digest.update(&kind.kind);
        if let Some(custom) = kind.custom() {
            digest.update(&custom.crd_uid);
            digest.update(custom.generation.to_be_bytes());
        }
    }
    let mut text = String::new();
    for byte in digest.finalize() {
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{byte:02X}");
    }
    text
}

/// One document. `definition` gives the CustomResourceDefinition of a custom kind.
pub fn document(
    kinds: &Kinds,
    group: &str,
    version: &str,
    definition: impl Fn(&Kind) -> Option<Value>,
) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let mut wanted = BTreeSet::from([OBJECT_META.to_owned(), LIST_META.to_owned()]);
    for kind in kinds.of_version(group, version) {
        let component = component(kind);
        add_paths(&mut paths, kind, &component);
        match &kind.origin {
            Origin::BuiltIn(_) => {
                wanted.insert(component.clone());
                add_list(&mut schemas, kind, &component);
            }
            Origin::Custom(_) => {
                let schema = definition(kind).map(|crd| custom_schema(&crd, kind));
                let fallback =
                    || json!({"type": "object", "x-kubernetes-group-version-kind": [gvk(kind)]});
                let schema = schema.unwrap_or_else(fallback);
                schemas.insert(component.clone(), schema);
                add_list(&mut schemas, kind, &component);
            }
        }
    }
    add_reviews(&mut paths, &mut wanted, group, version);
    add_closure(&mut schemas, wanted);
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.2"},
           "paths": paths, "components": {"schemas": schemas}})
}

/// `com.example.golden.v1.Widget` for widgets of golden.example.com/v1.
fn component(kind: &Kind) -> String {
    match &kind.origin {
        Origin::BuiltIn(built_in) => built_in.component().to_owned(),
        Origin::Custom(_) => {
            let mut parts: Vec<&str> = kind.group.split('.').collect();
            parts.reverse();
            format!("{}.{}.{}", parts.join("."), kind.version, kind.kind)
        }
    }
}

fn gvk(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn custom_schema(crd: &Value, kind: &Kind) -> Value {
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
    let version = versions.into_iter().flatten().find(|v| v["name"] == kind.version.as_str());
    let schema = version.and_then(|version| version.pointer("/schema/openAPIV3Schema"));
    let mut schema = schema.cloned().unwrap_or_else(|| json!({"type": "object"}));
    if let Some(map) = schema.as_object_mut() {
        map.insert("x-kubernetes-group-version-kind".into(), json!([gvk(kind)]));
        let properties = map.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            add_root_properties(properties, OBJECT_META);
        }
    }
    schema
}

fn add_root_properties(properties: &mut Map<String, Value>, metadata: &str) {
    let version = "APIVersion names the group and version of this object's schema.";
    properties.insert("apiVersion".into(), json!({"type": "string", "description": version}));
    let kind = "Kind names the type of this object.";
    properties.insert("kind".into(), json!({"type": "string", "description": kind}));
    let about = "Standard metadata: name, namespace, labels, annotations and what the server owns.";
    let reference = json!({"description": about, "allOf": [{"$ref": format!("{REF}{metadata}")}]});
    properties.insert("metadata".into(), reference);
}

fn add_list(schemas: &mut Map<String, Value>, kind: &Kind, component: &str) {
    let mut properties = Map::new();
    add_root_properties(&mut properties, LIST_META);
    let items = json!({"type": "array", "items": {"$ref": format!("{REF}{component}")}});
    properties.insert("items".into(), items);
    let list = json!({"group": kind.group, "version": kind.version, "kind": kind.list_kind});
    let schema = json!({"type": "object", "required": ["items"], "properties": properties,
                        "x-kubernetes-group-version-kind": [list]});
    schemas.insert(format!("{component}List"), schema);
}

fn add_paths(paths: &mut Map<String, Value>, kind: &Kind, component: &str) {
    let base = format!("/{}", document_path(&kind.group, &kind.version));
    let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", kind.plural);
    let object = format!("{collection}/{{name}}");
    let content = json!({"application/json": {"schema": {"$ref": format!("{REF}{component}")}}});
    let operation = |action: &str, parameters: &[&str]| {
        let parameters: Vec<Value> = parameters.iter().map(|name| parameter(name)).collect();
        json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(kind),
               "parameters": parameters,
               "responses": {"200": {"description": "OK", "content": content}}})
    };
    let write = ["dryRun", "fieldManager", "fieldValidation"];
    let list = ["labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "watch"];
    let mut collection_item =
        json!({"get": operation("list", &list), "post": operation("post", &write)});
    if kind.allows("deletecollection") {
        collection_item["delete"] = operation("deletecollection", &["labelSelector"]);
    }
    paths.insert(collection, collection_item);
    let patch = ["dryRun", "fieldManager", "fieldValidation", "force"];
    let object_item = |patch: Value| json!({"get": operation("get", &[]), "put": operation("put", &write), "patch": patch});
    if kind.status {
        let item = object_item(operation("patch", &patch));
        paths.insert(format!("{object}/status"), item);
    }
    let mut item = object_item(operation("patch", &patch));
    item["delete"] = operation("delete", &["dryRun", "propagationPolicy"]);
    paths.insert(object, item);
}

fn parameter(name: &str) -> Value {
    let kind = match name {
        "limit" => "integer",
        "watch" | "force" => "boolean",
        _ => "string",
    };
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

fn add_reviews(
    paths: &mut Map<String, Value>,
    wanted: &mut BTreeSet<String>,
    group: &str,
    version: &str,
) {
    let package = group.split('.').next().unwrap_or_default();
    for (of_group, plural, kind, namespaced) in crate::discovery::REVIEWS {
        let component = format!("io.k8s.api.{package}.v1.{kind}");
        if *of_group != group || version != "v1" || !CORE.contains_key(&component) {
            continue;
        }
        let scope = if *namespaced { "/namespaces/{namespace}" } else { "" };
        let path = format!("/apis/{group}/v1{scope}/{plural}");
        let gvk = json!({"group": group, "version": "v1", "kind": kind});
        let post = json!({"x-kubernetes-action": "post", "x-kubernetes-group-version-kind": gvk,
            "parameters": [parameter("fieldValidation")],
            "responses": {"200": {"description": "OK", "content": {"application/json":
                {"schema": {"$ref": format!("{REF}{component}")}}}}}});
        paths.insert(path, json!({ "post": post }));
        wanted.insert(component);
    }
}

/// Adds the wanted built-in schemas and everything they refer to: a dangling reference would make
/// clients reject the whole document.
fn add_closure(schemas: &mut Map<String, Value>, wanted: BTreeSet<String>) {
    let mut open: Vec<String> = wanted.into_iter().collect();
    while let Some(name) = open.pop() {
        if schemas.contains_key(&name) {
            continue;
        }
        // Pods have no published schema: nothing can be said about what there never is.
        let schema = CORE.get(&name).cloned().unwrap_or_else(|| json!({"type": "object"}));
        references(&schema, &mut open);
        schemas.insert(name, schema);
    }
}

fn references(schema: &Value, found: &mut Vec<String>) {
    if let Some(name) = reference(schema) {
        found.push(name.to_owned());
    }
    match schema {
        Value::Object(map) => map.values().for_each(|value| references(value, found)),
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `/openapi/v2` in protobuf: `swagger: "2.0"` and an `info`, which is all that a client of that
/// age needs to go on without client-side validation.
pub const V2_PROTOBUF: &[u8] = b"\x0a\x032.0\x12\x06\x0a\x01k\x12\x011";
/// With a dot where the request has an `@`: clients cannot parse the other form.
pub const V2_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2` in JSON.
pub fn v2() -> Value {
    json!({"swagger": "2.0", "info": {"title": "k", "version": "1"}, "paths": {}})
}

/// The definition names that a document needs, without repeats.
pub fn definitions(kinds: &Kinds, group: &str, version: &str) -> BTreeSet<String> {
    let custom = |kind: &Arc<Kind>| kind.custom().map(|custom| custom.crd_name.clone());
    kinds.of_version(group, version).into_iter().filter_map(custom).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_no_dangling_references() {
        let kinds = Kinds::new(Vec::new());
        for (group, version) in documents(&kinds) {
            let document = document(&kinds, &group, &version, |_| None);
            let mut found = Vec::new();
            references(&document, &mut found);
            for name in found {
                let known = document["components"]["schemas"].get(&name).is_some();
                assert!(known, "{name} in {group}/{version}");
            }
        }
    }

    #[test]
    fn every_kind_has_a_patch_with_field_validation() {
        let kinds = Kinds::new(Vec::new());
        let document = document(&kinds, "", "v1", |_| None);
        let paths = document["paths"].as_object().unwrap();
        for kind in kinds.of_version("", "v1") {
            let found = paths.values().any(|path| {
                path["patch"]["x-kubernetes-group-version-kind"] == gvk(kind)
                    && path["patch"]["parameters"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .any(|p| p["name"] == "fieldValidation")
            });
            assert!(found, "{}", kind.kind);
        }
    }
}
