//! How requests reach a device: one open line, one request at a time, each with its unit id and its
//! own deadline. TCP now; a serial line becomes another way to open the same thing.

use std::time::Duration;

use mapper_sdk::DriverError;
use tokio::{net::TcpStream, time::timeout};
use tokio_modbus::{
    ExceptionCode, Request, Response, Slave,
    client::{Client as _, Context, tcp},
    slave::SlaveContext as _,
};
use tracing::debug;

use crate::{
    config::{Endpoint, Protocol, Table},
    plan::Span,
};

/// An open line to a device.
pub(crate) struct Line {
    context: Context,
    timeout: Duration,
}

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cells {
    Registers(Vec<u16>),
    Bits(Vec<bool>),
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    /// The device answered that it will not.
    #[error("the device answered with exception {code} ({text})")]
    Exception { code: u8, text: String },
    /// Nothing more can be asked on this line.
    #[error("{0}")]
    Lost(String),
}

impl From<LineError> for DriverError {
    fn from(error: LineError) -> Self {
        match error {
            LineError::Exception { .. } => Self::Failed(error.to_string()),
            LineError::Lost(reason) => Self::Lost(reason),
        }
    }
}

impl Line {
    pub(crate) async fn open(protocol: &Protocol) -> Result<Self, DriverError> {
        let slave = Slave(protocol.unit);
        match &protocol.endpoint {
            Endpoint::Tcp { host, port } => {
                let connect = TcpStream::connect((host.as_str(), *port));
                let stream = match timeout(protocol.timeout, connect).await {
                    Ok(stream) => stream
                        .map_err(|error| DriverError::lost(format!("{host}:{port}: {error}")))?,
                    Err(_) => {
                        return Err(DriverError::lost(format!("{host}:{port} does not answer")));
                    }
                };
                stream.set_nodelay(true)?;
                let mut context = tcp::attach_slave(stream, slave);
                context.set_slave(slave);
                Ok(Self { context, timeout: protocol.timeout })
            }
            Endpoint::Rtu(line) => Err(DriverError::lost(format!(
                "communicateMode: RTU ({}) is not supported yet, use TCP",
                line.port
            ))),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes, it is no answer")]
    pub(crate) async fn read(&mut self, span: Span) -> Result<Cells, LineError> {
        let Span { table, start, count } = span;
        let request = match table {
            Table::Coil => Request::ReadCoils(start, count),
            Table::DiscreteInput => Request::ReadDiscreteInputs(start, count),
            Table::Holding => Request::ReadHoldingRegisters(start, count),
            Table::Input => Request::ReadInputRegisters(start, count),
        };
        let cells = match self.call(request).await? {
            Response::ReadCoils(mut bits) | Response::ReadDiscreteInputs(mut bits) => {
                // Bits come in whole bytes.
                bits.truncate(count.into());
                Cells::Bits(bits)
            }
            Response::ReadHoldingRegisters(words) | Response::ReadInputRegisters(words) => {
                Cells::Registers(words)
            }
            other => return Err(LineError::Lost(format!("unexpected answer {other:?}"))),
        };
        let got = match &cells {
            Cells::Bits(bits) => bits.len(),
            Cells::Registers(words) => words.len(),
        };
        if got != usize::from(count) {
            return Err(LineError::Lost(format!("{got} values in the answer instead of {count}")));
        }
        Ok(cells)
    }

    /// Writes with the single functions (5, 6) where one value suffices, with 15 and 16 otherwise.
    pub(crate) async fn write(&mut self, start: u16, cells: Cells) -> Result<(), LineError> {
        let request = match cells {
            Cells::Bits(bits) => match bits[..] {
                [bit] => Request::WriteSingleCoil(start, bit),
                _ => Request::WriteMultipleCoils(start, bits.into()),
            },
            Cells::Registers(words) => match words[..] {
                [word] => Request::WriteSingleRegister(start, word),
                _ => Request::WriteMultipleRegisters(start, words.into()),
            },
        };
        self.call(request).await.map(drop)
    }

    pub(crate) async fn close(mut self) {
        if let Err(error) = self.context.disconnect().await {
            debug!(%error, "connection not closed in good order");
        }
    }

    async fn call(&mut self, request: Request<'_>) -> Result<Response, LineError> {
        let answer = match timeout(self.timeout, self.context.call(request)).await {
            Ok(answer) => answer,
            Err(_) => return Err(LineError::Lost(format!("no answer within {:?}", self.timeout))),
        };
        match answer {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(exception)) => Err(exception_error(exception)),
            // Also an answer to another request: the line is out of step.
            Err(error) => Err(LineError::Lost(error.to_string())),
        }
    }
}

fn exception_error(exception: ExceptionCode) -> LineError {
    let code = exception.into();
    let error = LineError::Exception { code, text: exception.to_string() };
    match code {
        // Gateway path unavailable, gateway target did not respond: the device is not there.
        0x0A | 0x0B => LineError::Lost(error.to_string()),
        _ => error,
    }
}
