//! What a CustomResourceDefinition must look like.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{is_established, storage_version, versions};
use crate::meta::{NameRule, name_problem};
use crate::schema::Schema;
use crate::status::Cause;

const MAX_SELECTABLE_FIELDS: usize = 8;
const APPROVAL: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];

/// Checks a defaulted definition; `old` is the stored one on updates.
#[must_use]
pub fn validate(crd: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let empty = json!({});
    let spec = crd.get("spec").unwrap_or(&empty);
    names(crd, spec, &mut causes);
    group(crd, spec, &mut causes);
    scope(spec, old, &mut causes);
    conversion(spec, &mut causes);
    version_list(crd, &mut causes);
    let shared = Shared::of(crd);
    for (i, version) in versions(crd).iter().enumerate() {
        version_parts(version, i, &shared, &mut causes);
    }
    causes
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn names(crd: &Value, spec: &Value, causes: &mut Vec<Cause>) {
    let empty = json!({});
    let names = spec.get("names").unwrap_or(&empty);
    let wanted = format!("{}.{}", text(names, "plural"), text(spec, "group"));
    let name = crate::meta::text(crd, "name");
    if name != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &name.into(), detail));
    }
    for key in ["plural", "singular", "kind", "listKind"] {
        let value = text(names, key);
        let field = format!("spec.names.{key}");
        let kind = key == "kind" || key == "listKind";
        if value.is_empty() {
            causes.push(Cause::required(field, ""));
        } else if let Some(problem) = dns_1035_problem(&lowered(value, kind)) {
            let detail = if kind {
                format!("may have mixed case, but should otherwise match: {problem}")
            } else {
                problem
            };
            causes.push(Cause::invalid(field, &value.into(), &detail));
        }
    }
    for key in ["shortNames", "categories"] {
        let list = names.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for (i, value) in list.iter().enumerate() {
            if let Some(problem) = dns_1035_problem(value.as_str().unwrap_or_default()) {
                causes.push(Cause::invalid(format!("spec.names.{key}[{i}]"), value, &problem));
            }
        }
    }
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        let detail = "kind and listKind may not be the same";
        causes.push(Cause::invalid("spec.names.listKind", &kind.into(), detail));
    }
}

fn lowered(value: &str, lower: bool) -> String {
    if lower { value.to_lowercase() } else { value.to_owned() }
}

fn dns_1035_problem(value: &str) -> Option<String> {
    let ok = name_problem(value, NameRule::Label).is_none()
        && value.starts_with(|c: char| c.is_ascii_lowercase());
    (!ok).then(|| {
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
         alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
         'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
            .to_owned()
    })
}

fn group(crd: &Value, spec: &Value, causes: &mut Vec<Cause>) {
    let group = text(spec, "group");
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
        return;
    }
    if let Some(problem) = name_problem(group, NameRule::Subdomain) {
        causes.push(Cause::invalid("spec.group", &group.into(), &problem));
    } else if !group.contains('.') {
        let detail = "should be a domain with at least one dot";
        causes.push(Cause::invalid("spec.group", &group.into(), detail));
    }
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.ends_with(&format!(".{domain}")));
    if !protected {
        return;
    }
    let annotations = crd.get("metadata").and_then(|m| m.get("annotations"));
    let approval = annotations.map(|a| text(a, APPROVAL)).unwrap_or_default();
    let field = format!("metadata.annotations[{APPROVAL}]");
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    if approval.is_empty() {
        let detail =
            format!("protected groups must have approval annotation \"{APPROVAL}\", {see}");
        causes.push(Cause::required(field, &detail));
    } else if !approval.starts_with("https://") && !approval.starts_with("unapproved") {
        let detail = format!(
            "protected groups must have approval annotation \"{APPROVAL}\" with either a URL or a \
             reason starting with \"unapproved\", {see}"
        );
        causes.push(Cause::invalid(field, &approval.into(), &detail));
    }
}

fn scope(spec: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let scope = text(spec, "scope");
    if scope.is_empty() {
        causes.push(Cause::required("spec.scope", ""));
    } else if !["Cluster", "Namespaced"].contains(&scope) {
        causes.push(Cause::not_supported("spec.scope", &scope.into(), &["Cluster", "Namespaced"]));
    }
    let Some(old) = old else { return };
    let before = old.get("spec").cloned().unwrap_or_default();
    let mut fixed = |field: &str, new: &str, before: &str| {
        if new != before {
            causes.push(Cause::invalid(field, &new.into(), "field is immutable"));
        }
    };
    fixed("spec.group", text(spec, "group"), text(&before, "group"));
    if is_established(old) {
        fixed("spec.scope", scope, text(&before, "scope"));
        let name = |spec: &Value, key| spec.get("names").map(|n| text(n, key).to_owned());
        for key in ["kind", "plural"] {
            let (new, before) = (name(spec, key), name(&before, key));
            let field = format!("spec.names.{key}");
            fixed(&field, &new.unwrap_or_default(), &before.unwrap_or_default());
        }
    }
}

