//! The cloud-edge session, pure: no sockets, no clock, no runtime, no randomness of its own.
//!
//! # How to drive a session
//!
//! A driver owns a socket and a clock; a session ([`cloud::CloudSession`] or [`edge::EdgeSession`])
//! owns every decision. The driver
//!
//! 1. hands in what arrived (`receive`), what changed locally, and that time has passed
//!    (`handle_timeout`), always with [`Now`];
//! 2. after each input drains `poll_transmit` into the socket and `poll_event` into its own code;
//! 3. sleeps until `poll_timeout` or the next input.
//!
//! The vocabulary comes in three layers, each with one owner: [`id`] parses names at the door,
//! [`wire`] is the only file that knows the strings of the KubeEdge protocol, [`frame`] turns
//! envelopes into bytes and back, and [`message`] gives every message a type.

pub mod backoff;
pub mod cloud;
pub mod edge;
pub mod frame;
pub mod id;
pub mod message;
pub mod wire;

use std::time::Instant;

/// The time of an input: a monotonic instant for timers and the wall clock for what is written on
/// the wire. Only drivers read the clock; everything here is told.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time, for timers.
    pub instant: Instant,
    /// Milliseconds since the Unix epoch, for envelopes.
    pub unix_ms: u64,
}
