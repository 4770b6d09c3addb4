//! The driver: what `mapper-sdk` calls.

use std::time::Duration;

use mapper_sdk::{Driver, DriverError, ObjectId, Property, Value};
use tracing::debug;

use crate::{
    codec::{Layout, fits_one_write},
    config::{Endpoint, Protocol, Visitor},
    plan::{Block, Rules, Span, plan},
    transport::{Cells, Line, LineError},
};

/// A batch is several requests, each with its own timeout; this bounds the whole.
const BATCH_DEADLINE: Duration = Duration::from_secs(15);

/// The Modbus driver.
#[derive(Debug, Clone, Copy, Default)]
pub struct Modbus;

/// The connection to one device, and what was learned about it.
pub struct Connection {
    line: Line,
    rules: Rules,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Driver for Modbus {
    const PROTOCOL: &'static str = "modbus";
    type Protocol = Protocol;
    type Visitor = Visitor;
    type Connection = Connection;

    fn check_protocol(&self, protocol: &Protocol) -> Result<(), String> {
        match &protocol.endpoint {
            Endpoint::Tcp { .. } => Ok(()),
            Endpoint::Rtu(_) => {
                Err("communicateMode: RTU is not supported yet, use TCP".to_owned())
            }
        }
    }

    fn check(&self, property: &Property<Visitor>) -> Result<(), String> {
        Layout::resolve(&property.visitor, property.data_type).map(drop)
    }

    async fn connect(&self, _: &ObjectId, protocol: &Protocol) -> Result<Connection, DriverError> {
        Ok(Connection { line: Line::open(protocol).await?, rules: Rules::default() })
    }

    async fn read(
        &self,
        connection: &mut Connection,
        property: &Property<Visitor>,
    ) -> Result<Value, DriverError> {
        let mut values = self.read_many(connection, &[property]).await;
        values.pop().unwrap_or_else(|| Err(DriverError::failed("nothing was read")))
    }

    async fn read_many(
        &self,
        connection: &mut Connection,
        properties: &[&Property<Visitor>],
    ) -> Vec<Result<Value, DriverError>> {
        let layouts: Vec<_> = properties.iter().map(|property| layout(property)).collect();
        let mut values: Vec<Result<Value, DriverError>> = layouts
            .iter()
            .map(|layout| {
                // Stands for every property that is not reached because the line broke before.
                let not_reached = || DriverError::lost("the connection was lost before");
                Err(layout.clone().err().unwrap_or_else(not_reached))
            })
            .collect();
        // Positions of the properties that can be read, and where they lie.
        let (wanted, spans): (Vec<_>, Vec<_>) = layouts
            .iter()
            .enumerate()
            .filter_map(|(index, layout)| {
                Some((index, span(properties[index], layout.as_ref().ok()?)))
            })
            .unzip();
        let mut refused = Vec::new();
        for block in plan(&spans, &connection.rules) {
            let read = connection.read_block(&block, &spans, &mut refused).await;
            let lost = read.iter().any(|(_, cells)| matches!(cells, Err(LineError::Lost(_))));
            for (member, cells) in read {
                let index = wanted[member];
                values[index] = match (&layouts[index], cells) {
                    (Ok(layout), Ok(cells)) => decode(layout, &cells),
                    (Err(error), _) => Err(error.clone()),
                    (_, Err(error)) => Err(error.into()),
                };
            }
            if lost {
                break;
            }
        }
        values
    }

    async fn write(
        &self,
        connection: &mut Connection,
        property: &Property<Visitor>,
        value: &Value,
    ) -> Result<(), DriverError> {
        let visitor = &property.visitor;
        let layout = layout(property)?;
        if !visitor.register.is_writable() {
            let reason = format!("register: {} cannot be written", visitor.register.name());
            return Err(DriverError::refused(reason));
        }
        if !fits_one_write(visitor.register, layout.count) {
            let reason = format!("limit: {} is too long for one write request", layout.count);
            return Err(DriverError::refused(reason));
        }
        let cells = encode(&layout, visitor, value).map_err(DriverError::refused)?;
        Ok(connection.line.write(visitor.offset, cells).await?)
    }

    async fn disconnect(&self, connection: Connection) {
        connection.line.close().await;
    }

    /// Two values are the same if the registers would be: 40.04 is held as 40.0 at a scale of 0.1.
    fn holds(&self, property: &Property<Visitor>, desired: &Value, read: &Value) -> bool {
        let Ok(layout) = layout(property) else { return false };
        match (
            encode(&layout, &property.visitor, desired),
            encode(&layout, &property.visitor, read),
        ) {
            (Ok(desired), Ok(read)) => desired == read,
            _ => desired.is_close_to(read),
        }
    }

    fn deadline(&self) -> Duration {
        BATCH_DEADLINE
    }
}

impl Connection {
    /// Reads one block; if the device refuses it, reads its members one by one and learns which of
    /// them, or that the gaps between them, are to blame.
    async fn read_block(
        &mut self,
        block: &Block,
        spans: &[Span],
        refused: &mut Vec<Span>,
    ) -> Vec<(usize, Result<Cells, LineError>)> {
        let whole = self.line.read(block.span).await;
        match whole {
            Ok(cells) => {
                let cut = |member: &usize| (*member, Ok(part(&cells, block.span, spans[*member])));
                block.members.iter().map(cut).collect()
            }
            Err(error @ LineError::Exception { .. }) if block.members.len() > 1 => {
                debug!(?block, %error, "block refused, reading its parts");
                let mut read = Vec::with_capacity(block.members.len());
                let before = refused.len();
                for member in &block.members {
                    let cells = self.line.read(spans[*member]).await;
                    match &cells {
                        Ok(_) => {}
                        Err(LineError::Exception { .. }) => refused.push(spans[*member]),
                        Err(LineError::Lost(_)) => {
                            read.push((*member, cells));
                            return read;
                        }
                    }
                    read.push((*member, cells));
                }
                if refused.len() == before {
                    self.rules.gaps = false;
                }
                self.rules.alone.extend(refused.iter().skip(before));
                read
            }
            Err(error) => {
                block.members.iter().map(|member| (*member, Err(error.clone()))).collect()
            }
        }
    }
}

fn layout(property: &Property<Visitor>) -> Result<Layout, DriverError> {
    // The runtime has run `check`, so this does not fail; a reason is given all the same.
    Layout::resolve(&property.visitor, property.data_type).map_err(DriverError::refused)
}

fn span(property: &Property<Visitor>, layout: &Layout) -> Span {
    let visitor = &property.visitor;
    Span { table: visitor.register, start: visitor.offset, count: layout.count }
}

/// The cells of `span` out of those of a block that covers it.
fn part(cells: &Cells, block: Span, span: Span) -> Cells {
    let from = usize::from(span.start - block.start);
    let range = from..from + usize::from(span.count);
    match cells {
        Cells::Registers(words) => Cells::Registers(words.get(range).unwrap_or_default().to_vec()),
        Cells::Bits(bits) => Cells::Bits(bits.get(range).unwrap_or_default().to_vec()),
    }
}

fn decode(layout: &Layout, cells: &Cells) -> Result<Value, DriverError> {
    match cells {
        Cells::Registers(words) => layout.decode(words),
        Cells::Bits(bits) => layout.decode_bits(bits),
    }
    .map_err(DriverError::failed)
}

fn encode(layout: &Layout, visitor: &Visitor, value: &Value) -> Result<Cells, String> {
    if visitor.register.is_bits() {
        layout.encode_bits(value).map(Cells::Bits)
    } else {
        layout.encode(value).map(Cells::Registers)
    }
    .map_err(|error| error.to_string())
}
