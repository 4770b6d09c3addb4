//! CustomResourceDefinitions (stub: the signatures; the rules follow).
use serde_json::Value;

use crate::status::Cause;

/// Writes the defaults of a CRD body (names.singular, names.listKind, conversion).
pub fn default(_crd: &mut Value) {}

/// Checks a defaulted CRD; `old` on updates.
#[must_use]
pub fn validate(_crd: &Value, _old: Option<&Value>) -> Vec<Cause> {
    Vec::new()
}

/// The status a new CRD answers with before its names are looked at.
pub fn initial_status(_crd: &mut Value) {}

/// Sets conditions NamesAccepted and Established, acceptedNames and storedVersions given the other
/// CRDs. Returns whether anything changed.
pub fn establish(_crd: &mut Value, _others: &[&Value], _now: &str) -> bool {
    false
}
