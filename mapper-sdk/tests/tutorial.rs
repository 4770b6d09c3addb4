//! docs/writing-a-mapper.md, the front page of the crate and examples/files.rs say the same, and it works.

include!("../examples/files.rs");

use mapper_sdk::testing::{FakeEdge, RunningMapper, device, model, property, with};
use serde_json::json;

#[tokio::test]
async fn a_thermostat_is_read_and_its_setpoint_written() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("temperature"), "21.5\n").unwrap();
    std::fs::write(directory.path().join("setpoint"), "20\n").unwrap();
    let edge = FakeEdge::start(directory.path());
    edge.know_model(model(
        "thermostat",
        &[
            ("temperature", "FLOAT", "ReadOnly", "", ""),
            ("setpoint", "FLOAT", "ReadWrite", "5", "30"),
        ],
    ));
    let config = json!({ "path": directory.path() });
    edge.know_device(with(
        device("t1", "thermostat", "files", &config),
        vec![
            property("temperature", None, 100, &json!({"file": "temperature"})),
            property("setpoint", Some("22"), 100, &json!({"file": "setpoint"})),
        ],
    ));
    let mapper = RunningMapper::start(Files, &edge);
    edge.until("the setpoint to be applied", |record| {
        record.value("t1", "temperature") == Some("21.5")
            && record.desired_metadata("t1", "setpoint", "state") == Some("applied")
    })
    .await;
    let written = std::fs::read_to_string(directory.path().join("setpoint")).unwrap();
    assert_eq!(written, "22");
    mapper.stop().await.unwrap();
}

const PAGE: &str = include_str!("../../docs/writing-a-mapper.md");
const EXAMPLE: &str = include_str!("../examples/files.rs");
const FRONT_PAGE: &str = include_str!("../src/lib.rs");
const THIS: &str = include_str!("tutorial.rs");

/// The code blocks of a language, in order.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let open = format!("```{language}\n");
    page.split(&open).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn the_tutorial_shows_the_example_and_the_test_that_run() {
    let rust = blocks(PAGE, "rust");
    assert!(EXAMPLE.ends_with(rust[0]), "the tutorial's driver differs from examples/files.rs");
    let test = rust[1].split_once("#[tokio::test]").unwrap().1;
    assert!(THIS.contains(test), "the tutorial's test differs from this file's");
    let front: String = FRONT_PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect();
    assert_eq!(blocks(&front, "no_run")[0], rust[0], "the front page differs from the tutorial");
}

#[test]
fn the_configuration_of_the_tutorial_loads_without_a_warning() {
    let (config, unknown) = mapper_sdk::Config::from_yaml(blocks(PAGE, "yaml")[0]).unwrap();
    assert_eq!(config.common.name, "files-mapper");
    assert_eq!(unknown, Vec::<String>::new());
}
