//! `x-kubernetes-validations`: CEL rules, compiled with the schema, evaluated at their node.
//!
//! The engine (kube-cel) parses recursively and knows no cost limit, so texts are bounded before
//! they reach it. How long an accepted rule runs is up to who writes CRDs.

use kube_cel::{CompiledSchema, ErrorKind, compile_schema, validate_compiled};
use serde_json::{Map, Value};

use super::{Additional, Node, join, lists};
use crate::status::Cause;

/// The longest rule or messageExpression, in bytes.
const TEXT_LIMIT: usize = 8 * 1024;
/// How deep brackets may nest in a rule.
const NESTING_LIMIT: usize = 24;
/// How many operators a rule may have: each may be one level of the parser's recursion.
const OPERATOR_LIMIT: usize = 256;

/// The rules of one node.
pub(crate) struct Rules {
    compiled: CompiledSchema,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rules", self.compiled.validations.len())
    }
}

/// Compiles the rules of a node, if it has any.
pub(super) fn compile(schema: &Value, path: &str, causes: &mut Vec<Cause>) -> Option<Rules> {
    let rules = schema.get("x-kubernetes-validations")?.as_array()?;
    let before = causes.len();
    for (i, rule) in rules.iter().enumerate() {
        let field = format!("{path}.x-kubernetes-validations[{i}]");
        check_text(rule, &field, causes);
    }
    if rules.is_empty() || causes.len() > before {
        return None;
    }
    let mut alone = bare(schema, true);
    if let Value::Object(map) = &mut alone {
        let rules = rules.iter().map(spelled_for_engine).collect();
        map.insert("x-kubernetes-validations".into(), Value::Array(rules));
    }
    let compiled = compile_schema(&alone);
    for (i, outcome) in compiled.validations.iter().enumerate() {
        if let Err(error) = outcome {
            let field = format!("{path}.x-kubernetes-validations[{i}].rule");
            let text = rules.get(i).and_then(|r| r.get("rule")).cloned().unwrap_or_default();
            causes.push(Cause::invalid(field, &text, &format!("compilation failed: {error}")));
        }
    }
    Some(Rules { compiled })
}

/// The rule with double negations taken out: the engine reads any run of `!` as one.
fn spelled_for_engine(rule: &Value) -> Value {
    let mut rule = rule.clone();
    for key in ["rule", "messageExpression"] {
        if let Some(Value::String(text)) = rule.get_mut(key) {
            *text = without_double_negation(text);
        }
    }
    rule
}

fn without_double_negation(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quote: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                out.push(c);
                out.extend(chars.next());
                continue;
            }
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '!') if chars.peek() == Some(&'!') => {
                chars.next();
                continue;
            }
            (Some(_) | None, _) => {}
        }
        out.push(c);
    }
    out
}

fn check_text(rule: &Value, field: &str, causes: &mut Vec<Cause>) {
    let text = rule.get("rule").and_then(Value::as_str).unwrap_or_default();
    if text.trim().is_empty() {
        causes.push(Cause::required(format!("{field}.rule"), "rule is not specified"));
    }
    for key in ["rule", "messageExpression"] {
        let text = rule.get(key).and_then(Value::as_str).unwrap_or_default();
        if !is_modest(text) {
            let field = format!("{field}.{key}");
            causes.push(Cause::forbidden(field, "rule exceeds the size this server evaluates"));
        }
    }
    let reasons =
        ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"];
    if let Some(reason) = rule.get("reason")
        && !reasons.contains(&reason.as_str().unwrap_or_default())
    {
        causes.push(Cause::not_supported(format!("{field}.reason"), reason, &reasons));
    }
}

/// Whether a CEL text is small enough to be parsed and evaluated by recursion.
fn is_modest(text: &str) -> bool {
    let mut nesting = 0_usize;
    let mut deepest = 0_usize;
    let mut operators = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => {
                nesting += 1;
                deepest = deepest.max(nesting);
            }
            b')' | b']' | b'}' => nesting = nesting.saturating_sub(1),
            b'!' | b'-' | b'+' | b'*' | b'/' | b'%' | b'.' | b'?' | b'&' | b'|' | b'<' | b'>'
            | b'=' => operators += 1,
            _ => {}
        }
    }
    text.len() <= TEXT_LIMIT && deepest <= NESTING_LIMIT && operators <= OPERATOR_LIMIT
}

