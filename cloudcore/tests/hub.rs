//! Sessions over real TLS and websockets: who is let in, what is delivered, what ends a session.

#![expect(clippy::unwrap_used, reason = "a test panics on what it did not expect")]

mod support;

use std::time::Duration;

use hub_proto::frame::Envelope;
use hub_proto::id::{ObjectKind, Revision};
use hub_proto::message::{Change, ToCloud, ToEdge};
use serde_json::Value;
use support::edge::{Edge, join, tls};
use support::{World, eventually};
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn a_node_gets_its_list_its_models_and_its_devices_in_that_order() {
    let world = World::start().await;
    world.create_model("m").await;
    world.create_device("t1", "gw-1", 5).await;
    world.create_device("elsewhere", "gw-2", 5).await;
    let identity = join(&world, "gw-1").await;
    eventually("placement knows the devices", async || {
        (world.metric("kedge_cloudcore_devices").await == 2).then_some(())
    })
    .await;

    let mut edge = Edge::connect(&world, &identity, "gw-1").await;
    let list = edge.next().await.unwrap();
    let ToEdge::Devices(devices) = &list.message else { panic!("{list:?}") };
    assert_eq!(devices.iter().map(ToString::to_string).collect::<Vec<_>>(), ["dev/t1"]);
    let model = edge.next().await.unwrap();
    let ToEdge::Object(object) = &model.message else { panic!("{model:?}") };
    assert_eq!(object.key.kind(), ObjectKind::DeviceModel);
    assert!(
        edge.is_quiet(Duration::from_millis(200)).await,
        "the device waits for the model's ack"
    );
    edge.ack(&model).await;

    let device = edge.next().await.unwrap();
    let ToEdge::Object(object) = &device.message else { panic!("{device:?}") };
    let Change::Upsert { create: true, object } = &object.change else { panic!("{device:?}") };
    let content: Value = serde_json::from_str(object.get()).unwrap();
    assert_eq!(content["kind"], "Device");
    assert_eq!(content["spec"]["properties"][1]["desired"]["value"], "5");
    assert_eq!(content["metadata"].get("managedFields"), None);
    edge.ack(&device).await;
    world.wait_condition("t1", "Delivered", "True Stored").await;

    // A status write is no change of the device; a desired value is.
    assert!(edge.is_quiet(Duration::from_millis(500)).await);
    world.set_desired("t1", 6).await;
    let update = edge.receive("t1").await;
    let ToEdge::Object(object) = &update.message else { panic!("{update:?}") };
    assert!(object.revision > Some(Revision(0)));

    world.delete_device("t1").await;
    let gone = edge.receive("t1").await;
    assert!(
        matches!(&gone.message, ToEdge::Object(object) if matches!(object.change, Change::Delete))
    );
    edge.receive("m").await;
    eventually("all is settled", async || {
        let (_, nodes) = world.get("/nodes").await?;
        let nodes: Value = serde_json::from_str(&nodes).ok()?;
        (nodes["nodes"][0]["inSync"] == true).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_is_only_itself() {
    let world = World::start().await;
    let identity = join(&world, "gw-1").await;
    assert_eq!(Edge::try_connect(&world, &identity, "gw-2").await.err(), Some(403));
    assert_eq!(Edge::try_connect(&world, &identity, "Not-A-Name").await.err(), Some(400));

    // No certificate: the handshake itself fails, at the latest with the first read.
    let refused = match tls(world.hub, &identity.ca, None).await {
        Err(_) => true,
        Ok(mut stream) => !matches!(stream.read(&mut [0; 1]).await, Ok(1..)),
    };
    assert!(refused);
    // Neither leaves anything behind, and the real one is let in.
    Edge::connect(&world, &identity, "gw-1").await;
    assert_eq!(world.metric("kedge_cloudcore_connected_nodes").await, 1);
}

#[tokio::test]
async fn a_new_connection_of_a_node_supersedes_the_old_one_at_once() {
    let world = World::start().await;
    world.create_model("m").await;
    world.create_device("t1", "gw-1", 5).await;
    let identity = join(&world, "gw-1").await;
    let mut old = Edge::connect(&world, &identity, "gw-1").await;
    old.receive("t1").await;
    let mut new = Edge::connect(&world, &identity, "gw-1").await;
    while old.next().await.is_some() {}
    new.receive("t1").await;
    world.set_desired("t1", 7).await;
    new.receive("t1").await;
    assert_eq!(world.metric("kedge_cloudcore_connected_nodes").await, 1);
    assert_eq!(world.metric("kedge_cloudcore_superseded_sessions").await, 1);
}

#[tokio::test]
async fn the_membership_request_is_answered_with_a_confirmation_and_a_list() {
    let world = World::start().await;
    let identity = join(&world, "gw-1").await;
    let mut edge = Edge::connect(&world, &identity, "gw-1").await;
    edge.next().await.unwrap();
    let asked = edge.ask_list().await;
    edge.confirmed(&asked).await;
    assert!(matches!(edge.next().await.unwrap().message, ToEdge::Devices(_)));
}

#[tokio::test]
async fn changes_made_while_the_node_is_away_arrive_when_it_is_back() {
    let mut world = World::start().await;
    world.create_model("m").await;
    world.create_device("t1", "gw-1", 1).await;
    world.create_device("t2", "gw-1", 1).await;
    let identity = join(&world, "gw-1").await;
    let mut edge = Edge::connect(&world, &identity, "gw-1").await;
    edge.receive("t2").await;
    drop(edge);
    for set in 2..10 {
        world.set_desired("t1", set).await;
    }
    world.delete_device("t2").await;
    world.restart_cloudcore().await;
    world.create_device("t3", "gw-1", 1).await;

    let mut edge = Edge::connect(&world, &identity, "gw-1").await;
    let device = edge.receive("t1").await;
    let ToEdge::Object(object) = &device.message else { panic!("{device:?}") };
    let Change::Upsert { object, .. } = &object.change else { panic!("{device:?}") };
    let content: Value = serde_json::from_str(object.get()).unwrap();
    assert_eq!(
        content["spec"]["properties"][1]["desired"]["value"], "9",
        "only the newest travels"
    );
    let asked = edge.ask_list().await;
    edge.confirmed(&asked).await;
    let listed = edge
        .until("the list", |message| match &message.message {
            ToEdge::Devices(devices) => {
                Some(devices.iter().map(ToString::to_string).collect::<Vec<_>>())
            }
            ToEdge::Object(_)
            | ToEdge::Membership { .. }
            | ToEdge::Confirm(_)
            | ToEdge::Foreign { .. } => None,
        })
        .await;
    assert_eq!(listed, ["dev/t1", "dev/t3"]);
}

#[tokio::test]
async fn a_thousand_devices_arrive_within_the_window() {
    let world = World::start().await;
    world.create_model("m").await;
    for n in 0..1000 {
        world.create_device(&format!("t{n:04}"), "gw-1", n).await;
    }
    let identity = join(&world, "gw-1").await;
    let mut edge = Edge::connect(&world, &identity, "gw-1").await;
    let started = tokio::time::Instant::now();
    let mut seen = 0;
    while seen < 1001 {
        let message = edge.next().await.unwrap();
        if matches!(message.message, ToEdge::Object(_)) {
            seen += 1;
            edge.ack(&message).await;
        }
    }
    println!(
        "1000 devices in {:?}, cloudcore has {} KiB",
        started.elapsed(),
        world.cloudcore.rss_kib()
    );
    world.wait_condition("t0999", "Delivered", "True Stored").await;
}

#[tokio::test]
async fn a_bad_object_is_named_and_the_others_are_served() {
    let world = World::start().await;
    world.create_model("m").await;
    // Structurally a Device for a lenient API server, but for a model that is not there.
    world.create_device("t1", "gw-1", 1).await;
    world.models().delete("m", &kube::api::DeleteParams::default()).await.unwrap();
    world.wait_condition("t1", "ModelResolved", "False ModelNotFound").await;
    world.create_model("other").await;
    let identity = join(&world, "gw-1").await;
    let mut edge = Edge::connect(&world, &identity, "gw-1").await;
    let list = edge.next().await.unwrap();
    assert!(
        matches!(&list.message, ToEdge::Devices(devices) if devices.len() == 1),
        "parked, but listed"
    );
    assert!(edge.is_quiet(Duration::from_millis(300)).await);
    world.create_model("m").await;
    edge.receive("m").await;
    edge.receive("t1").await;
    world.wait_condition("t1", "Delivered", "True Stored").await;
}

#[tokio::test]
async fn nonsense_ends_the_session_and_nothing_else() {
    use futures_util::SinkExt;
    use tokio_tungstenite::tungstenite::Message;

    let world = World::start().await;
    let identity = join(&world, "gw-1").await;
    let mut edge = Edge::connect(&world, &identity, "gw-1").await;
    for nonsense in [
        r#"{"header":{"msg_id":""},"route":{}}"#,
        r#"{"header":{"msg_id":"1"},"route":{"source":"twin","operation":"update","resource":"device/dev/t1/twin/edge_updated"},"content":{"twin":{"p":null}}}"#,
        r#"{"header":{"msg_id":"2"},"route":{"source":"edged","group":"meta","operation":"insert","resource":"null/node/gw-1"},"content":{}}"#,
    ] {
        assert!(Envelope::decode(nonsense.as_bytes()).is_ok());
        edge.socket.send(Message::text(nonsense)).await.unwrap();
    }
    // Still there.
    let asked = edge.ask_list().await;
    edge.confirmed(&asked).await;
    edge.socket.send(Message::binary(vec![0, 1, 2])).await.unwrap();
    while edge.next().await.is_some() {}
    let mut edge = Edge::connect(&world, &identity, "gw-1").await;
    edge.say(&ToCloud::Keepalive).await;
    let asked = edge.ask_list().await;
    edge.confirmed(&asked).await;
}

#[tokio::test]
async fn cloudcore_stops_within_five_seconds_and_says_goodbye() {
    let mut world = World::start().await;
    let identity = join(&world, "gw-1").await;
    let mut edge = Edge::connect(&world, &identity, "gw-1").await;
    edge.next().await.unwrap();
    let started = tokio::time::Instant::now();
    assert_eq!(world.cloudcore.terminate(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    while edge.next().await.is_some() {}
}
