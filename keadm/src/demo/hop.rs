//! The way of a value, hop by hop, so that a failure can say where it ended.

use std::fmt;

use crate::exit::{Exit, Failure};

/// One hop of the demo, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    ApiServer,
    Crds,
    CloudcoreReady,
    NodeJoined,
    SimulatorUp,
    MapperRegistered,
    DeviceDelivered,
    RegisterWritten,
    ReportSeen,
}

impl Hop {
    /// The process whose log tells most about this hop.
    #[must_use]
    pub fn process(self) -> &'static str {
        match self {
            Self::ApiServer | Self::Crds => "apiserver",
            Self::CloudcoreReady | Self::DeviceDelivered | Self::ReportSeen => "cloudcore",
            Self::NodeJoined => "edgecore",
            Self::SimulatorUp => "boiler",
            Self::MapperRegistered | Self::RegisterWritten => "mapper-modbus",
        }
    }

    /// The hop that ends when this process does.
    #[must_use]
    pub fn of_process(name: &str) -> Self {
        match name {
            "apiserver" => Self::ApiServer,
            "cloudcore" => Self::CloudcoreReady,
            "edgecore" => Self::NodeJoined,
            "boiler" => Self::SimulatorUp,
            _ => Self::MapperRegistered,
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApiServer => "API server",
            Self::Crds => "CRDs",
            Self::CloudcoreReady => "cloudcore ready",
            Self::NodeJoined => "node joined",
            Self::SimulatorUp => "simulated boiler",
            Self::MapperRegistered => "mapper registered",
            Self::DeviceDelivered => "device delivered",
            Self::RegisterWritten => "register written",
            Self::ReportSeen => "report seen",
        })
    }
}

/// A hop at which the demo ended.
#[derive(Debug)]
pub struct HopFailed {
    pub hop: Hop,
    reason: String,
}

impl fmt::Display for HopFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for HopFailed {}

/// An error that names its hop.
#[must_use]
pub fn failed(hop: Hop, reason: impl fmt::Display) -> anyhow::Error {
    Failure::new(Exit::Failed, format!("the demo failed at hop \"{hop}\""))
        .because(HopFailed { hop, reason: reason.to_string() })
        .next("keadm demo --keep keeps all files and logs")
        .into()
}

/// The hop that an error names.
#[must_use]
pub fn of(error: &anyhow::Error) -> Option<Hop> {
    error.chain().find_map(|cause| cause.downcast_ref::<HopFailed>()).map(|failed| failed.hop)
}
