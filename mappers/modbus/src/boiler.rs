//! A simulated Modbus TCP boiler for demos and tests: [`Simulator`] serves what [`Boiler`] computes.
//!
//! | table | address | meaning |
//! |---|---|---|
//! | input | 0 | temperature, INT16 signed, x 0.1 °C |
//! | input | 1-2 | pressure, FLOAT32 big endian, bar |
//! | holding | 0 | setpoint, INT16 signed, x 0.1 °C, read-write |
//! | coil | 0 | burner, read-write |
//! | discrete | 0 | alarm: temperature above 90.0 °C |
//! | holding | 16-79 | memory without meaning, for tests of widths and orders |
//! | coil | 16-79 | memory without meaning |
//!
//! Anything else is answered with exception 2 (illegal data address).

mod model;
mod server;

pub use model::{Boiler, CellTable, Change};
pub use server::{Event, Simulator};
