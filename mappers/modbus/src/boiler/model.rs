//! The boiler itself: registers and physics. Pure; time is an argument.

use std::time::Duration;

use serde::Serialize;

/// Room temperature, °C: where the water goes with the burner off.
const AMBIENT: f64 = 20.0;
/// The water covers 63 % of the way to its goal in this time.
const TIME_CONSTANT: f64 = 8.0;
/// Temperature above which the alarm is on, °C.
const ALARM: f64 = 90.0;
/// Where the memory without meaning begins, in holding registers and in coils.
const SCRATCH_START: usize = 16;
const SCRATCH_END: usize = 80;

/// The four tables by their short names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CellTable {
    /// Read-write bits.
    Coil,
    /// Read-only bits.
    Discrete,
    /// Read-write registers.
    Holding,
    /// Read-only registers.
    Input,
}

/// One register or bit that has a new value. Registers are signed, bits are 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The table.
    pub table: CellTable,
    /// The address.
    pub address: u16,
    /// The value.
    pub value: i32,
}

/// The boiler's state.
#[derive(Debug, Clone)]
pub struct Boiler {
    temperature: f64,
    holding: [u16; SCRATCH_END],
    coils: [bool; SCRATCH_END],
}

impl Default for Boiler {
    /// 20.0 °C, setpoint 40.0 °C, burner off.
    fn default() -> Self {
        let mut holding = [0; SCRATCH_END];
        holding[0] = 400;
        Self { temperature: AMBIENT, holding, coils: [false; SCRATCH_END] }
    }
}

impl Boiler {
    /// Lets time pass: the temperature approaches the setpoint while the burner is on, the room's
    /// while it is off. Returns the input registers and bits that changed.
    pub fn step(&mut self, dt: Duration) -> Vec<Change> {
        let (inputs, alarm) = (self.inputs(), self.alarm());
        let goal = if self.coils[0] { self.setpoint() } else { AMBIENT };
        let share = 1.0 - (-dt.as_secs_f64() / TIME_CONSTANT).exp();
        self.temperature += (goal - self.temperature) * share;
        // Close enough to round to the goal: be there, so that the registers come to rest.
        if (goal - self.temperature).abs() < 0.05 {
            self.temperature = goal;
        }
        let mut changes = Vec::new();
        for (address, (old, new)) in (0_u16..).zip(inputs.into_iter().zip(self.inputs())) {
            if old != new {
                let table = CellTable::Input;
                changes.push(Change { table, address, value: signed(new) });
            }
        }
        if alarm != self.alarm() {
            let value = i32::from(self.alarm());
            changes.push(Change { table: CellTable::Discrete, address: 0, value });
        }
        changes
    }

    /// Temperature of the water, °C.
    #[must_use]
    pub const fn temperature(&self) -> f64 {
        self.temperature
    }

    /// Reads registers of the holding or input table. `None` for addresses that do not exist.
    #[must_use]
    pub fn registers(&self, table: CellTable, address: u16, count: u16) -> Option<Vec<u16>> {
        let range = range(address, count)?;
        match table {
            CellTable::Input => Some(self.inputs().get(range)?.to_vec()),
            CellTable::Holding => {
                exists(&range).then(|| self.holding.get(range).map(<[u16]>::to_vec))?
            }
            CellTable::Coil | CellTable::Discrete => None,
        }
    }

    /// Reads bits of the coil or discrete table. `None` for addresses that do not exist.
    #[must_use]
    pub fn bits(&self, table: CellTable, address: u16, count: u16) -> Option<Vec<bool>> {
        let range = range(address, count)?;
        match table {
            CellTable::Discrete => Some([self.alarm()].get(range)?.to_vec()),
            CellTable::Coil => {
                exists(&range).then(|| self.coils.get(range).map(<[bool]>::to_vec))?
            }
            CellTable::Holding | CellTable::Input => None,
        }
    }

    /// Writes holding registers. `None`, and nothing written, for addresses that do not exist.
    pub fn write_registers(&mut self, address: u16, words: &[u16]) -> Option<Vec<Change>> {
        let range = range(address, u16::try_from(words.len()).ok()?)?;
        let cells = exists(&range).then(|| self.holding.get_mut(range))??;
        cells.copy_from_slice(words);
        let change = |(address, word): (u16, &u16)| Change {
            table: CellTable::Holding,
            address,
            value: signed(*word),
        };
        Some((address..).zip(words).map(change).collect())
    }

