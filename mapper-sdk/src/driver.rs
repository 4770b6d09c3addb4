//! The one thing a device author implements: [`Driver`].

use std::{future::Future, time::Duration};

use serde::de::DeserializeOwned;

use crate::{
    spec::ObjectId,
    value::{Access, DataType, Range, Value},
};

/// A property as a driver sees it: its declaration and the typed visitor configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Property<V> {
    /// The property's name.
    pub name: String,
    /// The declared type. What a driver returns is converted to it (see [`Value::into_type`]).
    pub data_type: DataType,
    /// Whether it may be written.
    pub access: Access,
    /// Bounds of desired values; already enforced by the runtime.
    pub range: Range,
    /// The declared unit, free text.
    pub unit: String,
    /// `visitors.configData` of the property.
    pub visitor: V,
}

/// Why a driver could not do what it was asked. The variant decides what the runtime does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The connection is gone: the runtime drops it, reports the device offline and reconnects
    /// with back-off.
    #[error("{0}")]
    Lost(String),
    /// The device answered, but this one property failed (an exception code, a bad register). The
    /// connection stays; a read is tried again next cycle, a write with back-off.
    #[error("{0}")]
    Failed(String),
    /// This value can never be written (it does not fit the register, the property is not
    /// writable). Not tried again until the desired value changes; the reason is reported.
    #[error("{0}")]
    Refused(String),
}

impl DriverError {
    /// See [`DriverError::Lost`].
    pub fn lost(reason: impl ToString) -> Self {
        Self::Lost(reason.to_string())
    }

    /// See [`DriverError::Failed`].
    pub fn failed(reason: impl ToString) -> Self {
        Self::Failed(reason.to_string())
    }

    /// See [`DriverError::Refused`].
    pub fn refused(reason: impl ToString) -> Self {
        Self::Refused(reason.to_string())
    }
}

/// An input or output error means that the connection is lost.
impl From<std::io::Error> for DriverError {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// A protocol driver. One value of the implementing type serves all devices of the process; each
/// device has its own [`Driver::Connection`].
///
/// # Guarantees of the runtime
/// - Calls for one device never overlap; calls for different devices run concurrently.
/// - `connect` comes before everything else, and again (after back-off) whenever the connection was
///   lost, a call ran into its deadline, or a call panicked. The old connection is dropped by then.
/// - A property is read once per cycle; properties due together come in one [`Driver::read_many`].
/// - `write` is called once per change of a desired value, after the value passed type, bounds and
///   access checks, and again with back-off only if it failed. It is never called for a property
///   without desired value.
/// - A panic in a driver call is contained: the device is reported `unhealthy` and reconnected.
///
/// # Assumptions
/// Calls are cancel-safe in the sense that the connection is dropped with a cancelled call.
pub trait Driver: Send + Sync + 'static {
    /// The protocol name that devices and the mapper's configuration default to.
    const PROTOCOL: &'static str;

    /// `spec.protocol.configData` of a device.
    type Protocol: DeserializeOwned + Clone + Send + Sync + 'static;
    /// `visitors.configData` of a property.
    type Visitor: DeserializeOwned + Send + Sync + 'static;
    /// What is held open towards one device.
    type Connection: Send + 'static;

    /// Opens the connection to a device.
    ///
    /// # Errors
    /// Any error leaves the device offline; the runtime tries again with back-off.
    fn connect(
        &self,
        device: &ObjectId,
        protocol: &Self::Protocol,
    ) -> impl Future<Output = Result<Self::Connection, DriverError>> + Send;

    /// Reads one property.
    ///
    /// # Errors
    /// See [`DriverError`].
    fn read(
        &self,
        connection: &mut Self::Connection,
        property: &Property<Self::Visitor>,
    ) -> impl Future<Output = Result<Value, DriverError>> + Send;

    /// Reads the properties that are due together, in one go where the protocol can. The answer has
    /// one entry per property, in order; missing entries count as failed.
    ///
    /// The default reads one after the other and stops at a lost connection.
    fn read_many(
        &self,
        connection: &mut Self::Connection,
        properties: &[&Property<Self::Visitor>],
    ) -> impl Future<Output = Vec<Result<Value, DriverError>>> + Send {
        async move {
            let mut values = Vec::with_capacity(properties.len());
            for property in properties {
                let value = self.read(connection, property).await;
                let lost = matches!(value, Err(DriverError::Lost(_)));
                values.push(value);
                if lost {
                    break;
                }
            }
            values
        }
    }

    /// Writes a desired value. `Ok` means that the device took it; the runtime reads the property
    /// back right afterwards. The default refuses.
    ///
    /// # Errors
    /// See [`DriverError`].
    fn write(
        &self,
        _connection: &mut Self::Connection,
        _property: &Property<Self::Visitor>,
        _value: &Value,
    ) -> impl Future<Output = Result<(), DriverError>> + Send {
        async { Err(DriverError::refused("this driver cannot write")) }
    }

    /// Closes a connection in good order. Called at shutdown, on removal and when the protocol
    /// configuration changed; not after a lost connection. The default just drops it.
    fn disconnect(&self, _connection: Self::Connection) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Looks at a device's configuration before it is used: what serde cannot judge.
    ///
    /// # Errors
    /// The reason, naming the key. The device is then reported `unhealthy` until its configuration
    /// changes.
    fn check_protocol(&self, _protocol: &Self::Protocol) -> Result<(), String> {
        Ok(())
    }

    /// Looks at a property's configuration before it is used: combinations that serde cannot judge.
    ///
    /// # Errors
    /// The reason, naming the field. The property is then neither read nor written; the others of
    /// the device are.
    fn check(&self, _property: &Property<Self::Visitor>) -> Result<(), String> {
        Ok(())
    }

    /// Whether a value read from the device is what `desired` asks for. Decides after a
    /// (re)connect if the desired value has to be written. The default is [`Value::is_close_to`].
    fn holds(&self, _property: &Property<Self::Visitor>, desired: &Value, read: &Value) -> bool {
        desired.is_close_to(read)
    }

    /// The deadline of one call (connect, a batch of reads, one write). Past it the connection is
    /// dropped and the device is offline. Default 5 s.
    fn deadline(&self) -> Duration {
        Duration::from_secs(5)
    }
}
