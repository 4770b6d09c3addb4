//! The grammar of request paths. Pure: no knowledge of which groups or kinds exist.

/// What a path means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/`
    Index,
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz`, with the check that follows, if any.
    Health { endpoint: String, check: Option<String> },
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1` (group empty) and `/apis/{group}/{version}`
    GroupVersion { group: String, version: String },
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v3/{path}`
    OpenApiDocument(String),
    /// Everything below a group version.
    Resource(ResourcePath),
    /// None of the above.
    Unknown,
}

/// A path below a group version: a collection, an object, or a part of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourcePath {
    pub group: String,
    pub version: String,
    /// Empty: no namespace in the path.
    pub namespace: String,
    pub plural: String,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

/// Reads a path (without the query).
pub fn parse(path: &str) -> Route {
    let mut segments = Vec::new();
    for segment in path.trim_start_matches('/').split('/') {
        let Some(segment) = decode(segment) else { return Route::Unknown };
        segments.push(segment);
    }
    // One trailing slash is the same as none.
    if segments.len() > 1 && segments.last().is_some_and(String::is_empty) {
        segments.pop();
    }
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        [""] => Route::Index,
        ["version"] => Route::Version,
        [endpoint @ ("healthz" | "livez" | "readyz")] => {
            Route::Health { endpoint: (*endpoint).into(), check: None }
        }
        [endpoint @ ("healthz" | "livez" | "readyz"), check @ ..] => {
            Route::Health { endpoint: (*endpoint).into(), check: Some(check.join("/")) }
        }
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", path @ ..] => Route::OpenApiDocument(path.join("/")),
        ["api", version, rest @ ..] => below("", version, rest),
        ["apis", group] => Route::Group((*group).into()),
        ["apis", group, version, rest @ ..] => below(group, version, rest),
        _ => Route::Unknown,
    }
}

fn below(group: &str, version: &str, rest: &[&str]) -> Route {
    if rest.iter().any(|segment| segment.is_empty()) || group.is_empty() && version.is_empty() {
        return Route::Unknown;
    }
    let text = |s: &str| s.to_owned();
    let mut path =
        ResourcePath { group: text(group), version: text(version), ..ResourcePath::default() };
    match rest {
        [] => {
            return Route::GroupVersion { group: path.group, version: path.version };
        }
        // `/api/v1/namespaces/x` and its own subresources are the Namespace object.
        ["namespaces", name, sub @ ("status" | "finalize")] if group.is_empty() => {
            path.plural = "namespaces".into();
            path.name = Some(text(name));
            path.subresource = Some(text(sub));
        }
        ["namespaces", namespace, plural, rest @ ..] => {
            path.namespace = text(namespace);
            path.plural = text(plural);
            return object(path, rest);
        }
        [plural, rest @ ..] => {
            path.plural = text(plural);
            return object(path, rest);
        }
    }
    Route::Resource(path)
}

fn object(mut path: ResourcePath, rest: &[&str]) -> Route {
    match rest {
        [] => {}
        [name] => path.name = Some((*name).into()),
        [name, subresource @ ..] => {
            path.name = Some((*name).into());
            path.subresource = Some(subresource.join("/"));
        }
    }
    Route::Resource(path)
}

/// Percent-decoding; `None` when it does not give UTF-8.
pub fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> ResourcePath {
        let Route::Resource(resource) = parse(path) else { panic!("{path} is no resource") };
        resource
    }

    #[test]
    fn namespaces_are_objects_and_scopes() {
        let path = resource("/api/v1/namespaces/lab");
        assert_eq!((path.plural.as_str(), path.name.as_deref()), ("namespaces", Some("lab")));
        let path = resource("/api/v1/namespaces/lab/finalize");
        assert_eq!(path.subresource.as_deref(), Some("finalize"));
        let path = resource("/api/v1/namespaces/lab/configmaps/c");
        assert_eq!((path.namespace.as_str(), path.plural.as_str()), ("lab", "configmaps"));
        assert_eq!(path.name.as_deref(), Some("c"));
    }

    #[test]
    fn group_paths_reach_collections_objects_and_parts() {
        let path = resource("/apis/g.io/v1/things");
        assert_eq!((path.group.as_str(), path.name), ("g.io", None));
        let path = resource("/apis/g.io/v1/namespaces/n/things/t/status");
        assert_eq!(path.subresource.as_deref(), Some("status"));
        assert_eq!(
            resource("/apis/g.io/v1/namespaces/n/things/t/"),
            resource("/apis/g.io/v1/namespaces/n/things/t")
        );
    }

    #[test]
    fn discovery_paths_tolerate_a_trailing_slash() {
        assert_eq!(parse("/apis/"), Route::Groups);
        assert_eq!(parse("/api"), Route::CoreVersions);
        assert_eq!(parse("/apis/g.io/"), Route::Group("g.io".into()));
        let version = Route::GroupVersion { group: String::new(), version: "v1".into() };
        assert_eq!(parse("/api/v1/"), version);
    }

    #[test]
    fn odd_paths_are_unknown_and_never_panic() {
        for path in ["/nonsense", "/%zz", "/apis/g/v//x", "/%", "/api/v1/%ff"] {
            assert_eq!(parse(path), Route::Unknown, "{path}");
        }
    }

    #[test]
    fn escaped_names_are_decoded() {
        assert_eq!(resource("/api/v1/nodes/a%2Db").name.as_deref(), Some("a-b"));
    }
}
