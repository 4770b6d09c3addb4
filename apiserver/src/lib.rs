//! A Kubernetes API for one machine.

// Pure rules: no IO, no clock, no runtime.
pub mod crd;
pub mod decode;
pub mod managed;
pub mod meta;
pub mod patch;
pub mod protobuf;
pub mod schema;
pub mod selector;
pub mod status;
