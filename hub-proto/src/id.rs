//! Names and numbers that cross the link, parsed at the door.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidName {
    what: &'static str,
    value: String,
    rule: &'static str,
}

const SUBDOMAIN: &str = "expected lower-case letters, digits, '-' and '.', starting and ending with a letter or \
                         digit, at most 253 characters (RFC 1123)";

/// The name of a Kubernetes Node, and with it of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    /// Parses a node name.
    ///
    /// # Errors
    /// Anything that Kubernetes would not accept as the name of a Node.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        check("node name", name)?;
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = InvalidName;
    fn try_from(name: String) -> Result<Self, InvalidName> {
        Self::parse(&name)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A device on the wire and in every store of the edge: `<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    namespace: String,
    name: String,
}

impl DeviceId {
    /// Makes an id from its two parts.
    ///
    /// # Errors
    /// A part that Kubernetes would not accept as a name.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        check("namespace", namespace)?;
        check("device name", name)?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Parses `<namespace>/<name>`.
    ///
    /// # Errors
    /// Not exactly two parts, or a part that is not a valid name.
    pub fn parse(id: &str) -> Result<Self, InvalidName> {
        let (namespace, name) = id.split_once('/').ok_or_else(|| InvalidName {
            what: "device id",
            value: id.to_owned(),
            rule: "expected <namespace>/<name>",
        })?;
        Self::new(namespace, name)
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key of the Device object itself.
    #[must_use]
    pub fn object_key(&self) -> ObjectKey {
        ObjectKey {
            kind: ObjectKind::Device,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds that are synced to an edge. Models order before devices, as the edge needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// `DeviceModel`
    DeviceModel,
    /// `Device`
    Device,
}

/// Names one synced object. Orders models before devices, then by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    kind: ObjectKind,
    namespace: String,
    name: String,
}

impl ObjectKey {
    /// Makes a key from its parts.
    ///
    /// # Errors
    /// A part that Kubernetes would not accept as a name.
    pub fn new(kind: ObjectKind, namespace: &str, name: &str) -> Result<Self, InvalidName> {
        check("namespace", namespace)?;
        check("object name", name)?;
        Ok(Self { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device this key names, if it names one.
    #[must_use]
    pub fn device_id(&self) -> Option<DeviceId> {
        match self.kind {
            ObjectKind::Device => {
                Some(DeviceId { namespace: self.namespace.clone(), name: self.name.clone() })
            }
            ObjectKind::DeviceModel => None,
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ObjectKind::Device => "Device",
            ObjectKind::DeviceModel => "DeviceModel",
        };
        write!(f, "{kind} {}/{}", self.namespace, self.name)
    }
}

/// A Kubernetes resourceVersion, read as the number every server in the field makes it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Revision(pub u64);

impl Revision {
    /// Parses the decimal text of a resourceVersion; `None` if it is no number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies one message; an ack names it. Any text is accepted from a peer, up to 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(String);

impl MessageId {
    const MAX: usize = 128;

    /// Takes an id as a peer wrote it.
    ///
    /// # Errors
    /// Empty, or longer than 128 bytes.
    pub fn parse(id: &str) -> Result<Self, InvalidName> {
        if id.is_empty() || id.len() > Self::MAX {
            return Err(InvalidName {
                what: "message id",
                value: id.chars().take(Self::MAX).collect(),
                rule: "expected 1 to 128 bytes",
            });
        }
        Ok(Self(id.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gives out message ids that look like UUIDs: the driver supplies 64 random bits once, a counter
/// does the rest. Two sessions clash only if their seeds do.
#[derive(Clone, Debug)]
pub struct IdSource {
    seed: u64,
    next: u64,
}

impl IdSource {
    /// Starts a sequence. `seed` should be random and differ between sessions.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, next: 0 }
    }

    /// The next id.
    pub fn next_id(&mut self) -> MessageId {
        let (high, low) = (self.seed, self.next);
        self.next = self.next.wrapping_add(1);
        // Version 4 and variant bits are set so that strict UUID parsers on the other side accept it.
        let id = format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            (high >> 4) & 0xfff,
            0x8000 | ((high & 0xf) << 8) | ((low >> 48) & 0xff),
            low & 0xffff_ffff_ffff,
        );
        MessageId(id)
    }
}

fn check(what: &'static str, name: &str) -> Result<(), InvalidName> {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    let valid = bytes.len() <= 253
        && bytes.first().copied().is_some_and(edge)
        && bytes.last().copied().is_some_and(edge)
        && bytes.iter().all(|&c| edge(c) || c == b'-' || c == b'.')
        && !name.contains("..");
    if valid {
        return Ok(());
    }
    Err(InvalidName { what, value: name.chars().take(300).collect(), rule: SUBDOMAIN })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_that_kubernetes_refuses_are_refused() {
        for bad in ["", "Edge", "a/b", "-a", "a-", "a..b", "a b", "ä", &"x".repeat(254)] {
            assert!(NodeName::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["edge-1", "a", "gw.site-7.example.com", "membership-1"] {
            assert_eq!(NodeName::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_device_id_reads_back_as_written() {
        let id = DeviceId::parse("dev/boiler-1").unwrap();
        assert_eq!((id.namespace(), id.name()), ("dev", "boiler-1"));
        assert_eq!(DeviceId::parse(&id.to_string()).unwrap(), id);
        assert!(DeviceId::parse("boiler-1").is_err());
        assert!(DeviceId::parse("a/b/c").is_err());
    }

    #[test]
    fn models_sort_before_devices() {
        let model = ObjectKey::new(ObjectKind::DeviceModel, "z", "z").unwrap();
        let device = ObjectKey::new(ObjectKind::Device, "a", "a").unwrap();
        assert!(model < device);
    }

    #[test]
    fn ids_are_unique_and_shaped_like_uuids() {
        let mut source = IdSource::new(0x0123_4567_89ab_cdef);
        let ids: HashSet<_> = (0..1000).map(|_| source.next_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert_eq!(
            IdSource::new(0x0123_4567_89ab_cdef).next_id().as_str(),
            "01234567-89ab-4cde-8f00-000000000000"
        );
    }
}
