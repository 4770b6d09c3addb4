//! Reading the body of a write: media type, kind, metadata, unknown and duplicate fields.

use http::header;
use serde_json::{Value, json};

use super::{Call, Target};
use crate::decode::{Decoded, Format, decode_object};
use crate::kinds::{BuiltIn, Kind, rules};
use crate::negotiate::content_type;
use crate::routes::query::{FieldValidation, WriteOptions};
use crate::status::{Cause, Result, StatusError};
use crate::{meta, protobuf};

pub const ACCEPTED: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Decodes a POST or PUT body in whatever format it has.
pub fn decode(call: &Call, kind_name: &str) -> Result<Decoded> {
    let media = content_type(call.header(header::CONTENT_TYPE));
    match media.as_str() {
        "" | "application/json" => decode_object(&call.body, Format::Json, kind_name),
        "application/yaml" => decode_object(&call.body, Format::Yaml, kind_name),
        "application/vnd.kubernetes.protobuf" => {
            Ok(Decoded { value: protobuf::decode(&call.body)?, duplicates: Vec::new() })
        }
        _ => Err(StatusError::unsupported_media_type(ACCEPTED)),
    }
}

/// Checks apiVersion and kind of a body against the URL and fills them in for built-in kinds.
pub fn check_kind(value: &mut Value, kind: &Kind) -> Result<()> {
    let text = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (api_version, name) = (text(value, "apiVersion"), text(value, "kind"));
    let expected = kind.api_version();
    let custom = kind.custom().is_some();
    if custom && name.is_empty() {
        return Err(StatusError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get \
             version/kind; Object 'Kind' is missing",
            kind.kind
        )));
    }
    if !api_version.is_empty() && api_version != expected {
        return Err(StatusError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version \
             ({expected})"
        )));
    }
    if custom && api_version.is_empty() {
        return Err(StatusError::bad_request(format!(
            "the API version in the data () does not match the expected API version ({expected})"
        )));
    }
    if !name.is_empty() && name != kind.kind {
        if custom {
            let detail = format!("must be {}", kind.kind);
            let causes = [Cause::invalid("kind", &json!(name), &detail)];
            let object = meta::text(value, "name").to_owned();
            return Err(StatusError::invalid(&kind.group, &name, &object, &causes));
        }
        return Err(StatusError::bad_request(format!(
            "{name} in version \"{}\" cannot be handled as a {}: converting (v1.{name}) to \
             (core.{}): unknown conversion",
            kind.version, kind.kind, kind.kind
        )));
    }
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), json!(expected));
        map.insert("kind".into(), json!(kind.kind));
    }
    Ok(())
}

/// `Device in version "v1beta1" cannot be handled as a Device: …`
pub fn cannot_handle(kind: &Kind, why: &str) -> StatusError {
    StatusError::bad_request(format!(
        "{0} in version \"{1}\" cannot be handled as a {0}: {why}",
        kind.kind, kind.version
    ))
}

/// Brings a decoded body to what the kind can hold. Answers the complaints about fields that were
/// dropped or given twice.
pub fn normalise(value: &mut Value, kind: &Kind) -> Result<Vec<String>> {
    let mut unknown = Vec::new();
    if let Some(metadata) = value.get_mut("metadata").filter(|metadata| !metadata.is_null()) {
        let dropped = meta::decode(metadata, "metadata");
        unknown.extend(dropped.map_err(|problem| cannot_handle(kind, &problem.0))?);
    }
    if let Some(schema) = kind.schema() {
        unknown.extend(schema.prune(value));
    }
    if let Some(built_in) = kind.built_in() {
        check_types(value, kind, built_in)?;
    }
    Ok(unknown.into_iter().map(|path| format!("unknown field \"{path}\"")).collect())
}

/// A built-in type refuses what it cannot decode before anything is validated.
fn check_types(value: &Value, kind: &Kind, built_in: BuiltIn) -> Result<()> {
    if let Some(schema) = kind.schema() {
        let causes = schema.validate(value, None);
        let wrong = causes.iter().find(|cause| cause.reason == "FieldValueTypeInvalid");
        // Definitions have their own, exact rules.
        if let Some(cause) = wrong
            && built_in != BuiltIn::CustomResourceDefinition
        {
            return Err(cannot_handle(kind, &format!("json: cannot unmarshal {cause}")));
        }
    }
    match rules::undecodable(built_in, value) {
        Some(why) => Err(cannot_handle(kind, &why)),
        None => Ok(()),
    }
}

/// What to do about complaints: refuse, warn (the answer), or nothing.
pub fn judge(
    complaints: Vec<String>,
    options: &WriteOptions,
    refuse: impl FnOnce(String) -> StatusError,
) -> Result<Vec<String>> {
    match options.field_validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(complaints),
        FieldValidation::Strict if complaints.is_empty() => Ok(Vec::new()),
        FieldValidation::Strict => {
            Err(refuse(format!("strict decoding error: {}", complaints.join(", "))))
        }
    }
}

/// Reads a whole object for POST or PUT: decoded, checked against the URL, known fields only.
pub fn object(
    call: &Call,
    target: &Target,
    options: &WriteOptions,
) -> Result<(Value, Vec<String>)> {
    let kind = &target.kind;
    let Decoded { mut value, duplicates } = decode(call, &kind.kind)?;
    check_kind(&mut value, kind)?;
    let mut complaints = duplicates;
    complaints.extend(normalise(&mut value, kind)?);
    let warnings = judge(complaints, options, |why| cannot_handle(kind, &why))?;
    check_names(&mut value, target)?;
    Ok((value, warnings))
}

/// Name and namespace of the body must be those of the URL, or absent.
fn check_names(value: &mut Value, target: &Target) -> Result<()> {
    let namespace = meta::text(value, "namespace").to_owned();
    if !namespace.is_empty() && namespace != target.path.namespace {
        return Err(StatusError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let name = meta::text(value, "name").to_owned();
    if let Some(wanted) = &target.path.name {
        if !name.is_empty() && name != *wanted {
            return Err(StatusError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({wanted})"
            )));
        }
        meta::metadata_mut(value).insert("name".into(), json!(wanted));
    }
    if target.kind.namespaced {
        meta::metadata_mut(value).insert("namespace".into(), json!(target.path.namespace));
    }
    Ok(())
}
