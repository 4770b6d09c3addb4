//! Both sessions against each other, on one clock: random walks, and every walk of a small scope.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod both_ends;
mod random_walk;
mod small_scope;
