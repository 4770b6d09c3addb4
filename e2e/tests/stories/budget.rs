//! What the Kubernetes API pays: nothing for nothing, and little for much.

use std::time::Duration;

use e2e::boiler::cell;
use e2e::device::Table;
use e2e::load::{Audit, Counting};
use e2e::wait;
use e2e::world::{Pace, World};

#[test]
fn what_does_not_change_costs_no_write() {
    let (world, device) = World::new().with_a_boiler();
    world.cluster.await_condition("boiler-1", "Converged", "True");
    world.cluster.await_condition("boiler-1", "Online", "True");
    world.cluster.await_node(&world.edge.node, "True");
    let revisions = || world.cluster.revisions("boiler-1", &world.edge.node);
    // Whatever was still under way has an interval to arrive in.
    let mut before = revisions().unwrap();
    wait::until("a second without a write", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = revisions()?;
        let quiet = wait::equal(now.clone(), before.clone());
        before = now;
        quiet
    });
    let reads = device.stats().reads;
    wait::throughout(Duration::from_secs(4), "no write to Device, DeviceStatus or Node", || {
        wait::equal(revisions()?, before.clone())
    });
    assert!(device.stats().reads > reads + 20, "the device was not sampled meanwhile");
}

#[test]
fn a_value_that_changes_all_the_time_costs_one_write_an_interval() {
    let pace = Pace { status: "1s", ..Pace::default() };
    let (world, device) = World::with(&pace, false).with_a_boiler();
    let audit = Audit::start(&world.cluster, "boiler-1", "temperature");
    let start = wait::now();
    let temperature = Counting::cell(device.commands(), Table::Input, cell::TEMPERATURE);
    wait::until("a hundred values", || {
        if temperature.last() > 200 { Ok(()) } else { Err(temperature.last().to_string()) }
    });
    let last = temperature.stop();
    world.cluster.await_reported("boiler-1", "temperature", &last.to_string());
    let seconds = (wait::now() - start).as_secs();
    // One for what was there before, one because an interval has two ends.
    let most = usize::try_from(seconds).unwrap() + 2;
    assert!(audit.count() <= most, "{} writes in {seconds} s", audit.count());
    audit.assert_never_backwards();
}
