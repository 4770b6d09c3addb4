//! The frames of a watch: one JSON object a line.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Value, json};

use crate::clock;
use crate::kinds::Kind;
use crate::negotiate::{Accepted, Shape};
use crate::selection::Seen;
use crate::status::StatusError;
use crate::store::{Change, Stored};
use crate::table::{self, Include};

/// Renders frames in the shape a client accepted.
pub struct Frames {
    kind: Arc<Kind>,
    accepted: Accepted,
    include: Include,
    /// Sent with the first table only.
    columns: Value,
}

impl Frames {
    pub fn new(kind: Arc<Kind>, accepted: Accepted, include: Include) -> Self {
        let columns = match accepted.shape {
            Shape::Table => table::columns(&kind),
            Shape::Plain | Shape::Metadata => Value::Null,
        };
        Self { kind, accepted, include, columns }
    }

    /// An object that existed when the watch began.
    pub fn added(&mut self, stored: &Stored) -> Bytes {
        self.object(Seen::Added, stored)
    }

    pub fn change(&mut self, seen: Seen, change: &Change) -> Bytes {
        match (seen, &change.prev, &change.next) {
            (Seen::Added | Seen::Modified, _, Some(next)) => self.object(seen, next),
            // The previous state, which still matched, with the revision of its end.
            (Seen::Deleted, Some(prev), _) => {
                let mut value = prev.value().clone();
                if let Some(version) = value.pointer_mut("/metadata/resourceVersion") {
                    *version = json!(change.rv.to_string());
                }
                self.object(seen, &Stored::from_value(change.rv, value))
            }
            (Seen::Added | Seen::Modified, _, None) | (Seen::Deleted, None, _) => Bytes::new(),
        }
    }

    fn object(&mut self, seen: Seen, stored: &Stored) -> Bytes {
        if self.accepted.shape == Shape::Plain && self.kind.passthrough() {
            return raw_frame(seen.name(), stored.raw());
        }
        let shown = self.kind.view(stored);
        let object = match self.accepted.shape {
            Shape::Plain => return frame(seen.name(), &shown),
            Shape::Metadata => table::metadata_only(&shown, self.accepted.version),
            Shape::Table => {
                let version = self.accepted.version;
                let value = stored.value();
                let now = clock::now();
                let row = table::row(&self.kind, &shown, value, self.include, version, now);
                let metadata = json!({"resourceVersion": stored.rv.to_string()});
                table::table(metadata, self.columns.take(), vec![row], version)
            }
        };
        frame(seen.name(), &object)
    }

    /// How far the watch has seen; `initial_end` marks the end of the initial list.
    pub fn bookmark(&mut self, rv: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": rv.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let version = self.accepted.version;
        let object = match self.accepted.shape {
            Shape::Plain => {
                let (kind, version) = (&self.kind.kind, self.kind.api_version());
                json!({"kind": kind, "apiVersion": version, "metadata": metadata})
            }
            Shape::Metadata => table::metadata_only(&json!({"metadata": metadata}), version),
            Shape::Table => {
                let columns = table::columns(&self.kind);
                let cells = vec![Value::Null; columns.as_array().map_or(0, Vec::len)];
                let object = table::metadata_only(&json!({"metadata": metadata}), version);
                let row = json!({"cells": cells, "object": object});
                let own = json!({"resourceVersion": rv.to_string()});
                table::table(own, Value::Null, vec![row], version)
            }
        };
        frame("BOOKMARK", &object)
    }
}

/// The frame that ends a watch with a reason.
pub fn error(status: &StatusError) -> Bytes {
    frame("ERROR", &status.to_value())
}

fn frame(name: &str, object: &Value) -> Bytes {
    raw_frame(name, object.to_string().as_bytes())
}

fn raw_frame(name: &str, object: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(object.len() + 40);
    bytes.put_slice(b"{\"type\":\"");
    bytes.put_slice(name.as_bytes());
    bytes.put_slice(b"\",\"object\":");
    bytes.put_slice(object);
    bytes.put_slice(b"}\n");
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kinds;
    use crate::store::Key;

    fn frames(shape: Shape) -> Frames {
        let kinds = Kinds::new(Vec::new());
        let kind = kinds.get("", "v1", "configmaps").unwrap().clone();
        Frames::new(kind, Accepted { shape, ..Accepted::JSON }, Include::Metadata)
    }

    fn read(bytes: &Bytes) -> Value {
        assert_eq!(bytes.last(), Some(&b'\n'));
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_deleted_object_has_its_last_state_and_the_revision_of_the_deletion() {
        let prev = Stored::from_value(3, json!({"metadata": {"resourceVersion": "3"}, "data": {}}));
        let key = Key::new(&Arc::from("configmaps"), "n", "c");
        let change = Change { rv: 7, key, prev: Some(prev), next: None };
        let frame = read(&frames(Shape::Plain).change(Seen::Deleted, &change));
        assert_eq!(frame["type"], "DELETED");
        assert_eq!(frame["object"]["metadata"]["resourceVersion"], "7");
        assert!(frame["object"]["data"].is_object());
    }

    #[test]
    fn only_the_first_table_defines_columns() {
        let mut frames = frames(Shape::Table);
        let object = Stored::from_value(3, json!({"metadata": {"name": "c"}}));
        let first = read(&frames.added(&object));
        let second = read(&frames.added(&object));
        assert!(first["object"]["columnDefinitions"].is_array());
        assert_eq!(first["object"]["metadata"]["resourceVersion"], "3");
        assert!(second["object"]["columnDefinitions"].is_null());
        let bookmark = read(&frames.bookmark(9, true));
        let metadata = &bookmark["object"]["rows"][0]["object"]["metadata"];
        assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
        assert_eq!(metadata["resourceVersion"], "9");
    }

    #[test]
    fn a_plain_bookmark_is_kind_version_and_revision_only() {
        let bookmark = read(&frames(Shape::Plain).bookmark(9, false));
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1",
                            "metadata": {"resourceVersion": "9"}});
        assert_eq!(bookmark, json!({"type": "BOOKMARK", "object": object}));
    }
}
