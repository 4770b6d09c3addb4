//! Sets of fields, as tries, and their FieldsV1 notation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element {
    /// `f:`: a member of a map.
    Field(String),
    /// `k:`: an item of a map list, by its keys as canonical JSON.
    Key(String),
    /// `v:`: a member of a set, as JSON.
    Value(String),
    /// `i:`: a position; read and written, never made here.
    Index(i64),
}

impl Element {
    fn parse(text: &str) -> Option<Self> {
        let (sort, rest) = text.split_once(':')?;
        match sort {
            "f" => Some(Self::Field(rest.to_owned())),
            "k" => {
                let value: Value = serde_json::from_str(rest).ok()?;
                value.is_object().then(|| Self::Key(canonical(&value)))
            }
            "v" => Some(Self::Value(canonical(&serde_json::from_str(rest).ok()?))),
            "i" => rest.parse().ok().map(Self::Index),
            _ => None,
        }
    }

    fn notation(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(json) => format!("k:{json}"),
            Self::Value(json) => format!("v:{json}"),
            Self::Index(at) => format!("i:{at}"),
        }
    }
}

/// As conflicts print it: `.name`, `[port=1,protocol="TCP"]`, `[="a"]`, `[3]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(json) => {
                let keys: Value = serde_json::from_str(json).unwrap_or_default();
                let pairs = keys.as_object().into_iter().flatten();
                let pairs: Vec<String> = pairs.map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", pairs.join(","))
            }
            Self::Value(json) => write!(f, "[={json}]"),
            Self::Index(at) => write!(f, "[{at}]"),
        }
    }
}

/// JSON with the members of maps in order, whatever the map type keeps.
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let one = |(k, v): (&String, &Value)| {
                format!("{}:{}", Value::String(k.clone()), canonical(v))
            };
            format!("{{{}}}", sorted.into_iter().map(one).collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    pub members: BTreeSet<Element>,
    pub children: BTreeMap<Element, Set>,
}

impl Set {
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Set::is_empty)
    }

    /// Adds a path; the empty path stands for nothing.
    pub fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.members.extend(other.members.iter().cloned());
        for (element, child) in &other.children {
            let merged =
                out.children.get(element).map_or_else(|| child.clone(), |c| c.union(child));
            out.children.insert(element.clone(), merged);
        }
        out
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let members = self.members.intersection(&other.members).cloned().collect();
        self.combine(members, |element, child| {
            other.children.get(element).map_or_else(Self::default, |o| child.intersection(o))
        })
    }

    /// The paths that are not in `other`; what is below a removed path stays.
    pub fn difference(&self, other: &Self) -> Self {
        let members = self.members.difference(&other.members).cloned().collect();
        self.combine(members, |element, child| {
            other.children.get(element).map_or_else(|| child.clone(), |o| child.difference(o))
        })
    }

    fn combine(&self, members: BTreeSet<Element>, child: impl Fn(&Element, &Self) -> Self) -> Self {
        let children =
            self.children.iter().map(|(element, c)| (element.clone(), child(element, c)));
        Self { members, children: children.filter(|(_, c)| !c.is_empty()).collect() }
    }

    /// Every path as conflicts print it, in order.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect_paths("", &mut out);
        out
    }

    fn collect_paths(&self, prefix: &str, out: &mut Vec<String>) {
        out.extend(self.members.iter().map(|member| format!("{prefix}{member}")));
        for (element, child) in &self.children {
            child.collect_paths(&format!("{prefix}{element}"), out);
        }
    }

    /// The FieldsV1 notation.
    pub fn to_fields(&self) -> Value {
        let mut map = Map::new();
        for member in &self.members {
            map.insert(member.notation(), Value::Object(Map::new()));
        }
        for (element, child) in self.children.iter().filter(|(_, c)| !c.is_empty()) {
            let mut below = child.to_fields();
            if let Value::Object(inner) = &mut below
                && self.members.contains(element)
            {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(element.notation(), below);
        }
        Value::Object(map)
    }

    /// Reads FieldsV1; `None` when it is none.
    pub fn from_fields(fields: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (key, value) in fields.as_object()? {
            if key == "." {
                continue;
            }
            let element = Element::parse(key)?;
            let below = value.as_object()?;
            if below.is_empty() || below.contains_key(".") {
                set.members.insert(element.clone());
            }
            let child = Self::from_fields(value)?;
            if !child.is_empty() {
                set.children.insert(element, child);
            }
        }
        Some(set)
    }
}
