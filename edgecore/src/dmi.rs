//! The device management interface: mappers call us ([`server`]), and we call mappers ([`mapper`]).
//! [`convert`] writes our objects in its messages. What is decided is decided in the agent.

pub mod convert;
pub mod mapper;
pub mod server;
