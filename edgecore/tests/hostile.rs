//! Whatever a local process sends to the socket, it gets an answer and the node lives.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use dmi_proto::v1beta1 as dmi;
use support::cloud::Cloud;
use support::mapper::{Mapper, dial};
use support::node::Node;
use support::{device, model, until};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tonic::Code;

fn status_of(twins: Vec<dmi::Twin>) -> dmi::ReportDeviceStatusRequest {
    dmi::ReportDeviceStatusRequest {
        device_name: "a".into(),
        device_namespace: "dev".into(),
        reported_device: Some(dmi::DeviceStatus { twins, ..dmi::DeviceStatus::default() }),
    }
}

fn twin(property: &str, value: &str) -> dmi::Twin {
    dmi::Twin {
        property_name: property.into(),
        observed_desired: None,
        reported: Some(dmi::TwinProperty { value: value.into(), ..dmi::TwinProperty::default() }),
    }
}

#[tokio::test]
async fn malformed_requests_are_answered_and_hurt_nobody() {
    let cloud = Cloud::start().await;
    cloud.put(model("m", 1));
    cloud.put(device("a", "m", "20", 2));
    let mut node = Node::start(&cloud).await;
    until("objects are acked", || cloud.all_acked()).await;
    let mut edge = dial(&node.socket());

    let nothing = dmi::MapperRegisterRequest { with_data: true, mapper: None };
    let error = edge.mapper_register(nothing).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let nameless =
        dmi::MapperRegisterRequest { with_data: true, mapper: Some(dmi::MapperInfo::default()) };
    assert_eq!(edge.mapper_register(nameless).await.unwrap_err().code(), Code::InvalidArgument);

    let empty = dmi::Twin { property_name: "t".into(), observed_desired: None, reported: None };
    for (request, code, text) in [
        (dmi::ReportDeviceStatusRequest::default(), Code::InvalidArgument, "device name"),
        (status_of(Vec::new()), Code::InvalidArgument, "twins is empty"),
        (status_of(vec![dmi::Twin::default()]), Code::InvalidArgument, "propertyName"),
        (status_of(vec![empty]), Code::InvalidArgument, "neither"),
        (status_of(vec![twin("t", "warm")]), Code::InvalidArgument, "\"t\""),
        (status_of(vec![twin("x", "1")]), Code::InvalidArgument, "no such property"),
        (status_of(vec![twin("t", &"9".repeat(70_000))]), Code::InvalidArgument, "bytes"),
        (status_of(vec![twin("t", "1"); 5000]), Code::InvalidArgument, "more than"),
        (
            dmi::ReportDeviceStatusRequest {
                device_name: "z".into(),
                ..status_of(vec![twin("t", "1")])
            },
            Code::NotFound,
            "dev/z",
        ),
    ] {
        let error = edge.report_device_status(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(text), "{error}");
    }
    let state = dmi::ReportDeviceStatesRequest {
        device_name: "a".into(),
        device_namespace: "dev".into(),
        state: "splendid".into(),
    };
    assert_eq!(edge.report_device_states(state).await.unwrap_err().code(), Code::InvalidArgument);
    // Over the message limit: refused before it is read.
    let huge = status_of(vec![twin("t", &"9".repeat(5 * 1024 * 1024))]);
    assert!(edge.report_device_status(huge).await.is_err());
    // Not gRPC at all.
    for junk in [&b"\0\0\0"[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 5000]] {
        let mut stream = UnixStream::connect(node.socket()).await.unwrap();
        let _ = stream.write_all(junk).await;
    }

    // A good value beside a bad one is taken all the same.
    let mixed = status_of(vec![twin("t", "12"), twin("n", "1.5")]);
    let error = edge.report_device_status(mixed).await.unwrap_err();
    assert!(error.message().contains("\"n\"") && !error.message().contains("\"t\""), "{error}");
    until("good value arrives", || cloud.reported("dev/a", "t").as_deref() == Some("12")).await;
    assert!(node.is_running());
}

#[tokio::test]
async fn any_utf8_up_to_the_limit_is_a_value() {
    let cloud = Cloud::start().await;
    let mut text_model = model("m", 1);
    text_model["spec"]["properties"][0] = serde_json::json!({"name": "t", "type": "STRING"});
    cloud.put(text_model);
    cloud.put(device("a", "m", "x", 2));
    let node = Node::start(&cloud).await;
    until("objects are acked", || cloud.all_acked()).await;
    let mut mapper = Mapper::start(node.path(), &node.socket(), "v");
    for value in ["25 °C", "{\"a\": [1, 2]}", "+=&?;'\"\\\u{0}\u{7}", &"ä".repeat(32 * 1024)] {
        mapper.report("a", "t", value, "").await.unwrap();
        until("value arrives", || cloud.reported("dev/a", "t").as_deref() == Some(value)).await;
    }
    let too_long = format!("{}x", "ä".repeat(32 * 1024));
    assert!(mapper.report("a", "t", &too_long, "").await.is_err());
}

#[tokio::test]
async fn registering_without_end_is_bounded() {
    let cloud = Cloud::start().await;
    let node = Node::start(&cloud).await;
    let mut edge = dial(&node.socket());
    let mut refused = 0;
    for index in 0..80 {
        let mapper = dmi::MapperInfo {
            name: format!("m{index}"),
            protocol: "virtual".into(),
            ..dmi::MapperInfo::default()
        };
        let request = dmi::MapperRegisterRequest { with_data: false, mapper: Some(mapper) };
        if let Err(error) = edge.mapper_register(request).await {
            assert_eq!(error.code(), Code::ResourceExhausted);
            refused += 1;
        }
    }
    assert_eq!(refused, 80 - 64);
}

#[tokio::test]
async fn a_flood_is_pushed_back_and_the_last_value_still_arrives() {
    let cloud = Cloud::start().await;
    cloud.put(model("m", 1));
    cloud.put(device("a", "m", "20", 2));
    let node = Node::start(&cloud).await;
    until("objects are acked", || cloud.all_acked()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..8 {
        let mut edge = dial(&node.socket());
        tasks.spawn(async move {
            for index in 0..500 {
                let value = format!("{}", (lane * 500 + index) % 100);
                match edge.report_device_status(status_of(vec![twin("t", &value)])).await {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.code(), Code::ResourceExhausted, "{error}"),
                }
            }
        });
    }
    tasks.join_all().await;
    let mut edge = dial(&node.socket());
    edge.report_device_status(status_of(vec![twin("t", "77.5")])).await.unwrap();
    until("last value arrives", || cloud.reported("dev/a", "t").as_deref() == Some("77.5")).await;
}
