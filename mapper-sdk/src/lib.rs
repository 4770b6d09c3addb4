//! Write a driver, get a mapper.
//!
//! A mapper connects devices of one protocol to Kedge (or to a KubeEdge edgecore: the wire is DMI
//! v1beta1). The author implements [`Driver`]: how to connect to a device, read a property, write
//! one. The runtime does the rest: registration with edgecore and again when it restarts, schedules,
//! batches, desired values, type and range checks, back-off, states, deadlines, panics, signals.
//!
//! This is a complete mapper. The devices are files; `configData` says which directory and which file:
//!
//! ```no_run
//! use std::path::PathBuf;
//!
//! use mapper_sdk::{Driver, DriverError, ObjectId, Property, Value};
//! use serde::Deserialize;
//!
//! struct Files;
//!
//! #[derive(Deserialize, Clone)]
//! struct Directory {
//!     path: PathBuf,
//! }
//!
//! #[derive(Deserialize)]
//! struct File {
//!     file: String,
//! }
//!
//! impl Driver for Files {
//!     const PROTOCOL: &'static str = "files";
//!     type Protocol = Directory;
//!     type Visitor = File;
//!     type Connection = PathBuf;
//!
//!     async fn connect(&self, _: &ObjectId, directory: &Directory) -> Result<PathBuf, DriverError> {
//!         std::fs::metadata(&directory.path)?; // no directory: the device is offline
//!         Ok(directory.path.clone())
//!     }
//!
//!     async fn read(
//!         &self,
//!         at: &mut PathBuf,
//!         property: &Property<File>,
//!     ) -> Result<Value, DriverError> {
//!         let text = std::fs::read_to_string(at.join(&property.visitor.file))
//!             .map_err(DriverError::failed)?; // one property failed, the device is still there
//!         Value::parse(text.trim(), property.data_type).map_err(DriverError::failed)
//!     }
//!
//!     async fn write(
//!         &self,
//!         at: &mut PathBuf,
//!         property: &Property<File>,
//!         value: &Value,
//!     ) -> Result<(), DriverError> {
//!         Ok(std::fs::write(at.join(&property.visitor.file), value.to_string())?)
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     mapper_sdk::main(Files, mapper_sdk::about!())
//! }
//! ```
//!
//! How it is built: what decides is pure, what waits is thin. `device` (one device as a state
//! machine), `fleet` (which devices run) and `reports` (what edgecore is owed) take events and a
//! time and return what to do; `device_task`, `link` and `server` do it.

#![deny(missing_docs)]

mod backoff;
pub mod config;
mod device;
mod device_task;
mod driver;
mod entry;
mod fleet;
mod link;
mod mapper;
mod property;
mod reports;
mod server;
mod socket;
mod spec;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod value;

pub use config::Config;
pub use driver::{Driver, DriverError, Property};
pub use entry::{About, main};
pub use mapper::{Mapper, RunError};
pub use spec::ObjectId;
pub use value::{Access, DataType, Range, Value, ValueError};
