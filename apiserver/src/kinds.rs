//! Which kinds are served: a fixed table of built-in ones, and one for every established
//! CustomResourceDefinition and version.
//!
//! A [`Kinds`] is an immutable snapshot. Requests take the current one and keep it; the CRD
//! controller replaces it.

pub mod builtin;
pub mod custom;
pub mod events;
pub mod rules;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::schema::{self, Schema};
use crate::store::Stored;
pub use builtin::BuiltIn;
pub use custom::{Column, Custom, Scale};

/// One kind as served in one group and version.
pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// The store's name for it; shared by all versions.
    pub resource: Arc<str>,
    pub verbs: &'static [&'static str],
    /// Whether `/status` exists and owns the status.
    pub status: bool,
    pub origin: Origin,
}

/// Where a kind comes from.
pub enum Origin {
    BuiltIn(BuiltIn),
    Custom(Box<Custom>),
}

impl Kind {
    /// `group/version`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        join_version(&self.group, &self.version)
    }

    /// The API version under which objects of this kind are stored.
    pub fn storage_api_version(&self) -> String {
        match &self.origin {
            Origin::BuiltIn(BuiltIn::EventsEvent) => "v1".into(),
            Origin::BuiltIn(_) => self.api_version(),
            Origin::Custom(custom) => join_version(&self.group, &custom.storage_version),
        }
    }

    pub fn built_in(&self) -> Option<BuiltIn> {
        match &self.origin {
            Origin::BuiltIn(built_in) => Some(*built_in),
            Origin::Custom(_) => None,
        }
    }

    pub fn custom(&self) -> Option<&Custom> {
        match &self.origin {
            Origin::BuiltIn(_) => None,
            Origin::Custom(custom) => Some(custom),
        }
    }

    /// The schema that bodies are pruned and checked against.
    pub fn schema(&self) -> Option<&Schema> {
        match &self.origin {
            Origin::BuiltIn(_) => schema::builtin(&self.group, &self.kind),
            Origin::Custom(custom) => Some(&custom.schema),
        }
    }

    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether stored text can be sent as it is, with nothing to convert, prune or default.
    pub fn passthrough(&self) -> bool {
        match &self.origin {
            Origin::BuiltIn(built_in) => *built_in != BuiltIn::EventsEvent,
            // Objects were pruned and defaulted with the only schema there has ever been.
            Origin::Custom(custom) => {
                custom.storage_version == self.version && custom.generation <= 1
            }
        }
    }

    /// The stored object as this version shows it.
    pub fn view<'a>(&self, stored: &'a Stored) -> Cow<'a, Value> {
        if self.passthrough() {
            return Cow::Borrowed(stored.value());
        }
        Cow::Owned(self.view_value(stored.value().clone()))
    }

    /// As [`Kind::view`], for a value in hand.
    pub fn view_value(&self, mut value: Value) -> Value {
        match &self.origin {
            Origin::BuiltIn(BuiltIn::EventsEvent) => events::to_events_v1(value),
            Origin::BuiltIn(_) => value,
            Origin::Custom(custom) => {
                set_api_version(&mut value, self.api_version());
                drop(custom.schema.prune(&mut value));
                custom.schema.default(&mut value);
                value
            }
        }
    }

    /// The object in the form in which it is stored.
    pub fn to_storage(&self, mut value: Value) -> Value {
        match &self.origin {
            Origin::BuiltIn(BuiltIn::EventsEvent) => events::to_core_v1(value),
            Origin::BuiltIn(_) => value,
            Origin::Custom(_) => {
                set_api_version(&mut value, self.storage_api_version());
                value
            }
        }
    }

    /// Whether `metadata.generation` is kept for this kind.
    pub fn has_generation(&self) -> bool {
        match &self.origin {
            Origin::BuiltIn(built_in) => *built_in == BuiltIn::CustomResourceDefinition,
            Origin::Custom(_) => true,
        }
    }
}

fn set_api_version(value: &mut Value, api_version: String) {
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), Value::String(api_version));
    }
}

