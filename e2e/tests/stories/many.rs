//! Many devices, several mappers.

use std::collections::BTreeMap;

use e2e::boiler;
use e2e::device::{Device, Table};
use e2e::wait;
use e2e::world::World;
use e2e::{boiler::property, port};
use serde_json::{Value, json};

/// Enough that they do not fit into what may be on its way to a node at once.
const MANY: u16 = 60;

#[test]
fn sixty_devices_changed_while_the_cloud_is_down_all_arrive() {
    changed_while_down("cloudcore");
}

#[test]
fn sixty_devices_changed_while_the_edge_is_down_all_arrive() {
    changed_while_down("edgecore");
}

fn changed_while_down(part: &str) {
    let mut world = World::new();
    let device = Device::start(port::free());
    world.start_everything();
    let node = world.edge.node.clone();
    let crowd = |range: std::ops::Range<u16>, setpoint: u16| {
        let items = range.map(|n| member(n, &node, device.port(), setpoint)).collect::<Vec<_>>();
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    };
    world.kubectl.apply(&boiler::model());
    world.kubectl.apply(&crowd(0..MANY, 1));
    device.await_cells(Table::Holding, 0, &[1; MANY as usize]);

    world.kill(part);
    // The last five go, five others come, all the rest changes twice.
    let rest = MANY - 5;
    world.kubectl.apply(&crowd(0..rest, 2));
    world.kubectl.apply(&crowd(0..rest, 3));
    let names: Vec<_> = (rest..MANY).map(name).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    world.kubectl.ok(&[&["delete", "device", "--wait=false"][..], &names].concat());
    world.kubectl.apply(&crowd(MANY..MANY + 5, 3));
    let temperatures: Vec<u16> = (500..500 + MANY + 5).collect();
    device.set(Table::Input, 0, &temperatures);
    world.start(part);

    let mut cells = vec![3; MANY as usize + 5];
    cells[rest as usize..MANY as usize].fill(1);
    device.await_cells(Table::Holding, 0, &cells);
    let staying = (0..rest).chain(MANY..MANY + 5);
    let wanted: BTreeMap<_, _> = staying.map(|n| (name(n), (500 + n).to_string())).collect();
    wait::until("every DeviceStatus shows the last value, and none is left over", || {
        let seen = world.cluster.all_reported("temperature")?;
        if seen == wanted {
            return Ok(());
        }
        let differ: Vec<_> = wanted.iter().filter(|(name, v)| seen.get(*name) != Some(v)).collect();
        let over: Vec<_> = seen.keys().filter(|name| !wanted.contains_key(*name)).collect();
        Err(format!("missing or other: {differ:?}; left over: {over:?}"))
    });
    let held = wanted.keys().map(String::as_str).collect::<Vec<_>>();
    world.edge.await_devices(&held);
}

/// A boiler whose cells are those of its number.
fn member(number: u16, node: &str, port: u16, setpoint: u16) -> Value {
    let mut device = boiler::device(&name(number), node, port, "0");
    device["spec"]["properties"] = json!([
        property("setpoint", "HoldingRegister", number, 1, Some(&setpoint.to_string())),
        property("temperature", "InputRegister", number, 1, None),
    ]);
    for property in 0..2 {
        // Half a second: sixty devices ten times a second would be a story about pymodbus.
        device["spec"]["properties"][property]["collectCycle"] = json!(500);
    }
    device
}

fn name(number: u16) -> String {
    format!("boiler-{number:03}")
}

#[test]
fn mappers_of_two_protocols_serve_one_gateway_and_die_alone() {
    let (mut world, device) = World::new().with_a_boiler();
    let edge = world.edge.clone();
    world.add_mapper(&edge, "mapper-virtual", "mapper-virtual", "virtual");
    world.start("mapper-virtual");
    world.kubectl.apply(&json!({
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "metadata": {"name": "dream"},
        "spec": {"protocol": "virtual", "properties": [
            {"name": "mood", "type": "STRING", "accessMode": "ReadWrite"},
        ]},
    }));
    let mood = "Grüße, 世界: {\"a\": [1, 2]} \u{1f30a}";
    let dream = |mood: &str| {
        json!({
            "apiVersion": "devices.kubeedge.io/v1beta1",
            "kind": "Device",
            "metadata": {"name": "dream-1"},
            "spec": {
                "deviceModelRef": {"name": "dream"},
                "nodeName": edge.node,
                "protocol": {"protocolName": "virtual", "configData": {"deviceID": 1}},
                "properties": [{
                    "name": "mood",
                    "collectCycle": 100,
                    "reportToCloud": true,
                    "desired": {"value": mood},
                    "visitors": {"protocolName": "virtual", "configData": {"kind": "stored"}},
                }],
            },
        })
    };
    world.kubectl.apply(&dream(mood));
    // Text that upstream refuses for its characters arrives as it was written.
    world.cluster.await_reported("dream-1", "mood", mood);
    world.cluster.await_condition("dream-1", "Converged", "True");

    world.kill("mapper-virtual");
    world.kubectl.apply(&dream("gone"));
    world.kubectl.desire("boiler-1", "41");
    device.await_cells(Table::Holding, boiler::cell::SETPOINT, &[41]);
    world.cluster.await_condition("boiler-1", "Converged", "True");
    world.cluster.await_condition("dream-1", "Converged", "False");
    world.start("mapper-virtual");
    world.cluster.await_reported("dream-1", "mood", "gone");
    world.cluster.await_condition("dream-1", "Converged", "True");
}

#[test]
fn a_value_of_sixty_four_kilobytes_makes_the_whole_way() {
    let mut world = World::new();
    let edge = world.edge.clone();
    world.add_mapper(&edge, "mapper-virtual", "mapper-virtual", "virtual");
    world.start_everything();
    world.start("mapper-virtual");
    let long = "0123456789abcdef".repeat(4096);
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "devices.kubeedge.io/v1beta1",
            "kind": "DeviceModel",
            "metadata": {"name": "book"},
            "spec": {"protocol": "virtual", "properties": [{"name": "text", "type": "STRING"}]},
        },
        {
            "apiVersion": "devices.kubeedge.io/v1beta1",
            "kind": "Device",
            "metadata": {"name": "book-1"},
            "spec": {
                "deviceModelRef": {"name": "book"},
                "nodeName": edge.node,
                "protocol": {"protocolName": "virtual"},
                "properties": [{
                    "name": "text", "collectCycle": 100, "reportToCloud": true,
                    "desired": {"value": long},
                    "visitors": {"protocolName": "virtual", "configData": {"kind": "stored"}},
                }],
            },
        },
    ]});
    world.kubectl.apply(&objects);
    wait::until("the long text is back", || {
        let seen = world.cluster.reported("book-1", "text")?.value;
        if seen == long { Ok(()) } else { Err(format!("{} bytes", seen.len())) }
    });
    world.cluster.await_condition("book-1", "Converged", "True");
}
