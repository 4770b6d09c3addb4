//! The wire between cloud and edge breaks in every way that a wire can.

use std::time::Duration;

use e2e::boiler::{self, cell};
use e2e::device::{Device, Table};
use e2e::load::{Audit, Counting};
use e2e::wait;
use e2e::wire::Way;
use e2e::world::{Pace, World};

/// For each cut. An edge whose link broke again and again waits for up to 5 s before it dials.
const PER_CUT: Duration = Duration::from_secs(8);

#[test]
fn a_link_cut_at_any_byte_loses_nothing() {
    let seed = e2e::setting::seed();
    eprintln!("KEDGE_E2E_SEED={seed} repeats this run's cuts");
    let mut random = Random(seed);
    let (world, device) = World::wired().with_a_boiler();
    let audit = Audit::start(&world.cluster, "boiler-1", "temperature");
    let desired = Counting::desired(world.cluster.reader(), "boiler-1");
    let temperature = Counting::cell(device.commands(), Table::Input, cell::TEMPERATURE);

    for cuts in 1..=e2e::setting::cuts() {
        let way = if random.below(2) == 0 { Way::Up } else { Way::Down };
        // Small ones fall into the TLS handshake and the upgrade, large ones between messages.
        let most = [20_000, 200, 4_000][usize::try_from(cuts % 3).unwrap()];
        let bytes = 1 + random.below(most);
        world.wire().cut_after(way, bytes);
        wait::within(PER_CUT, &format!("cut {cuts}, {way:?} after {bytes} bytes"), || {
            let traffic = world.wire().traffic();
            if traffic.cuts >= cuts { Ok(()) } else { Err(format!("{traffic:?}")) }
        });
    }

    let (desired, temperature) = (desired.stop(), temperature.stop());
    device.await_cells(Table::Holding, cell::SETPOINT, &[desired]);
    world.cluster.await_reported("boiler-1", "temperature", &temperature.to_string());
    world.cluster.await_reported("boiler-1", "setpoint", &desired.to_string());
    audit.assert_never_backwards();
    let writes = device.writes(Table::Holding, cell::SETPOINT);
    for pair in writes.windows(2) {
        assert!(pair[0].values <= pair[1].values, "the register went backwards: {pair:?}");
    }
}

#[test]
fn an_enrolment_cut_at_any_byte_is_done_again() {
    let mut world = World::wired();
    world.start("cloudcore");
    let edge = world.edge.clone();
    world.issue_token(&edge);
    // The handshake, the request with the token, the answer with the certificate.
    for (count, (way, bytes)) in
        [(Way::Up, 1), (Way::Down, 300), (Way::Up, 700), (Way::Down, 1_500)].into_iter().enumerate()
    {
        world.enrol_wire().cut_after(way, bytes);
        if count == 0 {
            world.start(&edge.edgecore);
        }
        wait::until(&format!("{way:?} is cut after {bytes} bytes, or no longer needed"), || {
            let traffic = world.enrol_wire().traffic();
            let enrolled = edge.data.join("pki/node.crt").is_file();
            if enrolled || traffic.cuts > count as u64 {
                Ok(())
            } else {
                Err(format!("{traffic:?}"))
            }
        });
    }
    world.enrol_wire().mend();
    world.cluster.await_node(&edge.node, "True");
}

/// Two heartbeats, and time for a busy machine to reconnect in.
const NOTICED: Duration = Duration::from_secs(2 + 3);

#[test]
fn a_link_that_died_silently_is_noticed_within_two_heartbeats() {
    let (world, device) = hasty();
    // The connection stays open at both ends, as behind a router that has forgotten it.
    let before = world.wire().traffic().connections;
    world.wire().forget();
    let start = wait::now();
    world.kubectl.desire("boiler-1", "45");
    device.set(Table::Input, cell::TEMPERATURE, &[21]);
    wait::within(NOTICED, "the edge dials again", || {
        let now = world.wire().traffic().connections;
        if now > before { Ok(()) } else { Err(format!("{now} connections")) }
    });
    eprintln!("noticed after {:.1?}", wait::now() - start);
    device.await_cells(Table::Holding, cell::SETPOINT, &[45]);
    world.cluster.await_reported("boiler-1", "temperature", "21");
}

