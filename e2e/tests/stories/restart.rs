//! Processes die under load and come back; nobody helps, and nothing goes backwards.

use e2e::boiler::cell;
use e2e::device::{Device, Table};
use e2e::load::{Audit, Counting, FIRST};
use e2e::wait;
use e2e::world::World;

/// Numbers that must have got through before the world is broken, and again after it.
const STRIDE: u16 = 10;

#[test]
fn cloudcore_killed_under_load_loses_nothing() {
    under_load(|world, _| world.restart("cloudcore"));
}

#[test]
fn edgecore_killed_under_load_loses_nothing() {
    under_load(|world, _| world.restart("edgecore"));
}

#[test]
fn a_mapper_killed_under_load_loses_nothing() {
    under_load(|world, _| world.restart("mapper"));
}

#[test]
fn cloudcore_down_for_a_while_under_load_loses_nothing() {
    under_load(|world, load| {
        world.kill("cloudcore");
        load.go_on();
        world.start("cloudcore");
    });
}

#[test]
fn edgecore_down_for_a_while_under_load_loses_nothing() {
    under_load(|world, load| {
        world.kill("edgecore");
        load.go_on();
        world.start("edgecore");
    });
}

#[test]
fn a_mapper_down_for_a_while_under_load_loses_nothing() {
    under_load(|world, load| {
        world.kill("mapper");
        load.go_on();
        world.start("mapper");
    });
}

#[test]
fn the_apiserver_killed_under_load_loses_nothing() {
    if e2e::setting::shared_cluster().is_some() {
        return; // it is not ours to kill
    }
    under_load(|world, _| world.restart("apiserver"));
}

#[test]
fn a_power_cut_on_the_gateway_under_load_loses_nothing() {
    under_load(|world, load| {
        world.kill("edgecore");
        world.kill("mapper");
        load.go_on();
        world.start("mapper");
        world.start("edgecore");
    });
}

#[test]
fn a_power_cut_everywhere_under_load_loses_nothing() {
    under_load(|world, _| {
        let mut names = vec!["mapper", "edgecore", "cloudcore", "apiserver"];
        if e2e::setting::shared_cluster().is_some() {
            names.pop();
        }
        for name in &names {
            world.kill(name);
        }
        // The parts that depend on others come first: everybody must wait for what is not there.
        for name in &names {
            world.start(name);
        }
    });
}

#[test]
fn edgecore_killed_again_and_again_under_load_loses_nothing() {
    under_load(|world, load| {
        for _ in 0..8 {
            world.restart("edgecore");
            load.go_on_by(4);
        }
    });
}

#[test]
fn cloudcore_killed_again_and_again_under_load_loses_nothing() {
    under_load(|world, load| {
        for _ in 0..8 {
            world.restart("cloudcore");
            load.go_on_by(4);
        }
    });
}

#[test]
fn a_frozen_cloudcore_under_load_loses_nothing() {
    under_load(|world, load| {
        world.process("cloudcore").pause();
        load.go_on();
        world.process("cloudcore").resume();
    });
}

#[test]
fn a_cloudcore_frozen_until_the_edge_gave_it_up_loses_nothing() {
    under_load(|world, _| {
        world.process("cloudcore").pause();
        world.edge.await_link(false);
        world.process("cloudcore").resume();
    });
}

#[test]
fn an_edgecore_frozen_until_the_cloud_gave_it_up_loses_nothing() {
    under_load(|world, _| {
        world.process("edgecore").pause();
        world.cluster.await_node(&world.edge.node, "Unknown");
        world.process("edgecore").resume();
    });
}

#[test]
fn a_frozen_mapper_under_load_loses_nothing() {
    under_load(|world, load| {
        world.process("mapper").pause();
        load.go_on();
        world.process("mapper").resume();
    });
}

#[test]
fn daemons_that_are_asked_to_stop_do_so_cleanly_and_leave_nothing_undone() {
    under_load(|world, _| {
        for name in ["mapper", "edgecore", "cloudcore"] {
            world.stop(name);
            world.start(name);
        }
    });
}

#[test]
fn a_device_that_restarts_is_written_again() {
    let (world, device) = World::new().with_a_boiler();
    let port = device.port();
    drop(device);
    let device = Device::start(port);
    device.await_cells(Table::Holding, cell::SETPOINT, &[40]);
    world.cluster.await_condition("boiler-1", "Converged", "True");
}

/// What runs while the world is broken.
struct Load {
    desired: Counting,
    temperature: Counting,
}

impl Load {
    /// Waits until some more numbers have been written at both ends.
    fn go_on(&self) {
        self.go_on_by(STRIDE);
    }

    fn go_on_by(&self, more: u16) {
        let desired = self.desired.last().max(FIRST) + more;
        let temperature = self.temperature.last().max(FIRST) + more;
        wait::until("the load goes on", || {
            let seen = (self.desired.last(), self.temperature.last());
            if seen.0 >= desired && seen.1 >= temperature {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        });
    }
}

/// Counts desired values upwards from above and a register upwards from below, lets `break_it` do
/// its worst, and sees that the last number of each arrives at the other end and that neither end
/// ever saw the numbers go backwards.
fn under_load(break_it: impl FnOnce(&mut World, &Load)) {
    let (mut world, device) = World::new().with_a_boiler();
    let audit = Audit::start(&world.cluster, "boiler-1", "temperature");
    let load = Load {
        desired: Counting::desired(world.cluster.reader(), "boiler-1"),
        temperature: Counting::cell(device.commands(), Table::Input, cell::TEMPERATURE),
    };
    load.go_on();
    break_it(&mut world, &load);
    load.go_on();
    let (desired, temperature) = (load.desired.stop(), load.temperature.stop());

    device.await_cells(Table::Holding, cell::SETPOINT, &[desired]);
    let (desired, temperature) = (desired.to_string(), temperature.to_string());
    world.cluster.await_reported("boiler-1", "temperature", &temperature);
    world.cluster.await_reported("boiler-1", "setpoint", &desired);
    world.cluster.await_condition("boiler-1", "Converged", "True");

    assert!(audit.count() >= 3, "the audit saw too little to judge by");
    audit.assert_never_backwards();
    assert_never_backwards(&device);
}

/// The register's own log: what was desired later was written later.
fn assert_never_backwards(device: &Device) {
    let writes = device.writes(Table::Holding, cell::SETPOINT);
    for pair in writes.windows(2) {
        assert!(pair[0].values <= pair[1].values, "the register went backwards: {pair:?}");
    }
}
