//! The Modbus mapper against the simulated boiler, with an edgecore in the test's own process.

use std::sync::{Arc, Mutex};

use dmi_proto::v1beta1 as dmi;
use mapper_modbus::{
    Modbus,
    boiler::{Boiler, CellTable, Change, Event, Simulator},
};
use mapper_sdk::testing::{FakeEdge, RunningMapper, device, model, property, with};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A boiler that remembers what was written to it.
struct Plant {
    simulator: Simulator,
    writes: Arc<Mutex<Vec<Change>>>,
}

impl Plant {
    async fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("the plant works");
        let writes = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&writes);
        let tell = move |event| {
            if let Event::Write(change) = event {
                log.lock().expect("the plant works").push(change);
            }
        };
        Self {
            simulator: Simulator::start(listener, Boiler::default(), tell)
                .expect("the plant works"),
            writes,
        }
    }

    fn device(&self, properties: Vec<dmi::DeviceProperty>) -> dmi::Device {
        let address = self.simulator.address();
        let config = json!({"ip": address.ip().to_string(), "port": address.port(), "slaveID": 3});
        with(device("b1", "boiler", "modbus", &config), properties)
    }

    fn writes(&self) -> Vec<Change> {
        self.writes.lock().expect("the plant works").clone()
    }
}

fn boiler_model() -> dmi::DeviceModel {
    model(
        "boiler",
        &[
            ("temperature", "FLOAT", "ReadOnly", "", ""),
            ("pressure", "DOUBLE", "ReadOnly", "", ""),
            ("setpoint", "FLOAT", "ReadWrite", "0", "90"),
            ("burner", "BOOLEAN", "ReadWrite", "", ""),
            ("switch", "INT", "ReadWrite", "", ""),
            ("alarm", "BOOLEAN", "ReadOnly", "", ""),
            ("missing", "INT", "ReadOnly", "", ""),
            ("wide", "INT", "ReadWrite", "", ""),
            ("label", "STRING", "ReadWrite", "", ""),
        ],
    )
}

fn temperature() -> dmi::DeviceProperty {
    let visitor = json!({"register": "InputRegister", "offset": 0, "scale": 0.1, "limit": 1});
    property("temperature", None, 50, &visitor)
}

fn pressure() -> dmi::DeviceProperty {
    let visitor = json!({"register": "InputRegister", "offset": 1, "dataType": "float32"});
    property("pressure", None, 50, &visitor)
}

fn setpoint(desired: Option<&str>) -> dmi::DeviceProperty {
    let visitor = json!({"register": "HoldingRegister", "offset": "0", "scale": 0.1, "limit": 1});
    property("setpoint", desired, 50, &visitor)
}

fn coil(name: &str, desired: Option<&str>) -> dmi::DeviceProperty {
    property(name, desired, 50, &json!({"register": "CoilRegister", "offset": 0, "limit": 1}))
}

fn change(table: CellTable, address: u16, value: i32) -> Change {
    Change { table, address, value }
}

