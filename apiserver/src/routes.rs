//! From a request to an answer: authentication, the path, and then one file for each kind of verb.

pub mod path;
pub mod query;

mod body;
mod create;
mod delete;
mod list;
mod meta;
mod patch;
mod read;
mod reviews;
mod scale;
mod update;
mod write;

pub use delete::{CRD_CLEANUP, FOREGROUND, ORPHAN, by_controller as delete_by_controller};
pub use write::finished;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;

use crate::api::Api;
use crate::auth::User;
use crate::clock;
use crate::kinds::{Kind, Kinds, is_built_in_group};
use crate::negotiate::NotAcceptable;
use crate::respond::{self, Answer};
use crate::status::{BODY_LIMIT, Result, StatusError};
use path::{ResourcePath, Route};
use query::Query;

/// How long a request other than a watch may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// A request whose sender is known and whose body is in memory.
pub struct Call {
    pub api: Arc<Api>,
    pub kinds: Arc<Kinds>,
    pub user: User,
    pub method: Method,
    pub path: String,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub now: Timestamp,
}

impl Call {
    pub fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn accept(&self) -> Option<&str> {
        self.header(header::ACCEPT)
    }

    pub fn user_agent(&self) -> Option<&str> {
        self.header(header::USER_AGENT)
    }

    pub fn pretty(&self) -> bool {
        self.query.flag("pretty")
    }
}

impl From<NotAcceptable> for StatusError {
    fn from(refusal: NotAcceptable) -> Self {
        StatusError::not_acceptable_text(refusal.0)
    }
}

/// Answers one request. `certificate` is the user that the TLS connection proved.
pub async fn answer(
    api: Arc<Api>,
    certificate: Option<User>,
    request: http::Request<Incoming>,
) -> Answer {
    let (parts, body) = request.into_parts();
    let route = path::parse(parts.uri.path());
    if let Some(answer) = meta::open(&route, &parts) {
        return answer;
    }
    let Some(user) = api.authenticator.user(certificate.as_ref(), &parts.headers) else {
        return respond::status(&StatusError::unauthorized());
    };
    if !user.is_master() {
        return respond::status(&denied(&user, &parts, &route));
    }
    let work = async {
        let call = receive(api, user, parts, body).await?;
        dispatch(call, route).await
    };
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => respond::status(&error),
        Err(_) => respond::status(&StatusError {
            code: 504,
            reason: "Timeout",
            message: "request did not complete within the allotted timeout".into(),
            details: None,
        }),
    }
}

async fn receive(api: Arc<Api>, user: User, parts: Parts, body: Incoming) -> Result<Call> {
    let body = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(StatusError::body_too_large()),
        Err(error) => return Err(StatusError::bad_request(format!("reading the body: {error}"))),
    };
    let kinds = api.kinds();
    Ok(Call {
        api,
        kinds,
        user,
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body,
        now: clock::now(),
    })
}

/// Only `system:masters` may do anything so far: the place where roles will be asked.
fn denied(user: &User, parts: &Parts, route: &Route) -> StatusError {
    let verb = parts.method.as_str().to_ascii_lowercase();
    match route {
        Route::Resource(path) => StatusError::access_denied(
            &user.name,
            &verb,
            &path.group,
            &path.plural,
            Some(path.namespace.as_str()).filter(|namespace| !namespace.is_empty()),
            path.name.as_deref().unwrap_or_default(),
        ),
        Route::Index
        | Route::Version
        | Route::Health { .. }
        | Route::CoreVersions
        | Route::Groups
        | Route::Group(_)
        | Route::GroupVersion { .. }
        | Route::OpenApiV2
        | Route::OpenApiIndex
        | Route::OpenApiDocument(_)
        | Route::Unknown => StatusError::path_denied(&user.name, &verb, parts.uri.path()),
    }
}

async fn dispatch(call: Call, route: Route) -> Result<Answer> {
    match route {
        Route::Resource(path) => resource(call, path).await,
        Route::Index
        | Route::Version
        | Route::Health { .. }
        | Route::CoreVersions
        | Route::Groups
        | Route::Group(_)
        | Route::GroupVersion { .. }
        | Route::OpenApiV2
        | Route::OpenApiIndex
        | Route::OpenApiDocument(_)
        | Route::Unknown => meta::describe(&call, &route).await,
    }
}

