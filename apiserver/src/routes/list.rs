//! GET of a collection: lists with paging and snapshots, and the start of watches.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut as _, BytesMut};
use rand::RngExt as _;
use serde_json::{Value, json};

use super::{Call, Target, read, update, write};
use crate::kinds::Kind;
use crate::negotiate::{self, Accepted, Media, Shape};
use crate::respond::{self, Answer};
use crate::routes::query::Query;
use crate::selection::Selection;
use crate::status::{Cause, Result, StatusError};
use crate::store::{Key, ListQuery, Listing, ReadError};
use crate::table;
use crate::watch::{self, Start, WatchRequest};

/// Which state of the collection a list is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Snapshot {
    /// As of this revision; the newest when absent.
    at: Option<u64>,
    /// The server must have reached this revision.
    not_before: u64,
    /// Strictly after this (namespace, name).
    after: Option<(String, String)>,
    limit: Option<usize>,
}

fn invalid_options(cause: Cause) -> StatusError {
    StatusError::invalid_options("ListOptions", &[cause])
}

impl Snapshot {
    fn parse(query: &Query, kind: &Kind, namespace: &str) -> Result<Self> {
        let limit = query.integer("limit")?.filter(|limit| *limit > 0);
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        let version = query.get("resourceVersion");
        let rule = query.get("resourceVersionMatch");
        if let Some(token) = query.get("continue") {
            if version.is_some_and(|version| version != "0") {
                return Err(StatusError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let (rv, after) = read_token(token, kind, namespace)?;
            let at = u64::try_from(rv).ok();
            return Ok(Self { at, not_before: at.unwrap_or(0), after: Some(after), limit });
        }
        let number = |text: &str| {
            text.parse::<u64>().map_err(|_| {
                let inner = update::bad_version(text).message;
                StatusError::bad_request(format!("invalid resource version: {inner}"))
            })
        };
        let version = version.map(number).transpose()?;
        let forbidden = |why: &str| invalid_options(Cause::forbidden("resourceVersionMatch", why));
        let exact = match (rule, version) {
            (None, Some(version)) => limit.is_some() && version > 0,
            (None, None) => false,
            (Some(_), None) => {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                return Err(forbidden(why));
            }
            (Some("Exact"), Some(0)) => {
                let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                return Err(forbidden(why));
            }
            (Some("Exact"), Some(_)) => true,
            (Some("NotOlderThan"), Some(_)) => false,
            (Some(other), Some(_)) => {
                let supported = ["Exact", "NotOlderThan", ""];
                let cause = Cause::not_supported("resourceVersionMatch", &json!(other), &supported);
                return Err(invalid_options(cause));
            }
        };
        // "Any version will do" is answered whole, as from a cache.
        let limit = if version == Some(0) { None } else { limit };
        let at = version.filter(|_| exact);
        Ok(Self { at, not_before: version.unwrap_or(0), after: None, limit })
    }
}

/// A continue token: the revision of the first page and where the next one starts.
fn write_token(rv: i64, last: &Key, all_namespaces: bool) -> String {
    let start = if all_namespaces && !last.namespace.is_empty() {
        format!("/{}/{}\0", last.namespace, last.name)
    } else {
        format!("/{}\0", last.name)
    };
    let token = json!({"v": "meta.k8s.io/v1", "rv": rv, "start": start});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn read_token(token: &str, kind: &Kind, namespace: &str) -> Result<(i64, (String, String))> {
    let bad = |why: &str| {
        StatusError::bad_request(format!(
            "invalid continue token: continue key is not valid: {why}"
        ))
    };
    let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('='));
    let bytes = bytes.map_err(|error| bad(&error.to_string()))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
    let rv = value.get("rv").and_then(Value::as_i64).unwrap_or(0);
    if value.get("v").and_then(Value::as_str) != Some("meta.k8s.io/v1") {
        return Err(bad("server does not recognize this encoded version"));
    }
    if rv == 0 {
        return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    let start = value.get("start").and_then(Value::as_str).unwrap_or_default();
    let path = start.trim_end_matches('\0').trim_start_matches('/');
    if path.split('/').any(|segment| segment.is_empty() || segment == "..") {
        return Err(bad(start));
    }
    let after = match path.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None if kind.namespaced => (namespace.to_owned(), path.to_owned()),
        None => (String::new(), path.to_owned()),
    };
    Ok((rv, after))
}

pub async fn list(call: &Call, target: Target) -> Result<Answer> {
    let accepted = negotiate::negotiate(call.accept(), negotiate::Target::List)?;
    if call.query.present("sendInitialEvents").is_some() {
        let why = "sendInitialEvents is forbidden for list";
        return Err(invalid_options(Cause::forbidden("sendInitialEvents", why)));
    }
    let (kind, namespace) = (&target.kind, target.path.namespace.as_str());
    let selection = Selection::parse(kind, namespace, &call.query)?;
    let snapshot = Snapshot::parse(&call.query, kind, namespace)?;
    let page = page(call, kind, &selection, &snapshot).await?;
    render(call, kind, &selection, &page, accepted)
}

/// One page of a list, selectors applied.
pub struct Page {
    pub listing: Listing,
    /// Where the next page starts, and how many objects it and its successors hold, if known.
    next: Option<(String, Option<u64>)>,
}

/// Everything selected, as it is now.
pub async fn select_all(call: &Call, kind: &Kind, selection: &Selection) -> Result<Page> {
    let snapshot = Snapshot { at: None, not_before: 0, after: None, limit: None };
    page(call, kind, selection, &snapshot).await
}

async fn page(
    call: &Call,
    kind: &Kind,
    selection: &Selection,
    snapshot: &Snapshot,
) -> Result<Page> {
    if snapshot.not_before > call.api.store.revision() {
        read::wait_for(&call.api, snapshot.not_before).await?;
    }
    // With selectors, pages are cut after filtering.
    let everything = selection.is_everything();
    let query = ListQuery {
        resource: kind.resource.clone(),
        namespace: selection.namespace.clone(),
        name: selection.name().map(str::to_owned),
        at: snapshot.at,
        after: snapshot.after.clone(),
        limit: if everything { snapshot.limit } else { None },
    };
    let mut listing = match call.api.store.list(query).await {
        Ok(listing) => listing,
        Err(ReadError::Compacted { .. }) => return Err(expired(snapshot, selection)),
        Err(error) => return Err(write::read_error(&error)),
    };
    if snapshot.at.is_some() {
        listing.rv = snapshot.at.unwrap_or(listing.rv);
    }
    let mut more = listing.remaining > 0;
    let mut remaining = Some(listing.remaining);
    if !everything {
        listing.items.retain(|(_, stored)| selection.matches(kind, stored));
        let limit = snapshot.limit.unwrap_or(usize::MAX);
        more = listing.items.len() > limit;
        listing.items.truncate(limit);
        remaining = None;
    }
    let next = listing.items.last().filter(|_| more).map(|(last, _)| {
        let rv = i64::try_from(listing.rv).unwrap_or(i64::MAX);
        (write_token(rv, last, selection.namespace.is_empty()), remaining)
    });
    Ok(Page { listing, next })
}

/// 410: for a page with a token that goes on from the newest state.
fn expired(snapshot: &Snapshot, selection: &Selection) -> StatusError {
    let Some((namespace, name)) = &snapshot.after else {
        return StatusError::expired("The resourceVersion for the provided list is too old.");
    };
    let mut error = StatusError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can \
         start a new list without the continue parameter, or use the continue token in this \
         response to retrieve the remainder of the results. Continuing with the provided token \
         results in an inconsistent list - objects that were created, modified, or deleted \
         between the time the first chunk was returned and now may show up in the list.",
    );
    let last = Key { resource: "".into(), namespace: namespace.clone(), name: name.clone() };
    // `respond::status` moves it to where clients look.
    error.details =
        Some(json!({"continue": write_token(-1, &last, selection.namespace.is_empty())}));
    error
}

/// A page in the accepted shape.
pub fn render(
    call: &Call,
    kind: &Kind,
    selection: &Selection,
    page: &Page,
    accepted: Accepted,
) -> Result<Answer> {
    let mut metadata = json!({"resourceVersion": page.listing.rv.to_string()});
    match &page.next {
        Some((token, remaining)) => {
            metadata["continue"] = json!(token);
            if let Some(remaining) = remaining {
                metadata["remainingItemCount"] = json!(remaining);
            }
        }
        None if kind.custom().is_some() && accepted.shape == Shape::Plain => {
            metadata["continue"] = json!("");
        }
        None => {}
    }
    let items = page.listing.items.iter().map(|(_, stored)| stored);
    let version = accepted.version;
    let whole = match accepted.shape {
        Shape::Plain if accepted.media == Media::Json && kind.passthrough() && !call.pretty() => {
            return Ok(raw_list(kind, &metadata, &page.listing));
        }
        Shape::Plain => {
            let items: Vec<Value> = items.map(|stored| kind.view(stored).into_owned()).collect();
            json!({"kind": kind.list_kind, "apiVersion": kind.api_version(),
                   "metadata": metadata, "items": items})
        }
        Shape::Metadata => {
            let items: Vec<Value> =
                items.map(|stored| table::metadata_only(&kind.view(stored), version)).collect();
            json!({"kind": "PartialObjectMetadataList", "metadata": metadata, "items": items,
                   "apiVersion": format!("meta.k8s.io/{version}")})
        }
        Shape::Table => {
            let include = write::include(call)?;
            let row = |stored| {
                let shown = kind.view(stored);
                table::row(kind, &shown, stored.value(), include, version, call.now)
            };
            let rows: Vec<Value> = items.map(|stored| row(stored.as_ref())).collect();
            table::table(metadata, table::columns(kind), rows, version)
        }
    };
    tracing::trace!(namespace = selection.namespace, "listed");
    Ok(respond::value(200, &whole, accepted.media, call.pretty()))
}

/// A list made of stored texts as they are.
fn raw_list(kind: &Kind, metadata: &Value, listing: &Listing) -> Answer {
    let size: usize = listing.items.iter().map(|(_, stored)| stored.raw().len() + 1).sum();
    let mut body = BytesMut::with_capacity(size + 256);
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
        json!(kind.list_kind),
        json!(kind.api_version())
    );
    body.put_slice(head.as_bytes());
    for (index, (_, stored)) in listing.items.iter().enumerate() {
        if index > 0 {
            body.put_u8(b',');
        }
        body.put_slice(stored.raw());
    }
    body.put_slice(b"]}");
    respond::bytes(200, "application/json", body.freeze())
}

