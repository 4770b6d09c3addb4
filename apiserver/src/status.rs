//! The error answers of the API: `Status` objects with the wording of a real server.
//!
//! Clients decide by `reason` (kubectl) or by code (kube-rs); people read the message. Both are
//! kept as recorded from a kube-apiserver 1.36.

use std::fmt;

use serde_json::{Map, Value, json};

/// The result of everything that may be answered with a [`StatusError`].
pub type Result<T> = std::result::Result<T, StatusError>;

/// The largest request body the server reads, in bytes (3 MiB).
pub const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// A failed request: the HTTP code and the body that goes with it.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusError {
    /// HTTP status code, also `code` in the body.
    pub code: u16,
    /// Machine-readable reason, `""` where the real server sends none.
    pub reason: &'static str,
    /// What a person reads.
    pub message: String,
    /// The `details` object; `None` leaves the member out.
    pub details: Option<Value>,
}

/// One entry of `details.causes`: which field is wrong and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// Such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// The text after the field path, such as `Invalid value: 5: must be …`.
    pub message: String,
    /// Dotted path, `<nil>` when the real server has none.
    pub field: String,
}

impl Cause {
    fn new(reason: &'static str, field: impl Into<String>, message: String) -> Self {
        Self { reason, message, field: field.into() }
    }

