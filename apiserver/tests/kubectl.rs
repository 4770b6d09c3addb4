//! The real kubectl against the server: what people and scripts do.

mod support;

use std::process::Stdio;

use support::{World, eventually, fixture, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

fn path(name: &str) -> String {
    fixture(name).display().to_string()
}

async fn world() -> World {
    let world = World::start().await;
    world.define("devices_v1beta1_device.yaml").await;
    world.define("devices_v1beta1_devicemodel.yaml").await;
    world.define("widgets-crd.yaml").await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn get_prints_tables_yaml_json_and_names() {
    let world = world().await;
    world.ok(&["create", "-f", &path("widget.yaml")]).await;
    let table = world.ok(&["get", "widgets"]).await;
    assert!(table.starts_with("NAME   COLOR   SIZE"), "{table}");
    let wide = world.ok(&["get", "wd", "-o", "wide"]).await;
    assert!(wide.lines().next().unwrap().len() >= table.lines().next().unwrap().len());
    let yaml = world.ok(&["get", "wd", "w1", "-o", "yaml"]).await;
    assert!(yaml.contains("kind: Widget"), "{yaml}");
    let list = json(&world.ok(&["get", "widgets", "-A", "-o", "json"]).await);
    assert_eq!(list["items"][0]["metadata"]["name"], "w1");
    let namespaces = world.ok(&["get", "ns"]).await;
    assert!(namespaces.contains("kube-node-lease   Active"), "{namespaces}");
    assert_eq!(
        world.ok(&["get", "golden", "-o", "name"]).await.trim(),
        "widget.golden.example.com/w1"
    );
    let sorted = world.ok(&["get", "ns", "--sort-by=.metadata.name"]).await;
    assert!(sorted.contains("default"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_object_or_kind_is_named() {
    let world = world().await;
    let error = world.fails(&["get", "device", "nope"], "").await;
    assert_eq!(
        error.trim(),
        "Error from server (NotFound): devices.devices.kubeedge.io \"nope\" not found"
    );
    assert_eq!(world.ok(&["get", "device", "nope", "--ignore-not-found"]).await, "");
    let error = world.fails(&["get", "gizmos"], "").await;
    assert!(error.contains("the server doesn't have a resource type \"gizmos\""), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_side_apply_creates_configures_and_rests() {
    let world = world().await;
    let file = path("device.yaml");
    assert!(world.ok(&["apply", "-f", &file]).await.contains("created"));
    assert!(world.ok(&["apply", "-f", &file]).await.contains("unchanged"));
    let changed = std::fs::read_to_string(&file).unwrap().replace("room: lab", "room: hall");
    assert!(world.ok_with(&["apply", "-f", "-"], &changed).await.contains("configured"));
    let device = json(&world.ok(&["get", "device", "thermo-1", "-o", "json"]).await);
    assert_eq!(device["metadata"]["labels"]["room"], "hall");
    let difference = world.kubectl(&["diff", "-f", &file], "").await;
    assert_eq!(difference.code, 1, "{difference:?}");
    assert!(difference.stdout.contains("-    room: hall"), "{}", difference.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_conflicts_until_forced() {
    let world = world().await;
    let file = path("device.yaml");
    world.ok(&["apply", "--server-side", "-f", &file]).await;
    world.ok(&["apply", "--server-side", "-f", &file]).await;
    let patch = r#"{"spec":{"nodeName":"other"}}"#;
    world.ok(&["patch", "device", "thermo-1", "--type=merge", "-p", patch]).await;
    let error = world.fails(&["apply", "--server-side", "-f", &file], "").await;
    assert!(error.contains("conflict with \"kubectl-patch\""), "{error}");
    assert!(error.contains(".spec.nodeName"), "{error}");
    world.ok(&["apply", "--server-side", "--force-conflicts", "-f", &file]).await;
    let node = world.ok(&["get", "device", "thermo-1", "-o", "jsonpath={.spec.nodeName}"]).await;
    assert_eq!(node, "edge-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_side_object_is_taken_over_by_server_side_apply() {
    let world = world().await;
    let file = path("device.yaml");
    world.ok(&["apply", "-f", &file]).await;
    world.ok(&["apply", "--server-side", "-f", &file]).await;
    let device = json(
        &world.ok(&["get", "device", "thermo-1", "-o", "json", "--show-managed-fields"]).await,
    );
    let managers = device["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.iter().any(|m| m["manager"] == "kubectl" && m["operation"] == "Apply"));
}

#[tokio::test(flavor = "multi_thread")]
async fn built_in_kinds_are_created_in_protobuf_and_applied() {
    let world = world().await;
    world.ok(&["create", "namespace", "lab"]).await;
    world.ok(&["create", "configmap", "c", "--from-literal=a=1", "-n", "lab"]).await;
    world.ok(&["create", "secret", "generic", "s", "--from-literal=a=1", "-n", "lab"]).await;
    world.ok(&["create", "serviceaccount", "robot", "-n", "lab"]).await;
    let secret =
        world.ok(&["get", "secret", "s", "-n", "lab", "-o", "jsonpath={.data.a} {.type}"]).await;
    assert_eq!(secret, "MQ== Opaque");
    let file =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: d, namespace: lab}\ndata: {x: one}\n";
    assert!(world.ok_with(&["apply", "-f", "-"], file).await.contains("created"));
    let changed = file.replace("x: one", "x: two");
    assert!(world.ok_with(&["apply", "-f", "-"], &changed).await.contains("configured"));
    assert!(
        world
            .ok_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], file)
            .await
            .contains("applied")
    );
    world.ok(&["delete", "namespace", "lab"]).await;
    assert!(world.fails(&["get", "ns", "lab"], "").await.contains("NotFound"));
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_every_type_work() {
    let world = world().await;
    world.ok(&["apply", "-f", &path("device.yaml")]).await;
    let node =
        async || world.ok(&["get", "device", "thermo-1", "-o", "jsonpath={.spec.nodeName}"]).await;
    world
        .ok(&["patch", "device", "thermo-1", "--type=merge", "-p", r#"{"spec":{"nodeName":"a"}}"#])
        .await;
    assert_eq!(node().await, "a");
    let json_patch = r#"[{"op":"test","path":"/spec/nodeName","value":"a"},{"op":"replace","path":"/spec/nodeName","value":"b"}]"#;
    world.ok(&["patch", "device", "thermo-1", "--type=json", "-p", json_patch]).await;
    assert_eq!(node().await, "b");
    let failing = r#"[{"op":"test","path":"/spec/nodeName","value":"zzz"}]"#;
    let error =
        world.fails(&["patch", "device", "thermo-1", "--type=json", "-p", failing], "").await;
    assert!(error.contains("the server rejected our request"), "{error}");
    world
        .ok_with(&["create", "-f", "-"], "{apiVersion: v1, kind: Node, metadata: {name: gw}}")
        .await;
    let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    world.ok(&["patch", "node", "gw", "--subresource=status", "-p", ready]).await;
    let disk = r#"{"status":{"conditions":[{"type":"DiskPressure","status":"False"}]}}"#;
    world.ok(&["patch", "node", "gw", "--subresource=status", "-p", disk]).await;
    let types =
        world.ok(&["get", "node", "gw", "-o", "jsonpath={.status.conditions[*].type}"]).await;
    assert!(types.contains("Ready") && types.contains("DiskPressure"), "{types}");
    let text = world.ok(&["describe", "node", "gw"]).await;
    assert!(text.contains("DiskPressure"), "{text}");
    world.ok(&["cordon", "gw"]).await;
    assert!(world.ok(&["get", "nodes"]).await.contains("Ready,SchedulingDisabled"));
    world.ok(&["taint", "nodes", "gw", "a=b:NoSchedule"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn label_annotate_edit_and_replace() {
    let world = world().await;
    world.ok(&["apply", "-f", &path("device.yaml")]).await;
    world.ok(&["label", "device", "thermo-1", "zone=1"]).await;
    world.ok(&["annotate", "device", "thermo-1", "note=hello"]).await;
    let selected =
        world.ok(&["get", "devices", "-l", "zone in (1,2),room!=hall", "-o", "name"]).await;
    assert_eq!(selected.trim(), "device.devices.kubeedge.io/thermo-1");
    assert_eq!(world.ok(&["get", "devices", "-l", "zone=2", "-o", "name"]).await, "");
    let editor = world.dir.path().join("editor.sh");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/nodeName: edge-1/nodeName: edited/' \"$1\"\n")
        .unwrap();
    let mut command = world.command(&["edit", "device", "thermo-1"]);
    command.env("EDITOR", format!("sh {}", editor.display()));
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let object = world.ok(&["get", "device", "thermo-1", "-o", "json"]).await;
    assert_eq!(json(&object)["spec"]["nodeName"], "edited");
    world.ok_with(&["replace", "-f", "-"], &object.replace("edited", "replaced")).await;
    let error = world.fails(&["replace", "-f", "-"], &object).await;
    assert!(
        error.contains("(Conflict)") && error.contains("the object has been modified"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_waits_for_finalizers() {
    let world = world().await;
    world.ok(&["apply", "-f", &path("device.yaml")]).await;
    world
        .ok(&[
            "patch",
            "device",
            "thermo-1",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":["example.com/hold"]}}"#,
        ])
        .await;
    let mut deleting = world.command(&["delete", "device", "thermo-1"]);
    let child = deleting.stdout(Stdio::null()).spawn().unwrap();
    eventually("the device is marked", async || {
        let stamp = world
            .ok(&["get", "device", "thermo-1", "-o", "jsonpath={.metadata.deletionTimestamp}"])
            .await;
        !stamp.is_empty()
    })
    .await;
    let error = world
        .fails(
            &[
                "patch",
                "device",
                "thermo-1",
                "--type=merge",
                "-p",
                r#"{"metadata":{"finalizers":["example.com/hold","example.com/more"]}}"#,
            ],
            "",
        )
        .await;
    assert!(
        error.contains("no new finalizers can be added if the object is being deleted"),
        "{error}"
    );
    world
        .ok(&[
            "patch",
            "device",
            "thermo-1",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":null}}"#,
        ])
        .await;
    let output =
        tokio::time::timeout(support::PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success());
    assert!(world.fails(&["get", "device", "thermo-1"], "").await.contains("NotFound"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_sees_json_paths_conditions_and_deletions() {
    let world = world().await;
    world.ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=10s"]).await;
    world.ok(&["apply", "-f", &path("device.yaml")]).await;
    let waiting = world
        .command(&[
            "wait",
            "--for=jsonpath={.spec.nodeName}=later",
            "device/thermo-1",
            "--timeout=15s",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    world
        .ok(&[
            "patch",
            "device",
            "thermo-1",
            "--type=merge",
            "-p",
            r#"{"spec":{"nodeName":"later"}}"#,
        ])
        .await;
    let output = waiting.wait_with_output().await.unwrap();
    assert!(output.status.success());
    world
        .ok(&["wait", "--for=jsonpath={.spec.nodeName}=later", "device/thermo-1", "--timeout=5s"])
        .await;
    let gone = world
        .command(&["wait", "--for=delete", "device/thermo-1", "--timeout=15s"])
        .spawn()
        .unwrap();
    world.ok(&["delete", "device", "thermo-1", "--wait=false"]).await;
    assert!(gone.wait_with_output().await.unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn get_watch_prints_changes_as_they_come() {
    let world = world().await;
    let mut child =
        world.command(&["get", "devices", "-w"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    world.ok(&["apply", "-f", &path("device.yaml")]).await;
    world.ok(&["delete", "device", "thermo-1"]).await;
    let mut rows = 0;
    let read = async {
        while rows < 2 {
            let line = lines.next_line().await.unwrap().unwrap();
            rows += usize::from(line.contains("thermo-1"));
        }
    };
    tokio::time::timeout(support::PATIENCE, read).await.expect("two rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn describe_explain_and_discovery() {
    let world = world().await;
    world.ok(&["apply", "-f", &path("device.yaml")]).await;
    let text = world.ok(&["describe", "device", "thermo-1"]).await;
    assert!(text.contains("Node Name:") && text.contains("Events:"), "{text}");
    let text = world.ok(&["explain", "device.spec.nodeName"]).await;
    assert!(text.contains("FIELD: nodeName <string>"), "{text}");
    assert!(world.ok(&["explain", "node.status.conditions"]).await.contains("lastHeartbeatTime"));
    let resources = world.ok(&["api-resources"]).await;
    assert!(resources.contains("devicemodels") && resources.contains("wd"), "{resources}");
    assert!(world.ok(&["api-versions"]).await.contains("devices.kubeedge.io/v1beta1"));
    assert!(world.ok(&["auth", "can-i", "create", "devices"]).await.contains("yes"));
    assert!(world.ok(&["auth", "whoami"]).await.contains("kubernetes-admin"));
    assert!(world.ok(&["version"]).await.contains("Server Version"));
}

#[tokio::test(flavor = "multi_thread")]
async fn typos_are_refused_and_invalid_objects_name_the_field() {
    let world = world().await;
    let good = std::fs::read_to_string(path("device.yaml")).unwrap();
    let error = world.fails(&["apply", "-f", "-"], &good.replace("nodeName:", "nodName:")).await;
    assert!(error.contains("unknown field \"spec.nodName\""), "{error}");
    let output = world
        .kubectl(&["apply", "--validate=warn", "-f", "-"], &good.replace("nodeName:", "nodName:"))
        .await;
    assert!(output.stderr.contains("Warning: unknown field \"spec.nodName\""), "{output:?}");
    let error =
        world.fails(&["apply", "-f", "-"], &good.replace("nodeName: edge-1", "nodeName: 5")).await;
    assert!(error.contains("spec.nodeName: Invalid value: \"integer\""), "{error}");
    let widget = std::fs::read_to_string(path("widget.yaml")).unwrap();
    let error =
        world.fails(&["create", "-f", "-"], &widget.replace("color: red", "color: mauve")).await;
    assert!(error.contains("spec.color: Unsupported value: \"mauve\""), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scale_and_delete_all() {
    let world = world().await;
    world.ok(&["create", "-f", &path("widget.yaml")]).await;
    world.ok(&["scale", "widget", "w1", "--replicas=3"]).await;
    assert_eq!(world.ok(&["get", "wd", "w1", "-o", "jsonpath={.spec.replicas}"]).await, "3");
    world.ok(&["delete", "widgets", "--all"]).await;
    assert_eq!(world.ok(&["get", "wd", "-o", "name"]).await, "");
    world.ok(&["delete", "crd", "widgets.golden.example.com"]).await;
    assert!(
        world.fails(&["get", "widgets.golden.example.com"], "").await.contains("resource type")
    );
}
