//! The whole runtime with a scripted driver against an edgecore in the test's own process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use dmi_proto::v1beta1 as dmi;
use mapper_sdk::{
    Driver, DriverError, ObjectId, Property, Value,
    testing::{FakeEdge, RunningMapper, device, model, property, with},
};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

/// What the driver does and what it saw; shared with the test.
#[derive(Default)]
struct Script {
    /// What the hardware holds, by property.
    holds: HashMap<String, Value>,
    log: Vec<String>,
    unplugged: bool,
    panic_on_read: bool,
    hang_on_read: bool,
    open: usize,
}

/// A port whose connect never ends.
const HANGS: u16 = 13;

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

struct Wire(Scripted);

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.with(|script| script.open -= 1);
    }
}

#[derive(Deserialize, Clone)]
struct Address {
    #[serde(default)]
    port: u16,
}

#[derive(Deserialize)]
struct Register {
    #[serde(default)]
    offset: u16,
}

impl Scripted {
    fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        // A scripted panic happens outside the lock.
        change(&mut self.0.lock().expect("the script is never poisoned"))
    }

    fn count(&self, prefix: &str) -> usize {
        self.with(|script| script.log.iter().filter(|line| line.starts_with(prefix)).count())
    }
}

impl Driver for Scripted {
    const PROTOCOL: &'static str = "scripted";
    type Protocol = Address;
    type Visitor = Register;
    type Connection = Wire;

    async fn connect(&self, _: &ObjectId, address: &Address) -> Result<Wire, DriverError> {
        self.with(|script| {
            script.log.push(format!("connect {}", address.port));
            if script.unplugged {
                return Err(DriverError::lost("unplugged"));
            }
            Ok(())
        })?;
        if address.port == HANGS {
            std::future::pending::<()>().await;
        }
        self.with(|script| script.open += 1);
        Ok(Wire(self.clone()))
    }

    async fn read(
        &self,
        _: &mut Wire,
        property: &Property<Register>,
    ) -> Result<Value, DriverError> {
        let (hang, panic) = self.with(|script| (script.hang_on_read, script.panic_on_read));
        assert!(!panic, "scripted panic");
        if hang {
            std::future::pending::<()>().await;
        }
        self.with(|script| {
            script.log.push(format!("read {} at {}", property.name, property.visitor.offset));
            if script.unplugged {
                return Err(DriverError::lost("unplugged"));
            }
            Ok(script.holds.get(&property.name).cloned().unwrap_or(Value::Int(0)))
        })
    }

    async fn write(
        &self,
        _: &mut Wire,
        property: &Property<Register>,
        value: &Value,
    ) -> Result<(), DriverError> {
        self.with(|script| {
            script.log.push(format!("write {} {value}", property.name));
            script.holds.insert(property.name.clone(), value.clone());
        });
        Ok(())
    }

    async fn disconnect(&self, _: Wire) {
        self.with(|script| script.log.push("disconnect".to_owned()));
    }

    fn check_protocol(&self, address: &Address) -> Result<(), String> {
        if address.port == 99 { Err("port: 99 cannot work".to_owned()) } else { Ok(()) }
    }

    fn deadline(&self) -> Duration {
        Duration::from_millis(300)
    }
}

fn the_model() -> dmi::DeviceModel {
    model("m", &[("a", "INT", "ReadWrite", "0", "100"), ("b", "INT", "ReadWrite", "", "")])
}

fn the_device(port: u16, properties: Vec<dmi::DeviceProperty>) -> dmi::Device {
    with(device("d", "m", "scripted", &json!({ "port": port })), properties)
}

fn prop(name: &str, desired: Option<&str>) -> dmi::DeviceProperty {
    property(name, desired, 20, &json!({}))
}

/// A mapper that knows the model and runs one device.
async fn running(
    properties: Vec<dmi::DeviceProperty>,
) -> (TempDir, FakeEdge, Scripted, RunningMapper) {
    let directory = tempfile::tempdir().expect("a temp dir");
    let edge = FakeEdge::start(directory.path());
    edge.know_model(the_model());
    edge.know_device(the_device(1, properties));
    let driver = Scripted::default();
    let mapper = RunningMapper::start(driver.clone(), &edge);
    edge.until("the first value", |record| record.value("d", "a").is_some()).await;
    (directory, edge, driver, mapper)
}

