//! The parts come and go in any order; what was declared meanwhile holds in the end.

use std::time::Duration;

use e2e::boiler::{self, cell};
use e2e::device::{Device, Table};
use e2e::world::World;
use e2e::{port, wait};
use serde_json::json;

#[test]
fn an_edge_started_without_its_cloud_serves_its_devices_from_its_store() {
    let (mut world, device) = World::new().with_a_boiler();
    for name in ["cloudcore", "edgecore", "mapper"] {
        world.kill(name);
    }
    wait::until("the mapper's connection is gone", || wait::equal(device.stats().open, 0));
    // A device that lost power meanwhile: only the edge's store knows what it should be.
    device.set(Table::Holding, cell::SETPOINT, &[0]);
    let reads = device.stats().reads;
    world.start("edgecore");
    world.start("mapper");
    device.await_cells(Table::Holding, cell::SETPOINT, &[40]);
    wait::until("the device is polled", || {
        let now = device.stats().reads;
        if now > reads + 5 { Ok(()) } else { Err(format!("{reads} reads, then {now}")) }
    });
    // What it says meanwhile is not lost.
    device.set(Table::Input, cell::TEMPERATURE, &[88]);
    world.edge.await_devices(&["boiler-1"]);
    world.start("cloudcore");
    world.cluster.await_reported("boiler-1", "temperature", "88");
}

#[test]
fn what_is_declared_while_the_edge_is_down_holds_when_it_is_back() {
    let (mut world, device) = World::new().with_a_boiler();
    let doomed = Device::start(port::free());
    let unborn = Device::start(port::free());
    let node = world.edge.node.clone();
    world.kubectl.apply(&boiler::device("doomed", &node, doomed.port(), "7"));
    doomed.await_cells(Table::Holding, cell::SETPOINT, &[7]);

    world.kill("edgecore");
    world.kubectl.desire("boiler-1", "41");
    world.kubectl.desire("boiler-1", "42");
    world.kubectl.ok(&["delete", "device", "doomed"]);
    world.kubectl.apply(&boiler::device("newborn", &node, unborn.port(), "9"));
    world.start("edgecore");

    device.await_cells(Table::Holding, cell::SETPOINT, &[42]);
    unborn.await_cells(Table::Holding, cell::SETPOINT, &[9]);
    world.edge.await_devices(&["boiler-1", "newborn"]);
    wait::until("the deleted device is left alone", || wait::equal(doomed.stats().open, 0));
    world.cluster.await_reported("newborn", "setpoint", "9");
    world.cluster.await_condition("newborn", "Converged", "True");
    assert_eq!(doomed.get(Table::Holding, cell::SETPOINT, 1), [7]);
}

#[test]
fn what_is_declared_while_the_link_is_down_holds_when_it_is_back() {
    let (mut world, device) = World::wired().with_a_boiler();
    let doomed = Device::start(port::free());
    let unborn = Device::start(port::free());
    let node = world.edge.node.clone();
    world.kubectl.apply(&boiler::device("doomed", &node, doomed.port(), "7"));
    doomed.await_cells(Table::Holding, cell::SETPOINT, &[7]);

    world.wire().refuse();
    world.edge.await_link(false);
    world.kubectl.desire("boiler-1", "41");
    world.kubectl.desire("boiler-1", "42");
    world.kubectl.ok(&["delete", "device", "doomed"]);
    world.kubectl.apply(&boiler::device("newborn", &node, unborn.port(), "9"));
    device.set(Table::Input, cell::TEMPERATURE, &[13]);
    // Nothing of it can have arrived, and the edge goes on.
    world.edge.await_devices(&["boiler-1", "doomed"]);
    let reads = device.stats().reads;
    wait::until("the device is polled", || {
        let now = device.stats().reads;
        if now > reads + 5 { Ok(()) } else { Err(format!("{reads} reads, then {now}")) }
    });
    world.restart("mapper");
    world.wire().mend();

    device.await_cells(Table::Holding, cell::SETPOINT, &[42]);
    unborn.await_cells(Table::Holding, cell::SETPOINT, &[9]);
    world.edge.await_devices(&["boiler-1", "newborn"]);
    wait::until("the deleted device is left alone", || wait::equal(doomed.stats().open, 0));
    world.cluster.await_reported("boiler-1", "temperature", "13");
    world.cluster.await_reported("newborn", "setpoint", "9");
}