/// Only the conversion that rewrites apiVersion is served.
fn conversion(spec: &Value, causes: &mut Vec<Cause>) {
    let strategy = spec.get("conversion").and_then(|c| c.get("strategy"));
    if let Some(strategy) = strategy.filter(|s| s.as_str() != Some("None")) {
        causes.push(Cause::not_supported("spec.conversion.strategy", strategy, &["None"]));
    }
}

fn version_list(crd: &Value, causes: &mut Vec<Cause>) {
    let list = versions(crd);
    if list.is_empty() {
        causes.push(Cause::required("spec.versions", "must have at least one version"));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, version) in list.iter().enumerate() {
        let name = text(version, "name");
        if let Some(problem) = dns_1035_problem(name) {
            causes.push(Cause::invalid(format!("spec.versions[{i}].name"), &name.into(), &problem));
        }
        if !seen.insert(name) {
            let shown = shown_versions(list);
            let detail = "must contain unique version names";
            causes.push(Cause::invalid("spec.versions", &shown, detail));
        }
    }
    let storage: Vec<&str> = list
        .iter()
        .filter(|v| v.get("storage").and_then(Value::as_bool) == Some(true))
        .map(|v| text(v, "name"))
        .collect();
    if storage.len() != 1 {
        causes.push(Cause {
            message: format!(
                "Invalid value: {}: must have exactly one version marked as storage version",
                shown_version_text(list)
            ),
            ..Cause::invalid("spec.versions", &Value::Null, "")
        });
    }
    stored_versions(crd, &storage, causes);
}

fn stored_versions(crd: &Value, storage: &[&str], causes: &mut Vec<Cause>) {
    let listed = crd.get("status").and_then(|s| s.get("storedVersions")).and_then(Value::as_array);
    let first: Vec<Value> = storage_version(crd).map(Value::from).into_iter().collect();
    let stored = listed.cloned().unwrap_or(first);
    let names: Vec<&str> = versions(crd).iter().map(|v| text(v, "name")).collect();
    for (i, version) in stored.iter().enumerate() {
        let version = version.as_str().unwrap_or_default();
        if !names.contains(&version) {
            let detail = format!(
                "missing from spec.versions; {version} was previously a storage version, and must \
                 remain in spec.versions until a storage migration ensures no data remains \
                 persisted in {version} and removes {version} from status.storedVersions"
            );
            let field = format!("status.storedVersions[{i}]");
            causes.push(Cause::invalid(field, &version.into(), &detail));
        }
    }
    if let [.., last] = storage
        && storage.len() > 1
        && !stored.iter().any(|v| v.as_str() == Some(last))
    {
        let detail = format!("must have the storage version {last}");
        causes.push(Cause::invalid("status.storedVersions", &Value::Array(stored), &detail));
    }
}

/// Versions as the real server prints its internal form, members in declaration order.
fn shown_version_text(list: &[Value]) -> String {
    let one = |v: &Value| {
        let flag = |key: &str| v.get(key).and_then(Value::as_bool).unwrap_or_default();
        format!(
            "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\
             \"DeprecationWarning\":null,\"Schema\":null,\"Subresources\":null,\
             \"AdditionalPrinterColumns\":null,\"SelectableFields\":null}}",
            json!(text(v, "name")),
            flag("served"),
            flag("storage"),
            flag("deprecated")
        )
    };
    format!("[{}]", list.iter().map(one).collect::<Vec<_>>().join(","))
}

fn shown_versions(list: &[Value]) -> Value {
    list.iter().map(|v| json!({"Name": text(v, "name")})).collect()
}

/// Parts that are the same in every version are reported once, under `spec` (the real server keeps
/// them there internally).
struct Shared {
    schema: bool,
    subresources: bool,
    columns: bool,
    fields: bool,
}

impl Shared {
    fn of(crd: &Value) -> Self {
        let list = versions(crd);
        let same = |key: &str| {
            let first = list.first().and_then(|v| v.get(key));
            first.is_some() && list.iter().all(|v| v.get(key) == first)
        };
        Self {
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            fields: same("selectableFields"),
        }
    }
}

