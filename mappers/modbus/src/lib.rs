//! A mapper for Modbus devices, built on nothing but the public API of `mapper-sdk`.
//!
//! [`Modbus`] is the driver. Around it: [`config`] (what a device and a property say), [`codec`]
//! (registers to values and back, pure), [`plan`] (which registers to ask for together, pure) and
//! `transport` (how bytes reach the device). [`boiler`] is a simulated device for demos and tests.
//!
//! # `spec.protocol.configData`
//!
//! | key | type | default | meaning |
//! |---|---|---|---|
//! | `communicateMode` | `TCP` or `RTU` | `TCP` | RTU is parsed and refused for now |
//! | `ip` | text | required | address or host name |
//! | `port` | number or text | 502 | TCP port |
//! | `slaveID` | number or text, 0 to 255 | 1 | unit id, sent with every request |
//! | `timeout` | number, milliseconds | 2000 | longest wait for one answer (own key) |
//! | `serialPort`, `baudRate`, `dataBits`, `stopBits`, `parity` | | | RTU; read and checked |
//!
//! # `visitors.configData`
//!
//! | key | type | default | meaning |
//! |---|---|---|---|
//! | `register` | `CoilRegister`, `DiscreteInputRegister`, `HoldingRegister`, `InputRegister` | required | table |
//! | `offset` | number or text, 0 to 65535 | required | protocol address, zero based (not 40001) |
//! | `limit` | number | by type | how many registers or coils the value spans |
//! | `dataType` | text, see below | by model | how the registers are to be read |
//! | `signed` | bool | true | false reads `int` as unsigned (own key) |
//! | `scale` | number | 1.0 | physical value = register value x scale; divided and rounded on writes |
//! | `isSwap` | bool | false | the two bytes of every register are swapped |
//! | `isRegisterSwap` | bool | false | the registers come in reverse order |
//! | `min`, `max` | number | none | bounds of a written physical value, besides the model's |
//!
//! Registers are big endian, the most significant register first, unless swapped.
//!
//! | `dataType` | registers | note |
//! |---|---|---|
//! | `int16` `uint16` | 1 | own names |
//! | `int32` `uint32` `float32` | 2 | own names |
//! | `int64` `uint64` `float64` | 4 | own names |
//! | `int` | `limit` 1, 2 or 4 (default 1) | signed unless `signed: false` |
//! | `float`, `double` | `limit` 1, 2 or 4 (default 2 and 4) | 1 is a 16-bit integer times `scale`; 2 is IEEE single; 4 is IEEE double |
//! | `string` | `limit`, required | UTF-8, ends at the first zero byte |
//! | `bytes` | `limit`, required | the bytes of the registers |
//! | `boolean` | `limit` 1, 2 or 4 (default 1) | true if any bit is set; writes 1 and 0 |
//!
//! Without `dataType` the model's type takes its place (INT is `int`, FLOAT `float`, ...). A model
//! type that differs from `dataType` is fine where the value converts: an `int` with `scale: 0.1`
//! serves a FLOAT property. An INT property with a fractional scale is rounded to the nearest.
//!
//! Coils and discrete inputs take `limit` 1 (a BOOLEAN, or 0 and 1), or up to 63 as an INT and any
//! number as BYTES, the first coil being the lowest bit.
//!
//! # On the wire
//!
//! Reads use functions 1 to 4. Properties that are due together are merged into blocks of up to 125
//! registers or 2000 coils, across small gaps; a block that the device refuses is read in pieces, and
//! what refused is asked for alone from then on. Writes use 5 and 6 for one coil or register, 15 and
//! 16 for several. An exception answer fails the property, not the connection; the gateway exceptions
//! 0x0A and 0x0B mean that the device is offline.

#![deny(missing_docs)]

pub mod boiler;
pub mod codec;
pub mod config;
mod driver;
pub mod plan;
mod shape;
mod transport;

pub use driver::{Connection, Modbus};
