//! Content negotiation: which representation of an answer a client accepts. Pure.

/// How the bytes look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Json,
    Yaml,
}

/// What is represented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The object or list itself.
    Plain,
    /// Server-side printing.
    Table,
    /// Only the metadata.
    Metadata,
}

/// What the URL answers with, which decides the transforms that make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Object,
    List,
    Watch,
}

/// The outcome of a negotiation. `version` is the one asked for a transform (`v1`, `v1beta1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    pub media: Media,
    pub shape: Shape,
    pub version: &'static str,
}

impl Accepted {
    pub const JSON: Self = Self { media: Media::Json, shape: Shape::Plain, version: "v1" };
}

/// Nothing in the Accept header can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAcceptable(pub String);

const ONLY: &str = "only the following media types are accepted: application/json, \
                    application/yaml, application/vnd.kubernetes.protobuf";

/// Takes the first acceptable entry of an Accept header; no header means JSON.
pub fn negotiate(accept: Option<&str>, target: Target) -> Result<Accepted, NotAcceptable> {
    let Some(accept) = accept.filter(|text| !text.trim().is_empty()) else {
        return Ok(Accepted::JSON);
    };
    let mut refusal = ONLY.to_owned();
    for entry in accept.split(',') {
        match offer(entry, target) {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err(reason) => refusal = reason,
        }
    }
    Err(NotAcceptable(refusal))
}

fn offer(entry: &str, target: Target) -> Result<Option<Accepted>, String> {
    let mut parts = entry.split(';').map(str::trim);
    let media = match parts.next().unwrap_or_default() {
        "application/json" | "*/*" | "application/*" => Media::Json,
        "application/yaml" if target != Target::Watch => Media::Yaml,
        _ => return Ok(None),
    };
    let (mut kind, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => kind = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            _ => {}
        }
    }
    if kind.is_empty() {
        return Ok(Some(Accepted { media, shape: Shape::Plain, version: "v1" }));
    }
    let version = match (group, version) {
        ("meta.k8s.io", "v1") => "v1",
        ("meta.k8s.io", "v1beta1") => "v1beta1",
        _ => return Ok(None),
    };
    let shape = match (kind, target) {
        ("Table", _) => Shape::Table,
        ("PartialObjectMetadata", Target::Object | Target::Watch)
        | ("PartialObjectMetadataList", Target::List | Target::Watch) => Shape::Metadata,
        ("PartialObjectMetadata", Target::List) => {
            return Err("you requested PartialObjectMetadata, but the requested object is a list"
                .to_owned());
        }
        ("PartialObjectMetadataList", Target::Object) => {
            return Err("you requested PartialObjectMetadataList, but the requested object is \
                        not a list"
                .to_owned());
        }
        _ => return Ok(None),
    };
    Ok(Some(Accepted { media, shape, version }))
}

/// The media type of a request body, without parameters, in lower case.
pub fn content_type(header: Option<&str>) -> String {
    let text = header.unwrap_or_default().split(';').next().unwrap_or_default();
    text.trim().to_ascii_lowercase()
}

/// Whether the Accept header asks for aggregated discovery before anything else it could get.
pub fn wants_aggregated_discovery(accept: Option<&str>) -> Result<bool, NotAcceptable> {
    let Some(accept) = accept.filter(|text| !text.trim().is_empty()) else { return Ok(false) };
    for entry in accept.split(',') {
        let mut parts = entry.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<&str> = parts.filter(|part| !part.starts_with("q=")).collect();
        let has = |text: &str| parameters.contains(&text);
        match media {
            "application/json" | "*/*" | "application/*" => {}
            _ => continue,
        }
        if !parameters.iter().any(|part| part.starts_with("as=")) {
            return Ok(false);
        }
        if has("g=apidiscovery.k8s.io") && has("v=v2") && has("as=APIGroupDiscoveryList") {
            return Ok(true);
        }
    }
    Err(NotAcceptable(ONLY.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,\
        application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

    #[test]
    fn kubectl_gets_a_table() {
        let accepted = negotiate(Some(KUBECTL), Target::List).unwrap();
        assert_eq!((accepted.shape, accepted.version), (Shape::Table, "v1"));
    }

    #[test]
    fn an_unknown_transform_falls_to_the_next_entry() {
        let accept = "application/json;as=Zip;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(negotiate(Some(accept), Target::Object), Ok(Accepted::JSON));
        let alone = "application/json;as=Table;g=meta.k8s.io;v=v7";
        assert!(negotiate(Some(alone), Target::Object).is_err());
    }

    #[test]
    fn protobuf_alone_is_not_acceptable_but_with_json_is_json() {
        let protobuf = "application/vnd.kubernetes.protobuf";
        assert!(negotiate(Some(protobuf), Target::Object).is_err());
        let both = format!("{protobuf},application/json");
        assert_eq!(negotiate(Some(&both), Target::List), Ok(Accepted::JSON));
    }

    #[test]
    fn a_watch_does_not_come_as_yaml() {
        assert!(negotiate(Some("application/yaml"), Target::Watch).is_err());
        assert_eq!(
            negotiate(Some("application/yaml"), Target::List).map(|a| a.media),
            Ok(Media::Yaml)
        );
    }

    #[test]
    fn metadata_must_match_object_or_list() {
        let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(negotiate(Some(one), Target::Object).map(|a| a.shape), Ok(Shape::Metadata));
        assert!(negotiate(Some(one), Target::List).is_err());
    }

    #[test]
    fn aggregated_discovery_is_recognised_in_any_parameter_order() {
        let v2 = "application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io";
        assert_eq!(wants_aggregated_discovery(Some(v2)), Ok(true));
        assert_eq!(wants_aggregated_discovery(Some("application/json")), Ok(false));
        let v9 = "application/json;as=APIGroupDiscoveryList;v=v9;g=apidiscovery.k8s.io";
        assert!(wants_aggregated_discovery(Some(v9)).is_err());
    }
}
