//! One node, one cloud, one mapper: from the token to the reported value.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use hub_proto::id::{ObjectKey, ObjectKind};
use support::cloud::Cloud;
use support::mapper::Mapper;
use support::node::Node;
use support::{device, model, until, wait_for};

fn key(kind: ObjectKind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "dev", name).unwrap()
}

#[tokio::test]
async fn a_node_joins_holds_its_devices_and_reports_what_they_say() {
    let cloud = Cloud::start().await;
    cloud.put(model("m", 1));
    cloud.put(device("a", "m", "20", 2));
    let mut node = Node::start(&cloud).await;
    until("objects are acked", || cloud.all_acked()).await;
    std::fs::remove_file(node.path().join("token")).unwrap();

    let mut mapper = Mapper::start(node.path(), &node.socket(), "v");
    let answer = mapper.register().await;
    assert_eq!(answer.model_list.len(), 1);
    assert_eq!(answer.device_list.len(), 1);
    let spec = answer.device_list[0].spec.as_ref().unwrap();
    assert_eq!(spec.properties[0].desired.as_ref().unwrap().value, "20");

    mapper.report("a", "t", "21.5", "1754463538000").await.unwrap();
    until("value is in the cloud", || cloud.reported("dev/a", "t").as_deref() == Some("21.5"))
        .await;
    let values = cloud.state().values[&("dev/a".to_owned(), "t".to_owned())].clone();
    assert_eq!(values.reported.unwrap().sampled_ms, Some(1_754_463_538_000));
    assert_eq!(values.kind.as_deref(), Some("float"));
    until("device is online", || cloud.device_state("dev/a").as_deref() == Some("online")).await;

    // A changed desired value is one UpdateDevice and nothing else.
    cloud.put(device("a", "m", "25", 3));
    until("mapper has it", || mapper.desired("dev/a", "t").as_deref() == Some("25")).await;
    assert_eq!(mapper.state().calls, ["UpdateDevice dev/a"]);

    // A new device and a deleted one.
    cloud.put(device("b", "m", "1", 4));
    cloud.delete(&key(ObjectKind::Device, "a"));
    until("b is there and a is gone", || {
        let state = mapper.state();
        state.devices.contains_key("dev/b") && !state.devices.contains_key("dev/a")
    })
    .await;
    until("deletion is acked", || cloud.state().acked.len() == 2).await;
    let error = mapper.report("a", "t", "1", "").await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);

    until("keepalives", || cloud.state().keepalives >= 3).await;
    assert_eq!(cloud.state().connects, 1);
    assert!(cloud.state().lists_asked >= 1);
    let status = node.status().await;
    assert_eq!(status["link"]["connected"], true);
    assert_eq!(status["devices"][0]["acceptedBy"], "v");
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test]
async fn a_wrong_token_is_named_and_a_right_one_is_taken_when_it_comes() {
    let cloud = Cloud::start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), format!("{}.a.b.c", "00".repeat(32))).unwrap();
    let node = Node::start_in(dir, &cloud).await;
    let reason = wait_for("reason is shown", async || {
        let status = node.status().await;
        status["link"]["lastError"].as_str().map(str::to_owned)
    })
    .await;
    assert!(reason.contains("the CA at"), "{reason}");
    cloud.write_token(&node.path().join("token"));
    until("node joins", || cloud.state().connects == 1).await;
}

#[tokio::test]
async fn what_is_not_about_devices_is_acked_and_what_is_broken_is_refused() {
    let cloud = Cloud::start().await;
    let mut node = Node::start(&cloud).await;
    until("node is here", || cloud.state().connects == 1).await;
    cloud.send_foreign("f-1");
    for broken in [
        "",
        "{",
        "[]",
        "\u{0}",
        r#"{"header":{"msg_id":""},"route":{}}"#,
        r#"{"header":{"msg_id":"x"},"route":{"group":"twin","resource":"membership/detail"},"content":7}"#,
        r#"{"header":{"msg_id":"y"},"route":{"group":"resource","operation":"insert","resource":"dev/device/a"},"content":{"metadata":{"name":"b","namespace":"dev"}}}"#,
        r#"{"header":{"msg_id":"z"},"route":{"group":"resource","operation":"insert","resource":"dev/device/a"},"content":{"metadata":{"name":"a","namespace":"dev"},"spec":7}}"#,
        r#"{"header":{"msg_id":"w"},"route":{"group":"resource","operation":"insert","resource":"dev/device/c"},"content":{"metadata":{"name":"c","namespace":"dev"},"spec":{"properties":null}}}"#,
    ] {
        cloud.send_text(broken);
    }
    until("foreign message is acked", || cloud.state().foreign_acked == 1).await;
    until("wrong objects are refused", || cloud.state().refused.len() == 2).await;
    assert!(node.is_running());
    assert_eq!(cloud.state().connects, 1, "nothing of it ended the link");
    let status = wait_for("objects are shown", async || {
        let status = node.status().await;
        (status["devices"].as_array().unwrap().len() == 2).then_some(status)
    })
    .await;
    assert!(status["devices"][0]["problem"].as_str().unwrap().contains("not a Device"));
}