#[test]
fn what_is_declared_while_the_cloud_is_down_holds_when_it_is_back() {
    let (mut world, device) = World::new().with_a_boiler();
    let doomed = Device::start(port::free());
    let unborn = Device::start(port::free());
    let node = world.edge.node.clone();
    world.kubectl.apply(&boiler::device("doomed", &node, doomed.port(), "7"));
    doomed.await_cells(Table::Holding, cell::SETPOINT, &[7]);

    world.kill("cloudcore");
    world.kubectl.desire("boiler-1", "42");
    world.kubectl.ok(&["delete", "device", "doomed", "--wait=false"]);
    world.kubectl.apply(&boiler::device("newborn", &node, unborn.port(), "9"));
    device.set(Table::Input, cell::TEMPERATURE, &[13]);
    world.start("cloudcore");

    device.await_cells(Table::Holding, cell::SETPOINT, &[42]);
    unborn.await_cells(Table::Holding, cell::SETPOINT, &[9]);
    world.edge.await_devices(&["boiler-1", "newborn"]);
    wait::until("the deleted device is left alone", || wait::equal(doomed.stats().open, 0));
    world.cluster.await_reported("boiler-1", "temperature", "13");
    world.cluster.await_reported("newborn", "setpoint", "9");
}

/// The same name, but another object: what the edge holds belongs to a uid that is gone.
#[test]
fn a_device_replaced_while_the_edge_is_down_is_the_new_one() {
    let (mut world, device) = World::new().with_a_boiler();
    let other = Device::start(port::free());
    world.kill("edgecore");
    world.kubectl.ok(&["delete", "device", "boiler-1"]);
    world.kubectl.apply(&boiler::device("boiler-1", &world.edge.node, other.port(), "5"));
    world.start("edgecore");
    other.await_cells(Table::Holding, cell::SETPOINT, &[5]);
    wait::until("the old device is left alone", || wait::equal(device.stats().open, 0));
    world.cluster.await_reported("boiler-1", "setpoint", "5");
}

#[test]
fn a_device_moved_away_while_the_edge_is_down_is_left_alone() {
    let (mut world, device) = World::new().with_a_boiler();
    world.kill("edgecore");
    let spec = json!({"spec": {"nodeName": "somewhere-else"}}).to_string();
    world.kubectl.ok(&["patch", "device", "boiler-1", "--type=merge", "-p", &spec]);
    world.start("edgecore");
    world.edge.await_devices(&[]);
    wait::until("the device is left alone", || wait::equal(device.stats().open, 0));
}

#[test]
fn reports_made_while_the_cloud_is_away_arrive_with_the_time_of_their_sample() {
    let (mut world, device) = World::new().with_a_boiler();
    world.kill("cloudcore");
    let reads = device.stats().reads;
    device.set(Table::Input, cell::TEMPERATURE, &[300]);
    wait::until("the value is sampled", || {
        let now = device.stats().reads;
        if now > reads + 6 { Ok(()) } else { Err(format!("{reads} reads, then {now}")) }
    });
    // The device stops answering before the cloud is back: nobody can sample that value again.
    drop(device);
    let sampled_before = jiff::Timestamp::now().as_millisecond();
    world.start("cloudcore");
    let reading = world.cluster.await_reported("boiler-1", "temperature", "300");
    assert!(reading.at_ms <= sampled_before, "{reading:?} is later than {sampled_before}");
    world.cluster.await_condition("boiler-1", "Online", "False");
}

