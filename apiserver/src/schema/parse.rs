//! From `openAPIV3Schema` to nodes, with the rules that make a schema structural.

use regex::Regex;
use serde_json::{Map, Value};

use super::{Additional, Bound, Checks, Kind, ListKind, Node, default, prune, rules, validate};
use crate::status::Cause;

/// Keywords that describe structure and have no place inside allOf, anyOf, oneOf and not.
const STRUCTURE_ONLY: [&str; 12] = [
    "additionalProperties",
    "default",
    "description",
    "nullable",
    "title",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];
const UNSUPPORTED: [&str; 5] =
    ["$ref", "definitions", "dependencies", "deprecated", "patternProperties"];

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Member,
    Item,
    /// Inside a logical keyword; `free_type` where int-or-string allows `type`.
    Logic {
        free_type: bool,
    },
}

pub(super) fn root(schema: &Value) -> Result<Node, Vec<Cause>> {
    let mut causes = Vec::new();
    let node = parse(schema, "", Place::Root, &mut causes);
    if causes.is_empty() { Ok(node) } else { Err(causes) }
}

fn parse(schema: &Value, path: &str, place: Place, causes: &mut Vec<Cause>) -> Node {
    let Some(map) = schema.as_object() else {
        causes.push(Cause::invalid(path, schema, "must be a schema"));
        return Node::default();
    };
    for key in UNSUPPORTED.into_iter().filter(|key| map.contains_key(*key)) {
        causes.push(Cause::forbidden(format!("{path}.{key}"), "is not supported"));
    }
    let mut node = Node {
        nullable: flag(map, "nullable"),
        preserve: flag(map, "x-kubernetes-preserve-unknown-fields"),
        embedded: flag(map, "x-kubernetes-embedded-resource"),
        int_or_string: flag(map, "x-kubernetes-int-or-string"),
        ..Node::default()
    };
    node.kind = kind(map, path, causes);
    if let Place::Logic { free_type } = place {
        check_logic(map, path, free_type, causes);
    } else {
        check_type(&node, path, place, causes);
    }
    let inside = match place {
        Place::Logic { .. } => place,
        Place::Root | Place::Member | Place::Item => Place::Member,
    };
    members(map, path, inside, &mut node, causes);
    extensions(map, path, &mut node, causes);
    node.checks = checks(map, path, node.int_or_string, causes);
    if !matches!(place, Place::Logic { .. }) {
        node.rules = rules::compile(schema, path, causes);
    }
    node.has_rules = node.rules.is_some() || any_child_has_rules(&node);
    if let Some(value) = map.get("default") {
        node.default = checked_default(&node, value, path, causes);
    }
    node
}

fn any_child_has_rules(node: &Node) -> bool {
    let additional = match &node.additional {
        Additional::Of(child) => child.has_rules,
        Additional::None | Additional::Any => false,
    };
    additional
        || node.items.as_ref().is_some_and(|child| child.has_rules)
        || node.properties.values().any(|child| child.has_rules)
}

fn kind(map: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) -> Option<Kind> {
    let value = map.get("type")?;
    match value.as_str().unwrap_or_default() {
        "object" => Some(Kind::Object),
        "array" => Some(Kind::Array),
        "string" => Some(Kind::String),
        "integer" => Some(Kind::Integer),
        "number" => Some(Kind::Number),
        "boolean" => Some(Kind::Boolean),
        "" => None,
        _ => {
            let known = ["array", "boolean", "integer", "number", "object", "string"];
            causes.push(Cause::not_supported(format!("{path}.type"), value, &known));
            None
        }
    }
}

fn check_type(node: &Node, path: &str, place: Place, causes: &mut Vec<Cause>) {
    let field = format!("{path}.type");
    match (node.kind, place) {
        (Some(Kind::Object), Place::Root) => {}
        (Some(kind), Place::Root) => {
            causes.push(Cause::invalid(field, &kind.name().into(), "must be object at the root"));
        }
        (None, Place::Root) => causes.push(Cause::required(field, "must not be empty at the root")),
        (Some(kind), _) if node.int_or_string => causes.push(Cause::invalid(
            field,
            &kind.name().into(),
            "must be empty if x-kubernetes-int-or-string is true",
        )),
        (None, Place::Item) if !node.int_or_string && !node.preserve => {
            causes.push(Cause::required(field, "must not be empty for specified array items"));
        }
        (None, _) if !node.int_or_string && !node.preserve => {
            causes.push(Cause::required(field, "must not be empty for specified object fields"));
        }
        (Some(_) | None, _) => {}
    }
    if node.embedded && node.kind != Some(Kind::Object) {
        causes.push(Cause::invalid(
            format!("{path}.type"),
            &node.kind.map(Kind::name).unwrap_or_default().into(),
            "must be object if x-kubernetes-embedded-resource is true",
        ));
    }
}

