//! What nodes report, as it stands in the Kubernetes API.

#![expect(clippy::unwrap_used, reason = "a test panics on what it did not expect")]

mod support;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;
use support::edge::{Edge, join};
use support::{World, eventually};

const SAMPLED: u64 = 1_795_000_000_123;

async fn connected(world: &World) -> Edge {
    world.create_model("m").await;
    world.create_device("t1", "gw-1", 5).await;
    let identity = join(world, "gw-1").await;
    let mut edge = Edge::connect(world, &identity, "gw-1").await;
    edge.receive("t1").await;
    edge
}

#[tokio::test]
async fn the_first_report_is_visible_and_confirmed_and_the_device_converges() {
    let world = World::start().await;
    let mut edge = connected(&world).await;
    let report = edge.report("dev/t1", "temp", "21.5", SAMPLED).await;
    edge.confirmed(&report).await;
    let temp = world.reported("t1", "temp").await.expect("written before it is confirmed");
    assert_eq!(temp["value"], "21.5");
    assert_eq!(temp["metadata"]["timestamp"], SAMPLED.to_string());

    let status = world.statuses().get("t1").await.unwrap();
    let owner = &status.metadata.owner_references.unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.name.as_str(), owner.controller),
        ("Device", "t1", Some(true))
    );

    world.wait_condition("t1", "Converged", "False AwaitingReport").await;
    edge.report("dev/t1", "set", "5", SAMPLED).await;
    edge.report_state("dev/t1", "online").await;
    world.wait_condition("t1", "Converged", "True Applied").await;
    world.wait_condition("t1", "Accepted", "True Observed").await;
    world.wait_condition("t1", "Online", "True DeviceOnline").await;
    let device = world.devices().get("t1").await.unwrap();
    let shown = device.status.unwrap();
    assert_eq!(shown.state.as_deref(), Some("online"));
    assert_eq!(shown.observed_generation, device.metadata.generation);
}

#[tokio::test]
async fn a_flood_of_reports_is_a_few_writes_and_the_last_value_arrives() {
    let world = World::start().await;
    let mut edge = connected(&world).await;
    let mut last = None;
    for n in 0..2000u64 {
        last = Some(edge.report("dev/t1", "temp", &n.to_string(), SAMPLED + n).await);
    }
    edge.confirmed(&last.unwrap()).await;
    world.wait_reported("t1", "temp", "1999").await;
    let written = world
        .metric("kedge_cloudcore_status_writes_total{target=\"devicestatus\",outcome=\"written\"}")
        .await;
    assert!(written <= 10, "{written} writes for 2000 reports");

    // Unchanged: confirmed, no write.
    let before = world.statuses().get("t1").await.unwrap().metadata.resource_version;
    let again = edge.report("dev/t1", "temp", "1999", SAMPLED + 5000).await;
    edge.confirmed(&again).await;
    let after = world.statuses().get("t1").await.unwrap().metadata.resource_version;
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_report_about_a_device_of_another_node_is_confirmed_and_not_written() {
    let world = World::start().await;
    let mut edge = connected(&world).await;
    world.create_device("foreign", "gw-2", 1).await;
    eventually("cloudcore knows it", async || {
        (world.metric("kedge_cloudcore_devices").await == 2).then_some(())
    })
    .await;
    let report = edge.report("dev/foreign", "temp", "666", SAMPLED).await;
    edge.confirmed(&report).await;
    let report = edge.report("dev/nobody", "temp", "666", SAMPLED).await;
    edge.confirmed(&report).await;
    assert_eq!(world.reported("foreign", "temp").await, None);
    assert_eq!(world.metric("kedge_cloudcore_reports_total{outcome=\"refused\"}").await, 2);
}

#[tokio::test]
async fn a_restart_continues_where_the_api_stands() {
    let mut world = World::start().await;
    let edge = connected(&world).await;
    let mut edge = edge;
    edge.report("dev/t1", "set", "5", SAMPLED).await;
    edge.report("dev/t1", "temp", "20", SAMPLED).await;
    world.wait_reported("t1", "temp", "20").await;
    world.wait_condition("t1", "Converged", "True Applied").await;
    world.restart_cloudcore().await;

    let identity = join(&world, "gw-1").await;
    let mut edge = Edge::connect(&world, &identity, "gw-1").await;
    edge.receive("t1").await;
    let report = edge.report("dev/t1", "temp", "21", SAMPLED + 1).await;
    edge.confirmed(&report).await;
    world.wait_reported("t1", "temp", "21").await;
    world.wait_reported("t1", "set", "5").await;
    world.wait_condition("t1", "Converged", "True Applied").await;
}

#[tokio::test]
async fn what_leaves_the_specification_or_the_cluster_leaves_the_status() {
    let world = World::start().await;
    let mut edge = connected(&world).await;
    edge.report("dev/t1", "temp", "20", SAMPLED).await;
    edge.report("dev/t1", "set", "5", SAMPLED).await;
    world.wait_reported("t1", "set", "5").await;
    let patch = serde_json::json!({ "spec": { "properties": [{ "name": "temp", "reportToCloud": true }] } });
    let patch = kube::api::Patch::Merge(patch);
    world.devices().patch("t1", &kube::api::PatchParams::default(), &patch).await.unwrap();
    eventually("the property is gone", async || {
        world.reported("t1", "set").await.is_none().then_some(())
    })
    .await;
    world.wait_reported("t1", "temp", "20").await;

    // Removed by hand: written again. Removed with its device: gone.
    world.statuses().delete("t1", &DeleteParams::default()).await.unwrap();
    world.wait_reported("t1", "temp", "20").await;
    world.delete_device("t1").await;
    eventually("the status is gone", async || world.statuses().get("t1").await.err()).await;
}

#[tokio::test]
async fn a_node_is_ready_while_it_is_connected_and_unknown_a_lease_later() {
    let world = World::start_with("nodes: { leaseDuration: 2s }").await;
    let mut edge = connected(&world).await;
    edge.report_state("dev/t1", "online").await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    let ready = async || {
        let status = nodes.get("gw-1").await.ok()?.status?;
        let ready = status.conditions?.into_iter().find(|c| c.type_ == "Ready")?;
        Some(format!("{} {}", ready.status, ready.reason.unwrap_or_default()))
    };
    eventually("ready", async || ready().await.filter(|r| r == "True EdgeReady")).await;
    let node = nodes.get("gw-1").await.unwrap();
    assert_eq!(node.metadata.labels.unwrap()["node-role.kubernetes.io/edge"], "");
    assert_eq!(node.spec.unwrap().taints.unwrap()[0].effect, "NoSchedule");
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), "kube-node-lease");
    let renewed = async || leases.get("gw-1").await.ok()?.spec?.renew_time;
    let first = eventually("a lease", renewed).await;
    eventually("renewed", async || renewed().await.filter(|time| *time != first)).await;
    world.wait_condition("t1", "Online", "True DeviceOnline").await;

    drop(edge);
    eventually("unknown", async || ready().await.filter(|r| r == "Unknown NodeStatusUnknown"))
        .await;
    world.wait_condition("t1", "Online", "Unknown NodeUnreachable").await;

    let identity = join(&world, "gw-1").await;
    let _edge = Edge::connect(&world, &identity, "gw-1").await;
    eventually("ready again", async || ready().await.filter(|r| r == "True EdgeReady")).await;
    world.wait_condition("t1", "Online", "True DeviceOnline").await;
}

