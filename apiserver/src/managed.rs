//! Server-side apply and field ownership (stub: the signatures; the rules follow).
use serde_json::Value;

use crate::schema::Schema;
use crate::status::Result;

/// The outcome of [`apply`].
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The whole object to be defaulted, validated and stored, managedFields included.
    pub object: Value,
    /// Whether anything but managedFields times differs from the live object.
    pub changed: bool,
}

/// Applies `config` to `live` (`None`: the object is created). See section 10 of the contract.
#[expect(clippy::too_many_arguments, reason = "the one entry point; callers name each")]
pub fn apply(
    _live: Option<&Value>,
    config: &Value,
    _schema: Option<&Schema>,
    _manager: &str,
    _subresource: Option<&str>,
    _force: bool,
    _now: &str,
) -> Result<Applied> {
    Ok(Applied { object: config.clone(), changed: true })
}

/// Records what an update (POST, PUT, merge patch, …) by `manager` changed: sets
/// `metadata.managedFields` of `new`.
pub fn track(
    _live: Option<&Value>,
    _new: &mut Value,
    _schema: Option<&Schema>,
    _manager: &str,
    _subresource: Option<&str>,
    _now: &str,
) {
}

/// Ends a write: when `new` differs from `live` in nothing but managedFields times, `new` becomes
/// `live` again and the answer is `true`: nothing is to be stored.
pub fn settle(live: &Value, new: &mut Value) -> bool {
    if live == new {
        return true;
    }
    false
}