    /// Writes coils. `None`, and nothing written, for addresses that do not exist.
    pub fn write_coils(&mut self, address: u16, bits: &[bool]) -> Option<Vec<Change>> {
        let range = range(address, u16::try_from(bits.len()).ok()?)?;
        let cells = exists(&range).then(|| self.coils.get_mut(range))??;
        cells.copy_from_slice(bits);
        let change = |(address, bit): (u16, &bool)| Change {
            table: CellTable::Coil,
            address,
            value: i32::from(*bit),
        };
        Some((address..).zip(bits).map(change).collect())
    }

    fn setpoint(&self) -> f64 {
        f64::from(signed(self.holding[0])) / 10.0
    }

    fn alarm(&self) -> bool {
        self.temperature > ALARM
    }

    fn inputs(&self) -> [u16; 3] {
        let tenths = (self.temperature * 10.0).round().clamp(-32768.0, 32767.0);
        #[expect(clippy::cast_possible_truncation, reason = "clamped to 16 bits")]
        let tenths = tenths as i16;
        // Follows the register, so that it comes to rest with it.
        let pressure = 1.0_f32 + 0.002 * (f32::from(tenths) - 200.0);
        let bits = pressure.to_bits().to_be_bytes();
        [
            tenths.cast_unsigned(),
            u16::from_be_bytes([bits[0], bits[1]]),
            u16::from_be_bytes([bits[2], bits[3]]),
        ]
    }
}

fn range(address: u16, count: u16) -> Option<std::ops::Range<usize>> {
    let start = usize::from(address);
    (count > 0).then(|| start..start + usize::from(count))
}

/// Only address 0 and the memory without meaning exist among holding registers and coils.
fn exists(range: &std::ops::Range<usize>) -> bool {
    *range == (0..1) || (range.start >= SCRATCH_START && range.end <= SCRATCH_END)
}

fn signed(word: u16) -> i32 {
    i32::from(word.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(boiler: &mut Boiler, seconds: u32) -> f64 {
        for _ in 0..seconds * 4 {
            boiler.step(Duration::from_millis(250));
        }
        boiler.temperature()
    }

    #[test]
    fn the_water_warms_to_the_setpoint_and_cools_to_the_room() {
        let mut boiler = Boiler::default();
        assert_eq!(after(&mut boiler, 10), 20.0);
        boiler.write_coils(0, &[true]).unwrap();
        let warming = after(&mut boiler, 5);
        assert!(warming > 25.0 && warming < 40.0, "{warming}");
        assert_eq!(after(&mut boiler, 60), 40.0);
        boiler.write_coils(0, &[false]).unwrap();
        assert!(after(&mut boiler, 5) < 40.0);
        assert_eq!(after(&mut boiler, 60), 20.0);
    }

    #[test]
    fn each_changed_register_is_told_and_none_at_rest() {
        let mut boiler = Boiler::default();
        assert_eq!(boiler.step(Duration::from_secs(1)), []);
        boiler.write_registers(0, &[950]).unwrap();
        boiler.write_coils(0, &[true]).unwrap();
        let changes = boiler.step(Duration::from_secs(100));
        let first = Change { table: CellTable::Input, address: 0, value: 950 };
        assert_eq!(changes[0], first);
        assert!(changes.contains(&Change { table: CellTable::Discrete, address: 0, value: 1 }));
        assert_eq!(boiler.bits(CellTable::Discrete, 0, 1), Some(vec![true]));
    }

    #[test]
    fn the_registers_hold_what_the_layout_says() {
        let mut boiler = Boiler::default();
        assert_eq!(boiler.registers(CellTable::Input, 0, 1), Some(vec![200]));
        let pressure = boiler.registers(CellTable::Input, 1, 2).unwrap();
        assert_eq!(f32::from_bits(u32::from(pressure[0]) << 16 | u32::from(pressure[1])), 1.0);
        boiler.write_registers(0, &[(-50_i16).cast_unsigned()]).unwrap();
        boiler.write_coils(0, &[true]).unwrap();
        boiler.step(Duration::from_secs(1000));
        let cold = boiler.registers(CellTable::Input, 0, 1).unwrap();
        assert_eq!(cold[0].cast_signed(), -50);
    }

    #[test]
    fn addresses_that_do_not_exist_are_not_read_and_not_written() {
        let mut boiler = Boiler::default();
        assert_eq!(boiler.registers(CellTable::Input, 2, 2), None);
        assert_eq!(boiler.registers(CellTable::Holding, 0, 2), None);
        assert_eq!(boiler.registers(CellTable::Holding, 79, 2), None);
        assert_eq!(boiler.registers(CellTable::Holding, 0, 0), None);
        assert_eq!(boiler.write_registers(1, &[1]), None);
        assert_eq!(boiler.write_coils(80, &[true]), None);
        assert!(boiler.registers(CellTable::Holding, 16, 64).is_some());
    }
}
