//! kill -9 at random moments while the cloud is sending: what was acked is there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::time::Duration;

use support::cloud::Cloud;
use support::node::Node;
use support::{device, model, until};

#[tokio::test]
async fn what_was_acked_is_there_after_a_kill_at_any_moment() {
    let cloud = Cloud::start().await;
    cloud.put(model("m", 1));
    let mut node = Node::start(&cloud).await;
    let mut revision = 1;
    for round in 0_u64..8 {
        for index in 0..40 {
            revision += 1;
            cloud.put(device(&format!("d{index}"), "m", &revision.to_string(), revision));
        }
        // Somewhere between the first message and the last ack.
        tokio::time::sleep(Duration::from_millis(round * 7 % 60)).await;
        node.kill();
        let acked = cloud.state().acked.clone();
        let held = held(&node);
        for (key, revision) in &acked {
            let found = held.get(&key.to_string()).copied();
            assert!(
                found >= Some(*revision),
                "round {round}: {key} acked {revision}, holds {found:?}"
            );
        }
        node.spawn().await;
    }
    until("all is acked", || cloud.all_acked()).await;
    let status = node.status().await;
    assert_eq!(status["store"]["devices"], 40);
}

/// What the database holds, read by another program than the one under test.
fn held(node: &Node) -> std::collections::BTreeMap<String, u64> {
    let path = node.path().join("data/edgecore.db");
    let db = rusqlite::Connection::open(path).unwrap();
    let mut rows = db.prepare("SELECT kind, namespace, name, revision FROM objects").unwrap();
    let rows = rows.query_map([], |row| {
        let kind = if row.get::<_, i64>(0)? == 1 { "Device" } else { "DeviceModel" };
        let (namespace, name): (String, String) = (row.get(1)?, row.get(2)?);
        Ok((format!("{kind} {namespace}/{name}"), row.get::<_, i64>(3)?.cast_unsigned()))
    });
    rows.unwrap().map(Result::unwrap).collect()
}
