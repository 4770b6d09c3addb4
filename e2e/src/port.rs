//! Free ports.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which Linux takes ports for outgoing connections: one of those could
/// otherwise occupy a port between its being chosen here and being listened on by a process, or
/// while a process is down between two runs.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of loopback that nobody listens on.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free() -> u16 {
    let span = RANGE.end - RANGE.start;
    // Each test is a process of its own under nextest: far apart starts keep them apart.
    let start = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(span)).unwrap_or(0);
    (0..span)
        .map(|_| {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % span;
            RANGE.start
                + u16::try_from((u32::from(start) + u32::from(step)) % u32::from(span)).unwrap_or(0)
        })
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap_or_else(|| panic!("no port of {RANGE:?} is free"))
}