    /// `Required value[: detail]`.
    #[must_use]
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new("FieldValueRequired", field, with_detail("Required value", detail))
    }

    /// `Invalid value: V[: detail]`.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let head = format!("Invalid value: {}", show(value));
        Self::new("FieldValueInvalid", field, with_detail(&head, detail))
    }

    /// `Invalid value: detail`, for values whose text is left out of the message.
    #[must_use]
    pub fn invalid_omitted(field: impl Into<String>, detail: &str) -> Self {
        Self::new("FieldValueInvalid", field, format!("Invalid value: {detail}"))
    }

    /// As [`Cause::invalid`] with the reason for a wrong type.
    #[must_use]
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self { reason: "FieldValueTypeInvalid", ..Self::invalid(field, value, detail) }
    }

    /// `Unsupported value: V: supported values: "a", "b"`, the choices in the order given.
    #[must_use]
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let choices: Vec<String> = supported.iter().map(|s| quote(s)).collect();
        let mut message = format!("Unsupported value: {}", show(value));
        if !choices.is_empty() {
            message.push_str(": supported values: ");
            message.push_str(&choices.join(", "));
        }
        Self::new("FieldValueNotSupported", field, message)
    }

    /// `Forbidden: detail`.
    #[must_use]
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new("FieldValueForbidden", field, with_detail("Forbidden", detail))
    }

    /// `Duplicate value: V`.
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new("FieldValueDuplicate", field, format!("Duplicate value: {}", show(value)))
    }

    /// `Too long: may not be more than N bytes`.
    #[must_use]
    pub fn too_long(field: impl Into<String>, max_bytes: usize) -> Self {
        let message = format!("Too long: may not be more than {max_bytes} bytes");
        Self::new("FieldValueTooLong", field, message)
    }

    /// `Too many: A: must have at most M items`.
    #[must_use]
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        let message = format!("Too many: {actual}: must have at most {max} items");
        Self::new("FieldValueTooMany", field, message)
    }

    /// `Not found: V`.
    #[must_use]
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self::new("FieldValueNotFound", field, format!("Not found: {}", show(value)))
    }

    fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("reason".into(), self.reason.into());
        map.insert("message".into(), self.message.as_str().into());
        if !self.field.is_empty() {
            map.insert("field".into(), self.field.as_str().into());
        }
        Value::Object(map)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl StatusError {
    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(
        code: u16,
        reason: &'static str,
        message: String,
        group: &str,
        kind: &str,
        name: &str,
    ) -> Self {
        Self { code, reason, message, details: Some(details(group, kind, name, &[])) }
    }

    /// 400 with the given text.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    /// 401: no or wrong credentials.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::plain(401, "Unauthorized", "Unauthorized")
    }

    /// 403 by the authorizer. `namespace` is `None` at the cluster scope, `name` may be `""`.
    #[must_use]
    pub fn access_denied(
        user: &str,
        verb: &str,
        group: &str,
        resource: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Self {
        let scope = match namespace {
            Some(ns) if !ns.is_empty() => format!("in the namespace {}", quote(ns)),
            Some(_) | None => "at the cluster scope".into(),
        };
        let base = resource.split('/').next().unwrap_or(resource);
        let message = format!(
            "User {} cannot {verb} resource {} in API group {} {scope}",
            quote(user),
            quote(resource),
            quote(group)
        );
        Self::forbidden(group, base, name, &message)
    }

    /// 403 by the authorizer for a path that is no resource.
    #[must_use]
    pub fn path_denied(user: &str, verb: &str, path: &str) -> Self {
        let message = format!("forbidden: User {} cannot {verb} path {}", quote(user), quote(path));
        Self { code: 403, reason: "Forbidden", message, details: Some(json!({})) }
    }

    /// 403 `{resource} "name" is forbidden: why`; without a name the quotes go too.
    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let subject = qualified(group, resource);
        let message = if name.is_empty() {
            format!("{subject} is forbidden: {why}")
        } else {
            format!("{subject} {} is forbidden: {why}", quote(name))
        };
        Self::about(403, "Forbidden", message, group, resource, name)
    }

    /// 404 for an object (or an absent subresource of it).
    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} not found", qualified(group, resource), quote(name));
        Self::about(404, "NotFound", message, group, resource, name)
    }

    /// 404 for a path under a built-in group that names nothing.
    #[must_use]
    pub fn path_not_found() -> Self {
        let message = "the server could not find the requested resource".into();
        Self { code: 404, reason: "NotFound", message, details: Some(json!({})) }
    }

    /// 405 for built-in kinds.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource".into();
        Self { code: 405, reason: "MethodNotAllowed", message, details: Some(json!({})) }
    }

    /// 405 for custom resources: `verb is not supported on resources of kind "…"`.
    #[must_use]
    pub fn verb_not_supported(verb: &str, group: &str, resource: &str) -> Self {
        let message = format!(
            "{verb} is not supported on resources of kind {}",
            quote(&qualified(group, resource))
        );
        Self::about(405, "MethodNotAllowed", message, group, resource, "")
    }

    /// 406 naming the media types that can be sent.
    #[must_use]
    pub fn not_acceptable(types: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", types.join(", "));
        Self::plain(406, "NotAcceptable", message)
    }

    /// 406 with the given text.
    #[must_use]
    pub fn not_acceptable_text(message: impl Into<String>) -> Self {
        Self::plain(406, "NotAcceptable", message)
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} already exists", qualified(group, resource), quote(name));
        Self::about(409, "AlreadyExists", message, group, resource, name)
    }

    /// 409 `Operation cannot be fulfilled on … "name": why`.
    #[must_use]
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {}: {why}",
            qualified(group, resource),
            quote(name)
        );
        Self::about(409, "Conflict", message, group, resource, name)
    }

    /// 409: the resourceVersion sent is not the current one.
    #[must_use]
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 409 of server-side apply. `message` is the whole text, one cause a field.
    #[must_use]
    pub fn apply_conflict(message: String, causes: &[Cause]) -> Self {
        let causes: Vec<Value> = causes.iter().map(Cause::to_value).collect();
        let details = Some(json!({ "causes": causes }));
        Self { code: 409, reason: "Conflict", message, details }
    }

    /// 410: history needed for the answer is gone.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    /// 413: the body is larger than [`BODY_LIMIT`].
    #[must_use]
    pub fn body_too_large() -> Self {
        let message = format!("Request entity too large: limit is {BODY_LIMIT}");
        Self::plain(413, "RequestEntityTooLarge", message)
    }

    /// 415 naming the media types that are read.
    #[must_use]
    pub fn unsupported_media_type(types: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            types.join(", ")
        );
        Self::plain(415, "UnsupportedMediaType", message)
    }

    /// 422 `Kind.group "name" is invalid: …` with one cause a field.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Self {
        let texts: Vec<String> = causes.iter().map(Cause::to_string).collect();
        let text = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {} is invalid: {text}", qualified(group, kind), quote(name));
        let details = Some(details(group, kind, name, causes));
        Self { code: 422, reason: "Invalid", message, details }
    }

    /// 422 about the options of a request: kind is `CreateOptions`, `PatchOptions`, ….
    #[must_use]
    pub fn invalid_options(kind: &str, causes: &[Cause]) -> Self {
        Self::invalid("meta.k8s.io", kind, "", causes)
    }

    /// 422 for a JSON patch that could not be performed.
    #[must_use]
    pub fn patch_rejected() -> Self {
        let message = "the server rejected our request due to an error in our request".into();
        Self { code: 422, reason: "Invalid", message, details: Some(json!({})) }
    }

    /// 429 with a pause in seconds (the caller also sends `Retry-After`).
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self {
            code: 429,
            reason: "TooManyRequests",
            message: message.into(),
            details: Some(json!({ "retryAfterSeconds": retry_after_seconds })),
        }
    }

    /// 500 without a reason: what the real server answers to unparsable versions and the like.
    #[must_use]
    pub fn plain_failure(message: impl Into<String>) -> Self {
        Self::plain(500, "", message)
    }

    /// 500 with reason `InternalError`.
    #[must_use]
    pub fn internal(why: &str) -> Self {
        Self {
            code: 500,
            reason: "InternalError",
            message: format!("Internal error occurred: {why}"),
            details: Some(json!({ "causes": [{ "message": why }] })),
        }
    }

    /// 504: a resourceVersion from the future did not arrive in time.
    #[must_use]
    pub fn version_too_large(asked: u64, current: u64) -> Self {
        Self {
            code: 504,
            reason: "Timeout",
            message: format!("Timeout: Too large resource version: {asked}, current: {current}"),
            details: Some(json!({
                "causes": [{
                    "reason": "ResourceVersionTooLarge",
                    "message": "Too large resource version"
                }],
                "retryAfterSeconds": 1
            })),
        }
    }

    /// The value of the `Retry-After` header in seconds, when there is one.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        self.details.as_ref()?.get("retryAfterSeconds")?.as_u64()
    }

    /// The body: a `Status` object.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.reason, self.message)
    }
}

impl std::error::Error for StatusError {}

fn details(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Value {
    let mut map = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            map.insert(key.into(), value.into());
        }
    }
    if !causes.is_empty() {
        let causes: Vec<Value> = causes.iter().map(Cause::to_value).collect();
        map.insert("causes".into(), Value::Array(causes));
    }
    Value::Object(map)
}

/// `resource.group`, or the resource alone in the core group.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn with_detail(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
}

/// A value as the real server prints it in messages: strings quoted, the rest compact JSON.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

/// A string in double quotes, escaped as Go's `%q` does.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;
