//! A value's way down to a register and up again, seen as a user sees it.

use std::time::Duration;

use e2e::boiler::{self, cell};
use e2e::device::{Device, Table};
use e2e::world::{Pace, World};
use e2e::{port, wait};
use serde_json::json;

/// From a register's change to the DeviceStatus: a collect cycle of 100 ms and a coalescing interval
/// of 200 ms, the rest is for a busy machine.
const VISIBLE: Duration = Duration::from_secs(3);

#[test]
fn values_of_every_width_reach_their_registers_and_come_back() {
    let mut world = World::new();
    let device = Device::start(port::free());
    device.set(Table::Input, cell::TEMPERATURE, &[0xff19]);
    device.set(Table::Input, cell::PRESSURE, &words(1.5));
    world.start_everything();
    world.kubectl.apply(&boiler::model());
    world.kubectl.apply(&boiler::whole("boiler-1", &world.edge.node, device.port()));

    device.await_cells(Table::Holding, cell::SETPOINT, &[0xff83]);
    device.await_cells(Table::Holding, cell::RATIO, &words(0.75));
    device.await_cells(Table::Holding, cell::ENERGY, &halves(-70_000));
    device.await_cells(Table::Coil, cell::BURNER, &[1]);

    let cluster = &world.cluster;
    for (property, value) in [
        ("setpoint", "-125"),
        ("ratio", "0.75"),
        ("energy", "-70000"),
        ("burner", "true"),
        ("temperature", "-231"),
        ("pressure", "1.5"),
        ("alarm", "false"),
    ] {
        cluster.await_reported("boiler-1", property, value);
    }
}

#[test]
fn a_changed_register_shows_in_the_device_status_within_the_coalescing_interval() {
    let (world, device) = World::new().with_a_boiler();
    for value in [231_u16, 232, 65_000] {
        let changed = wait::now();
        let before_ms = jiff::Timestamp::now().as_millisecond();
        device.set(Table::Input, cell::TEMPERATURE, &[value]);
        let shown = value.cast_signed().to_string();
        let reading = world.cluster.await_reported("boiler-1", "temperature", &shown);
        let took = wait::now() - changed;
        assert!(took < VISIBLE, "{value} was visible after {took:?}");
        // The time is that of the sample, so neither before the change nor in the future.
        let after_ms = jiff::Timestamp::now().as_millisecond();
        assert!(
            (before_ms..=after_ms).contains(&reading.at_ms),
            "{reading:?} is not between {before_ms} and {after_ms}"
        );
    }
}

#[test]
fn a_changed_desired_value_is_exactly_one_write_and_no_new_connection() {
    let (world, device) = World::new().with_a_boiler();
    let (writes, before) = (device.writes(Table::Holding, cell::SETPOINT).len(), device.stats());
    assert_eq!(writes, 1, "{:?}", device.writes(Table::Holding, cell::SETPOINT));

    for (count, value) in [(1, 55), (2, 56)] {
        world.kubectl.desire("boiler-1", &value.to_string());
        device.await_cells(Table::Holding, cell::SETPOINT, &[value]);
        world.cluster.await_reported("boiler-1", "setpoint", &value.to_string());
        wait::throughout(Duration::from_secs(1), "one write, one connection", || {
            wait::equal(device.writes(Table::Holding, cell::SETPOINT).len(), writes + count)?;
            wait::equal(device.stats().connections, before.connections)
        });
    }
}

#[test]
fn changing_anything_but_a_value_of_the_device_writes_nothing() {
    let (world, device) = World::new().with_a_boiler();
    let before = device.stats().connections;
    world.kubectl.ok(&["label", "device", "boiler-1", "room=cellar"]);
    world.kubectl.ok(&["annotate", "device", "boiler-1", "note=do not paint"]);
    wait::throughout(Duration::from_secs(2), "no write, no new connection", || {
        wait::equal(device.writes(Table::Holding, cell::SETPOINT).len(), 1)?;
        wait::equal(device.stats().connections, before)
    });
}

