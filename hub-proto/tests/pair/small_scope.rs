//! Every interleaving, in a scope small enough to have them all: two objects, up to three revisions
//! each, and the ways in which a delivery, an ack, a crash and a reconnect can fall.

use crate::both_ends::{Pair, device_key, model_key};

/// What can happen next. A change goes to the model and the device in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Change,
    Delivery,
    Commit,
    CommitAndCrash,
    Ack,
    Reconnect,
}

const MOVES: [Move; 6] =
    [Move::Change, Move::Delivery, Move::Commit, Move::CommitAndCrash, Move::Ack, Move::Reconnect];

/// Interleavings of this many moves are all tried: 6^6 of them.
const DEPTH: u32 = 6;

/// Changes on top of the two objects' first revisions: three revisions each.
const CHANGES: usize = 4;

fn play(moves: &[Move]) {
    let mut pair = Pair::new(1);
    let (model, device) = (model_key(0), device_key(0));
    pair.apply(&model, None);
    pair.apply(&device, Some(model.clone()));
    pair.connect();
    let mut changes = 0;
    for &next in moves {
        match next {
            Move::Change if changes < CHANGES => {
                if changes % 2 == 0 {
                    pair.apply(&device, Some(model.clone()));
                } else {
                    pair.apply(&model, None);
                }
                changes += 1;
            }
            Move::Change => {}
            Move::Delivery => {
                pair.deliver_to_edge();
            }
            Move::Commit => {
                pair.edge_acts(false);
            }
            Move::CommitAndCrash => {
                pair.edge_acts(true);
                pair.connect();
            }
            Move::Ack => {
                pair.deliver_to_cloud(0);
            }
            Move::Reconnect => {
                pair.cut();
                pair.connect();
            }
        }
    }
    pair.settle();
    assert_eq!(pair.store, pair.expected(), "after {moves:?}");
    assert_eq!(pair.owed(), 0, "after {moves:?}");
}

#[test]
fn every_interleaving_of_change_delivery_commit_crash_ack_and_reconnect_converges() {
    let count = MOVES.len().pow(DEPTH);
    for number in 0..count {
        let moves: Vec<_> =
            (0..DEPTH).map(|place| MOVES[number / MOVES.len().pow(place) % MOVES.len()]).collect();
        play(&moves);
    }
}

/// The scope above starts at the first message. This one starts where both objects are under way.
#[test]
fn every_interleaving_from_the_middle_of_a_delivery_converges() {
    let opening = [
        Move::Delivery,
        Move::Commit,
        Move::Ack,
        Move::Ack,
        Move::Delivery,
        Move::Delivery,
        Move::Commit,
    ];
    for number in 0..MOVES.len().pow(DEPTH - 1) {
        let rest = (0..DEPTH - 1).map(|place| MOVES[number / MOVES.len().pow(place) % MOVES.len()]);
        let moves: Vec<_> = opening.into_iter().chain(rest).collect();
        play(&moves);
    }
}
