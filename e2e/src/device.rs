//! The device: pymodbus as a Modbus TCP server, see `device/server.py`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::{setting, wait};

/// A running Modbus server.
pub struct Device {
    port: u16,
    child: Child,
    commands: Arc<Commands>,
}

/// The way to a running server that other threads may hold.
pub struct Commands {
    stdin: Mutex<(ChildStdin, u64)>,
    printed: Arc<Printed>,
}

/// What the server printed.
#[derive(Default)]
struct Printed {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Default)]
struct Lines {
    events: Vec<Value>,
    answers: BTreeMap<u64, Value>,
}

/// One of the four tables of a Modbus device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Bits, read-write.
    Coil,
    /// Bits, read-only.
    Discrete,
    /// Registers, read-write.
    Holding,
    /// Registers, read-only.
    Input,
}

/// A write that the device took.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Monotonic seconds.
    pub at: f64,
    /// The values of the cells from the address on.
    pub values: Vec<u16>,
}

/// Counters of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// TCP connections that are open.
    pub open: u64,
    /// TCP connections since the start.
    pub connections: u64,
    /// Read requests answered.
    pub reads: u64,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Holding => "holding",
            Self::Input => "input",
        }
    }
}

impl Device {
    /// Starts a server on a port of loopback and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(port: u16) -> Self {
        let script = setting::repository().join("e2e/device/server.py");
        let python = setting::python();
        let mut child = Command::new(&python)
            .arg(script)
            .arg(format!("127.0.0.1:{port}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error} (set $KEDGE_PYTHON)", python.display()));
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            panic!("the device has no pipes")
        };
        let printed = Arc::new(Printed::default());
        let sink = Arc::clone(&printed);
        // Ends with the device, which ends with its stdin.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
                let mut lines = lock(&sink.lines);
                match event["answer"].as_u64() {
                    Some(id) => drop(lines.answers.insert(id, event)),
                    None => lines.events.push(event),
                }
                sink.more.notify_all();
            }
        });
        let commands = Arc::new(Commands { stdin: Mutex::new((stdin, 0)), printed });
        let mut device = Self { port, child, commands };
        wait::until("the device listens ($KEDGE_PYTHON needs e2e/device/requirements.txt)", || {
            if let Ok(Some(status)) = device.child.try_wait() {
                panic!("the device ended with {status}; has {} pymodbus?", python.display());
            }
            let lines = lock(&device.commands.printed.lines);
            lines
                .events
                .iter()
                .find(|e| e.get("listening").is_some())
                .map(drop)
                .ok_or("nothing".into())
        });
        device
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A handle for another thread.
    #[must_use]
    pub fn commands(&self) -> Arc<Commands> {
        Arc::clone(&self.commands)
    }

    /// Changes cells, as the physical world does.
    pub fn set(&self, table: Table, address: u16, values: &[u16]) {
        self.commands.set(table, address, values);
    }

    /// The cells as they are.
    #[must_use]
    pub fn get(&self, table: Table, address: u16, count: u16) -> Vec<u16> {
        let answer = self
            .commands
            .ask(json!({"get": {"table": table.name(), "address": address, "count": count}}));
        cells(&answer["values"])
    }

    /// The counters as they are.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let answer = self.commands.ask(json!({"stats": {}}));
        let count = |key: &str| answer[key].as_u64().unwrap_or_default();
        Stats { open: count("open"), connections: count("connections"), reads: count("reads") }
    }

    /// From now on the device answers writes with a failure, or takes them again.
    pub fn refuse_writes(&self, refuse: bool) {
        self.commands.ask(json!({"refuse_writes": refuse}));
    }

    /// Every write to one address, in order.
    #[must_use]
    pub fn writes(&self, table: Table, address: u16) -> Vec<Order> {
        lock(&self.commands.printed.lines)
            .events
            .iter()
            .filter(|event| {
                event["write"]["table"] == table.name() && event["write"]["address"] == address
            })
            .map(|event| Order {
                at: event["at"].as_f64().unwrap_or_default(),
                values: cells(&event["write"]["values"]),
            })
            .collect()
    }

    /// Waits until the cells hold the values.
    ///
    /// # Panics
    /// When they do not in time.
    #[track_caller]
    pub fn await_cells(&self, table: Table, address: u16, values: &[u16]) {
        self.await_cells_within(wait::PATIENCE, table, address, values);
    }

    /// As [`Device::await_cells`], with a deadline of its own.
    ///
    /// # Panics
    /// When they do not in time.
    #[track_caller]
    pub fn await_cells_within(&self, limit: Duration, table: Table, address: u16, values: &[u16]) {
        let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
        wait::within(limit, &format!("{table:?} {address} of the device is {values:?}"), || {
            wait::equal(self.get(table, address, count).as_slice(), values)
        });
    }

    /// Everything that happened, for the report of a failure.
    #[must_use]
    pub fn tail(&self) -> String {
        let lines = lock(&self.commands.printed.lines);
        let events: Vec<_> = lines.events.iter().map(Value::to_string).collect();
        events[events.len().saturating_sub(40)..].join("\n")
    }
}

impl Commands {
    /// Changes cells.
    pub fn set(&self, table: Table, address: u16, values: &[u16]) {
        self.ask(json!({"set": {"table": table.name(), "address": address, "values": values}}));
    }

    fn ask(&self, mut command: Value) -> Value {
        let id = {
            let mut stdin = lock(&self.stdin);
            stdin.1 += 1;
            command["id"] = stdin.1.into();
            let _ = writeln!(stdin.0, "{command}");
            stdin.1
        };
        let lines = lock(&self.printed.lines);
        let (mut lines, _) = self
            .printed
            .more
            .wait_timeout_while(lines, wait::PATIENCE, |lines| !lines.answers.contains_key(&id))
            .unwrap_or_else(PoisonError::into_inner);
        lines.answers.remove(&id).unwrap_or_else(|| panic!("the device never answered {command}"))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cells(values: &Value) -> Vec<u16> {
    let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
    values.iter().filter_map(Value::as_u64).filter_map(|cell| u16::try_from(cell).ok()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