#[test]
fn a_deleted_device_is_dropped_by_everybody() {
    let (world, device) = World::new().with_a_boiler();
    world.kubectl.ok(&["delete", "device", "boiler-1"]);
    wait::until("the device is left alone", || wait::equal(device.stats().open, 0));
    world.edge.await_devices(&[]);
    wait::until("the edge has dropped the model", || wait::equal(world.edge.models()?, 0));
    wait::until("the DeviceStatus is gone with its Device", || {
        wait::equal(world.cluster.status("boiler-1")?.is_some(), false)
    });
    let reads = device.stats().reads;
    wait::throughout(Duration::from_secs(1), "nobody asks the device", || {
        wait::equal(device.stats().reads, reads)
    });
}

#[test]
fn a_deleted_device_comes_back_when_it_is_created_again() {
    let (world, device) = World::new().with_a_boiler();
    for value in [41, 42, 43] {
        // No waiting in between: the second incarnation overtakes the first one's end.
        world.kubectl.ok(&["delete", "device", "boiler-1", "--wait=false"]);
        wait::until("the API has forgotten the device", || {
            wait::equal(world.cluster.device("boiler-1")?.is_some(), false)
        });
        let again = boiler::device("boiler-1", &world.edge.node, device.port(), &value.to_string());
        world.kubectl.apply(&again);
    }
    device.await_cells(Table::Holding, cell::SETPOINT, &[43]);
    world.cluster.await_reported("boiler-1", "setpoint", "43");
    world.cluster.await_condition("boiler-1", "Converged", "True");
}

#[test]
fn a_device_deleted_and_created_where_its_register_already_is_reports_again() {
    let (world, device) = World::new().with_a_boiler();
    world.kubectl.ok(&["delete", "device", "boiler-1"]);
    wait::until("the DeviceStatus is gone with its Device", || {
        wait::equal(world.cluster.status("boiler-1")?.is_some(), false)
    });
    world.kubectl.apply(&boiler::device("boiler-1", &world.edge.node, device.port(), "40"));
    // Nothing has changed on the device since; the first report must come all the same.
    world.cluster.await_reported("boiler-1", "temperature", "0");
    world.cluster.await_reported("boiler-1", "setpoint", "40");
}

#[test]
fn kubectl_get_shows_what_an_operator_asks_for() {
    let (world, _device) = World::new().with_a_boiler();
    wait::until("the device's state is known", || {
        let table = world.kubectl.ok(&["get", "devices"]);
        let mut lines = table.lines();
        let header = lines.next().unwrap_or_default().to_owned();
        let row = lines.next().unwrap_or_default().to_owned();
        for column in ["NAME", "NODE", "PROTOCOL", "STATE", "AGE"] {
            if !header.contains(column) {
                panic!("no {column} in {table}");
            }
        }
        for cell in ["boiler-1", world.edge.node.as_str(), "modbus"] {
            if !row.contains(cell) {
                panic!("no {cell} in {table}");
            }
        }
        let state = row.split_whitespace().any(|word| ["online", "ok"].contains(&word));
        if state { Ok(()) } else { Err(table) }
    });
    let table = world.kubectl.ok(&["get", "devicestatuses"]);
    assert!(table.contains("boiler-1"), "{table}");
    let described = world.kubectl.ok(&["describe", "device", "boiler-1"]);
    assert!(described.contains("Converged"), "{described}");
}

