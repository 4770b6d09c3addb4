//! The bench that the stories in `tests/` stand on. Start with [`world::World`].
//!
//! Every part of the product runs as a process, the user's acts go through a real kubectl, the
//! device is a Modbus server of a third party, and the wire between cloud and edge can be cut.
//! The Kubernetes API is ours by default and any cluster with `KEDGE_E2E_KUBECONFIG`.

pub mod boiler;
pub mod cluster;
pub mod device;
pub mod edge;
pub mod kubectl;
pub mod load;
pub mod ops;
pub mod port;
pub mod process;
pub mod setting;
pub mod wait;
pub mod wire;
pub mod world;