/// A request for objects of a kind that is served, its path checked against the kind's scope.
pub struct Target {
    pub kind: Arc<Kind>,
    pub path: ResourcePath,
}

impl Target {
    /// The object's name; only for paths that have one.
    pub fn name(&self) -> &str {
        self.path.name.as_deref().unwrap_or_default()
    }

    pub fn key(&self) -> crate::store::Key {
        crate::store::Key::new(&self.kind.resource, &self.path.namespace, self.name())
    }

    pub fn not_found(&self) -> StatusError {
        StatusError::not_found(&self.kind.group, &self.kind.plural, self.name())
    }
}

async fn resource(call: Call, path: ResourcePath) -> Result<Answer> {
    if let Some(answer) = reviews::answer(&call, &path) {
        return answer;
    }
    let Some(kind) = call.kinds.get(&path.group, &path.version, &path.plural).cloned() else {
        return unknown_resource(&path);
    };
    let scope_fits = match (kind.namespaced, path.namespace.is_empty()) {
        (true, false) | (false, true) => true,
        // Across namespaces there are only lists and watches.
        (true, true) => path.name.is_none() && is_read(&call.method),
        (false, false) => false,
    };
    if !scope_fits {
        return match kind.custom() {
            Some(_) => Ok(respond::page_not_found()),
            None if kind.namespaced => Err(StatusError::method_not_allowed()),
            None => Err(StatusError::path_not_found()),
        };
    }
    let mut warnings = Vec::new();
    warnings.extend(kind.custom().and_then(|custom| custom.deprecation.clone()));
    let target = Target { kind, path };
    let mut answer = verb(&call, target).await?;
    respond::warn(&mut answer, &warnings);
    Ok(answer)
}

fn unknown_resource(path: &ResourcePath) -> Result<Answer> {
    if is_built_in_group(&path.group) && path.version == "v1" {
        return Err(StatusError::path_not_found());
    }
    Ok(respond::page_not_found())
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

async fn verb(call: &Call, target: Target) -> Result<Answer> {
    let kind = &target.kind;
    let refuse = |verb: &str| match kind.custom() {
        Some(_) => StatusError::verb_not_supported(verb, &kind.group, &kind.plural),
        None => StatusError::method_not_allowed(),
    };
    let method = call.method.as_str();
    let writes = !matches!(method, "GET" | "HEAD");
    if writes && !kind.allows("create") {
        return Err(StatusError::method_not_allowed());
    }
    let sub = target.path.subresource.clone();
    match (method, target.path.name.is_some(), sub.as_deref()) {
        ("GET" | "HEAD", false, _) if call.query.flag("watch") => list::watch(call, target).await,
        ("GET" | "HEAD", false, _) => list::list(call, target).await,
        ("POST", false, _) | ("POST", true, None) => create::create(call, target).await,
        ("DELETE", false, _) if kind.allows("deletecollection") => {
            delete::collection(call, target).await
        }
        ("PUT" | "PATCH", false, _) if kind.custom().is_some() => {
            Err(StatusError::bad_request("name must be provided"))
        }
        (_, false, _) => Err(refuse("delete")),
        ("GET" | "HEAD", true, None) => read::get(call, &target).await,
        ("PUT", true, None) => update::update(call, target).await,
        ("PATCH", true, None) => patch::patch(call, target).await,
        ("DELETE", true, None) => delete::delete(call, target).await,
        ("GET" | "HEAD", true, Some("status")) if kind.status => read::get(call, &target).await,
        ("PUT", true, Some("status")) if kind.status => update::update(call, target).await,
        ("PATCH", true, Some("status")) if kind.status => patch::patch(call, target).await,
        ("PUT", true, Some("finalize")) if kind.resource.as_ref() == "namespaces" => {
            update::update(call, target).await
        }
        (_, true, Some("scale")) if kind.custom().is_some_and(|c| c.scale.is_some()) => {
            scale::answer(call, target).await
        }
        (_, true, Some("status")) if kind.status => Err(refuse(&method.to_ascii_lowercase())),
        ("OPTIONS", true, None) => Err(refuse("")),
        (_, true, None) => Err(refuse(&method.to_ascii_lowercase())),
        (_, true, Some(_)) => Err(target.not_found()),
    }
}