#[test]
fn kubectl_edits_a_device_and_another_one_watches() {
    let (world, device) = World::new().with_a_boiler();
    let mut watching = world.kubectl.process(
        "watch",
        &["get", "devices", "--watch", "-o", "jsonpath={.spec.properties[0].desired.value} "],
        world.folder(),
    );
    watching.start();
    wait::until("the watch shows what is there", || {
        if watching.log().contains("40 ") { Ok(()) } else { Err(watching.log()) }
    });
    let run = world.kubectl.run_with_editor(
        r#"sed -i 's/^\( *value:\) "40"$/\1 "57"/'"#,
        &["edit", "device", "boiler-1"],
        None,
    );
    assert!(run.ok().contains("edited"));
    wait::until("the watch shows the change", || {
        if watching.log().contains("57 ") { Ok(()) } else { Err(watching.log()) }
    });
    device.await_cells(Table::Holding, cell::SETPOINT, &[57]);
}

#[test]
fn kubectl_waits_for_convergence_and_for_a_value() {
    let (world, device) = World::new().with_a_boiler();
    world.kubectl.ok(&["wait", "--for=condition=Converged", "--timeout=30s", "device/boiler-1"]);
    world.kubectl.ok(&["wait", "--for=condition=Online", "--timeout=30s", "device/boiler-1"]);
    for condition in ["ModelResolved", "Delivered", "Accepted"] {
        let found = world.cluster.condition("boiler-1", condition);
        assert!(found.as_ref().is_ok_and(|found| found.starts_with("True/")), "{found:?}");
    }
    device.set(Table::Input, cell::TEMPERATURE, &[77]);
    world.kubectl.ok(&[
        "wait",
        "--timeout=30s",
        "--for=jsonpath={.status.twins[?(@.propertyName==\"temperature\")].reported.value}=77",
        "devicestatus/boiler-1",
    ]);
}

#[test]
fn converged_speaks_of_the_generation_that_was_applied() {
    let (world, device) = World::new().with_a_boiler();
    world.cluster.await_condition("boiler-1", "Converged", "True");
    device.refuse_writes(true);
    world.kubectl.desire("boiler-1", "61");
    world.cluster.await_condition("boiler-1", "Converged", "False");
    assert_eq!(device.get(Table::Holding, cell::SETPOINT, 1), [40]);
    // Nothing but the device changes: whoever owes the write tries again by itself.
    device.refuse_writes(false);
    device.await_cells(Table::Holding, cell::SETPOINT, &[61]);
    world.cluster.await_condition("boiler-1", "Converged", "True");
    wait::until("the conditions speak of the newest generation", || {
        let found = world.cluster.device("boiler-1")?.ok_or("no Device")?;
        let observed = found.status.and_then(|status| status.observed_generation);
        wait::equal(observed, found.metadata.generation)
    });
}

/// Whoever waits for Converged and then reads the value must not read an older one.
#[test]
fn once_converged_is_true_the_device_status_shows_the_value() {
    let (world, device) = World::new().with_a_boiler();
    let shows = |name: &str, value: &str| {
        wait::until("Converged is true of the newest generation", || {
            let found = world.cluster.device(name)?.ok_or("no Device")?;
            let conditions = found.status.unwrap_or_default().conditions;
            let converged =
                conditions.iter().find(|c| c.type_ == "Converged").ok_or("no condition")?;
            wait::equal(converged.status.as_str(), "True")?;
            wait::equal(converged.observed_generation, found.metadata.generation)
        });
        let shown = world.cluster.reported(name, "setpoint").map(|reading| reading.value);
        assert_eq!(shown, Ok(value.to_owned()), "Converged was true too early");
    };
    for value in ["101", "102", "103", "104", "105"] {
        world.kubectl.desire("boiler-1", value);
        shows("boiler-1", value);
        // A device that is new has no DeviceStatus that could lag behind: it must be made first.
        let name = format!("new-{value}");
        world.kubectl.apply(&boiler::device(&name, &world.edge.node, device.port(), value));
        shows(&name, value);
    }
}

