//! The one place that reads the clock; everything else is told the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hub_proto::Now;

/// The present, monotonic and wall.
#[expect(clippy::disallowed_methods, reason = "the clock of the drivers")]
#[must_use]
pub fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now(), unix_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn unix_secs() -> u64 {
    now().unix_ms / 1000
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC, to the second: the form of Kubernetes.
#[must_use]
pub fn rfc3339(unix_ms: u64) -> String {
    let secs = i64::try_from(unix_ms / 1000).unwrap_or_default();
    jiff::Timestamp::from_second(secs).unwrap_or_default().to_string()
}
