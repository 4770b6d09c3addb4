//! Structural schemas (stub: the signatures; the rules follow).
use serde_json::Value;

use crate::status::Cause;

/// A schema that is not structural.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?}")]
pub struct SchemaError(
    /// What is wrong where, in the words of CRD admission.
    pub Vec<Cause>,
);

/// A compiled openAPIV3Schema.
#[derive(Debug)]
pub struct Schema;

impl Schema {
    /// Compiles `spec.versions[].schema.openAPIV3Schema`.
    pub fn parse(_schema: &Value) -> Result<Self, SchemaError> {
        Ok(Self)
    }
    /// Drops unknown fields and nulls of non-nullable ones; returns the unknown paths
    /// (`spec.nope`), for `unknown field "spec.nope"`. `metadata` is not touched (see meta::decode).
    pub fn prune(&self, _object: &mut Value) -> Vec<String> {
        Vec::new()
    }
    /// Fills in defaults. Run after `prune`.
    pub fn default(&self, _object: &mut Value) {}
    /// Validates a pruned and defaulted object; `old` on updates (transition rules).
    pub fn validate(&self, _new: &Value, _old: Option<&Value>) -> Vec<Cause> {
        Vec::new()
    }
}

/// Whether a text is an RFC 3339 date-time.
#[must_use]
pub fn is_date_time(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
}
