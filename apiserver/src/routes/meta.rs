//! Everything that is not an object: health, version, discovery, OpenAPI.

use http::request::Parts;
use http::{HeaderValue, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use super::Call;
use super::path::Route;
use crate::kinds::{Kind, is_built_in_group, resource_name};
use crate::negotiate::wants_aggregated_discovery;
use crate::respond::{self, Answer};
use crate::status::{Result, StatusError};
use crate::store::Key;
use crate::{discovery, openapi};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const CHECKS: &[&str] = &["ping", "store"];

/// What is answered without credentials: health and version.
pub fn open(route: &Route, parts: &Parts) -> Option<Answer> {
    match route {
        Route::Health { endpoint, check } => {
            let verbose = parts.uri.query().is_some_and(|query| query.contains("verbose"));
            Some(health(endpoint, check.as_deref(), verbose))
        }
        Route::Version => Some(respond::json(200, &discovery::version())),
        Route::Index
        | Route::CoreVersions
        | Route::Groups
        | Route::Group(_)
        | Route::GroupVersion { .. }
        | Route::OpenApiV2
        | Route::OpenApiIndex
        | Route::OpenApiDocument(_)
        | Route::Resource(_)
        | Route::Unknown => None,
    }
}

fn health(endpoint: &str, check: Option<&str>, verbose: bool) -> Answer {
    match check {
        Some(check) if CHECKS.contains(&check) => respond::text(200, "ok"),
        Some(_) => respond::page_not_found(),
        None if verbose => {
            let mut text: String = CHECKS.iter().map(|check| format!("[+]{check} ok\n")).collect();
            text.push_str(&format!("{endpoint} check passed\n"));
            respond::text(200, text)
        }
        None => respond::text(200, "ok"),
    }
}

/// Discovery and OpenAPI.
pub async fn describe(call: &Call, route: &Route) -> Result<Answer> {
    let kinds = &call.kinds;
    let found = |document: Option<Value>, group: &str| match document {
        Some(document) => Ok(respond::json(200, &document)),
        None if is_built_in_group(group) => Err(StatusError::path_not_found()),
        None => Ok(respond::page_not_found()),
    };
    match route {
        Route::Index => Ok(respond::json(200, &discovery::index(kinds))),
        Route::CoreVersions | Route::Groups => {
            let core = *route == Route::CoreVersions;
            if wants_aggregated_discovery(call.accept())? {
                return Ok(aggregated(call, core));
            }
            let document = if core {
                discovery::core_versions(&call.api.address)
            } else {
                discovery::groups(kinds)
            };
            let mut answer = respond::json(200, &document);
            vary(&mut answer);
            Ok(answer)
        }
        Route::Group(group) => found(discovery::group(kinds, group), group),
        Route::GroupVersion { group, version } => {
            found(discovery::resources(kinds, group, version), group)
        }
        Route::OpenApiV2 => open_api_v2(call),
        Route::OpenApiIndex => {
            let body = openapi::index(kinds).to_string();
            Ok(tagged(call, body, "text/plain; charset=utf-8"))
        }
        Route::OpenApiDocument(path) => open_api_document(call, path).await,
        Route::Version | Route::Health { .. } | Route::Resource(_) | Route::Unknown => {
            Ok(respond::page_not_found())
        }
    }
}

fn aggregated(call: &Call, core: bool) -> Answer {
    let body = discovery::aggregated(&call.kinds, core).to_string();
    let mut answer = tagged(call, body, AGGREGATED);
    let public = HeaderValue::from_static("public");
    answer.headers_mut().insert(header::CACHE_CONTROL, public);
    vary(&mut answer);
    answer
}

fn vary(answer: &mut Answer) {
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
}

/// An answer with an ETag, or 304 when the client has it already.
fn tagged(call: &Call, body: String, media: &'static str) -> Answer {
    let digest = Sha512::digest(&body);
    let tag: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    let tag = format!("\"{tag}\"");
    let known = call.header(header::IF_NONE_MATCH).is_some_and(|known| known == tag);
    let mut answer =
        if known { respond::bytes(304, media, "") } else { respond::bytes(200, media, body) };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    answer
}

fn open_api_v2(call: &Call) -> Result<Answer> {
    let accept = call.accept().unwrap_or_default();
    if accept.contains("proto-openapi.spec.v2") {
        return Ok(respond::bytes(200, openapi::V2_PROTOBUF_TYPE, openapi::V2_PROTOBUF));
    }
    if accept.is_empty() || accept.contains("json") || accept.contains("*/*") {
        return Ok(respond::json(200, &openapi::v2()));
    }
    Err(StatusError::not_acceptable(&["application/json"]))
}

async fn open_api_document(call: &Call, path: &str) -> Result<Answer> {
    let kinds = &call.kinds;
    let Some((group, version)) = openapi::find(kinds, path) else {
        return Ok(respond::bytes(404, "text/plain; charset=utf-8", ""));
    };
    let hash = openapi::hash(kinds, &group, &version);
    let tag = HeaderValue::from_str(&format!("\"{hash}\"")).ok();
    let asked = call.query.get("hash");
    if asked.is_some_and(|asked| asked != hash) {
        let mut answer = respond::bytes(301, "application/json", "");
        let location = format!("/openapi/v3/{path}?hash={hash}");
        if let Ok(location) = HeaderValue::from_str(&location) {
            answer.headers_mut().insert(header::LOCATION, location);
        }
        return Ok(answer);
    }
    let known = call.header(header::IF_NONE_MATCH);
    let mut answer = if known.is_some_and(|known| known.trim_matches('"') == hash) {
        respond::bytes(304, "application/json", "")
    } else {
        respond::json(200, &document(call, &group, &version).await?)
    };
    let headers = answer.headers_mut();
    if let Some(tag) = tag {
        headers.insert(header::ETAG, tag);
    }
    if asked.is_some() {
        let forever = HeaderValue::from_static("public, immutable");
        headers.insert(header::CACHE_CONTROL, forever);
    }
    vary(&mut answer);
    Ok(answer)
}

async fn document(call: &Call, group: &str, version: &str) -> Result<Value> {
    let resource = resource_name("apiextensions.k8s.io", "customresourcedefinitions");
    let mut definitions = std::collections::BTreeMap::new();
    for name in openapi::definitions(&call.kinds, group, version) {
        let found = call.api.store.get(&Key::new(&resource, "", &name)).await;
        let stored = found.map_err(|error| StatusError::internal(&error.to_string()))?;
        let value = stored.map_or_else(|| json!({}), |stored| stored.value().clone());
        definitions.insert(name, value);
    }
    let definition = |kind: &Kind| definitions.get(&kind.custom()?.crd_name).cloned();
    Ok(openapi::document(&call.kinds, group, version, definition))
}