/// What the engine needs of a schema to read values; rules and checks below are not its business.
fn bare(schema: &Value, at_node: bool) -> Value {
    let Some(map) = schema.as_object() else { return Value::Object(Map::new()) };
    let mut out = Map::new();
    for (key, value) in map {
        let kept = match key.as_str() {
            "properties" => {
                let children = value.as_object().into_iter().flatten();
                let children = children.map(|(k, v)| (k.clone(), bare(v, false)));
                Value::Object(children.collect())
            }
            "items" => bare(value, false),
            "additionalProperties" if value.is_object() => bare(value, false),
            "additionalProperties"
            | "type"
            | "format"
            | "x-kubernetes-int-or-string"
            | "x-kubernetes-preserve-unknown-fields"
            | "x-kubernetes-embedded-resource" => value.clone(),
            _ => continue,
        };
        // The engine pads embedded resources it finds below, not the one the rules stand on.
        if !(at_node && key == "x-kubernetes-embedded-resource") {
            out.insert(key.clone(), kept);
        }
    }
    Value::Object(out)
}

/// Evaluates every rule on an object that has passed the schema.
pub(super) fn evaluate(root: &Node, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if root.rules.is_some() {
        let old = old.map(visible);
        at_node(root, &visible(new), old.as_ref(), "", causes);
    }
    below(root, new, old, "", causes);
}

/// What rules at the root see: of the metadata only the names.
fn visible(object: &Value) -> Value {
    let mut seen = object.clone();
    if let Some(Value::Object(meta)) = seen.get_mut("metadata") {
        meta.retain(|key, _| key == "name" || key == "generateName");
    }
    seen
}

fn walk(node: &Node, new: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    if node.has_rules && !new.is_null() {
        at_node(node, new, old.filter(|o| !o.is_null()), path, causes);
        below(node, new, old, path, causes);
    }
}

fn below(node: &Node, new: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    match new {
        Value::Object(map) => {
            for (key, item) in map {
                let child = match (node.properties.get(key), &node.additional) {
                    (Some(child), _) => child,
                    (None, Additional::Of(child)) => child,
                    (None, Additional::Any | Additional::None) => continue,
                };
                let old = old.and_then(|o| o.get(key));
                walk(child, item, old, &join(path, key), causes);
            }
        }
        Value::Array(items) => {
            if let Some(child) = &node.items {
                for (i, item) in items.iter().enumerate() {
                    let old = old.and_then(|o| lists::counterpart(node, item, o));
                    walk(child, item, old, &format!("{path}[{i}]"), causes);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn at_node(node: &Node, new: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    let Some(rules) = &node.rules else { return };
    let Err(failures) = validate_compiled(&rules.compiled, new, old) else { return };
    let unchanged = old == Some(new);
    for failure in failures.into_vec() {
        // A rule that fails as it did before does not stand in the way of other changes.
        if unchanged && !failure.rule.contains("oldSelf") {
            continue;
        }
        let broke = failure.kind != ErrorKind::ValidationFailure;
        let detail = if broke {
            format!("{} evaluating rule: {}", failure.message, failure.rule)
        } else {
            failure.message
        };
        let field = place(path, &failure.field_path);
        causes.push(match failure.reason.as_deref() {
            Some("FieldValueForbidden") => Cause::forbidden(field, &detail),
            Some("FieldValueRequired") => Cause::required(field, &detail),
            Some("FieldValueDuplicate") => Cause::duplicate(field, new),
            Some(_) | None if new.is_object() || new.is_array() => {
                Cause::invalid_omitted(field, &detail)
            }
            Some(_) | None => Cause::invalid(field, new, &detail),
        });
    }
}

/// The field of a cause: the node's path and the rule's fieldPath (`.size`).
fn place(path: &str, relative: &str) -> String {
    let relative = relative.trim_start_matches('.');
    match (path.is_empty(), relative.is_empty()) {
        (true, true) => "<nil>".into(),
        (true, false) => relative.into(),
        (false, true) => path.into(),
        (false, false) => format!("{path}.{relative}"),
    }
}
