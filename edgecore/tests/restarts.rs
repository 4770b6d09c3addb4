//! Any part goes away and comes back, in any order, and everything is as it should be again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::time::Duration;

use hub_proto::id::{ObjectKey, ObjectKind};
use support::cloud::Cloud;
use support::mapper::Mapper;
use support::node::Node;
use support::{device, model, until, wait_for};

fn key(kind: ObjectKind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "dev", name).unwrap()
}

async fn one_device() -> (Cloud, Node) {
    let cloud = Cloud::start().await;
    cloud.put(model("m", 1));
    cloud.put(device("a", "m", "20", 2));
    let node = Node::start(&cloud).await;
    until("objects are acked", || cloud.all_acked()).await;
    (cloud, node)
}

#[tokio::test]
async fn a_node_started_without_its_cloud_serves_devices_from_its_store() {
    let (mut cloud, mut node) = one_device().await;
    cloud.stop_hub().await;
    node.kill();
    node.spawn().await;
    let mut mapper = Mapper::start(node.path(), &node.socket(), "v");
    let answer = mapper.register().await;
    assert_eq!(answer.device_list.len(), 1);
    mapper.report("a", "t", "33", "").await.unwrap();
    mapper.report("a", "n", "7", "").await.unwrap();
    mapper.report("a", "t", "34", "").await.unwrap();
    cloud.start_hub().await;
    until("values made offline arrive", || {
        cloud.reported("dev/a", "t").as_deref() == Some("34")
            && cloud.reported("dev/a", "n").as_deref() == Some("7")
    })
    .await;
    let log = cloud.state().value_log.clone();
    assert!(!log.contains(&("dev/a".into(), "t".into(), "33".into())), "only the newest: {log:?}");
}

#[tokio::test]
async fn values_that_the_cloud_did_not_confirm_survive_a_kill() {
    let (mut cloud, mut node) = one_device().await;
    cloud.stop_hub().await;
    let mut mapper = Mapper::start(node.path(), &node.socket(), "v");
    mapper.register().await;
    mapper.report("a", "t", "41", "1754463538000").await.unwrap();
    wait_for("value is on disk", async || {
        let status = node.status().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        (status["store"]["writesWaiting"] == 0
            && status["devices"][0]["properties"][0]["reported"] == "41")
            .then_some(())
    })
    .await;
    node.kill();
    mapper.kill();
    node.spawn().await;
    cloud.start_hub().await;
    until("value arrives", || cloud.reported("dev/a", "t").as_deref() == Some("41")).await;
    let values = cloud.state().values[&("dev/a".to_owned(), "t".to_owned())].clone();
    assert_eq!(values.reported.unwrap().sampled_ms, Some(1_754_463_538_000));
}

#[tokio::test]
async fn what_was_deleted_while_apart_is_gone_after_the_next_connect() {
    let (mut cloud, node) = one_device().await;
    cloud.put(model("m2", 3));
    cloud.put(device("b", "m2", "1", 4));
    until("objects are acked", || cloud.all_acked()).await;
    let mut mapper = Mapper::start(node.path(), &node.socket(), "v");
    mapper.register().await;
    cloud.stop_hub().await;
    {
        let mut state = cloud.state();
        state.objects.remove(&key(ObjectKind::Device, "a")).unwrap();
        state.objects.remove(&key(ObjectKind::DeviceModel, "m")).unwrap();
    }
    cloud.start_hub().await;
    until("mapper has dropped them", || {
        let state = mapper.state();
        state.devices.keys().eq(["dev/b"]) && state.models.keys().eq(["dev/m2"])
    })
    .await;
    assert_eq!(mapper.state().calls, ["RemoveDevice dev/a", "RemoveDeviceModel dev/m"]);
    let status = node.status().await;
    assert_eq!(status["store"]["devices"], 1);
    assert_eq!(status["store"]["models"], 1);
}

#[tokio::test]
async fn a_cut_link_changes_nothing_and_comes_back_within_five_seconds() {
    let (cloud, node) = one_device().await;
    let mut mapper = Mapper::start(node.path(), &node.socket(), "v");
    mapper.register().await;
    for round in 2..5 {
        cloud.cut();
        tokio::time::timeout(
            Duration::from_secs(5),
            until("node is back", || cloud.state().connects == round),
        )
        .await
        .expect("within 5 s");
    }
    mapper.report("a", "t", "5", "").await.unwrap();
    until("value arrives", || cloud.reported("dev/a", "t").as_deref() == Some("5")).await;
    assert!(mapper.state().calls.is_empty(), "{:?}", mapper.state().calls);
}