#[test]
fn a_device_that_cannot_be_reached_is_offline_and_recovers_by_itself() {
    let (world, device) = World::new().with_a_boiler();
    let port = device.port();
    world.cluster.await_condition("boiler-1", "Online", "True");
    drop(device);
    world.cluster.await_condition("boiler-1", "Online", "False");
    let device = Device::start(port);
    device.set(Table::Input, cell::TEMPERATURE, &[9]);
    // The new device knows nothing: what is desired is written again.
    device.await_cells(Table::Holding, cell::SETPOINT, &[40]);
    world.cluster.await_reported("boiler-1", "temperature", "9");
    world.cluster.await_condition("boiler-1", "Online", "True");
}

#[test]
fn a_node_is_ready_while_its_edge_lives_and_not_after() {
    let pace = Pace { heartbeat: "1s", keepalive: "3s", lease: "3s", ..Pace::default() };
    let mut world = World::with(&pace, false);
    world.start_everything();
    let (node, edgecore) = (world.edge.node.clone(), world.edge.edgecore.clone());
    world.cluster.await_node(&node, "True");
    let row = world.kubectl.ok(&["get", "node", &node]);
    assert!(row.contains(" Ready ") && row.contains("edge"), "{row}");
    let lease = world.cluster.lease(&node).unwrap().and_then(|lease| lease.spec);
    assert!(lease.is_some_and(|lease| lease.renew_time.is_some()));

    world.kill(&edgecore);
    world.cluster.await_node(&node, "Unknown");
    let row = world.kubectl.ok(&["get", "node", &node]);
    assert!(row.contains("NotReady"), "{row}");

    world.start(&edgecore);
    world.cluster.await_node(&node, "True");
}

#[test]
fn each_gateway_gets_its_own_devices_and_a_device_can_move() {
    let (mut world, device) = World::new().with_a_boiler();
    let second = world.add_edge("b");
    world.issue_token(&second);
    world.start(&second.edgecore);
    world.start(&second.mapper);
    let other = Device::start(port::free());
    world.kubectl.apply(&boiler::device("boiler-2", &second.node, other.port(), "50"));
    other.await_cells(Table::Holding, cell::SETPOINT, &[50]);
    world.edge.await_devices(&["boiler-1"]);
    second.await_devices(&["boiler-2"]);

    let spec = json!({"spec": {"nodeName": second.node}}).to_string();
    world.kubectl.ok(&["patch", "device", "boiler-1", "--type=merge", "-p", &spec]);
    second.await_devices(&["boiler-1", "boiler-2"]);
    world.edge.await_devices(&[]);
    wait::until("only the new gateway speaks to the device", || {
        wait::equal(device.stats().open, 1)
    });
    world.kubectl.desire("boiler-1", "44");
    device.await_cells(Table::Holding, cell::SETPOINT, &[44]);
    world.cluster.await_reported("boiler-1", "setpoint", "44");
}

#[test]
fn a_changed_model_reaches_the_devices_that_use_it() {
    let (world, device) = World::new().with_a_boiler();
    device.set(Table::Input, cell::TEMPERATURE, &[20]);
    world.cluster.await_reported("boiler-1", "temperature", "20");
    let mut model = boiler::model();
    model["spec"]["properties"][0]["maximum"] = json!("50");
    world.kubectl.apply(&model);
    world.kubectl.desire("boiler-1", "51");
    world.cluster.await_condition("boiler-1", "Converged", "False");
    wait::throughout(
        Duration::from_secs(1),
        "a value beyond the model's bounds is not written",
        || wait::equal(device.get(Table::Holding, cell::SETPOINT, 1), vec![40]),
    );
    model["spec"]["properties"][0]["maximum"] = json!("60");
    world.kubectl.apply(&model);
    device.await_cells(Table::Holding, cell::SETPOINT, &[51]);
    world.cluster.await_condition("boiler-1", "Converged", "True");
}

fn words(value: f32) -> [u16; 2] {
    halves(value.to_bits().cast_signed())
}

fn halves(value: i32) -> [u16; 2] {
    let bits = value.cast_unsigned();
    let [a, b, c, d] = bits.to_be_bytes();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}
