//! Schema fragments that the derive cannot say.

use schemars::{Schema, SchemaGenerator, json_schema};

/// An object whose keys we do not know: kept as it is, never pruned.
pub(crate) fn free_form(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
