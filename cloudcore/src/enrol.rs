//! How a gateway becomes a node: the authority, join tokens, and the HTTPS door where a token is
//! turned into a certificate.

pub mod authority;
pub mod join;
pub mod keys;
pub mod secrets;
pub mod token;