fn version_parts(version: &Value, i: usize, shared: &Shared, causes: &mut Vec<Cause>) {
    let place = |shared: bool, own: &str, common: &str| {
        if shared { format!("spec.{common}") } else { format!("spec.versions[{i}].{own}") }
    };
    let raw = version.get("schema").and_then(|s| s.get("openAPIV3Schema"));
    match raw.filter(|s| !s.is_null()) {
        None => {
            causes.push(Cause::required(format!("spec.versions[{i}].schema.openAPIV3Schema"), ""));
        }
        Some(raw) if !(shared.schema && i > 0) => {
            if let Err(problems) = Schema::parse(raw) {
                let base = place(shared.schema, "schema", "validation");
                causes.extend(problems.0.into_iter().map(|problem| Cause {
                    field: format!("{base}.openAPIV3Schema{}", problem.field),
                    ..problem
                }));
            }
        }
        Some(_) => {}
    }
    if !(shared.columns && i > 0) {
        let base = place(shared.columns, "additionalPrinterColumns", "additionalPrinterColumns");
        columns(version, &base, causes);
    }
    if !(shared.subresources && i > 0) {
        let base = place(shared.subresources, "subresources", "subresources");
        scale(version, &base, causes);
    }
    if !(shared.fields && i > 0) {
        let base = place(shared.fields, "selectableFields", "selectableFields");
        selectable(version, raw.unwrap_or(&Value::Null), &base, causes);
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn columns(version: &Value, base: &str, causes: &mut Vec<Cause>) {
    for (i, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        let field = |key: &str| format!("{base}[{i}].{key}");
        for key in ["name", "type", "jsonPath"] {
            if text(column, key).is_empty() {
                causes.push(Cause::required(field(key), ""));
            }
        }
        let kind = text(column, "type");
        if !kind.is_empty() && !COLUMN_TYPES.contains(&kind) {
            let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
            causes.push(Cause::invalid(field("type"), &kind.into(), &detail));
        }
        let path = text(column, "jsonPath");
        if !path.is_empty() && !is_json_path(path) {
            let detail = "is an invalid path: must start with a dot and be a JSON path";
            causes.push(Cause::invalid(field("jsonPath"), &path.into(), detail));
        }
    }
}

fn is_json_path(path: &str) -> bool {
    let rooted = path.starts_with('.') || path.starts_with('[');
    rooted && serde_json_path::JsonPath::parse(&format!("${path}")).is_ok()
}

fn scale(version: &Value, base: &str, causes: &mut Vec<Cause>) {
    let Some(scale) = version.get("subresources").and_then(|s| s.get("scale")) else { return };
    if scale.is_null() {
        return;
    }
    for (key, prefix, required) in [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", ".", false),
    ] {
        let path = text(scale, key);
        let field = format!("{base}.scale.{key}");
        if path.is_empty() {
            if required {
                causes.push(Cause::required(field, ""));
            }
        } else if path.contains('[') || path.split('.').skip(1).any(str::is_empty) {
            let detail = "is an invalid path: must be a simple json path";
            causes.push(Cause::invalid(field, &path.into(), detail));
        } else if !path.starts_with(prefix) {
            let detail = format!("should be a json path under {}", prefix.trim_end_matches('.'));
            causes.push(Cause::invalid(field, &path.into(), &detail));
        }
    }
}

/// Selectable fields are scalars the schema declares outside lists.
fn selectable(version: &Value, schema: &Value, base: &str, causes: &mut Vec<Cause>) {
    let fields = list(version, "selectableFields");
    if fields.len() > MAX_SELECTABLE_FIELDS {
        causes.push(Cause::too_many(base, fields.len(), MAX_SELECTABLE_FIELDS));
    }
    let mut seen = BTreeSet::new();
    for (i, field) in fields.iter().enumerate() {
        let path = text(field, "jsonPath");
        let at = format!("{base}[{i}].jsonPath");
        if path.is_empty() {
            causes.push(Cause::required(at, ""));
            continue;
        }
        if !seen.insert(path) {
            causes.push(Cause::duplicate(at.clone(), &path.into()));
        }
        if path.starts_with(".metadata") {
            let detail = "must not point to fields in metadata";
            causes.push(Cause::invalid(at, &path.into(), detail));
        } else if !is_scalar_path(schema, path) {
            let detail = "is an invalid path: does not refer to a valid field";
            causes.push(Cause::invalid(at, &path.into(), detail));
        }
    }
}

fn is_scalar_path(schema: &Value, path: &str) -> bool {
    let Some(path) = path.strip_prefix('.') else { return false };
    let found =
        path.split('.').try_fold(schema, |at, key| at.get("properties").and_then(|p| p.get(key)));
    let kind = found.map(|s| text(s, "type")).unwrap_or_default();
    ["string", "integer", "boolean"].contains(&kind)
}
