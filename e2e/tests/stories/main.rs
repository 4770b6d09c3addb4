//! The stories. One program, so that it is linked once; one module per family.
//!
//! `e2e/src/world.rs` says what a story can do; `docs/` says what it must find.

#![expect(clippy::unwrap_used, reason = "what the stories share is test code too")]

mod admit;
mod budget;
mod first_light;
mod join;
mod link;
mod many;
mod offline;
mod restart;