#[tokio::test]
async fn a_mapper_that_was_killed_is_told_everything_when_it_registers_again() {
    let (cloud, node) = one_device().await;
    let mut mapper = Mapper::start(node.path(), &node.socket(), "v");
    mapper.register().await;
    mapper.kill();
    cloud.put(device("a", "m", "30", 3));
    cloud.put(device("b", "m", "1", 4));
    until("objects are acked", || cloud.all_acked()).await;
    mapper.listen();
    // Before it registers it is called with what it is still owed.
    until("calls come", || mapper.desired("dev/a", "t").as_deref() == Some("30")).await;
    let answer = mapper.register().await;
    let names: Vec<&str> = answer.device_list.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(answer.model_list.len(), 1);
}

#[tokio::test]
async fn after_a_restart_of_the_node_its_mapper_is_called_without_registering() {
    let (cloud, mut node) = one_device().await;
    let mut mapper = Mapper::start(node.path(), &node.socket(), "v");
    mapper.register().await;
    node.kill();
    cloud.put(device("a", "m", "55", 3));
    cloud.put(device("b", "m", "1", 4));
    node.spawn().await;
    until("mapper has both", || {
        mapper.desired("dev/a", "t").as_deref() == Some("55")
            && mapper.state().devices.contains_key("dev/b")
    })
    .await;
    let calls = mapper.state().calls.clone();
    assert_eq!(calls, ["UpdateDevice dev/a", "RegisterDevice dev/b"], "only what differs");
}

#[tokio::test]
async fn a_mapper_that_refuses_or_hangs_on_one_device_gets_the_others_and_then_that_one() {
    let (cloud, node) = one_device().await;
    let mut mapper = Mapper::start(node.path(), &node.socket(), "v");
    let mut other = Mapper::start(node.path(), &node.socket(), "w");
    let info = dmi_proto::v1beta1::MapperInfo { protocol: "other".into(), ..other.info() };
    let request = dmi_proto::v1beta1::MapperRegisterRequest { with_data: true, mapper: Some(info) };
    other.edge.mapper_register(request).await.unwrap();
    mapper.register().await;
    mapper.state().failing.insert("dev/b".into());
    mapper.state().hanging.insert("dev/c".into());
    cloud.put(device("b", "m", "1", 3));
    until("b is tried", || mapper.state().calls.contains(&"RegisterDevice dev/b".into())).await;
    cloud.put(device("c", "m", "1", 4));
    until("c is tried", || mapper.state().calls.contains(&"RegisterDevice dev/c".into())).await;
    let mut elsewhere = device("d", "m", "1", 5);
    elsewhere["spec"]["protocol"]["protocolName"] = "other".into();
    cloud.put(elsewhere);
    until("other mapper is served", || other.state().devices.contains_key("dev/d")).await;
    assert!(!mapper.state().devices.contains_key("dev/b"));
    mapper.state().failing.clear();
    mapper.state().hanging.clear();
    until("b is taken", || mapper.state().devices.contains_key("dev/b")).await;
    until("c is taken", || mapper.state().devices.contains_key("dev/c")).await;
}

#[tokio::test]
async fn devices_of_a_lost_mapper_become_unknown_and_online_again() {
    let (cloud, node) = one_device().await;
    let mut mapper = Mapper::start(node.path(), &node.socket(), "v");
    mapper.register().await;
    mapper.report("a", "t", "5", "").await.unwrap();
    until("device is online", || cloud.device_state("dev/a").as_deref() == Some("online")).await;
    mapper.kill();
    until("device is unknown", || cloud.device_state("dev/a").as_deref() == Some("unknown")).await;
    assert!(cloud.state().states["dev/a"].1.is_some(), "when it was last online is kept");
    mapper.listen();
    mapper.register().await;
    mapper.report("a", "t", "5", "").await.unwrap();
    until("device is online", || cloud.device_state("dev/a").as_deref() == Some("online")).await;
}

#[tokio::test]
async fn a_damaged_store_is_set_aside_and_filled_anew() {
    let (cloud, mut node) = one_device().await;
    assert_eq!(node.stop().await, Some(0));
    std::fs::write(node.path().join("data/edgecore.db"), vec![0x5a; 8192]).unwrap();
    cloud.state().acked.clear();
    node.spawn().await;
    until("objects are acked again", || cloud.all_acked()).await;
    let names: Vec<String> = std::fs::read_dir(node.path().join("data"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().any(|name| name.starts_with("edgecore.db.corrupt-")), "{names:?}");
}

#[tokio::test]
async fn two_nodes_do_not_share_a_store() {
    let (_cloud, node) = one_device().await;
    let config = std::fs::read_to_string(node.path().join("edgecore.yaml")).unwrap();
    let config = config.replace(&node.ops.to_string(), "127.0.0.1:0").replace("dmi.sock", "2.sock");
    let second = node.path().join("second.yaml");
    std::fs::write(&second, config).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_edgecore"))
        .arg("--config")
        .arg(&second)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another edgecore"));
}
