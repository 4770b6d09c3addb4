//! Reviews: questions to the server about who may do what. Created, answered, never stored.

use http::Method;
use serde_json::{Value, json};

use super::path::ResourcePath;
use super::{Call, body};
use crate::auth::MASTERS;
use crate::clock;
use crate::discovery::REVIEWS;
use crate::respond::{self, Answer};
use crate::status::{Cause, Result, StatusError};

/// The answer to a review, or nothing when the path is something else.
pub fn answer(call: &Call, path: &ResourcePath) -> Option<Result<Answer>> {
    let review = REVIEWS.iter().find(|(group, plural, _, namespaced)| {
        *group == path.group
            && *plural == path.plural
            && path.version == "v1"
            && *namespaced != path.namespace.is_empty()
    })?;
    if call.method != Method::POST || path.name.is_some() {
        return Some(Err(StatusError::method_not_allowed()));
    }
    Some(review_of(call, review.0, review.2))
}

fn review_of(call: &Call, group: &str, kind: &str) -> Result<Answer> {
    let mut review = body::decode(call, kind)?.value;
    if !review.is_object() {
        return Err(StatusError::bad_request("the body is not an object"));
    }
    let status = match kind {
        "SelfSubjectReview" => json!({"userInfo": {"username": call.user.name,
            "groups": call.user.groups}}),
        "SelfSubjectRulesReview" => rules(call),
        "SelfSubjectAccessReview" => {
            check_attributes(&review)?;
            allowed(call.user.is_master())
        }
        _ => {
            check_subject(&review)?;
            check_attributes(&review)?;
            let groups = review.pointer("/spec/groups").and_then(Value::as_array);
            allowed(groups.into_iter().flatten().any(|group| group == MASTERS))
        }
    };
    review["kind"] = json!(kind);
    review["apiVersion"] = json!(format!("{group}/v1"));
    review["status"] = status;
    if review.get("metadata").is_none() {
        review["metadata"] = json!({});
    }
    if kind == "SelfSubjectReview" {
        review["metadata"]["creationTimestamp"] = json!(clock::seconds(call.now));
    }
    Ok(respond::json(201, &review))
}

fn allowed(allowed: bool) -> Value {
    if allowed { json!({"allowed": true}) } else { json!({"allowed": false}) }
}

fn rules(call: &Call) -> Value {
    let all = ["*"];
    let (resources, paths) = if call.user.is_master() {
        (
            vec![json!({"verbs": all, "apiGroups": all, "resources": all})],
            vec![json!({"verbs": all, "nonResourceURLs": all})],
        )
    } else {
        (Vec::new(), Vec::new())
    };
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

fn refuse(cause: Cause) -> StatusError {
    // The real server leaves the kind out here.
    StatusError::invalid("authorization.k8s.io", "", "", &[cause])
}

fn check_subject(review: &Value) -> Result<()> {
    let user = review.pointer("/spec/user").and_then(Value::as_str).unwrap_or_default();
    let groups = review.pointer("/spec/groups").and_then(Value::as_array);
    if !user.is_empty() || groups.is_some_and(|groups| !groups.is_empty()) {
        return Ok(());
    }
    let detail = "at least one of user or group must be specified";
    Err(refuse(Cause::invalid("spec.user", &json!(""), detail)))
}

fn check_attributes(review: &Value) -> Result<()> {
    let present =
        |name: &str| review.pointer(&format!("/spec/{name}")).is_some_and(|value| !value.is_null());
    if present("resourceAttributes") != present("nonResourceAttributes") {
        return Ok(());
    }
    let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
    Err(refuse(Cause::invalid("spec.resourceAttributes", &Value::Null, detail)))
}
