//! `metadata.managedFields`: who owns what since when.

use serde_json::{Map, Value, json};

use super::set::Set;

/// How many managers may be recorded for updates before the oldest are merged.
const MAX_UPDATE_ENTRIES: usize = 10;
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// Who owns: what makes two entries the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
}

impl Owner {
    /// As conflicts name it.
    pub fn shown(&self) -> String {
        let mut out = crate::status::quote(&self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {}", crate::status::quote(&self.subresource)));
        }
        if self.operation == Operation::Update {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub owner: Owner,
    pub time: Option<String>,
    pub set: Set,
}

/// The entries of an object; `None` when any of them cannot be read.
pub(super) fn read(fields: &Value) -> Option<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for value in fields.as_array()? {
        let entry = read_entry(value)?;
        // The same owner twice: both count.
        match entries.iter_mut().find(|e| e.owner == entry.owner) {
            Some(known) => known.set = known.set.union(&entry.set),
            None => entries.push(entry),
        }
    }
    Some(entries)
}

fn read_entry(value: &Value) -> Option<Entry> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let operation = match text("operation") {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    if text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
        return None;
    }
    let owner = Owner {
        manager: text("manager").to_owned(),
        operation,
        api_version: text("apiVersion").to_owned(),
        subresource: text("subresource").to_owned(),
    };
    let time = value.get("time").and_then(Value::as_str).map(str::to_owned);
    Some(Entry { owner, time, set: Set::from_fields(value.get("fieldsV1")?)? })
}

/// The entries in order: Apply before Update, then by time (none first), manager, version,
/// subresource. `None` for no entries: the field is left out then.
pub(super) fn write(mut entries: Vec<Entry>) -> Option<Value> {
    entries.retain(|e| !e.set.is_empty());
    merge_ancient(&mut entries);
    entries.sort_by(|a, b| {
        let key = |e: &Entry| {
            let o = &e.owner;
            let names = (o.manager.clone(), o.api_version.clone(), o.subresource.clone());
            (o.operation, e.time.clone(), names)
        };
        key(a).cmp(&key(b))
    });
    let list: Vec<Value> = entries.iter().map(write_entry).collect();
    (!list.is_empty()).then_some(Value::Array(list))
}

fn write_entry(entry: &Entry) -> Value {
    let operation = match entry.owner.operation {
        Operation::Apply => "Apply",
        Operation::Update => "Update",
    };
    let mut map = Map::new();
    if !entry.owner.manager.is_empty() {
        map.insert("manager".into(), entry.owner.manager.as_str().into());
    }
    map.insert("operation".into(), operation.into());
    map.insert("apiVersion".into(), entry.owner.api_version.as_str().into());
    if let Some(time) = &entry.time {
        map.insert("time".into(), time.as_str().into());
    }
    map.insert("fieldsType".into(), "FieldsV1".into());
    map.insert("fieldsV1".into(), entry.set.to_fields());
    if !entry.owner.subresource.is_empty() {
        map.insert("subresource".into(), entry.owner.subresource.as_str().into());
    }
    Value::Object(map)
}

/// Keeps the number of Update entries bounded: the oldest become one entry a version.
fn merge_ancient(entries: &mut Vec<Entry>) {
    let updates = |entries: &[Entry]| {
        entries.iter().filter(|e| e.owner.operation == Operation::Update).count()
    };
    while updates(entries) > MAX_UPDATE_ENTRIES {
        let oldest = entries
            .iter()
            .enumerate()
            .filter(|(_, e)| e.owner.operation == Operation::Update && e.owner.manager != ANCIENT)
            .min_by(|(_, a), (_, b)| (&a.time, &a.owner).cmp(&(&b.time, &b.owner)))
            .map(|(at, _)| at);
        let Some(at) = oldest else { return };
        let gone = entries.remove(at);
        let owner = Owner {
            manager: ANCIENT.into(),
            operation: Operation::Update,
            api_version: gone.owner.api_version,
            subresource: String::new(),
        };
        match entries.iter_mut().find(|e| e.owner == owner) {
            Some(ancient) => {
                ancient.set = ancient.set.union(&gone.set);
                ancient.time = gone.time;
            }
            None => {
                // The first one to become ancient frees no place yet: the next round does.
                entries.push(Entry { owner, time: gone.time, set: gone.set });
            }
        }
    }
}

/// Whether a client asks for a clean slate: one empty entry.
pub(super) fn is_reset(fields: &Value) -> bool {
    *fields == json!([{}])
}
