//! One conversion a kind, in the order of the fields in its JSON form.

use k8s_pb::api::authentication::v1 as authentication;
use k8s_pb::api::authorization::v1 as authorization;
use k8s_pb::api::certificates::v1 as certificates;
use k8s_pb::api::core::v1 as core;
use k8s_pb::api::rbac::v1 as rbac;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::Value;

use super::object::Object;

fn with_metadata(metadata: Option<meta::ObjectMeta>) -> Object {
    Object::new().always("metadata", metadata.map(object_meta).unwrap_or_default())
}

fn object_meta(m: meta::ObjectMeta) -> Object {
    Object::new()
        .text("name", m.name)
        .text("generateName", m.generate_name)
        .text("namespace", m.namespace)
        .text("selfLink", m.self_link)
        .text("uid", m.uid)
        .text("resourceVersion", m.resource_version)
        .optional("generation", m.generation.filter(|g| *g != 0))
        .text("creationTimestamp", m.creation_timestamp.and_then(time))
        .text("deletionTimestamp", m.deletion_timestamp.and_then(time))
        .optional("deletionGracePeriodSeconds", m.deletion_grace_period_seconds)
        .map("labels", m.labels)
        .map("annotations", m.annotations)
        .objects("ownerReferences", m.owner_references, owner)
        .texts("finalizers", m.finalizers)
        .objects("managedFields", m.managed_fields, managed_fields)
}

fn owner(o: meta::OwnerReference) -> Object {
    Object::new()
        .text("apiVersion", o.api_version)
        .text("kind", o.kind)
        .text("name", o.name)
        .text("uid", o.uid)
        .optional("controller", o.controller)
        .optional("blockOwnerDeletion", o.block_owner_deletion)
}

fn managed_fields(m: meta::ManagedFieldsEntry) -> Object {
    let fields = m.fields_v1.and_then(|f| f.raw).unwrap_or_default();
    // Within the body's own limits for nesting; what cannot be read is left out.
    let fields = crate::decode::decode(&fields, crate::decode::Format::Json).ok();
    Object::new()
        .text("manager", m.manager)
        .text("operation", m.operation)
        .text("apiVersion", m.api_version)
        .text("time", m.time.and_then(time))
        .text("fieldsType", m.fields_type)
        .optional("fieldsV1", fields.map(|decoded| decoded.value))
        .text("subresource", m.subresource)
}

/// RFC 3339 in seconds; the zero time is no time.
fn time(t: meta::Time) -> Option<String> {
    let seconds = t.seconds.filter(|s| *s != 0)?;
    jiff::Timestamp::from_second(seconds).ok().map(|t| t.to_string())
}

pub(super) fn delete_options(o: meta::DeleteOptions) -> Object {
    let preconditions = o
        .preconditions
        .map(|p| Object::new().text("uid", p.uid).text("resourceVersion", p.resource_version));
    Object::new()
        .optional("gracePeriodSeconds", o.grace_period_seconds)
        .part("preconditions", preconditions.unwrap_or_default())
        .optional("orphanDependents", o.orphan_dependents)
        .text("propagationPolicy", o.propagation_policy)
        .texts("dryRun", o.dry_run)
}

pub(super) fn namespace(n: core::Namespace) -> Object {
    let finalizers = n.spec.map(|s| s.finalizers).unwrap_or_default();
    let phase = n.status.and_then(|s| s.phase);
    with_metadata(n.metadata)
        .part("spec", Object::new().texts("finalizers", finalizers))
        .part("status", Object::new().text("phase", phase))
}

pub(super) fn config_map(c: core::ConfigMap) -> Object {
    with_metadata(c.metadata)
        .optional("immutable", c.immutable)
        .map("data", c.data)
        .bytes_map("binaryData", c.binary_data)
}

