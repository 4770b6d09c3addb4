//! What ownership needs to know of a type: what is one leaf, what has parts, what names an item.

use serde_json::{Map, Value};

use super::set::{Element, Set, canonical};
use crate::schema::{self, Additional, Kind, ListKind, Node, Schema};

/// The type of a value.
#[derive(Clone, Copy)]
pub(super) enum Type<'a> {
    /// A whole object: apiVersion, kind and metadata are implied; the rest by the node, or deduced.
    Object(Option<&'a Node>),
    Declared(&'a Node),
    /// No schema: maps have parts, lists are leaves.
    Deduced,
}

/// How a value of a type falls into parts.
pub(super) enum Shape<'v, 'a> {
    Leaf,
    Map(&'v Map<String, Value>),
    List(&'v [Value], &'a Node),
}

/// A member of a map.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub of: Type<'a>,
    /// Named by the schema, as opposed to a key that is data.
    pub declared: bool,
    /// Unknown to a closed schema.
    pub foreign: bool,
}

impl<'a> Type<'a> {
    pub fn of_object(schema: Option<&'a Schema>) -> Self {
        Self::Object(schema.map(Schema::root))
    }

    fn node(self) -> Option<&'a Node> {
        match self {
            Self::Object(node) => node,
            Self::Declared(node) => Some(node),
            Self::Deduced => None,
        }
    }

    /// Whether whole-object members are implied here.
    fn is_whole(self) -> bool {
        match self {
            Self::Object(_) => true,
            Self::Declared(node) => node.embedded,
            Self::Deduced => false,
        }
    }

    pub fn member(self, key: &str) -> Part<'a> {
        let part = |of, declared| Part { of, declared, foreign: false };
        if self.is_whole() {
            match key {
                "apiVersion" | "kind" => return part(Type::Declared(schema::text()), true),
                "metadata" => return part(Type::Declared(schema::object_meta()), true),
                _ => {}
            }
        }
        let Some(node) = self.node() else { return part(Type::Deduced, false) };
        match (node.properties.get(key), &node.additional) {
            (Some(child), _) => part(Type::Declared(child), true),
            (None, Additional::Of(child)) => part(Type::Declared(child), false),
            (None, Additional::Any) => part(Type::Deduced, false),
            (None, Additional::None) => {
                Part { of: Type::Deduced, declared: false, foreign: !node.preserve }
            }
        }
    }

    /// How this value falls into parts; what does not fit its type is a leaf.
    pub fn shape<'v>(self, value: &'v Value) -> Shape<'v, 'a> {
        match (value, self.node()) {
            (Value::Object(_), Some(node)) if node.atomic_map => Shape::Leaf,
            (Value::Object(map), Some(node)) => {
                let open = matches!(node.kind, None | Some(Kind::Object));
                if open && !node.int_or_string { Shape::Map(map) } else { Shape::Leaf }
            }
            (Value::Object(map), None) => Shape::Map(map),
            (Value::Array(items), Some(node)) if node.list != ListKind::Atomic => {
                Shape::List(items, node)
            }
            (
                Value::Array(_)
                | Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_),
                _,
            ) => Shape::Leaf,
        }
    }

    /// Whether null stands for "no members" here rather than for a value of its own.
    pub fn is_container(self) -> bool {
        match self {
            Self::Object(_) => true,
            Self::Declared(node) => match node.kind {
                Some(Kind::Object) => !node.atomic_map,
                Some(Kind::Array) => node.list != ListKind::Atomic,
                Some(Kind::String | Kind::Integer | Kind::Number | Kind::Boolean) | None => false,
            },
            Self::Deduced => false,
        }
    }
}

/// The type of the items of a list.
pub(super) fn item_type(list: &Node) -> Type<'_> {
    list.items.as_deref().map_or(Type::Deduced, Type::Declared)
}

/// What names an item of a set or map list; missing keys take their default.
pub(super) fn element(list: &Node, item: &Value) -> Element {
    let ListKind::Map(keys) = &list.list else {
        return Element::Value(canonical(item));
    };
    let mut named = Map::new();
    for key in keys {
        let declared = || list.items.as_ref()?.properties.get(key)?.default.clone();
        let value = item.get(key).cloned().or_else(declared).unwrap_or_default();
        named.insert(key.clone(), value);
    }
    Element::Key(canonical(&Value::Object(named)))
}

/// The fields of an applied object: leaves, list items, keys that are data, empty maps.
pub(super) fn fields(of: Type<'_>, value: &Value) -> Set {
    let mut set = Set::default();
    match of.shape(value) {
        Shape::Leaf => {}
        Shape::Map(map) => {
            for (key, value) in map {
                let part = of.member(key);
                let name = Element::Field(key.clone());
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                let leaf = matches!(part.of.shape(value), Shape::Leaf);
                if leaf || empty || !part.declared {
                    set.members.insert(name.clone());
                }
                add_child(&mut set, name, fields(part.of, value));
            }
        }
        Shape::List(items, node) => {
            for item in items {
                let name = element(node, item);
                set.members.insert(name.clone());
                add_child(&mut set, name, fields(item_type(node), item));
            }
        }
    }
    set
}

fn add_child(set: &mut Set, name: Element, child: Set) {
    if !child.is_empty() {
        let merged = set.children.get(&name).map_or_else(|| child.clone(), |c| c.union(&child));
        set.children.insert(name, merged);
    }
}

/// The set with declared members named by it, though only paths below them are in it.
pub(super) fn with_named_parents(of: Type<'_>, set: &Set) -> Set {
    let mut out = Set { members: set.members.clone(), ..Set::default() };
    for (name, child) in &set.children {
        let below = match name {
            Element::Field(key) => {
                let part = of.member(key);
                if part.declared {
                    out.members.insert(name.clone());
                }
                part.of
            }
            Element::Key(_) => of.node().map_or(Type::Deduced, item_type),
            Element::Value(_) | Element::Index(_) => Type::Deduced,
        };
        out.children.insert(name.clone(), with_named_parents(below, child));
    }
    out
}
