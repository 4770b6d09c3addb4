//! Random walks of both sessions through changes, cuts and crashes. After each walk the faults stop,
//! and both sides must agree: nothing missing, nothing left over, nothing older than it was.
//!
//! A failing walk shrinks and is printed as the list of its steps. `KEDGE_WALKS=100000` walks longer.

use std::time::Duration;

use crate::both_ends::{Pair, device_key, model_key};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Apply { device: usize, model: usize },
    ApplyModel(usize),
    Delete(usize),
    DeleteModel(usize),
    Sample { device: usize, property: usize },
    Connect,
    Cut,
    ToEdge,
    ToCloud { skip: usize },
    DuplicateToCloud,
    EdgeActs { crash: bool },
    CloudActs { crash: bool },
    CrashEdge,
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0usize..3, 0usize..2).prop_map(|(device, model)| Step::Apply { device, model }),
        2 => (0usize..2).prop_map(Step::ApplyModel),
        1 => (0usize..3).prop_map(Step::Delete),
        1 => (0usize..2).prop_map(Step::DeleteModel),
        3 => (0usize..3, 0usize..2).prop_map(|(device, property)| Step::Sample { device, property }),
        3 => Just(Step::Connect),
        1 => Just(Step::Cut),
        10 => Just(Step::ToEdge),
        8 => (0usize..3).prop_map(|skip| Step::ToCloud { skip }),
        1 => Just(Step::DuplicateToCloud),
        8 => prop::bool::weighted(0.08).prop_map(|crash| Step::EdgeActs { crash }),
        8 => prop::bool::weighted(0.08).prop_map(|crash| Step::CloudActs { crash }),
        1 => Just(Step::CrashEdge),
        2 => (1u64..12_000).prop_map(|ms| Step::Wait { ms }),
    ]
}

fn walk(steps: &[Step]) {
    let mut pair = Pair::new(7);
    for step in steps {
        match *step {
            Step::Apply { device, model } => {
                pair.apply(&device_key(device), Some(model_key(model)));
            }
            Step::ApplyModel(model) => pair.apply(&model_key(model), None),
            Step::Delete(device) => pair.delete(&device_key(device)),
            Step::DeleteModel(model) => pair.delete(&model_key(model)),
            Step::Sample { device, property } => {
                pair.sample(&device_key(device).device_id().unwrap(), ["a", "b"][property]);
            }
            Step::Connect => pair.connect(),
            Step::Cut => pair.cut(),
            Step::ToEdge => {
                pair.deliver_to_edge();
            }
            Step::ToCloud { skip } => {
                pair.deliver_to_cloud(skip);
            }
            Step::DuplicateToCloud => pair.duplicate_to_cloud(),
            Step::EdgeActs { crash } => {
                pair.edge_acts(crash);
            }
            Step::CloudActs { crash } => {
                pair.cloud_acts(crash);
            }
            Step::CrashEdge => pair.crash_edge(),
            Step::Wait { ms } => pair.pass_time(Duration::from_millis(ms)),
        }
    }
    pair.settle();

    let mut held = pair.store.clone();
    for device in pair.parked() {
        // Its model is gone: what the edge has of it stays, whatever that is.
        let key = device.object_key();
        let model = held.remove(&key).and_then(|stored| stored.model);
        if let Some(model) = model
            && !pair.expected().contains_key(&model)
        {
            held.remove(&model);
        }
    }
    assert_eq!(held, pair.expected(), "what the edge holds is not what it should");
    assert_eq!(pair.owed(), 0, "the cloud still owes something");
    for ((device, property), value) in &pair.outbox {
        let written = pair.status.get(&(device.clone(), property.clone()));
        assert_eq!(
            written,
            Some(&value.number),
            "the last value of {device} {property} is missing"
        );
        assert_eq!(value.confirmed, value.number, "{device} {property} was never confirmed");
    }
}

#[expect(clippy::disallowed_methods, reason = "the nightly run asks for more walks")]
fn walks() -> u32 {
    std::env::var("KEDGE_WALKS").ok().and_then(|walks| walks.parse().ok()).unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: walks(), ..ProptestConfig::default() })]

    #[test]
    fn after_any_walk_both_sides_agree(steps in prop::collection::vec(step(), 0..160)) {
        walk(&steps);
    }
}

#[test]
fn a_quiet_pair_agrees() {
    walk(&[Step::ApplyModel(0), Step::Apply { device: 0, model: 0 }, Step::Connect]);
}
