//! Which objects of a kind a list, watch or deletecollection is about. Pure.

use serde_json::Value;

use crate::kinds::{BuiltIn, Kind};
use crate::routes::query::Query;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::Result;
use crate::store::{Change, Stored};

/// Namespace and selectors of a request.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Empty: all namespaces.
    pub namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

/// What a change looks like to somebody who only sees the selected objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Added,
    Modified,
    Deleted,
}

impl Seen {
    pub fn name(self) -> &'static str {
        match self {
            Seen::Added => "ADDED",
            Seen::Modified => "MODIFIED",
            Seen::Deleted => "DELETED",
        }
    }
}

impl Selection {
    pub fn parse(kind: &Kind, namespace: &str, query: &Query) -> Result<Self> {
        let supported: Vec<&str> = match (kind.built_in(), kind.custom()) {
            (Some(built_in), _) => built_in.selectable_fields().to_vec(),
            (None, Some(custom)) => custom.selectable.iter().map(String::as_str).collect(),
            (None, None) => Vec::new(),
        };
        Ok(Self {
            namespace: namespace.to_owned(),
            labels: LabelSelector::parse(query.get("labelSelector").unwrap_or_default())?,
            fields: FieldSelector::parse(
                query.get("fieldSelector").unwrap_or_default(),
                &supported,
            )?,
        })
    }

    /// Whether only the namespace restricts.
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The only name that can match, when the field selector gives one.
    pub fn name(&self) -> Option<&str> {
        self.fields.name()
    }

    /// Whether an object (known to be in the namespace) is selected.
    pub fn matches(&self, kind: &Kind, stored: &Stored) -> bool {
        if self.is_everything() {
            return true;
        }
        let object = kind.view(stored);
        let labels = object.pointer("/metadata/labels").unwrap_or(&Value::Null);
        self.labels.matches(labels) && self.matches_fields(kind, &object)
    }

    fn matches_fields(&self, kind: &Kind, object: &Value) -> bool {
        match kind.built_in() {
            Some(BuiltIn::Event) => self.fields.matches_with(|field| match field {
                "source" => {
                    let component = text(object, "source.component");
                    if component.is_empty() {
                        text(object, "reportingComponent")
                    } else {
                        component
                    }
                }
                other => text(object, other),
            }),
            Some(BuiltIn::Node) => self.fields.matches_with(|field| match field {
                "spec.unschedulable" => {
                    let value = object.pointer("/spec/unschedulable").and_then(Value::as_bool);
                    value.unwrap_or(false).to_string()
                }
                other => text(object, other),
            }),
            Some(_) | None => self.fields.matches(object),
        }
    }

    /// What a change means to this selection: entering it is an addition, leaving it a deletion.
    pub fn see(&self, kind: &Kind, change: &Change) -> Option<Seen> {
        if !self.namespace.is_empty() && self.namespace != change.key.namespace {
            return None;
        }
        if self.name().is_some_and(|name| name != change.key.name) {
            return None;
        }
        let selected = |stored: Option<&Stored>| stored.is_some_and(|s| self.matches(kind, s));
        match (selected(change.prev.as_deref()), selected(change.next.as_deref())) {
            (false, false) => None,
            (false, true) => Some(Seen::Added),
            (true, true) => Some(Seen::Modified),
            (true, false) => Some(Seen::Deleted),
        }
    }
}

fn text(object: &Value, path: &str) -> String {
    let found = path.split('.').try_fold(object, |value, key| value.get(key));
    match found {
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::kinds::Kinds;
    use crate::store::Key;

    fn change(prev: Option<Value>, next: Option<Value>) -> Change {
        let stored = |value: Option<Value>| value.map(|value| Stored::from_value(1, value));
        Change {
            rv: 2,
            key: Key::new(&Arc::from("configmaps"), "lab", "c"),
            prev: stored(prev),
            next: stored(next),
        }
    }

    fn labelled(value: &str) -> Option<Value> {
        Some(json!({"metadata": {"name": "c", "namespace": "lab", "labels": {"a": value}}}))
    }

    fn see(query: &str, namespace: &str, change: &Change) -> Option<Seen> {
        let kinds = Kinds::new(Vec::new());
        let kind = kinds.get("", "v1", "configmaps").unwrap();
        let selection = Selection::parse(kind, namespace, &Query::parse(query)).unwrap();
        selection.see(kind, change)
    }

    #[test]
    fn entering_is_added_and_leaving_is_deleted() {
        let query = "labelSelector=a%3Dx";
        assert_eq!(see(query, "", &change(labelled("y"), labelled("x"))), Some(Seen::Added));
        assert_eq!(see(query, "", &change(labelled("x"), labelled("x"))), Some(Seen::Modified));
        assert_eq!(see(query, "", &change(labelled("x"), labelled("y"))), Some(Seen::Deleted));
        assert_eq!(see(query, "", &change(labelled("y"), labelled("z"))), None);
        assert_eq!(see(query, "", &change(labelled("y"), None)), None);
    }

    #[test]
    fn other_namespaces_and_names_are_not_seen() {
        let any = change(None, labelled("x"));
        assert_eq!(see("", "lab", &any), Some(Seen::Added));
        assert_eq!(see("", "other", &any), None);
        assert_eq!(see("fieldSelector=metadata.name%3Dc", "", &any), Some(Seen::Added));
        assert_eq!(see("fieldSelector=metadata.name%3Dd", "", &any), None);
    }

    #[test]
    fn an_absent_unschedulable_counts_as_false() {
        let kinds = Kinds::new(Vec::new());
        let kind = kinds.get("", "v1", "nodes").unwrap();
        let query = Query::parse("fieldSelector=spec.unschedulable%3Dfalse");
        let selection = Selection::parse(kind, "", &query).unwrap();
        let node = Stored::from_value(1, json!({"metadata": {"name": "n"}, "spec": {}}));
        assert!(selection.matches(kind, &node));
    }
}
