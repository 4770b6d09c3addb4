//! Validating objects, in the words of the real server.

use serde_json::{Map, Value};

use super::{Additional, Bound, Kind, Node, formats, join, lists, rules};
use crate::status::{Cause, show};

const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; \
                         correct the existing errors to complete validation";
/// The field of causes that name their place in the message only.
const NO_FIELD: &str = "<nil>";

pub(super) fn object(root: &Node, new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    node(root, new, old, "", &mut causes);
    embedded(root, new, "", &mut causes);
    lists::duplicates(root, new, "", &mut causes);
    if root.has_rules {
        if causes.iter().any(blocks_rules) {
            causes.push(Cause::invalid(NO_FIELD, &Value::Null, UNCHECKED));
        } else {
            rules::evaluate(root, new, old, &mut causes);
        }
    }
    causes
}

/// Validates a part of an object on its own, such as a default.
pub(super) fn value(schema: &Node, value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    node(schema, value, None, "", &mut causes);
    lists::duplicates(schema, value, "", &mut causes);
    causes
}

/// Rules are not evaluated on objects whose shape they cannot rely on.
fn blocks_rules(cause: &Cause) -> bool {
    [
        "FieldValueRequired",
        "FieldValueTypeInvalid",
        "FieldValueNotSupported",
        "FieldValueTooLong",
        "FieldValueTooMany",
    ]
    .contains(&cause.reason)
}

fn node(schema: &Node, value: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    // What was stored before stays acceptable, though the schema may have become stricter.
    if old == Some(value) {
        return;
    }
    if value.is_null() {
        if let Some(wanted) = wanted_type(schema)
            && !schema.nullable
        {
            causes.push(wrong_type(path, &wanted, "null"));
        }
        return;
    }
    types(schema, value, path, causes);
    choices(schema, value, path, causes);
    match value {
        Value::Number(_) => numbers(schema, value, path, causes),
        Value::String(text) => strings(schema, text, path, causes),
        Value::Array(items) => arrays(schema, items, old, path, causes),
        Value::Object(map) => maps(schema, map, old, path, causes),
        Value::Null | Value::Bool(_) => {}
    }
    logic(schema, value, path, causes);
}

fn wanted_type(schema: &Node) -> Option<String> {
    if schema.int_or_string {
        return Some("integer,string".into());
    }
    schema.kind.map(|kind| kind.name().to_owned())
}

