//! A virtual device from registration to values, with an edgecore in the test's own process.

use mapper_sdk::testing::{FakeEdge, RunningMapper, device, model, property, with};
use mapper_virtual::Virtual;
use serde_json::json;

#[tokio::test]
async fn a_virtual_device_shows_its_signals_and_keeps_what_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let edge = FakeEdge::start(directory.path());
    edge.know_model(model(
        "m",
        &[
            ("level", "DOUBLE", "ReadOnly", "", ""),
            ("count", "INT", "ReadOnly", "", ""),
            ("mode", "STRING", "ReadWrite", "", ""),
            ("limit", "INT", "ReadWrite", "", ""),
            ("nonsense", "STRING", "ReadOnly", "", ""),
        ],
    ));
    let sine = json!({"kind": "sine", "min": 10, "max": 20, "period": 500});
    let properties = vec![
        property("level", None, 20, &sine),
        property("count", None, 20, &json!({"kind": "counter"})),
        property("mode", Some("eco"), 20, &json!({})),
        property("limit", Some("5"), 20, &json!({"dataType": "int"})),
        property("nonsense", None, 20, &json!({"kind": "sine"})),
    ];
    edge.know_device(with(device("v", "m", "virtual", &json!({"deviceID": 1})), properties));
    let mapper = RunningMapper::start(Virtual, &edge);
    edge.until("a counter that counts and a text that was written", |record| {
        let count = record.value("v", "count").and_then(|count| count.parse().ok());
        count.is_some_and(|count: i64| count > 5)
            && record.value("v", "mode") == Some("eco")
            && record.desired_metadata("v", "limit", "state") == Some("applied")
    })
    .await;
    let record = edge.record();
    assert_eq!(record.state("v"), Some("online"));
    assert_eq!(record.desired_metadata("v", "mode", "state"), Some("applied"));
    assert_eq!(record.value("v", "nonsense"), None);
    // The desired limit was written: whatever is read from here on is below it.
    edge.clear();
    edge.until("limited numbers", |record| record.value("v", "limit").is_some()).await;
    let limit: i64 = edge.record().value("v", "limit").unwrap().parse().unwrap();
    assert!((0..5).contains(&limit), "{limit}");
    let level: f64 = record.value("v", "level").unwrap().parse().unwrap();
    assert!((10.0..=20.0).contains(&level), "{level}");
    mapper.stop().await.unwrap();
}