fn check_logic(map: &Map<String, Value>, path: &str, free_type: bool, causes: &mut Vec<Cause>) {
    for key in STRUCTURE_ONLY.into_iter().filter(|key| map.contains_key(*key)) {
        let detail = "must be undefined to be structural";
        causes.push(Cause::forbidden(format!("{path}.{key}"), detail));
    }
    if map.contains_key("type") && !free_type {
        causes.push(Cause::forbidden(format!("{path}.type"), "must be empty to be structural"));
    }
}

fn members(
    map: &Map<String, Value>,
    path: &str,
    inside: Place,
    node: &mut Node,
    causes: &mut Vec<Cause>,
) {
    if let Some(Value::Object(properties)) = map.get("properties") {
        for (name, schema) in properties {
            let path = format!("{path}.properties[{name}]");
            node.properties.insert(name.clone(), parse(schema, &path, inside, causes));
        }
    }
    match map.get("items") {
        None | Some(Value::Null) => {}
        Some(Value::Array(_)) => {
            let detail = "items must be a schema object and not an array";
            causes.push(Cause::forbidden(format!("{path}.items"), detail));
        }
        Some(schema) => {
            let place = if inside == Place::Member { Place::Item } else { inside };
            let child = parse(schema, &format!("{path}.items"), place, causes);
            node.items = Some(Box::new(child));
        }
    }
    let field = format!("{path}.additionalProperties");
    match map.get("additionalProperties") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(true)) => node.additional = Additional::Any,
        Some(Value::Bool(false)) => {
            causes.push(Cause::forbidden(field.clone(), "must not be used"));
        }
        Some(schema) => {
            node.additional = Additional::Of(Box::new(parse(schema, &field, inside, causes)));
        }
    }
    let open = !matches!(node.additional, Additional::None);
    if open && !node.properties.is_empty() {
        causes.push(Cause::forbidden(
            field,
            "additionalProperties and properties are mutual exclusive",
        ));
    }
}

fn extensions(map: &Map<String, Value>, path: &str, node: &mut Node, causes: &mut Vec<Cause>) {
    let list_type = map.get("x-kubernetes-list-type").and_then(Value::as_str);
    let keys: Vec<String> = texts(map, "x-kubernetes-list-map-keys");
    let field = format!("{path}.x-kubernetes-list-type");
    if list_type.is_some() && node.kind != Some(Kind::Array) {
        let kind = node.kind.map(Kind::name).unwrap_or_default();
        let detail = "must be array if x-kubernetes-list-type is specified";
        causes.push(Cause::invalid(format!("{path}.type"), &kind.into(), detail));
    }
    node.list = match list_type {
        None | Some("atomic") => ListKind::Atomic,
        Some("set") => ListKind::Set,
        Some("map") => {
            check_map_list(node, &keys, path, causes);
            ListKind::Map(keys)
        }
        Some(other) => {
            let known = ["atomic", "map", "set"];
            causes.push(Cause::not_supported(field, &other.into(), &known));
            ListKind::Atomic
        }
    };
    match map.get("x-kubernetes-map-type").and_then(Value::as_str) {
        None | Some("granular") => {}
        Some("atomic") => node.atomic_map = true,
        Some(other) => {
            let field = format!("{path}.x-kubernetes-map-type");
            causes.push(Cause::not_supported(field, &other.into(), &["atomic", "granular"]));
        }
    }
    if node.embedded && node.properties.is_empty() && !node.preserve {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        causes.push(Cause::required(format!("{path}.properties"), detail));
    }
}