/// The JSON type of a value and the format Go infers for it.
fn inferred(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::Number(n) if n.is_f64() => ("number", "float64"),
        Value::Number(_) => ("integer", "int64"),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

fn types(schema: &Node, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(wanted) = wanted_type(schema) else { return };
    let (kind, inferred_format) = inferred(value);
    let fits = wanted.split(',').any(|w| w == kind) || (wanted == "number" && kind == "integer");
    if fits {
        return;
    }
    let text_like = value.is_string() || value.is_array();
    match &schema.checks.format {
        Some(format) if !text_like => causes.push(wrong_type(path, format, inferred_format)),
        Some(_) | None => causes.push(wrong_type(path, &wanted, kind)),
    }
}

fn wrong_type(path: &str, wanted: &str, found: &str) -> Cause {
    let detail = format!("{path} in body must be of type {wanted}: \"{found}\"");
    Cause::type_invalid(path, &found.into(), &detail)
}

fn choices(schema: &Node, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(choices) = &schema.checks.choices else { return };
    if choices.contains(value) {
        return;
    }
    let texts: Vec<String> =
        choices.iter().map(|c| c.as_str().map_or_else(|| show(c), str::to_owned)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    causes.push(Cause::not_supported(path, value, &texts));
}

fn numbers(schema: &Node, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let checks = &schema.checks;
    if let (Some(Kind::Integer), Some(format)) = (schema.kind, &checks.format) {
        let fits = match format.as_str() {
            "int32" => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            "int64" => value.is_i64(),
            _ => true,
        };
        if !fits {
            let detail =
                format!("Checked value must be of type integer with format {format} in {path}");
            causes.push(Cause::invalid(NO_FIELD, &"".into(), &detail));
        }
    }
    let Some(number) = value.as_f64() else { return };
    if let Some(factor) = checks.multiple_of
        && !is_multiple(number, factor)
    {
        let detail = format!("{path} in body should be a multiple of {factor}");
        causes.push(Cause::invalid(path, value, &detail));
    }
    let mut limit = |words: &str, bound: Bound| {
        let or_equal = if bound.exclusive { "" } else { " or equal to" };
        let detail = format!("{path} in body should be {words} than{or_equal} {}", bound.value);
        causes.push(Cause::invalid(path, value, &detail));
    };
    if let Some(bound) = checks.maximum
        && (number > bound.value || (bound.exclusive && number >= bound.value))
    {
        limit("less", bound);
    }
    if let Some(bound) = checks.minimum
        && (number < bound.value || (bound.exclusive && number <= bound.value))
    {
        limit("greater", bound);
    }
}

fn is_multiple(number: f64, factor: f64) -> bool {
    let times = number / factor;
    (times - times.round()).abs() <= 1e-9 * times.abs().max(1.0)
}

fn strings(schema: &Node, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let checks = &schema.checks;
    if schema.kind == Some(Kind::String)
        && let Some(format) = &checks.format
        && !formats::is_format(format, text)
    {
        let detail = format!("{path} in body must be of type {format}: {}", show(&text.into()));
        causes.push(Cause::type_invalid(path, &text.into(), &detail));
    }
    let length = text.chars().count();
    // One complaint a string, the first of these.
    if let Some(max) = checks.max_length
        && length > max
    {
        causes.push(Cause::too_long(path, max));
    } else if let Some(min) = checks.min_length
        && length < min
    {
        let detail = format!("{path} in body should be at least {min} chars long");
        causes.push(Cause::invalid(path, &text.into(), &detail));
    } else if let Some(pattern) = &checks.pattern
        && !pattern.is_match(text)
    {
        let detail = format!("{path} in body should match '{pattern}'");
        causes.push(Cause::invalid(path, &text.into(), &detail));
    }
}

fn arrays(
    schema: &Node,
    items: &[Value],
    old: Option<&Value>,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    if let Some(min) = schema.checks.min_items
        && items.len() < min
    {
        let detail = format!("{path} in body should have at least {min} items");
        causes.push(Cause::invalid(path, &items.len().into(), &detail));
    }
    if let Some(max) = schema.checks.max_items
        && items.len() > max
    {
        causes.push(Cause::too_many(path, items.len(), max));
    }
    if let Some(child) = &schema.items {
        for (i, item) in items.iter().enumerate() {
            let old = old.and_then(|o| lists::counterpart(schema, item, o));
            node(child, item, old, &format!("{path}[{i}]"), causes);
        }
    }
}

fn maps(
    schema: &Node,
    map: &Map<String, Value>,
    old: Option<&Value>,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    if let Some(max) = schema.checks.max_properties
        && map.len() > max
    {
        causes.push(Cause::too_many(path, map.len(), max));
    }
    if let Some(min) = schema.checks.min_properties
        && map.len() < min
    {
        let detail = format!("{path} in body should have at least {min} properties");
        causes.push(Cause::invalid(path, &map.len().into(), &detail));
    }
    for key in &schema.checks.required {
        if !map.contains_key(key) {
            causes.push(Cause::required(join(path, key), ""));
        }
    }
    for (key, item) in map {
        let child = match (schema.properties.get(key), &schema.additional) {
            (Some(child), _) => child,
            (None, Additional::Of(child)) => child,
            (None, Additional::Any | Additional::None) => continue,
        };
        let old = old.and_then(|o| o.get(key));
        node(child, item, old, &join(path, key), causes);
    }
}

fn logic(schema: &Node, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let checks = &schema.checks;
    let outcome = |branches: &[Node]| -> Vec<Vec<Cause>> {
        let one = |branch| {
            let mut found = Vec::new();
            node(branch, value, None, path, &mut found);
            found
        };
        branches.iter().map(one).collect()
    };
    let mut complain = |words: &str| {
        let detail = format!("\"{path}\" {words}");
        causes.push(Cause::invalid(NO_FIELD, &"".into(), &detail));
    };
    if let Some(branch) = &checks.not
        && outcome(std::slice::from_ref(branch)).iter().all(Vec::is_empty)
    {
        complain("must not validate the schema (not)");
    }
    let mut nearest: Vec<Cause> = Vec::new();
    let any = outcome(&checks.any_of);
    if !any.is_empty() && !any.iter().any(Vec::is_empty) {
        complain("must validate at least one schema (anyOf)");
        nearest.extend(any.into_iter().min_by_key(Vec::len).unwrap_or_default());
    }
    let one = outcome(&checks.one_of);
    let valid = one.iter().filter(|o| o.is_empty()).count();
    if !one.is_empty() && valid != 1 {
        if valid == 0 {
            complain("must validate one and only one schema (oneOf). Found none valid");
            nearest.extend(one.into_iter().min_by_key(Vec::len).unwrap_or_default());
        } else {
            complain(&format!(
                "must validate one and only one schema (oneOf). Found {valid} valid alternatives"
            ));
        }
    }
    let all = outcome(&checks.all_of);
    if all.iter().any(|o| !o.is_empty()) {
        let none = if all.iter().any(Vec::is_empty) { "" } else { ". None validated" };
        complain(&format!("must validate all the schemas (allOf){none}"));
        nearest.extend(all.into_iter().flatten());
    }
    causes.extend(nearest);
}

/// Embedded objects need apiVersion and kind.
fn embedded(schema: &Node, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                for key in ["apiVersion", "kind"] {
                    let path = join(path, key);
                    match map.get(key) {
                        Some(Value::String(text)) if !text.is_empty() => {}
                        None | Some(Value::Null | Value::String(_)) => {
                            causes.push(Cause::required(path, ""));
                        }
                        Some(other) => {
                            causes.push(wrong_type(&path, "string", inferred(other).0));
                        }
                    }
                }
            }
            for (key, item) in map {
                match (schema.properties.get(key), &schema.additional) {
                    (Some(child), _) => embedded(child, item, &join(path, key), causes),
                    (None, Additional::Of(child)) => {
                        embedded(child, item, &join(path, key), causes);
                    }
                    (None, Additional::Any | Additional::None) => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(child) = &schema.items {
                for (i, item) in items.iter().enumerate() {
                    embedded(child, item, &format!("{path}[{i}]"), causes);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
