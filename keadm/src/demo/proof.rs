//! Did a value make it in each direction? Pure: told what happened, it answers what is missing.

use std::collections::BTreeSet;

use crate::demo::hop::Hop;
use crate::demo::simulator::{Event, Registers};

/// What has been seen of both directions.
#[derive(Debug)]
pub struct Proof {
    /// What the setpoint's register must be written to, once that was asked for.
    target: Option<i32>,
    written: bool,
    last_write: Option<i32>,
    /// Every temperature the boiler had, in tenths of a degree.
    temperatures: BTreeSet<i32>,
    first_report: Option<String>,
    last_report: Option<String>,
    report_moved: bool,
}

impl Proof {
    /// Starts with what the boiler holds.
    #[must_use]
    pub fn new(registers: &Registers) -> Self {
        Self {
            target: None,
            written: false,
            last_write: registers.get("holding", 0),
            // What it started with, too: a report may be older than the last event.
            temperatures: [Some(200), registers.get("input", 0)].into_iter().flatten().collect(),
            first_report: None,
            last_report: None,
            report_moved: false,
        }
    }

    /// The boiler said something.
    pub fn simulator(&mut self, event: &Event) {
        match event {
            Event::Listening(_) => {}
            Event::Write(cell) => {
                if (cell.table.as_str(), cell.address) == ("holding", 0) {
                    self.last_write = Some(cell.value);
                    self.written |= Some(cell.value) == self.target;
                }
            }
            Event::Change(cell) => {
                if (cell.table.as_str(), cell.address) == ("input", 0) {
                    self.temperatures.insert(cell.value);
                }
            }
        }
    }

    /// The DeviceStatus shows this temperature.
    pub fn reported(&mut self, value: &str) {
        if self.last_report.as_deref() == Some(value) {
            return;
        }
        self.last_report = Some(value.to_owned());
        let first = self.first_report.get_or_insert_with(|| value.to_owned());
        self.report_moved |= first != value && was_had(&self.temperatures, value);
    }

    /// Whether the way up has shown something, so that the way down can be tried.
    #[must_use]
    pub fn may_patch(&self) -> bool {
        self.last_report.is_some()
    }

    /// The setpoint was changed through the API; its register is to become `raw`.
    pub fn patched(&mut self, raw: i32) {
        self.target = Some(raw);
    }

    /// Whether the changed setpoint reached its register.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.written
    }

    /// The last temperature that was reported.
    #[must_use]
    pub fn last_reported(&self) -> &str {
        self.last_report.as_deref().unwrap_or("none")
    }

    /// The first hop without proof. Nothing is asked of the way down before it was tried.
    #[must_use]
    pub fn missing(&self) -> Option<Hop> {
        if self.target.is_some() && !self.written {
            return Some(Hop::RegisterWritten);
        }
        // Interactive runs end by Ctrl-C and are never judged.
        (!self.report_moved || self.target.is_none()).then_some(Hop::ReportSeen)
    }

    /// The evidence, for a person.
    #[must_use]
    pub fn explain(&self) -> String {
        let target = self.target.map_or("none".to_owned(), |raw| raw.to_string());
        let last = self.last_write.map_or("none".to_owned(), |raw| raw.to_string());
        format!(
            "setpoint register: wanted {target}, last written {last}; reported temperature: first {}, \
             last {}; the boiler had {} different ones",
            self.first_report.as_deref().unwrap_or("none"),
            self.last_reported(),
            self.temperatures.len(),
        )
    }
}

/// Whether a reported temperature is one that the boiler had, to the tenth that its register holds.
fn was_had(temperatures: &BTreeSet<i32>, value: &str) -> bool {
    let Ok(value) = value.parse::<f64>() else { return false };
    temperatures.iter().any(|raw| (f64::from(*raw) / 10.0 - value).abs() < 0.01)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::simulator::Cell;

    fn cell(table: &str, value: i32) -> Cell {
        Cell { table: table.into(), address: 0, value }
    }

    #[test]
    fn both_directions_are_needed() {
        let mut proof = Proof::new(&Registers::default());
        assert_eq!(proof.missing(), Some(Hop::ReportSeen));
        proof.reported("20");
        assert!(proof.may_patch());
        proof.patched(720);
        assert_eq!(proof.missing(), Some(Hop::RegisterWritten));
        proof.simulator(&Event::Write(cell("holding", 650)));
        assert_eq!(proof.missing(), Some(Hop::RegisterWritten));
        proof.simulator(&Event::Write(cell("holding", 720)));
        assert_eq!(proof.missing(), Some(Hop::ReportSeen));
        proof.simulator(&Event::Change(cell("input", 213)));
        proof.reported("21.3");
        assert_eq!(proof.missing(), None);
    }

    #[test]
    fn an_invented_report_proves_nothing() {
        let mut proof = Proof::new(&Registers::default());
        proof.reported("20.0");
        proof.patched(720);
        proof.simulator(&Event::Write(cell("holding", 720)));
        proof.reported("55.5");
        assert_eq!(proof.missing(), Some(Hop::ReportSeen));
    }

    #[test]
    fn a_write_before_the_patch_proves_nothing() {
        let mut proof = Proof::new(&Registers::default());
        proof.simulator(&Event::Write(cell("holding", 720)));
        proof.reported("20");
        proof.patched(720);
        assert_eq!(proof.missing(), Some(Hop::RegisterWritten));
    }
}
