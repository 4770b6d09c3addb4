//! Free loopback ports.

use std::net::TcpListener;

use anyhow::Context as _;

/// One for each listener but those that take port 0 themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    pub hub: u16,
    pub enrol: u16,
    pub cloud_ops: u16,
    pub edge_ops: u16,
    pub mapper_http: u16,
}

impl Ports {
    /// Asks the kernel for ports. They are free again when this returns; all were held at once, so
    /// they differ.
    ///
    /// # Errors
    /// There are none.
    pub fn free() -> anyhow::Result<Self> {
        let held = [(); 5].map(|()| TcpListener::bind(("127.0.0.1", 0)));
        let mut ports = [0; 5];
        for (port, listener) in ports.iter_mut().zip(held) {
            *port =
                listener.and_then(|held| held.local_addr()).context("finding a free port")?.port();
        }
        let [hub, enrol, cloud_ops, edge_ops, mapper_http] = ports;
        Ok(Self { hub, enrol, cloud_ops, edge_ops, mapper_http })
    }
}
