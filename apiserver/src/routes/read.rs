//! GET of one object, and waiting for a revision.

use std::time::Duration;

use super::{Call, Target, update, write};
use crate::api::Api;
use crate::negotiate::{self, Accepted, Media, Shape};
use crate::respond::{self, Answer};
use crate::status::{Result, StatusError};

/// How long a read waits for a revision that does not exist yet.
const WAIT: Duration = Duration::from_secs(3);

pub async fn get(call: &Call, target: &Target) -> Result<Answer> {
    let accepted = negotiate::negotiate(call.accept(), negotiate::Target::Object)?;
    if let Some(text) = call.query.get("resourceVersion") {
        let rv = text.parse().map_err(|_| update::bad_version(text))?;
        wait_for(&call.api, rv).await?;
    }
    let found = call.api.store.get(&target.key()).await;
    let stored = found.map_err(|error| write::read_error(&error))?;
    let stored = stored.ok_or_else(|| target.not_found())?;
    let plain = Accepted { media: Media::Json, shape: Shape::Plain, version: accepted.version };
    if accepted == plain && target.kind.passthrough() && !call.pretty() {
        return Ok(respond::bytes(200, "application/json", stored.raw().clone()));
    }
    write::answer(call, &target.kind, 200, &target.kind.view(&stored), &[])
}

/// Waits until the store has reached a revision; 504 when it does not in time.
pub async fn wait_for(api: &Api, rv: u64) -> Result<()> {
    let mut revisions = api.store.revisions();
    let reached = tokio::time::timeout(WAIT, revisions.wait_for(|current| *current >= rv)).await;
    match reached {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(StatusError::version_too_large(rv, api.store.revision())),
    }
}