/// The keys of a map list are declared scalars that are required or have a default.
fn check_map_list(node: &Node, keys: &[String], path: &str, causes: &mut Vec<Cause>) {
    let field = format!("{path}.x-kubernetes-list-map-keys");
    if keys.is_empty() {
        let detail = "must not be empty if x-kubernetes-list-type is map";
        causes.push(Cause::required(field.clone(), detail));
    }
    let Some(items) = node.items.as_ref() else {
        let detail = "must have a schema if x-kubernetes-list-type is map";
        causes.push(Cause::required(format!("{path}.items"), detail));
        return;
    };
    for (i, key) in keys.iter().enumerate() {
        let field = format!("{field}[{i}]");
        match items.properties.get(key) {
            None => {
                let detail = "entries must all be names of item properties";
                causes.push(Cause::invalid(field, &key.as_str().into(), detail));
            }
            Some(child) => {
                if matches!(child.kind, Some(Kind::Array | Kind::Object)) {
                    let detail = "must not refer to an array or object property";
                    causes.push(Cause::invalid(field, &key.as_str().into(), detail));
                } else if child.default.is_none() && !items.checks.required.contains(key) {
                    let field = format!("{path}.items.properties[{key}].default");
                    let detail = "this property is in x-kubernetes-list-map-keys, so it must have \
                                  a default or be a required property";
                    causes.push(Cause::required(field, detail));
                }
            }
        }
    }
}

fn checks(
    map: &Map<String, Value>,
    path: &str,
    free_type: bool,
    causes: &mut Vec<Cause>,
) -> Checks {
    let place = Place::Logic { free_type };
    let mut branches = |key: &str| -> Vec<Node> {
        let list = map.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let one = |(i, s): (usize, &Value)| parse(s, &format!("{path}.{key}[{i}]"), place, causes);
        list.iter().enumerate().map(one).collect()
    };
    let (all_of, any_of, one_of) = (branches("allOf"), branches("anyOf"), branches("oneOf"));
    let not = map.get("not").map(|s| Box::new(parse(s, &format!("{path}.not"), place, causes)));
    if flag(map, "uniqueItems") {
        let detail =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        causes.push(Cause::forbidden(format!("{path}.uniqueItems"), detail));
    }
    Checks {
        required: texts(map, "required"),
        choices: map.get("enum").and_then(Value::as_array).cloned(),
        format: map.get("format").and_then(Value::as_str).map(str::to_owned),
        minimum: bound(map, "minimum", "exclusiveMinimum"),
        maximum: bound(map, "maximum", "exclusiveMaximum"),
        multiple_of: map.get("multipleOf").and_then(Value::as_f64).filter(|m| *m > 0.0),
        min_length: size(map, "minLength"),
        max_length: size(map, "maxLength"),
        pattern: pattern(map, path, causes),
        min_items: size(map, "minItems"),
        max_items: size(map, "maxItems"),
        min_properties: size(map, "minProperties"),
        max_properties: size(map, "maxProperties"),
        all_of,
        any_of,
        one_of,
        not,
    }
}

fn pattern(map: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) -> Option<Regex> {
    let value = map.get("pattern")?;
    match Regex::new(value.as_str().unwrap_or_default()) {
        Ok(regex) => Some(regex),
        Err(_) => {
            let detail = "must be a valid regular expression, but isn't: error parsing regexp";
            causes.push(Cause::invalid(format!("{path}.pattern"), value, detail));
            None
        }
    }
}

/// A default must itself be what the schema accepts.
fn checked_default(
    node: &Node,
    value: &Value,
    path: &str,
    causes: &mut Vec<Cause>,
) -> Option<Value> {
    let field = format!("{path}.default");
    if value.is_null() {
        return node.nullable.then_some(Value::Null);
    }
    let mut pruned = value.clone();
    if !prune::part(node, &mut pruned).is_empty() {
        causes.push(Cause::invalid(field, value, "must not have unknown fields"));
        return None;
    }
    let mut filled = value.clone();
    default::fill(node, &mut filled);
    let problems = validate::value(node, &filled);
    for problem in &problems {
        let field = match problem.field.as_str() {
            "" | "<nil>" => field.clone(),
            below => format!("{field}.{below}"),
        };
        causes.push(Cause { field, ..problem.clone() });
    }
    problems.is_empty().then(|| value.clone())
}

fn flag(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn texts(map: &Map<String, Value>, key: &str) -> Vec<String> {
    let list = map.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn size(map: &Map<String, Value>, key: &str) -> Option<usize> {
    usize::try_from(map.get(key)?.as_u64()?).ok()
}

fn bound(map: &Map<String, Value>, key: &str, exclusive: &str) -> Option<Bound> {
    Some(Bound { value: map.get(key)?.as_f64()?, exclusive: flag(map, exclusive) })
}