pub(super) fn secret(s: core::Secret) -> Object {
    with_metadata(s.metadata)
        .optional("immutable", s.immutable)
        .bytes_map("data", s.data)
        .map("stringData", s.string_data)
        .text("type", s.r#type)
}

pub(super) fn service_account(s: core::ServiceAccount) -> Object {
    let secret = |o: core::ObjectReference| {
        Object::new()
            .text("kind", o.kind)
            .text("namespace", o.namespace)
            .text("name", o.name)
            .text("uid", o.uid)
            .text("apiVersion", o.api_version)
            .text("resourceVersion", o.resource_version)
            .text("fieldPath", o.field_path)
    };
    with_metadata(s.metadata)
        .objects("secrets", s.secrets, secret)
        .objects("imagePullSecrets", s.image_pull_secrets, |r| Object::new().text("name", r.name))
        .optional("automountServiceAccountToken", s.automount_service_account_token)
}

pub(super) fn token_request(t: authentication::TokenRequest) -> Object {
    let spec = t.spec.unwrap_or_default();
    let bound = spec.bound_object_ref.map(|b| {
        Object::new()
            .text("kind", b.kind)
            .text("apiVersion", b.api_version)
            .text("name", b.name)
            .text("uid", b.u_id)
    });
    let spec = Object::new()
        .texts("audiences", spec.audiences)
        .optional("expirationSeconds", spec.expiration_seconds)
        .part("boundObjectRef", bound.unwrap_or_default());
    with_metadata(t.metadata).always("spec", spec)
}

pub(super) fn self_subject_review(r: authentication::SelfSubjectReview) -> Object {
    with_metadata(r.metadata)
}

pub(super) fn self_access_review(r: authorization::SelfSubjectAccessReview) -> Object {
    let spec = r.spec.unwrap_or_default();
    let mut out = Object::new();
    if let Some(a) = spec.resource_attributes {
        out = out.always("resourceAttributes", resource_attributes(a));
    }
    if let Some(a) = spec.non_resource_attributes {
        let attributes = Object::new().text("path", a.path).text("verb", a.verb);
        out = out.always("nonResourceAttributes", attributes);
    }
    with_metadata(r.metadata).always("spec", out)
}

fn resource_attributes(a: authorization::ResourceAttributes) -> Object {
    let fields = a.field_selector.and_then(|s| s.raw_selector);
    let labels = a.label_selector.and_then(|s| s.raw_selector);
    Object::new()
        .text("namespace", a.namespace)
        .text("verb", a.verb)
        .text("group", a.group)
        .text("version", a.version)
        .text("resource", a.resource)
        .text("subresource", a.subresource)
        .text("name", a.name)
        .part("fieldSelector", Object::new().text("rawSelector", fields))
        .part("labelSelector", Object::new().text("rawSelector", labels))
}

pub(super) fn self_rules_review(r: authorization::SelfSubjectRulesReview) -> Object {
    let namespace = r.spec.and_then(|s| s.namespace);
    with_metadata(r.metadata).always("spec", Object::new().text("namespace", namespace))
}

fn rule(r: rbac::PolicyRule) -> Object {
    // The core group is the empty text: it must stay in the list.
    let groups = r.api_groups.into_iter().map(Value::String).collect();
    Object::new()
        .texts("verbs", r.verbs)
        .list("apiGroups", groups)
        .texts("resources", r.resources)
        .texts("resourceNames", r.resource_names)
        .texts("nonResourceURLs", r.non_resource_ur_ls)
}

pub(super) fn role(r: rbac::Role) -> Object {
    with_metadata(r.metadata).objects("rules", r.rules, rule)
}

pub(super) fn cluster_role(r: rbac::ClusterRole) -> Object {
    let selectors = r.aggregation_rule.map(|a| a.cluster_role_selectors).unwrap_or_default();
    let aggregation = Object::new().objects("clusterRoleSelectors", selectors, label_selector);
    with_metadata(r.metadata).objects("rules", r.rules, rule).part("aggregationRule", aggregation)
}

fn label_selector(s: meta::LabelSelector) -> Object {
    let expression = |e: meta::LabelSelectorRequirement| {
        Object::new().text("key", e.key).text("operator", e.operator).texts("values", e.values)
    };
    Object::new().map("matchLabels", s.match_labels).objects(
        "matchExpressions",
        s.match_expressions,
        expression,
    )
}

fn subject(s: rbac::Subject) -> Object {
    Object::new()
        .text("kind", s.kind)
        .text("apiGroup", s.api_group)
        .text("name", s.name)
        .text("namespace", s.namespace)
}

fn role_ref(r: Option<rbac::RoleRef>) -> Object {
    let r = r.unwrap_or_default();
    Object::new().text("apiGroup", r.api_group).text("kind", r.kind).text("name", r.name)
}

pub(super) fn role_binding(b: rbac::RoleBinding) -> Object {
    with_metadata(b.metadata)
        .objects("subjects", b.subjects, subject)
        .always("roleRef", role_ref(b.role_ref))
}

pub(super) fn cluster_role_binding(b: rbac::ClusterRoleBinding) -> Object {
    with_metadata(b.metadata)
        .objects("subjects", b.subjects, subject)
        .always("roleRef", role_ref(b.role_ref))
}

pub(super) fn signing_request(c: certificates::CertificateSigningRequest) -> Object {
    let spec = c.spec.unwrap_or_default();
    let extra = spec.extra.into_iter().fold(Object::new(), |out, (k, v)| out.texts(&k, v.items));
    let spec = Object::new()
        .bytes("request", spec.request)
        .text("signerName", spec.signer_name)
        .optional("expirationSeconds", spec.expiration_seconds)
        .texts("usages", spec.usages)
        .text("username", spec.username)
        .text("uid", spec.uid)
        .texts("groups", spec.groups)
        .part("extra", extra);
    let status = c.status.unwrap_or_default();
    let condition = |c: certificates::CertificateSigningRequestCondition| {
        Object::new()
            .text("type", c.r#type)
            .text("status", c.status)
            .text("reason", c.reason)
            .text("message", c.message)
            .text("lastUpdateTime", c.last_update_time.and_then(time))
            .text("lastTransitionTime", c.last_transition_time.and_then(time))
    };
    let status = Object::new()
        .objects("conditions", status.conditions, condition)
        .bytes("certificate", status.certificate);
    with_metadata(c.metadata).always("spec", spec).part("status", status)
}
