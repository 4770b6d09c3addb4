//! A mapper for devices that exist only in memory: signals to look at, values to write.
//!
//! `spec.protocol.configData`: `deviceID` (number, optional, as upstream has it; no effect).
//!
//! `visitors.configData`: `kind` and its settings, all optional.
//!
//! | `kind` | value |
//! |---|---|
//! | `stored` (default) | what was written last; `value` at first, else the zero of the type |
//! | `constant` | always `value`; a write is refused |
//! | `counter` | `min` at first, then `step` (1) more with each read, from `max` back to `min` |
//! | `sine` | swings between `min` (0) and `max` (100) once per `period` (60000 ms) |
//! | `random` | anywhere between `min` (0) and `max` (100) |
//!
//! A visitor with upstream's `dataType: int` or `float` and no `kind` behaves as upstream's virtual
//! device: random integers below a limit that a write sets (100 at first), random floats below 1.
//! Writing to `counter`, `sine` and `random` sets `max`.

#![deny(missing_docs)]

mod signal;

use std::{collections::HashMap, time::Duration};

use mapper_sdk::{Driver, DriverError, ObjectId, Property, Value};
use serde::Deserialize;
use tokio::time::Instant;

use signal::Signal;
pub use signal::{Kind, Visitor};

/// The driver.
#[derive(Debug, Clone, Copy, Default)]
pub struct Virtual;

/// `spec.protocol.configData` of a virtual device.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Protocol {
    /// Accepted because upstream's samples have it.
    #[serde(default, rename = "deviceID")]
    pub device_id: Option<serde::de::IgnoredAny>,
}

/// A device: its signals by property name.
#[derive(Debug)]
pub struct Connection {
    since: Instant,
    signals: HashMap<String, (Visitor, Signal)>,
}

impl Driver for Virtual {
    const PROTOCOL: &'static str = "virtual";
    type Protocol = Protocol;
    type Visitor = Visitor;
    type Connection = Connection;

    fn check(&self, property: &Property<Visitor>) -> Result<(), String> {
        Signal::new(property).map(drop)
    }

    async fn connect(&self, _: &ObjectId, _: &Protocol) -> Result<Connection, DriverError> {
        Ok(Connection { since: Instant::now(), signals: HashMap::new() })
    }

    async fn read(
        &self,
        connection: &mut Connection,
        property: &Property<Visitor>,
    ) -> Result<Value, DriverError> {
        let elapsed = connection.since.elapsed();
        Ok(connection.signal(property)?.read(elapsed, rand::random()))
    }

    async fn write(
        &self,
        connection: &mut Connection,
        property: &Property<Visitor>,
        value: &Value,
    ) -> Result<(), DriverError> {
        connection.signal(property)?.write(value).map_err(DriverError::refused)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(1)
    }
}

impl Connection {
    fn signal(&mut self, property: &Property<Visitor>) -> Result<&mut Signal, DriverError> {
        let known = self.signals.get(&property.name);
        if known.is_none_or(|(visitor, _)| *visitor != property.visitor) {
            let signal = Signal::new(property).map_err(DriverError::refused)?;
            self.signals.insert(property.name.clone(), (property.visitor.clone(), signal));
        }
        match self.signals.get_mut(&property.name) {
            Some((_, signal)) => Ok(signal),
            None => Err(DriverError::failed("no such signal")),
        }
    }
}