#[test]
fn a_link_that_is_silent_for_a_while_costs_nothing_but_that_time() {
    let (world, device) = hasty();
    world.wire().hush();
    world.kubectl.desire("boiler-1", "46");
    device.set(Table::Input, cell::TEMPERATURE, &[22]);
    world.edge.await_link(false);
    world.cluster.await_node(&world.edge.node, "Unknown");
    world.cluster.await_condition("boiler-1", "Online", "Unknown");
    world.wire().mend();
    device.await_cells(Table::Holding, cell::SETPOINT, &[46]);
    world.cluster.await_reported("boiler-1", "temperature", "22");
    world.cluster.await_node(&world.edge.node, "True");
}

#[test]
fn a_slow_and_late_link_still_converges() {
    let (world, device) = World::wired().with_a_boiler();
    world.wire().delay(Duration::from_millis(300));
    world.wire().throttle(4_000);
    world.kubectl.desire("boiler-1", "47");
    device.await_cells(Table::Holding, cell::SETPOINT, &[47]);
    world.wire().cut();
    world.kubectl.desire("boiler-1", "48");
    device.await_cells(Table::Holding, cell::SETPOINT, &[48]);
    world.cluster.await_reported("boiler-1", "setpoint", "48");
}

#[test]
fn a_gateway_replaced_by_a_clone_is_superseded_at_once() {
    let (mut world, device) = World::new().with_a_boiler();
    let edge = world.edge.clone();
    let clone = world.add_twin_of(&edge, "clone");
    // Frozen, not dead: its connection is open, and the cloud cannot know that nobody is there.
    world.process(&edge.edgecore).pause();
    world.process(&edge.mapper).pause();
    copy(&edge.data, &clone.data);
    world.start(&clone.edgecore);
    world.start(&clone.mapper);
    clone.await_link(true);
    world.kubectl.desire("boiler-1", "49");
    device.await_cells(Table::Holding, cell::SETPOINT, &[49]);
    world.cluster.await_reported("boiler-1", "setpoint", "49");
    world.cluster.await_node(&edge.node, "True");
    world.process(&edge.edgecore).resume();
    world.process(&edge.mapper).resume();
    world.kill(&edge.edgecore);
    world.kill(&edge.mapper);
    world.kubectl.desire("boiler-1", "50");
    device.await_cells(Table::Holding, cell::SETPOINT, &[50]);
    world.cluster.await_reported("boiler-1", "setpoint", "50");
}

/// Two gateways with one identity take the link from each other; no value goes backwards by it.
#[test]
fn two_gateways_with_one_identity_do_not_mix_up_values() {
    let (mut world, device) = World::new().with_a_boiler();
    let edge = world.edge.clone();
    let clone = world.add_twin_of(&edge, "clone");
    world.kill(&edge.edgecore);
    copy(&edge.data, &clone.data);
    world.start(&edge.edgecore);
    let audit = Audit::start(&world.cluster, "boiler-1", "setpoint");
    let desired = Counting::desired(world.cluster.reader(), "boiler-1");
    world.start(&clone.edgecore);
    wait::until("sixty numbers", || {
        if desired.last() > 160 { Ok(()) } else { Err(desired.last().to_string()) }
    });
    // The clone has no mapper; once it is gone the first one must serve the device alone.
    world.kill(&clone.edgecore);
    let last = desired.stop();
    device.await_cells(Table::Holding, cell::SETPOINT, &[last]);
    world.cluster.await_reported("boiler-1", "setpoint", &last.to_string());
    audit.assert_never_backwards();
}

/// A world in which a dead link is noticed fast, with a boiler.
fn hasty() -> (World, Device) {
    let pace = Pace { heartbeat: "1s", keepalive: "3s", lease: "3s", ..Pace::default() };
    World::with(&pace, true).with_a_boiler()
}

/// A folder as it is on a cloned disk.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.is_ok_and(|status| status.success()), "cp -a {from:?} {to:?}");
}

/// Small and repeatable; what is random about a cut need not be unpredictable.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

#[test]
fn a_device_of_many_properties_arrives_whole_over_a_link_that_is_cut() {
    let (world, _boiler) = World::wired().with_a_boiler();
    let device = Device::start(e2e::port::free());
    world.wire().cut_after(Way::Down, 700);
    world.kubectl.apply(&boiler::whole("boiler-2", &world.edge.node, device.port()));
    device.await_cells(Table::Coil, cell::BURNER, &[1]);
    world.cluster.await_reported("boiler-2", "pressure", "0");
    assert_eq!(world.wire().traffic().cuts, 1);
}