#[tokio::test]
async fn a_node_that_was_lost_while_cloudcore_was_down_turns_unknown() {
    let mut world = World::start_with("nodes: { leaseDuration: 2s }").await;
    let edge = connected(&world).await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    let ready = async |expected: &str| {
        let status = nodes.get("gw-1").await.ok()?.status?;
        let ready = status.conditions?.into_iter().find(|c| c.type_ == "Ready")?;
        (ready.status == expected).then_some(())
    };
    eventually("ready", async || ready("True").await).await;
    world.kill_cloudcore();
    drop(edge);
    world.start_cloudcore().await;
    eventually("unknown", async || ready("Unknown").await).await;
}

#[tokio::test]
async fn a_property_that_is_reported_while_nothing_else_happens_is_visible_quickly() {
    let world = World::start().await;
    let mut edge = connected(&world).await;
    let report = edge.report("dev/t1", "temp", "0", SAMPLED).await;
    edge.confirmed(&report).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let started = tokio::time::Instant::now();
    let report = edge.report("dev/t1", "temp", "1", SAMPLED + 1).await;
    edge.confirmed(&report).await;
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
}

#[tokio::test]
async fn reports_made_while_the_api_is_away_are_written_when_it_is_back() {
    let mut world = World::start().await;
    let mut edge = connected(&world).await;
    let report = edge.report("dev/t1", "temp", "0", SAMPLED).await;
    edge.confirmed(&report).await;
    world.kill_apiserver();
    let mut last = None;
    for n in 1..=100u64 {
        last = Some(edge.report("dev/t1", "temp", &n.to_string(), SAMPLED + n).await);
    }
    assert!(
        edge.is_quiet(Duration::from_secs(2)).await,
        "nothing is confirmed that is not written"
    );
    edge.say(&hub_proto::message::ToCloud::Keepalive).await;
    world.start_apiserver().await;
    edge.confirmed(&last.unwrap()).await;
    world.wait_reported("t1", "temp", "100").await;
    world.set_desired("t1", 9).await;
    edge.receive("t1").await;
}

#[tokio::test]
async fn without_the_status_subresource_everything_works_and_nothing_spins() {
    let world = World::start_without_subresources().await;
    let mut edge = connected(&world).await;
    edge.report("dev/t1", "temp", "20", SAMPLED).await;
    let report = edge.report("dev/t1", "set", "5", SAMPLED).await;
    edge.confirmed(&report).await;
    world.wait_reported("t1", "set", "5").await;
    world.wait_condition("t1", "Converged", "True Applied").await;
    world.wait_condition("t1", "Delivered", "True Stored").await;
    // Our own status writes raise the generation here; that must not look like a change.
    let writes = "kedge_cloudcore_status_writes_total{target=\"device\",outcome=\"written\"}";
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = world.metric(writes).await;
    assert!(edge.is_quiet(Duration::from_millis(2500)).await, "nothing is sent either");
    assert_eq!(world.metric(writes).await, before);
}

#[tokio::test]
async fn only_the_watched_namespaces_are_seen() {
    let world = World::start_with("watchNamespaces: [other]").await;
    world.create_model("m").await;
    world.create_device("t1", "gw-1", 1).await;
    let identity = join(&world, "gw-1").await;
    let mut edge = Edge::connect(&world, &identity, "gw-1").await;
    let list = edge.next().await.unwrap();
    assert!(matches!(&list.message, hub_proto::message::ToEdge::Devices(ids) if ids.is_empty()));
    assert!(edge.is_quiet(Duration::from_millis(300)).await);
}
