//! The built-in kinds, as a table.

use std::sync::Arc;

use super::{Kind, Origin, resource_name};

/// A built-in kind. What is special about each is in `rules`, `events`, `table`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BuiltIn {
    Namespace,
    Node,
    ConfigMap,
    Secret,
    ServiceAccount,
    /// Never stored: there are no pods here, and `kubectl describe node` wants to be told so.
    Pod,
    Event,
    Lease,
    EventsEvent,
    CustomResourceDefinition,
    Role,
    RoleBinding,
    ClusterRole,
    ClusterRoleBinding,
}

/// The built-in named groups; two of them only have reviews, which are never stored.
pub const GROUPS: &[&str] = &[
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "rbac.authorization.k8s.io",
    "apiextensions.k8s.io",
    "coordination.k8s.io",
];

const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const READ_VERBS: &[&str] = &["get", "list", "watch"];
const NAMESPACE_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

struct Row {
    built_in: BuiltIn,
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    namespaced: bool,
    status: bool,
}

const fn row(
    built_in: BuiltIn,
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    namespaced: bool,
    status: bool,
) -> Row {
    Row { built_in, group, kind, plural, short_names, namespaced, status }
}

const RBAC: &str = "rbac.authorization.k8s.io";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row(BuiltIn::ConfigMap, "", "ConfigMap", "configmaps", &["cm"], true, false),
    row(BuiltIn::Event, "", "Event", "events", &["ev"], true, false),
    row(BuiltIn::Namespace, "", "Namespace", "namespaces", &["ns"], false, true),
    row(BuiltIn::Node, "", "Node", "nodes", &["no"], false, true),
    row(BuiltIn::Pod, "", "Pod", "pods", &["po"], true, false),
    row(BuiltIn::Secret, "", "Secret", "secrets", &[], true, false),
    row(BuiltIn::ServiceAccount, "", "ServiceAccount", "serviceaccounts", &["sa"], true, false),
    row(BuiltIn::EventsEvent, "events.k8s.io", "Event", "events", &["ev"], true, false),
    row(BuiltIn::ClusterRoleBinding, RBAC, "ClusterRoleBinding", "clusterrolebindings", &[], false, false),
    row(BuiltIn::ClusterRole, RBAC, "ClusterRole", "clusterroles", &[], false, false),
    row(BuiltIn::RoleBinding, RBAC, "RoleBinding", "rolebindings", &[], true, false),
    row(BuiltIn::Role, RBAC, "Role", "roles", &[], true, false),
    row(BuiltIn::CustomResourceDefinition, "apiextensions.k8s.io", "CustomResourceDefinition",
        "customresourcedefinitions", &["crd", "crds"], false, true),
    row(BuiltIn::Lease, "coordination.k8s.io", "Lease", "leases", &[], true, false),
];

/// Every built-in kind.
pub fn all() -> Vec<Arc<Kind>> {
    ROWS.iter().map(|row| Arc::new(kind(row))).collect()
}

fn kind(row: &Row) -> Kind {
    let crd = row.built_in == BuiltIn::CustomResourceDefinition;
    let group = if row.built_in == BuiltIn::EventsEvent { "" } else { row.group };
    Kind {
        group: row.group.into(),
        version: "v1".into(),
        kind: row.kind.into(),
        list_kind: format!("{}List", row.kind),
        plural: row.plural.into(),
        singular: row.kind.to_ascii_lowercase(),
        short_names: row.short_names.iter().map(|name| (*name).to_owned()).collect(),
        categories: if crd { vec!["api-extensions".into()] } else { Vec::new() },
        namespaced: row.namespaced,
        resource: resource_name(group, row.plural),
        verbs: match row.built_in {
            BuiltIn::Namespace => NAMESPACE_VERBS,
            BuiltIn::Pod => READ_VERBS,
            BuiltIn::Node
            | BuiltIn::ConfigMap
            | BuiltIn::Secret
            | BuiltIn::ServiceAccount
            | BuiltIn::Event
            | BuiltIn::Lease
            | BuiltIn::EventsEvent
            | BuiltIn::CustomResourceDefinition
            | BuiltIn::Role
            | BuiltIn::RoleBinding
            | BuiltIn::ClusterRole
            | BuiltIn::ClusterRoleBinding => ALL_VERBS,
        },
        status: row.status,
        origin: Origin::BuiltIn(row.built_in),
    }
}

impl BuiltIn {
    /// The name of its schema in the OpenAPI components.
    pub fn component(self) -> &'static str {
        match self {
            Self::Namespace => "io.k8s.api.core.v1.Namespace",
            Self::Node => "io.k8s.api.core.v1.Node",
            Self::ConfigMap => "io.k8s.api.core.v1.ConfigMap",
            Self::Secret => "io.k8s.api.core.v1.Secret",
            Self::ServiceAccount => "io.k8s.api.core.v1.ServiceAccount",
            Self::Pod => "io.k8s.api.core.v1.Pod",
            Self::Event => "io.k8s.api.core.v1.Event",
            Self::Lease => "io.k8s.api.coordination.v1.Lease",
            Self::EventsEvent => "io.k8s.api.events.v1.Event",
            Self::CustomResourceDefinition => {
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition"
            }
            Self::Role => "io.k8s.api.rbac.v1.Role",
            Self::RoleBinding => "io.k8s.api.rbac.v1.RoleBinding",
            Self::ClusterRole => "io.k8s.api.rbac.v1.ClusterRole",
            Self::ClusterRoleBinding => "io.k8s.api.rbac.v1.ClusterRoleBinding",
        }
    }

    /// Whether PUT to a missing name creates it.
    pub fn put_creates(self) -> bool {
        match self {
            Self::Event
            | Self::EventsEvent
            | Self::Lease
            | Self::Role
            | Self::RoleBinding
            | Self::ClusterRole
            | Self::ClusterRoleBinding => true,
            Self::Namespace
            | Self::Node
            | Self::ConfigMap
            | Self::Secret
            | Self::ServiceAccount
            | Self::Pod
            | Self::CustomResourceDefinition => false,
        }
    }

    /// Whether PUT must carry the resourceVersion it replaces.
    pub fn put_needs_version(self) -> bool {
        matches!(self, Self::Lease | Self::CustomResourceDefinition)
    }

    /// Whether DELETE answers with the object in place of a Status.
    pub fn delete_answers_object(self) -> bool {
        matches!(self, Self::Namespace | Self::ServiceAccount)
    }

    /// Field selectors besides metadata.name and metadata.namespace.
    pub fn selectable_fields(self) -> &'static [&'static str] {
        match self {
            Self::Secret => &["type"],
            Self::Pod => &["spec.nodeName", "status.phase"],
            Self::Node => &["spec.unschedulable"],
            Self::Namespace => &["status.phase"],
            Self::Event => &[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "involvedObject.resourceVersion",
                "involvedObject.fieldPath",
                "reason",
                "reportingComponent",
                "source",
                "type",
            ],
            Self::EventsEvent => &[
                "regarding.kind",
                "regarding.namespace",
                "regarding.name",
                "regarding.uid",
                "regarding.apiVersion",
                "regarding.resourceVersion",
                "regarding.fieldPath",
                "reason",
                "reportingController",
                "type",
            ],
            Self::ConfigMap
            | Self::ServiceAccount
            | Self::Lease
            | Self::CustomResourceDefinition
            | Self::Role
            | Self::RoleBinding
            | Self::ClusterRole
            | Self::ClusterRoleBinding => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_kind_has_a_schema() {
        for kind in all() {
            assert!(kind.schema().is_some() || !kind.allows("create"), "{}", kind.kind);
        }
    }
}