#[tokio::test]
async fn a_mapper_registers_runs_what_it_is_given_and_reports() {
    let (_directory, edge, driver, mapper) =
        running(vec![prop("a", Some("7")), prop("b", None)]).await;
    edge.until("the desired value", |record| record.value("d", "a") == Some("7")).await;
    let record = edge.record();
    let registration = record.registrations[0].clone();
    assert!(registration.with_data);
    assert_eq!(registration.mapper.unwrap().protocol, "scripted");
    assert_eq!(record.state("d"), Some("online"));
    let twin = record.twin("d", "a").unwrap();
    let reported = twin.reported.as_ref().unwrap();
    assert_eq!(reported.metadata["type"], "int");
    assert!(reported.metadata["timestamp"].parse::<u64>().unwrap() > 1_600_000_000_000);
    assert_eq!(twin.observed_desired.as_ref().unwrap().value, "7");
    // Two properties due together travel in one call.
    assert!(record.twin_calls < record.twins.len(), "{record:#?}");
    assert_eq!(driver.count("write"), 1);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn a_changed_property_is_one_write_and_no_reconnect() {
    let (_directory, edge, driver, mapper) =
        running(vec![prop("a", Some("7")), prop("b", Some("1"))]).await;
    edge.until("a", |record| record.value("d", "a") == Some("7")).await;
    edge.update_device(the_device(1, vec![prop("a", Some("8")), prop("b", Some("1"))]))
        .await
        .unwrap();
    edge.until("the change", |record| record.value("d", "a") == Some("8")).await;
    // The same again, by whichever call, is nothing.
    let same = the_device(1, vec![prop("a", Some("8")), prop("b", Some("1"))]);
    edge.register_device(same.clone()).await.unwrap();
    edge.update_device(same).await.unwrap();
    edge.clear();
    edge.until("more cycles", |record| record.twin_calls > 3).await;
    assert_eq!(driver.count("write a 8"), 1);
    assert_eq!(driver.count("write"), 3);
    assert_eq!(driver.count("connect"), 1);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn a_property_without_desired_value_is_never_written() {
    let (_directory, edge, driver, mapper) = running(vec![prop("a", None), prop("b", None)]).await;
    edge.until("many cycles", |record| record.twin_calls > 10).await;
    let device = edge.get_device("d").await.unwrap();
    assert_eq!(device.status.unwrap().twins.len(), 2);
    assert_eq!(driver.count("write"), 0);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn an_edgecore_that_restarts_is_registered_with_again_and_told_everything() {
    let (_directory, mut edge, driver, mapper) = running(vec![prop("a", Some("7"))]).await;
    edge.until("applied", |record| record.value("d", "a") == Some("7")).await;
    edge.vanish().await;
    let before = driver.count("read");
    // Meanwhile another device was added and the first one changed, without a call.
    edge.know_device(the_device(1, vec![prop("a", Some("9"))]));
    edge.know_device(with(device("e", "m", "scripted", &json!({})), vec![prop("b", None)]));
    edge.clear();
    while driver.count("read") < before + 3 {
        tokio::task::yield_now().await;
    }
    edge.appear();
    edge.until("both devices", |record| {
        record.registrations.len() == 2
            && record.value("d", "a") == Some("9")
            && record.state("d") == Some("online")
            && record.state("e") == Some("online")
    })
    .await;
    assert_eq!(driver.count("connect"), 2);
    // And one that disappeared from the answer is dropped.
    edge.vanish().await;
    edge.forget_device("e");
    edge.appear();
    edge.until("a third registration", |record| record.registrations.len() == 3).await;
    let mut gone = false;
    while !gone {
        gone = edge.get_device("e").await.is_err();
    }
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn an_edgecore_that_comes_late_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut edge = FakeEdge::absent(directory.path());
    edge.know_model(the_model());
    edge.know_device(the_device(1, vec![prop("a", None)]));
    let mapper = RunningMapper::start(Scripted::default(), &edge);
    let own_socket = edge.config("scripted").grpc_server.socket_path;
    while !own_socket.exists() {
        tokio::task::yield_now().await;
    }
    edge.appear();
    edge.until("a value", |record| record.value("d", "a").is_some()).await;
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn a_report_that_is_not_taken_is_sent_again_with_the_newest_value() {
    let (_directory, edge, driver, mapper) = running(vec![prop("a", None)]).await;
    // What upstream's edgecore answers beyond one call a second.
    edge.refuse_reports(Some(tonic::Code::Unknown));
    edge.until("a refusal", |record| record.refused > 0).await;
    let before = driver.count("read");
    driver.with(|script| script.holds.insert("a".into(), Value::Int(42)));
    while driver.count("read") < before + 3 {
        tokio::task::yield_now().await;
    }
    edge.clear();
    edge.refuse_reports(None);
    edge.until("a value", |record| record.value("d", "a").is_some()).await;
    let record = edge.record();
    assert_eq!(record.twins[0].1.reported.as_ref().unwrap().value, "42");
    assert_eq!(record.registrations.len(), 1);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn an_edgecore_that_forgot_us_is_registered_with_again_on_the_same_connection() {
    let (_directory, edge, driver, mapper) = running(vec![prop("a", None)]).await;
    edge.refuse_reports(Some(tonic::Code::FailedPrecondition));
    edge.until("another registration", |record| record.registrations.len() > 1).await;
    edge.refuse_reports(None);
    edge.clear();
    edge.until("a value", |record| record.value("d", "a").is_some()).await;
    assert_eq!(driver.count("connect"), 1);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn an_unplugged_device_is_offline_and_comes_back_by_itself() {
    let (_directory, edge, driver, mapper) = running(vec![prop("a", Some("7"))]).await;
    edge.until("applied", |record| record.value("d", "a") == Some("7")).await;
    driver.with(|script| script.unplugged = true);
    edge.until("offline", |record| record.state("d") == Some("offline")).await;
    driver.with(|script| {
        script.unplugged = false;
        script.holds.insert("a".into(), Value::Int(3)); // the hardware lost it
    });
    edge.until("online", |record| record.state("d") == Some("online")).await;
    edge.until("the value again", |record| record.value("d", "a") == Some("7")).await;
    assert_eq!(driver.count("write a 7"), 2);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn a_driver_panic_stays_with_its_device() {
    let (_directory, edge, driver, mapper) = running(vec![prop("a", None)]).await;
    driver.with(|script| script.panic_on_read = true);
    edge.until("unhealthy", |record| record.state("d") == Some("unhealthy")).await;
    driver.with(|script| script.panic_on_read = false);
    edge.until("online", |record| record.state("d") == Some("online")).await;
    mapper.stop().await.unwrap();
    assert_eq!(driver.with(|script| script.open), 0);
}

#[tokio::test]
async fn a_driver_that_never_answers_is_cut_off_at_its_deadline() {
    let (_directory, edge, driver, mapper) = running(vec![prop("a", None)]).await;
    driver.with(|script| script.hang_on_read = true);
    edge.until("offline", |record| record.state("d") == Some("offline")).await;
    driver.with(|script| script.hang_on_read = false);
    edge.until("online", |record| record.state("d") == Some("online")).await;
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn a_stuck_device_delays_only_itself() {
    let (_directory, edge, _driver, mapper) = running(vec![prop("a", None)]).await;
    let stuck = device("stuck", "m", "scripted", &json!({ "port": HANGS }));
    edge.register_device(with(stuck, vec![prop("a", None)])).await.unwrap();
    edge.clear();
    edge.until("the stuck one offline and the other one as ever", |record| {
        record.state("stuck") == Some("offline") && record.twin_calls > 5
    })
    .await;
    assert_eq!(edge.record().state("d"), None, "no transition");
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn removing_is_idempotent_and_closes_the_connection() {
    let (_directory, edge, driver, mapper) = running(vec![prop("a", None)]).await;
    edge.remove_device("d").await.unwrap();
    edge.remove_device("d").await.unwrap();
    edge.remove_device("never-known").await.unwrap();
    while driver.with(|script| script.open) > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(driver.count("disconnect"), 1);
    assert!(edge.get_device("d").await.is_err());
    // And it can come back.
    edge.clear();
    edge.register_device(the_device(1, vec![prop("a", None)])).await.unwrap();
    edge.until("a value", |record| record.value("d", "a").is_some()).await;
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn a_device_before_its_model_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let edge = FakeEdge::start(directory.path());
    let mapper = RunningMapper::start(Scripted::default(), &edge);
    edge.register_device(the_device(1, vec![prop("a", None)])).await.unwrap();
    edge.create_model(the_model()).await;
    edge.until("a value", |record| record.value("d", "a").is_some()).await;
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn a_bad_configuration_is_answered_with_the_field_and_shown_as_unhealthy() {
    let directory = tempfile::tempdir().unwrap();
    let edge = FakeEdge::start(directory.path());
    let mapper = RunningMapper::start(Scripted::default(), &edge);
    edge.create_model(the_model()).await;
    for (config, expected) in [
        (json!({"port": "http"}), "spec.protocol.configData.port"),
        (json!({"port": 99}), "spec.protocol.configData: port: 99 cannot work"),
    ] {
        let bad = with(device("d", "m", "scripted", &config), vec![prop("a", None)]);
        let refused = edge.update_device(bad).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains(expected), "{}", refused.message());
    }
    edge.until("unhealthy", |record| record.state("d") == Some("unhealthy")).await;
    edge.update_device(the_device(1, vec![prop("a", None)])).await.unwrap();
    edge.until("online", |record| record.state("d") == Some("online")).await;
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn a_bad_property_leaves_its_neighbours_alone() {
    let bad = property("b", Some("1"), 20, &json!({"offset": -1}));
    let (_directory, edge, driver, mapper) = running(vec![prop("a", None), bad]).await;
    edge.until("some cycles", |record| record.twin_calls > 3).await;
    assert_eq!(edge.record().value("d", "b"), None);
    assert_eq!(driver.count("read b") + driver.count("write b"), 0);
    // Mended, it works, without a reconnect.
    edge.update_device(the_device(1, vec![prop("a", None), prop("b", None)])).await.unwrap();
    edge.until("b", |record| record.value("d", "b").is_some()).await;
    assert_eq!(driver.count("connect"), 1);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn nonsense_from_edgecore_is_answered_not_died_of() {
    let directory = tempfile::tempdir().unwrap();
    let edge = FakeEdge::start(directory.path());
    let mapper = RunningMapper::start(Scripted::default(), &edge);
    let mut client = edge.mapper().await;
    let invalid = tonic::Code::InvalidArgument;
    let nothing = client.register_device(dmi::RegisterDeviceRequest { device: None }).await;
    assert_eq!(nothing.unwrap_err().code(), invalid);
    let nameless = client.remove_device(dmi::RemoveDeviceRequest::default()).await;
    assert_eq!(nameless.unwrap_err().code(), invalid);
    let model = client.create_device_model(dmi::CreateDeviceModelRequest { model: None }).await;
    assert_eq!(model.unwrap_err().code(), invalid);
    let foreign = edge.register_device(device("x", "m", "opcua", &json!({}))).await.unwrap_err();
    assert!(foreign.message().contains("opcua"));
    let unknown = client.get_device(dmi::GetDeviceRequest {
        device_name: "nobody".into(),
        device_namespace: "default".into(),
    });
    assert_eq!(unknown.await.unwrap_err().code(), tonic::Code::NotFound);
    mapper.stop().await.unwrap();
}

#[tokio::test]
async fn stopping_disconnects_every_device_and_removes_the_socket() {
    let (_directory, edge, driver, mapper) = running(vec![prop("a", None)]).await;
    let socket = edge.config("scripted").grpc_server.socket_path;
    assert!(socket.exists());
    mapper.stop().await.unwrap();
    assert!(!socket.exists());
    assert_eq!(driver.count("disconnect"), 1);
    assert_eq!(driver.with(|script| script.open), 0);
}

#[tokio::test]
async fn a_hanging_driver_does_not_hold_up_the_end() {
    let (_directory, _edge, driver, mapper) = running(vec![prop("a", None)]).await;
    driver.with(|script| script.hang_on_read = true);
    tokio::time::timeout(Duration::from_secs(5), mapper.stop()).await.unwrap().unwrap();
    assert_eq!(driver.with(|script| script.open), 0);
}