/// `group/version`, or the version alone for the core group.
pub fn join_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `plural.group`, or the plural alone for the core group.
pub fn resource_name(group: &str, plural: &str) -> Arc<str> {
    if group.is_empty() { plural.into() } else { format!("{plural}.{group}").into() }
}

/// A snapshot of everything that is served.
pub struct Kinds {
    kinds: Vec<Arc<Kind>>,
    paths: BTreeMap<(String, String, String), Arc<Kind>>,
}

impl Kinds {
    /// Built-in kinds and the given custom ones.
    pub fn new(custom: Vec<Arc<Kind>>) -> Self {
        let mut kinds: Vec<Arc<Kind>> = builtin::all();
        kinds.extend(custom);
        let path = |kind: &Arc<Kind>| {
            ((kind.group.clone(), kind.version.clone(), kind.plural.clone()), kind.clone())
        };
        let paths = kinds.iter().map(path).collect();
        Self { kinds, paths }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter()
    }

    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.paths.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The kind that stands for a stored resource: its storage version.
    pub fn by_resource(&self, resource: &str) -> Option<&Arc<Kind>> {
        let of_resource = || self.kinds.iter().filter(|kind| &*kind.resource == resource);
        of_resource()
            .find(|kind| kind.api_version() == kind.storage_api_version())
            .or_else(|| of_resource().next())
    }

    /// Group names in the order of discovery: built-in groups first, then the others by name.
    pub fn groups(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in builtin::GROUPS {
            names.push((*name).to_owned());
        }
        let mut custom: Vec<String> = self
            .kinds
            .iter()
            .filter(|kind| kind.custom().is_some())
            .map(|kind| kind.group.clone())
            .collect();
        custom.sort();
        custom.dedup();
        custom.retain(|name| !names.contains(name));
        names.extend(custom);
        names
    }

    /// The versions of a group, most stable and newest first; empty for an unknown group.
    pub fn versions(&self, group: &str) -> Vec<String> {
        let mut versions: Vec<String> = self
            .kinds
            .iter()
            .filter(|kind| kind.group == group)
            .map(|kind| kind.version.clone())
            .collect();
        if builtin::GROUPS.contains(&group) {
            versions.push("v1".into());
        }
        versions.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
        versions.dedup();
        versions
    }

    /// The kinds of one group version, in discovery order.
    pub fn of_version(&self, group: &str, version: &str) -> Vec<&Arc<Kind>> {
        let served = |kind: &&Arc<Kind>| kind.group == group && kind.version == version;
        self.kinds.iter().filter(served).collect()
    }
}

/// Whether a group belongs to the server itself, which decides how unknown paths in it answer.
pub fn is_built_in_group(group: &str) -> bool {
    group.is_empty() || builtin::GROUPS.contains(&group)
}

/// Sorts API versions: GA above beta above alpha, higher numbers above lower, anything else last.
pub fn version_rank(version: &str) -> (u8, u64, u64, String) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..end].parse().ok()?;
        let (stage, number) = match &rest[end..] {
            "" => (4, ""),
            tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(number), _) => (3, number),
                (None, Some(number)) => (2, number),
                (None, None) => return None,
            },
        };
        let minor = if number.is_empty() { 0 } else { number.parse().ok()? };
        Some((stage, major, minor, String::new()))
    };
    // Names that are not versions follow, in alphabetical order (hence the inversion).
    parse().unwrap_or_else(|| {
        let inverted = version.chars().map(|c| char::from(255 - u8::try_from(c).unwrap_or(0)));
        (0, 0, 0, inverted.collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rank_by_stability_then_number() {
        let mut versions = ["v1alpha1", "v2", "v1beta2", "v1", "v10", "foo", "v1beta1"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]);
    }

    #[test]
    fn the_two_event_kinds_share_one_store() {
        let kinds = Kinds::new(Vec::new());
        let core = kinds.get("", "v1", "events").unwrap();
        let events = kinds.get("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(core.resource, events.resource);
        assert_eq!(kinds.by_resource("events").unwrap().group, "");
    }
}