#[tokio::test]
async fn a_boiler_is_read_and_its_desired_values_are_written_once() {
    let directory = tempfile::tempdir().unwrap();
    let plant = Plant::start("127.0.0.1:0").await;
    let edge = FakeEdge::start(directory.path());
    edge.know_model(boiler_model());
    let alarm = json!({"register": "DiscreteInputRegister", "offset": 0});
    let properties = vec![
        temperature(),
        pressure(),
        setpoint(Some("65.04")),
        coil("burner", Some("true")),
        property("alarm", None, 50, &alarm),
    ];
    edge.know_device(plant.device(properties));
    let mapper = RunningMapper::start(Modbus, &edge);
    edge.until("the desired values to be applied", |record| {
        record.value("b1", "setpoint") == Some("65")
            && record.desired_metadata("b1", "setpoint", "state") == Some("applied")
            && record.value("b1", "burner") == Some("true")
    })
    .await;
    edge.until("the water to warm up", |record| {
        let number = |name| record.value("b1", name).and_then(|v: &str| v.parse::<f64>().ok());
        number("temperature").is_some_and(|t| t > 21.0)
            && number("pressure").is_some_and(|p| p > 1.0)
    })
    .await;
    let record = edge.record();
    assert_eq!(record.state("b1"), Some("online"));
    assert_eq!(record.value("b1", "alarm"), Some("false"));
    // Each desired value went out once, though it does not survive the register exactly.
    let expected = [change(CellTable::Coil, 0, 1), change(CellTable::Holding, 0, 650)];
    assert_eq!(plant.writes(), expected);
    assert_eq!(plant.simulator.connections(), 1);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn a_changed_desired_value_is_one_write_on_the_same_connection() {
    let directory = tempfile::tempdir().unwrap();
    let plant = Plant::start("127.0.0.1:0").await;
    let edge = FakeEdge::start(directory.path());
    edge.know_model(boiler_model());
    edge.know_device(plant.device(vec![temperature(), setpoint(Some("40"))]));
    let mapper = RunningMapper::start(Modbus, &edge);
    let applied = |wanted: &'static str| {
        move |record: &mapper_sdk::testing::Record| {
            record.value("b1", "setpoint") == Some(wanted)
                && record.desired_metadata("b1", "setpoint", "state") == Some("applied")
        }
    };
    edge.until("the first reading", applied("40")).await;
    // The boiler held 40.0 already.
    assert_eq!(plant.writes(), []);
    edge.update_device(plant.device(vec![temperature(), setpoint(Some("55.5"))])).await.unwrap();
    edge.until("the new setpoint", applied("55.5")).await;
    assert_eq!(plant.writes(), [change(CellTable::Holding, 0, 555)]);
    edge.update_device(plant.device(vec![temperature(), setpoint(Some("91"))])).await.unwrap();
    edge.until("the refusal", |record| {
        record.desired_metadata("b1", "setpoint", "state") == Some("refused")
    })
    .await;
    let record = edge.record();
    let reason = record.desired_metadata("b1", "setpoint", "reason");
    assert_eq!(reason, Some("91 is above the maximum 90"));
    assert_eq!(plant.writes().len(), 1);
    assert_eq!(plant.simulator.connections(), 1);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn a_boiler_that_goes_away_is_offline_and_gets_its_value_again_when_it_lost_it() {
    let directory = tempfile::tempdir().unwrap();
    let plant = Plant::start("127.0.0.1:0").await;
    let address = plant.simulator.address().to_string();
    let edge = FakeEdge::start(directory.path());
    edge.know_model(boiler_model());
    edge.know_device(plant.device(vec![setpoint(Some("50"))]));
    let mapper = RunningMapper::start(Modbus, &edge);
    edge.until("the setpoint", |record| record.value("b1", "setpoint") == Some("50")).await;
    plant.simulator.stop().await;
    edge.until("offline", |record| record.state("b1") == Some("offline")).await;
    let plant = Plant::start(&address).await;
    edge.until("online", |record| record.state("b1") == Some("online")).await;
    edge.until("the setpoint again", |record| record.value("b1", "setpoint") == Some("50")).await;
    assert_eq!(plant.writes(), [change(CellTable::Holding, 0, 500)]);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn an_exception_fails_one_property_and_neither_its_neighbours_nor_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let plant = Plant::start("127.0.0.1:0").await;
    let edge = FakeEdge::start(directory.path());
    edge.know_model(boiler_model());
    // Input register 3 does not exist; the mapper would read 0 to 3 in one request.
    let missing = json!({"register": "InputRegister", "offset": 3, "limit": 1});
    let properties = vec![temperature(), pressure(), property("missing", None, 50, &missing)];
    edge.know_device(plant.device(properties));
    let mapper = RunningMapper::start(Modbus, &edge);
    edge.until("many readings", |record| record.twin_calls > 5).await;
    let record = edge.record();
    assert_eq!(record.value("b1", "temperature"), Some("20"));
    assert_eq!(record.value("b1", "pressure"), Some("1"));
    assert_eq!(record.value("b1", "missing"), None);
    assert_eq!(record.state("b1"), Some("online"));
    assert_eq!(plant.simulator.connections(), 1);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn neighbours_are_read_in_one_request() {
    let directory = tempfile::tempdir().unwrap();
    let plant = Plant::start("127.0.0.1:0").await;
    let edge = FakeEdge::start(directory.path());
    edge.know_model(boiler_model());
    edge.know_device(plant.device(vec![temperature(), pressure()]));
    let mapper = RunningMapper::start(Modbus, &edge);
    edge.until("some cycles", |record| record.twins.len() >= 20).await;
    mapper.stop().await.unwrap();
    let twins = edge.record().twins.len();
    // Two values per request; the last answers may not have been reported.
    assert!(plant.simulator.requests() <= twins / 2 + 2, "{twins}");
}

#[tokio::test]
async fn several_registers_are_written_in_one_request_and_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let plant = Plant::start("127.0.0.1:0").await;
    let edge = FakeEdge::start(directory.path());
    edge.know_model(boiler_model());
    let wide = json!({"register": "HoldingRegister", "offset": 16, "dataType": "int32",
        "isRegisterSwap": true});
    let label = json!({"register": "HoldingRegister", "offset": 20, "limit": 4});
    let switch = json!({"register": "CoilRegister", "offset": 16, "limit": 3});
    let properties = vec![
        property("wide", Some("-70000"), 50, &wide),
        property("label", Some("käse"), 50, &label),
        property("switch", Some("5"), 50, &switch),
    ];
    edge.know_device(plant.device(properties));
    let mapper = RunningMapper::start(Modbus, &edge);
    edge.until("all values", |record| {
        record.value("b1", "wide") == Some("-70000")
            && record.value("b1", "label") == Some("käse")
            && record.value("b1", "switch") == Some("5")
    })
    .await;
    // -70000 is 0xFFFE_EE90; the low word comes first.
    let words = plant.simulator.with(|boiler| boiler.registers(CellTable::Holding, 16, 2));
    assert_eq!(words, Some(vec![0xEE90, 0xFFFE]));
    assert_eq!(plant.writes().len(), 2 + 4 + 3);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn a_serial_device_is_refused_with_a_clear_reason_for_now() {
    let directory = tempfile::tempdir().unwrap();
    let edge = FakeEdge::start(directory.path());
    let mapper = RunningMapper::start(Modbus, &edge);
    edge.create_model(boiler_model()).await;
    for (config, reason) in [
        (json!({"communicateMode": "RTU", "serialPort": "/dev/ttyS0"}), "RTU is not supported yet"),
        (json!({"port": 502}), "ip: is required"),
    ] {
        let config: Value = config;
        let refused = edge.register_device(device("b1", "boiler", "modbus", &config)).await;
        let message = refused.unwrap_err().message().to_owned();
        assert!(message.contains(reason), "{message}");
        edge.until("unhealthy", |record| record.state("b1") == Some("unhealthy")).await;
        edge.remove_device("b1").await.unwrap();
        edge.clear();
    }
    mapper.stop().await.unwrap();
}
