//! Structural schemas of custom resources: pruning, defaulting, validation.
//!
//! A [`Schema`] is compiled once from `openAPIV3Schema` and then used for every object. Order of use
//! on a write: [`Schema::prune`], [`Schema::default`], [`Schema::validate`]. `metadata`, `apiVersion`
//! and `kind` of the root are not the schema's business, see [`crate::meta`].

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::status::Cause;

mod builtin;
mod default;
mod formats;
mod lists;
mod parse;
mod prune;
mod rules;
mod scale;
#[cfg(test)]
mod tests;
mod validate;

pub use builtin::{CORE_SCHEMAS, builtin};
pub(crate) use builtin::{object_meta, text};
pub use formats::is_date_time;
pub use scale::validate_scale;

/// Why a schema is not accepted.
#[derive(Clone, Debug, thiserror::Error)]
#[error("schema is not structural: {}", .0.iter().map(Cause::to_string).collect::<Vec<_>>().join(", "))]
pub struct SchemaError(
    /// One cause a problem; fields are relative to `openAPIV3Schema`, such as
    /// `.properties[spec].type`.
    pub Vec<Cause>,
);

/// A compiled structural schema.
#[derive(Debug)]
pub struct Schema {
    root: Node,
}

impl Schema {
    /// Compiles `spec.versions[].schema.openAPIV3Schema`, CEL rules included.
    ///
    /// # Errors
    /// Everything that keeps the schema from being structural, at once.
    pub fn parse(schema: &Value) -> Result<Self, SchemaError> {
        parse::root(schema).map(|root| Self { root }).map_err(SchemaError)
    }

    /// Drops fields the schema does not know and nulls where none are allowed. Returns the paths of
    /// the unknown fields as the server prints them (`spec.properties[0].zip`), sorted.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        prune::object(&self.root, object)
    }

    /// Fills in defaults, also inside defaults, list items and present maps. Run after
    /// [`Schema::prune`], on writes and (with the schema of the asked version) on reads.
    pub fn default(&self, object: &mut Value) {
        default::fill_root(&self.root, object);
    }

    /// Validates a pruned and defaulted object; `old` is the stored object on updates. What did not
    /// change since `old` is not held against the update.
    #[must_use]
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate::object(&self.root, new, old)
    }

    /// The root node, for parts that walk the types (field ownership).
    pub(crate) fn root(&self) -> &Node {
        &self.root
    }
}

/// One node of a schema.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub kind: Option<Kind>,
    pub nullable: bool,
    /// Undeclared members are kept as they are.
    pub preserve: bool,
    /// A whole object: apiVersion, kind and metadata are implied.
    pub embedded: bool,
    pub int_or_string: bool,
    pub properties: BTreeMap<String, Node>,
    pub additional: Additional,
    pub items: Option<Box<Node>>,
    pub list: ListKind,
    pub atomic_map: bool,
    /// Of a built-in kind: a part that always exists, though it may not be written down.
    pub implied: bool,
    pub default: Option<Value>,
    pub checks: Checks,
    pub rules: Option<rules::Rules>,
    /// Whether this node or any below has rules.
    pub has_rules: bool,
}

/// The `type` of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// What `additionalProperties` says.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    #[default]
    None,
    /// `true`: anything.
    Any,
    Of(Box<Node>),
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListKind {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// The value validations of a node.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub required: Vec<String>,
    pub choices: Option<Vec<Value>>,
    pub format: Option<String>,
    pub minimum: Option<Bound>,
    pub maximum: Option<Bound>,
    pub multiple_of: Option<f64>,
    pub min_length: Option<usize>,
    pub max_length: Option<usize>,
    pub pattern: Option<Regex>,
    pub min_items: Option<usize>,
    pub max_items: Option<usize>,
    pub min_properties: Option<usize>,
    pub max_properties: Option<usize>,
    pub all_of: Vec<Node>,
    pub any_of: Vec<Node>,
    pub one_of: Vec<Node>,
    pub not: Option<Box<Node>>,
}

/// A limit of a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub value: f64,
    pub exclusive: bool,
}

impl Node {
    /// The schema of a member, and whether the member is known at all.
    pub fn member(&self, key: &str) -> Member<'_> {
        match (self.properties.get(key), &self.additional) {
            (Some(node), _) => Member::Declared(node),
            (None, Additional::Of(node)) => Member::Declared(node),
            (None, Additional::Any) => Member::Free,
            (None, Additional::None) if self.preserve => Member::Free,
            (None, Additional::None) => Member::Unknown,
        }
    }
}

/// What a node knows about one of its members.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Member<'a> {
    Declared(&'a Node),
    /// Kept verbatim.
    Free,
    /// To be pruned.
    Unknown,
}

/// `path.key`, or the key alone at the root.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
