//! Kubernetes protobuf request bodies of the kinds kubectl ≥ 1.32 sends, as the JSON they stand for.
//!
//! The wire form is `k8s\0` and a `runtime.Unknown` with the type and the object's own bytes. Fields
//! that are not set and fields with a zero value that JSON would leave out are absent from the
//! result. Answers are always JSON: every client that sends protobuf accepts it.

use k8s_pb::api::authentication::v1 as authentication;
use k8s_pb::api::authorization::v1 as authorization;
use k8s_pb::api::certificates::v1 as certificates;
use k8s_pb::api::core::v1 as core;
use k8s_pb::api::rbac::v1 as rbac;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_pb::apimachinery::pkg::runtime::Unknown;
use prost::Message;
use serde_json::Value;

use crate::status::{Result, StatusError};
use object::Object;

mod kinds;
mod object;

/// What every body starts with.
const MAGIC: &[u8] = b"k8s\0";

/// Reads a protobuf body.
///
/// # Errors
/// 400 for bytes that are no such body, 415 for kinds that are only read as JSON.
pub fn decode(body: &[u8]) -> Result<Value> {
    let bytes = body.strip_prefix(MAGIC).ok_or_else(|| {
        StatusError::bad_request(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        )
    })?;
    let unknown = Unknown::decode(bytes).map_err(malformed)?;
    let names = unknown.type_meta.unwrap_or_default();
    let (api_version, kind) =
        (names.api_version.unwrap_or_default(), names.kind.unwrap_or_default());
    let raw = unknown.raw.unwrap_or_default();
    if unknown.content_encoding.is_some_and(|e| !e.is_empty()) {
        return Err(unsupported());
    }
    let object = of_kind(&api_version, &kind, &raw)?;
    let mut value = object.into_value();
    if let Value::Object(map) = &mut value {
        for (key, text) in [("apiVersion", api_version), ("kind", kind)] {
            if !text.is_empty() {
                map.insert(key.into(), text.into());
            }
        }
    }
    Ok(value)
}

fn of_kind(api_version: &str, kind: &str, raw: &[u8]) -> Result<Object> {
    fn read<M: Message + Default>(raw: &[u8], convert: fn(M) -> Object) -> Result<Object> {
        M::decode(raw).map(convert).map_err(malformed)
    }
    // Options travel under the version of whatever they are for.
    if kind == "DeleteOptions" {
        return read::<meta::DeleteOptions>(raw, kinds::delete_options);
    }
    match (api_version, kind) {
        ("v1", "Namespace") => read::<core::Namespace>(raw, kinds::namespace),
        ("v1", "ConfigMap") => read::<core::ConfigMap>(raw, kinds::config_map),
        ("v1", "Secret") => read::<core::Secret>(raw, kinds::secret),
        ("v1", "ServiceAccount") => read::<core::ServiceAccount>(raw, kinds::service_account),
        ("authentication.k8s.io/v1", "TokenRequest") => {
            read::<authentication::TokenRequest>(raw, kinds::token_request)
        }
        ("authentication.k8s.io/v1", "SelfSubjectReview") => {
            read::<authentication::SelfSubjectReview>(raw, kinds::self_subject_review)
        }
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => {
            read::<authorization::SelfSubjectAccessReview>(raw, kinds::self_access_review)
        }
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => {
            read::<authorization::SelfSubjectRulesReview>(raw, kinds::self_rules_review)
        }
        ("rbac.authorization.k8s.io/v1", "Role") => read::<rbac::Role>(raw, kinds::role),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => {
            read::<rbac::ClusterRole>(raw, kinds::cluster_role)
        }
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => {
            read::<rbac::RoleBinding>(raw, kinds::role_binding)
        }
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            read::<rbac::ClusterRoleBinding>(raw, kinds::cluster_role_binding)
        }
        ("certificates.k8s.io/v1", "CertificateSigningRequest") => {
            read::<certificates::CertificateSigningRequest>(raw, kinds::signing_request)
        }
        _ => Err(unsupported()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn malformed(error: prost::DecodeError) -> StatusError {
    StatusError::bad_request(format!("error decoding protobuf: {error}"))
}

fn unsupported() -> StatusError {
    StatusError::unsupported_media_type(&["application/json", "application/yaml"])
}

#[cfg(test)]
mod tests;
