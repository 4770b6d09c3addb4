//! The one place that reads the wall clock; everything else takes the time as an argument.

use std::time::Duration;

use jiff::Timestamp;

/// The current time.
#[expect(clippy::disallowed_methods, reason = "this module is the driver that owns the clock")]
pub fn now() -> Timestamp {
    Timestamp::try_from(std::time::SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A monotonic reading, for measuring how long something took.
#[expect(clippy::disallowed_methods, reason = "this module is the driver that owns the clock")]
pub fn instant() -> std::time::Instant {
    std::time::Instant::now()
}

/// The form Kubernetes uses for `metadata.creationTimestamp`: UTC, whole seconds, `Z`.
pub fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The form of `MicroTime` fields: exactly six fractional digits.
pub fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// `at` minus `span`, clamped at the epoch.
pub fn before(at: Timestamp, span: Duration) -> Timestamp {
    let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(at.as_millisecond().saturating_sub(millis))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}