#[test]
fn everything_comes_up_when_the_cloud_comes_last() {
    let mut world = World::new();
    let device = Device::start(port::free());
    // Once, for there to be a token.
    world.start("cloudcore");
    let edge = world.edge.clone();
    world.issue_token(&edge);
    world.kill("cloudcore");

    world.start(&edge.mapper);
    world.start(&edge.edgecore);
    wait::until("the edge is up", || edge.status().map(drop));
    world.kubectl.apply(&boiler::device("boiler-1", &edge.node, device.port(), "40"));
    world.kubectl.apply(&boiler::model());
    wait::throughout(Duration::from_secs(1), "edge and mapper wait", || {
        let running =
            [world.process("edgecore").is_running(), world.process("mapper").is_running()];
        wait::equal(running, [true, true])
    });
    world.start("cloudcore");
    device.await_cells(Table::Holding, cell::SETPOINT, &[40]);
    world.cluster.await_reported("boiler-1", "setpoint", "40");
    world.cluster.await_node(&edge.node, "True");
}

#[test]
fn everything_comes_up_when_the_edge_comes_before_its_token() {
    let mut world = World::new();
    let device = Device::start(port::free());
    let edge = world.edge.clone();
    world.start(&edge.edgecore);
    world.start(&edge.mapper);
    world.start("cloudcore");
    world.kubectl.apply(&boiler::model());
    world.kubectl.apply(&boiler::device("boiler-1", &edge.node, device.port(), "40"));
    world.issue_token(&edge);
    device.await_cells(Table::Holding, cell::SETPOINT, &[40]);
    world.cluster.await_reported("boiler-1", "setpoint", "40");
}

#[test]
fn everything_comes_up_when_the_mapper_comes_last() {
    let mut world = World::new();
    let device = Device::start(port::free());
    let edge = world.edge.clone();
    world.start("cloudcore");
    world.issue_token(&edge);
    world.start(&edge.edgecore);
    world.kubectl.apply(&boiler::model());
    world.kubectl.apply(&boiler::device("boiler-1", &edge.node, device.port(), "40"));
    edge.await_devices(&["boiler-1"]);
    world.cluster.await_condition("boiler-1", "Delivered", "True");
    let found = world.cluster.condition("boiler-1", "Accepted");
    assert!(found.as_ref().is_ok_and(|found| !found.starts_with("True")), "{found:?}");
    world.start(&edge.mapper);
    device.await_cells(Table::Holding, cell::SETPOINT, &[40]);
    world.cluster.await_condition("boiler-1", "Accepted", "True");
}

#[test]
fn everything_comes_up_when_the_device_comes_last() {
    let mut world = World::new();
    let port = port::free();
    world.start_everything();
    world.kubectl.apply(&boiler::device("boiler-1", &world.edge.node, port, "40"));
    world.kubectl.apply(&boiler::model());
    world.cluster.await_condition("boiler-1", "Online", "False");
    let device = Device::start(port);
    device.await_cells(Table::Holding, cell::SETPOINT, &[40]);
    world.cluster.await_condition("boiler-1", "Online", "True");
    world.cluster.await_condition("boiler-1", "Converged", "True");
}

/// The node's disk is lost: it joins anew and gets everything again.
#[test]
fn a_gateway_with_a_new_disk_gets_everything_again() {
    let (mut world, device) = World::new().with_a_boiler();
    let edge = world.edge.clone();
    world.kill(&edge.edgecore);
    world.kill(&edge.mapper);
    std::fs::remove_dir_all(&edge.data).unwrap();
    device.set(Table::Holding, cell::SETPOINT, &[0]);
    world.issue_token(&edge);
    world.start(&edge.edgecore);
    world.start(&edge.mapper);
    edge.await_devices(&["boiler-1"]);
    device.await_cells(Table::Holding, cell::SETPOINT, &[40]);
    device.set(Table::Input, cell::TEMPERATURE, &[3]);
    world.cluster.await_reported("boiler-1", "temperature", "3");
}
