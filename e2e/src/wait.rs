//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// How long a story waits for something that must happen. Far above what it takes, so that a busy
/// machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks. Short, since most things happen within a few tens of milliseconds.
const INTERVAL: Duration = Duration::from_millis(30);

/// Looks until `probe` answers `Ok` and returns what it holds.
///
/// # Panics
/// After [`PATIENCE`], with what was waited for and what was last seen instead.
#[track_caller]
pub fn until<T>(what: &str, probe: impl FnMut() -> Result<T, String>) -> T {
    within(PATIENCE, what, probe)
}

/// As [`until`], with a deadline of its own.
///
/// # Panics
/// After the deadline, with what was waited for and what was last seen instead.
#[track_caller]
pub fn within<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, String>,
) -> T {
    let start = now();
    loop {
        // The time is taken before the look: the last look is never older than the deadline.
        let waited = now() - start;
        match probe() {
            Ok(found) => return found,
            Err(seen) if waited > deadline => {
                panic!("waited {waited:.1?} for: {what}\n  last seen: {seen}")
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

/// Looks for a whole span and fails as soon as `probe` answers `Err`: for what must not happen.
///
/// # Panics
/// When it happens.
#[track_caller]
pub fn throughout(span: Duration, what: &str, mut probe: impl FnMut() -> Result<(), String>) {
    let start = now();
    while now() - start < span {
        if let Err(seen) = probe() {
            panic!("expected throughout {span:?}: {what}\n  after {:.1?}: {seen}", now() - start);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// The clock of the stories.
#[must_use]
pub fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a story is a driver: it looks at real time")]
    Instant::now()
}

/// `Ok` if both are equal, else what was seen.
///
/// # Errors
/// The first, as text.
pub fn equal<T: PartialEq + std::fmt::Debug>(seen: T, wanted: T) -> Result<(), String> {
    if seen == wanted { Ok(()) } else { Err(format!("{seen:?}, not {wanted:?}")) }
}