pub async fn watch(call: &Call, target: Target) -> Result<Answer> {
    let accepted = negotiate::negotiate(call.accept(), negotiate::Target::Watch)?;
    let Target { kind, path } = target;
    let selection = Selection::parse(&kind, &path.namespace, &call.query)?;
    let start = watch_start(&call.query)?;
    if let Start::Existing = start {
        let asked = call.query.get("resourceVersion").and_then(|text| text.parse().ok());
        let asked = asked.unwrap_or(0);
        if asked > call.api.store.revision() {
            read::wait_for(&call.api, asked).await?;
        }
    }
    let seconds = call.query.integer("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok());
    let timeout = match seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
        // Spread out, so that many watches do not all come back at once.
        _ => Duration::from_secs(rand::rng().random_range(1800..3600)),
    };
    let include = match accepted.shape {
        Shape::Table => write::include(call)?,
        Shape::Plain | Shape::Metadata => table::Include::Metadata,
    };
    let request = WatchRequest {
        kind,
        selection,
        accepted,
        include,
        start,
        bookmarks: call.query.flag("allowWatchBookmarks"),
        timeout,
    };
    Ok(respond::stream(watch::stream(call.api.clone(), request)))
}

/// Where a watch request wants to start. Pure.
fn watch_start(query: &Query) -> Result<Start> {
    let forbidden = |why: &str| invalid_options(Cause::forbidden("resourceVersionMatch", why));
    let rule = query.get("resourceVersionMatch");
    let version = match query.get("resourceVersion") {
        None => 0,
        Some(text) => text.parse().map_err(|_| update::bad_version(text))?,
    };
    if query.present("sendInitialEvents").is_none() {
        if rule.is_some() {
            let why =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(forbidden(why));
        }
        return Ok(if version == 0 { Start::Existing } else { Start::After(version) });
    }
    if rule != Some("NotOlderThan") {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(forbidden(why));
    }
    if query.flag("sendInitialEvents") {
        return Ok(Start::Existing);
    }
    Ok(if version == 0 { Start::Now } else { Start::After(version) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kinds;

    fn start(query: &str) -> Result<Start> {
        watch_start(&Query::parse(query))
    }

    #[test]
    fn a_watch_starts_where_its_parameters_say() {
        assert_eq!(start("watch=1"), Ok(Start::Existing));
        assert_eq!(start("watch=1&resourceVersion=0"), Ok(Start::Existing));
        assert_eq!(start("watch=1&resourceVersion=7"), Ok(Start::After(7)));
        let streaming = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        assert_eq!(start(streaming), Ok(Start::Existing));
        let changes = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
        assert_eq!(start(changes), Ok(Start::Now));
        assert_eq!(start("sendInitialEvents=true").unwrap_err().code, 422);
        assert_eq!(start("resourceVersionMatch=NotOlderThan").unwrap_err().code, 422);
        assert_eq!(start("resourceVersion=abc").unwrap_err().code, 500);
    }

    #[test]
    fn tokens_carry_revision_and_position() {
        let kinds = Kinds::new(Vec::new());
        let kind = kinds.get("", "v1", "configmaps").unwrap();
        let key = Key::new(&kind.resource, "lab", "c1");
        let position = ("lab".to_owned(), "c1".to_owned());
        let all = write_token(9, &key, true);
        assert_eq!(read_token(&all, kind, ""), Ok((9, position.clone())));
        let one = write_token(9, &key, false);
        assert_eq!(read_token(&one, kind, "lab"), Ok((9, position)));
        assert_eq!(read_token("garbage", kind, "lab").unwrap_err().code, 400);
    }

    #[test]
    fn a_list_reads_its_snapshot_from_the_parameters() {
        let kinds = Kinds::new(Vec::new());
        let kind = kinds.get("", "v1", "configmaps").unwrap();
        let parse = |query: &str| Snapshot::parse(&Query::parse(query), kind, "lab");
        assert_eq!(parse("limit=5").unwrap().limit, Some(5));
        assert_eq!(parse("limit=-1").unwrap().limit, None);
        assert_eq!(parse("limit=5&resourceVersion=0").unwrap().limit, None);
        assert_eq!(parse("limit=5&resourceVersion=3").unwrap().at, Some(3));
        assert_eq!(parse("resourceVersion=3").unwrap().at, None);
        assert_eq!(parse("resourceVersion=3&resourceVersionMatch=Exact").unwrap().at, Some(3));
        assert_eq!(parse("resourceVersionMatch=Exact").unwrap_err().code, 422);
        assert_eq!(parse("limit=abc").unwrap_err().code, 400);
        assert_eq!(parse("resourceVersion=abc").unwrap_err().code, 400);
    }
}
