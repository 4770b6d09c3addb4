//! What the boiler says on its stdout, and what its registers hold by that. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One line of the boiler.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// It serves at this address.
    Listening(String),
    /// A client wrote.
    Write(Cell),
    /// The simulation moved.
    Change(Cell),
}

/// A register or coil with its value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Cell {
    pub table: String,
    pub address: u16,
    pub value: i32,
}

/// Parses a line; what is not an event is none of ours.
#[must_use]
pub fn parse(line: &str) -> Option<Event> {
    serde_json::from_str(line).ok()
}

/// The registers as far as the boiler has spoken of them. Starts with what it starts with.
#[derive(Clone, Debug)]
pub struct Registers(BTreeMap<(String, u16), i32>);

impl Default for Registers {
    fn default() -> Self {
        let cells = [(("input", 0), 200), (("holding", 0), 400), (("coil", 0), 0)];
        Self(cells.map(|((table, address), value)| ((table.to_owned(), address), value)).into())
    }
}

impl Registers {
    /// Takes an event in.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Listening(_) => {}
            Event::Write(cell) | Event::Change(cell) => {
                self.0.insert((cell.table.clone(), cell.address), cell.value);
            }
        }
    }

    /// The raw value of a cell.
    #[must_use]
    pub fn get(&self, table: &str, address: u16) -> Option<i32> {
        self.0.get(&(table.to_owned(), address)).copied()
    }

    /// The value of a property of the demo's device, as the boiler has it.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<String> {
        let tenths = |raw: i32| format!("{:.1}", f64::from(raw) / 10.0);
        match name {
            "temperature" => self.get("input", 0).map(tenths),
            "setpoint" => self.get("holding", 0).map(tenths),
            "burner" => self.get("coil", 0).map(|bit| (bit != 0).to_string()),
            "pressure" => {
                let word = |address| self.get("input", address).map(|raw| u32::from(low_word(raw)));
                let bits = (word(1)? << 16) | word(2)?;
                Some(format!("{:.2}", f32::from_bits(bits)))
            }
            _ => None,
        }
    }
}

/// A register is 16 bits; the boiler prints it signed.
fn low_word(raw: i32) -> u16 {
    let [low, high, ..] = raw.to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boilers_lines_become_registers() {
        let mut registers = Registers::default();
        for line in [
            r#"{"listening":"127.0.0.1:40001"}"#,
            r#"{"write":{"table":"holding","address":0,"value":650}}"#,
            r#"{"write":{"table":"coil","address":0,"value":1}}"#,
            r#"{"change":{"table":"input","address":0,"value":-5}}"#,
            r#"{"change":{"table":"input","address":1,"value":16256}}"#,
            r#"{"change":{"table":"input","address":2,"value":-1}}"#,
        ] {
            registers.apply(&parse(line).unwrap());
        }
        assert_eq!(registers.property("setpoint").as_deref(), Some("65.0"));
        assert_eq!(registers.property("burner").as_deref(), Some("true"));
        assert_eq!(registers.property("temperature").as_deref(), Some("-0.5"));
        assert_eq!(registers.property("pressure").as_deref(), Some("1.01"));
    }

    #[test]
    fn other_lines_are_ignored() {
        for line in ["", "{}", "hello", r#"{"write":{}}"#] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
