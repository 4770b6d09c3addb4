//! Every string of the KubeEdge cloud-edge protocol, and the grammar of its resource paths.
//!
//! Nobody else builds or splits a path, and nobody else spells an operation. The facts behind this
//! file were read from and tried against upstream KubeEdge; docs/protocol.md describes them.

use crate::id::{DeviceId, ObjectKey, ObjectKind};

/// HTTP header that names the node. Sent as `Node_id`; header names are case-insensitive.
pub const HEADER_NODE_ID: &str = "node_id";
/// HTTP header that names the project. Free text, only logged by upstream.
pub const HEADER_PROJECT_ID: &str = "project_id";
/// HTTP header without which an upstream cloud never reads the connection. Its value is [`USE_MESSAGES`].
pub const HEADER_CONNECTION_USE: &str = "connectionuse";
/// Value of [`HEADER_CONNECTION_USE`].
pub const USE_MESSAGES: &str = "msg";
/// The project id that every default installation uses.
pub const DEFAULT_PROJECT_ID: &str = "e632aba927ea4ac2b575ec1603d56f10";

/// The common name of a node's certificate is this, followed by the node name.
pub const CERTIFICATE_NODE_PREFIX: &str = "system:node:";
/// The organisation in a node's certificate.
pub const CERTIFICATE_ORGANIZATION: &str = "system:nodes";

/// Plain acknowledgement text, the content of acks and confirmations.
pub const CONTENT_OK: &str = "OK";
/// Content of a keepalive.
pub const CONTENT_PING: &str = "ping";

/// Path of the websocket for a node: `/<project>/<node>/events`. No server looks at it.
#[must_use]
pub fn events_path(project: &str, node: &crate::id::NodeName) -> String {
    format!("/{project}/{node}/events")
}

/// A set of strings with a parser and a printer that cannot drift apart.
macro_rules! strings {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every value there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The text on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Reads the text on the wire; `None` for a string we do not know.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

strings! {
    /// What a message wants done.
    Operation {
        /// Create or replace an object.
        Insert = "insert",
        /// Replace an object, or carry a report.
        Update = "update",
        /// Remove an object.
        Delete = "delete",
        /// Patch an object's status.
        Patch = "patch",
        /// Ask for an object.
        Query = "query",
        /// Ask for the membership list.
        Get = "get",
        /// Answer or acknowledge.
        Response = "response",
        /// Refuse.
        Error = "error",
        /// I am here.
        Keepalive = "keepalive",
    }
}

strings! {
    /// Decides which part of an upstream edge gets the message.
    Group {
        /// Objects and keepalives.
        Resource = "resource",
        /// Membership, reports and their confirmations.
        Twin = "twin",
        /// Requests of an upstream edge about nodes, leases, secrets.
        Meta = "meta",
    }
}

strings! {
    /// Who says it. An upstream edge tells its mappers only what comes from `devicecontroller`.
    Source {
        /// The cloud, about devices.
        DeviceController = "devicecontroller",
        /// The cloud, about everything else, and the upstream's repairs.
        EdgeController = "edgecontroller",
        /// The edge, about devices.
        Twin = "twin",
        /// The edge's link.
        Websocket = "websocket",
        /// The edge's object store.
        MetaManager = "metamanager",
    }
}

/// A parsed resource path, as it stands on the wire (without the cloud's internal `node/<node>/`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `<namespace>/device/<name>` or `<namespace>/devicemodel/<name>`
    Object(ObjectKey),
    /// `membership`: devices added and removed.
    Membership,
    /// `membership/detail`: the full list of devices.
    MembershipDetail,
    /// `twin`: a confirmation.
    Twin,
    /// `device/<namespace>/<name>/twin/edge_updated`: values.
    TwinReport(DeviceId),
    /// `device/<namespace>/<name>/state/update`: the device's state.
    StateReport(DeviceId),
    /// `node`: the link itself, of a keepalive.
    Node,
    /// Anything else; carried so that it can be answered.
    Other(String),
}

impl Resource {
    /// Reads a path. Never fails: what is not ours is [`Resource::Other`].
    #[must_use]
    pub fn parse(path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').collect();
        let known = match parts.as_slice() {
            ["membership"] => Some(Self::Membership),
            ["membership", "detail"] => Some(Self::MembershipDetail),
            ["twin"] => Some(Self::Twin),
            ["node"] => Some(Self::Node),
            ["device", namespace, name, "twin", "edge_updated"] => {
                DeviceId::new(namespace, name).ok().map(Self::TwinReport)
            }
            ["device", namespace, name, "state", "update"] => {
                DeviceId::new(namespace, name).ok().map(Self::StateReport)
            }
            [namespace, "device", name] => object(ObjectKind::Device, namespace, name),
            [namespace, "devicemodel", name] => object(ObjectKind::DeviceModel, namespace, name),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other(path.to_owned()))
    }
}

fn object(kind: ObjectKind, namespace: &str, name: &str) -> Option<Resource> {
    ObjectKey::new(kind, namespace, name).ok().map(Resource::Object)
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Object(key) => {
                let kind = match key.kind() {
                    ObjectKind::Device => "device",
                    ObjectKind::DeviceModel => "devicemodel",
                };
                write!(f, "{}/{kind}/{}", key.namespace(), key.name())
            }
            Self::Membership => f.write_str("membership"),
            Self::MembershipDetail => f.write_str("membership/detail"),
            Self::Twin => f.write_str("twin"),
            Self::TwinReport(id) => write!(f, "device/{id}/twin/edge_updated"),
            Self::StateReport(id) => write!(f, "device/{id}/state/update"),
            Self::Node => f.write_str("node"),
            Self::Other(path) => f.write_str(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_read_back_as_written() {
        for &operation in Operation::ALL {
            assert_eq!(Operation::parse(operation.as_str()), Some(operation));
        }
        for &group in Group::ALL {
            assert_eq!(Group::parse(group.as_str()), Some(group));
        }
        for &source in Source::ALL {
            assert_eq!(Source::parse(source.as_str()), Some(source));
        }
    }

    #[test]
    fn a_device_may_live_in_any_namespace_and_have_any_name() {
        for path in ["dev/device/membership", "device/device/device", "twin/devicemodel/node"] {
            let resource = Resource::parse(path);
            assert!(matches!(resource, Resource::Object(_)), "{path} read as {resource:?}");
            assert_eq!(resource.to_string(), path);
        }
        let report = Resource::parse("device/device/device/twin/edge_updated");
        assert!(matches!(report, Resource::TwinReport(_)));
    }

    #[test]
    fn what_is_not_ours_is_carried_as_it_is() {
        for path in ["null/node/edge-1", "k8s/ca.crt", "", "a/b/c/d", "Default/device/x"] {
            assert_eq!(Resource::parse(path), Resource::Other(path.into()));
        }
    }

    proptest! {
        #[test]
        fn any_path_prints_as_it_was_read(path in "([a-z0-9.-]{1,8}/|device/|twin/){0,5}[a-z_]{0,12}") {
            prop_assert_eq!(Resource::parse(&path).to_string(), path);
        }
    }
}
