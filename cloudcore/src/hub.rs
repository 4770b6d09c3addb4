//! Where gateways connect: TLS, websocket, one session each.

pub mod connection;
pub mod listener;
pub mod nodes;
