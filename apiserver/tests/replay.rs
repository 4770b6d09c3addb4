//! Replays the probes of session 3-devices-raw against the server and compares every answer.
//!
//! What differs by nature (uids, versions, times, ages) is normalised on both sides; causes compare as
//! sets. Steps that differ on purpose are listed with the reason in [`DIFFERENT`].

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use kube::client::Body;
use regex::Regex;
use serde_json::{Value, json};
use support::World;

/// The slowest answer is that to a version from the future, after three seconds.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(6);

/// Steps that are not replayed, or whose answer is not the recorded one; each with the reason.
struct Differences {
    /// Steps that would change what later ones meet.
    not_sent: &'static [(&'static str, &'static str)],
    accepted: &'static [(&'static str, &'static str)],
}

/// Session 3-devices-raw. The recorded server had no garbage collector beside it.
const RAW: Differences = Differences {
    not_sent: &[
        ("138", "the owner does not exist: the collector takes the object"),
        ("323", "foreground deletion finishes"),
        ("324", "as 323"),
        ("325", "as 323"),
        ("326", "as 323"),
        ("327", "orphaning finishes"),
        ("328", "as 327"),
        ("329", "as 327"),
        ("330", "as 327"),
        ("070", "kube's client retries a 504 for long"),
        ("188", "as 070"),
        ("189", "as 070"),
    ],
    accepted: &[
        ("341", "the objects of 323 to 330 are still there"),
        ("190", "the history here still reaches back to the beginning"),
        ("057", "a Table as YAML: descriptions in our own words"),
        ("060", "names a Go type"),
        ("171", "the text of a base64 decoder"),
        ("433", "the text of a YAML parser"),
        // Known, to be brought in line.
        ("022", "warnings are not sent along with a 400"),
        ("349", "warnings are not sent along with a 422"),
        ("045", "YAML answers do not quote times"),
        ("443", "as 045"),
    ],
};

/// Session 4-core, up to the events.
const CORE: Differences = Differences {
    not_sent: &[],
    accepted: &[
        ("001", "the first namespaces are made without ownership"),
        ("002", "as 001"),
        ("005", "as 001"),
        ("007", "no resource quotas and limit ranges are served"),
        ("056", "no pods are served"),
        ("073", "as 056"),
        ("078", "as 056"),
        ("017", "every namespace has its root certificate here"),
        ("024", "the quoted object has its keys in order"),
        ("029", "as 024"),
        ("034", "protobuf answers are not given"),
        ("104", "one cause where the real server gives three"),
        ("051", "new nodes are not tainted: nothing here would take the taint away"),
        ("058", "as 051"),
        ("059", "as 051"),
        ("060", "as 051"),
        ("061", "as 051"),
        ("062", "as 051"),
        // Known, to be brought in line.
        ("015", "the finalized namespace carries no version"),
        ("041", "counts are of type integer here, string there"),
        ("050", "as 041"),
        ("113", "as 041"),
        ("114", "as 041"),
        ("115", "as 041"),
        ("116", "as 041"),
        ("117", "as 041"),
        ("057", "an empty message of a condition is kept"),
    ],
};

#[tokio::test]
async fn custom_resources_get_the_recorded_answers() {
    let world = World::start().await;
    world.define("devices_v1beta1_device.yaml").await;
    world.define("widgets-crd.yaml").await;
    replay(world, "replay-raw.jsonl", &RAW).await;
}

#[tokio::test]
async fn built_in_kinds_get_the_recorded_answers() {
    let world = World::start().await;
    world.define("devices_v1beta1_device.yaml").await;
    replay(world, "replay-core.jsonl", &CORE).await;
}

async fn replay(world: World, file: &str, differences: &Differences) {
    let client = world.client().await;
    let mut replay = Replay::new();
    let mut wrong = Vec::new();
    for line in std::fs::read_to_string(support::fixture(file)).unwrap().lines() {
        let step: Value = serde_json::from_str(line).unwrap();
        let number = step["step"].as_str().unwrap();
        if differences.not_sent.iter().any(|(known, _)| *known == number) {
            continue;
        }
        let excused = differences.accepted.iter().any(|(known, _)| *known == number);
        let request = replay.request(&step);
        let answer = tokio::time::timeout(PATIENCE, send(&client, &request)).await;
        let Ok((status, warning, body)) = answer else {
            if !excused {
                wrong.push(format!("{number} {}: no answer", step["title"]));
            }
            continue;
        };
        let want_body =
            step.get("json").cloned().or_else(|| step.get("answer").cloned()).unwrap_or_default();
        replay.learn(&want_body, &body);
        let body = if step["anyBody"] == true { want_body.clone() } else { body };
        let want = replay.normal(&json!([step["status"], step.get("warning"), want_body]));
        let got = replay.normal(&json!([status, warning, body]));
        if want != got && !excused {
            let mut lines = Vec::new();
            difference("", &want, &got, &mut lines);
            let method = step["method"].as_str().unwrap();
            wrong.push(format!("{number} {} {method}\n{}", step["title"], lines.join("\n")));
        }
    }
    world.stop().await;
    assert!(wrong.is_empty(), "{} steps differ:\n{}", wrong.len(), wrong.join("\n"));
}

async fn send(client: &kube::Client, request: &Request<Vec<u8>>) -> (u16, Value, Value) {
    let mut builder = Request::builder().method(request.method()).uri(request.uri());
    for (name, value) in request.headers() {
        builder = builder.header(name, value);
    }
    let request = builder.body(Body::from(request.body().clone())).unwrap();
    let response = client.send(request).await.unwrap();
    let status = response.status().as_u16();
    let warnings = response.headers().get_all("warning").iter();
    let warnings: Vec<Value> = warnings.map(|w| w.to_str().unwrap().into()).collect();
    let warning = match warnings.as_slice() {
        [] => Value::Null,
        [one] => one.clone(),
        many => many.into(),
    };
    let bytes = response.into_body().collect_bytes().await.unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = match serde_json::from_str(&text) {
        Ok(body) => body,
        Err(_) if text.is_empty() => Value::Null,
        Err(_) => Value::String(text),
    };
    (status, warning, body)
}

/// Knows what the recorded server's uids, versions and names are called by this one.
struct Replay {
    names: BTreeMap<String, String>,
    uid: Regex,
    number: Regex,
    time: Regex,
    version: Regex,
}

impl Replay {
    fn new() -> Self {
        let regex = |text| Regex::new(text).unwrap();
        Self {
            names: BTreeMap::new(),
            uid: regex("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
            number: regex(r"\b[0-9]{1,8}\b"),
            version: regex(r#"resourceVersion\\?["']?: ?\\?["'][0-9]+"#),
            time: regex(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z"),
        }
    }

    fn request(&self, step: &Value) -> Request<Vec<u8>> {
        let text = |key: &str| step[key].as_str().unwrap_or_default();
        let (path, query) = text("path").split_once('?').unwrap_or((text("path"), ""));
        let query: Vec<String> = query.split('&').map(|pair| self.pair(pair)).collect();
        let mut path: String =
            path.split('/').map(|part| self.ours(part)).collect::<Vec<_>>().join("/");
        if query != [""] {
            path.push_str(&format!("?{}", query.join("&")));
        }
        let body = match (step.get("body"), step.get("text")) {
            (Some(body), _) => self.translated(body, "").to_string().into_bytes(),
            (None, Some(text)) => text.as_str().unwrap().as_bytes().to_vec(),
            (None, None) => STANDARD.decode(text("b64")).unwrap(),
        };
        let mut builder = Request::builder().method(text("method")).uri(path);
        for (name, value) in step["headers"].as_object().unwrap() {
            builder = builder.header(name, value.as_str().unwrap());
        }
        builder.body(body).unwrap()
    }

    fn pair(&self, pair: &str) -> String {
        match pair.split_once('=') {
            Some((key @ ("resourceVersion" | "continue"), value)) => {
                format!("{key}={}", self.ours(value))
            }
            Some(_) | None => {
                let uid = |found: &regex::Captures<'_>| self.ours(&found[0]);
                self.uid.replace_all(pair, uid).into_owned()
            }
        }
    }

    fn ours(&self, theirs: &str) -> String {
        self.names.get(theirs).cloned().unwrap_or_else(|| theirs.to_owned())
    }

    fn translated(&self, value: &Value, key: &str) -> Value {
        match value {
            Value::Object(map) => {
                map.iter().map(|(k, v)| (k.clone(), self.translated(v, k))).collect()
            }
            Value::Array(items) => items.iter().map(|v| self.translated(v, key)).collect(),
            Value::String(text)
                if ["uid", "resourceVersion", "name", "creationTimestamp"].contains(&key) =>
            {
                self.ours(text).into()
            }
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    /// Remembers what this server calls what the recorded one named.
    fn learn(&mut self, theirs: &Value, ours: &Value) {
        match (theirs, ours) {
            (Value::Object(theirs), Value::Object(ours)) => {
                for (key, value) in theirs {
                    let Some(other) = ours.get(key) else { continue };
                    if let (Value::String(a), Value::String(b)) = (value, other)
                        && (["uid", "resourceVersion", "continue", "creationTimestamp"]
                            .contains(&key.as_str())
                            || is_generated(a))
                    {
                        self.names.insert(a.clone(), b.clone());
                    }
                    self.learn(value, other);
                }
            }
            (Value::Array(theirs), Value::Array(ours)) => {
                theirs.iter().zip(ours).for_each(|(a, b)| self.learn(a, b));
            }
            _ => {}
        }
    }

    fn normal(&self, value: &Value) -> Value {
        self.normal_at(value, "")
    }

    fn normal_at(&self, value: &Value, key: &str) -> Value {
        match value {
            Value::Object(map) => {
                let told = map.iter().filter(|(k, v)| !is_go_zero(k, v));
                let mut out: Value = told.map(|(k, v)| (k.clone(), self.normal_at(v, k))).collect();
                // Items of built-in lists carry no type there.
                if let Some(items) = out.get_mut("items").and_then(Value::as_array_mut) {
                    for item in items.iter_mut().filter_map(Value::as_object_mut) {
                        item.remove("kind");
                        item.remove("apiVersion");
                    }
                }
                // One text per cause, in any order; the message repeats them.
                if out["causes"].as_array().is_some_and(|c| !c.is_empty()) {
                    let mut causes: Vec<String> =
                        out["causes"].as_array().unwrap().iter().map(Value::to_string).collect();
                    causes.sort();
                    causes.dedup();
                    out["causes"] = causes.into();
                }
                if out["details"]["causes"].as_array().is_some_and(|c| c.len() > 1) {
                    out["message"] = "<see causes>".into();
                }
                out
            }
            Value::Array(items) => {
                let mut items: Vec<Value> = items.iter().map(|v| self.normal_at(v, key)).collect();
                if key == "managedFields" {
                    items.sort_by_key(Value::to_string);
                }
                Value::Array(items)
            }
            Value::String(text) => match key {
                "uid" => "<uid>".into(),
                "resourceVersion" => "<version>".into(),
                "continue" if !text.is_empty() => "<continue>".into(),
                "name" | "cells" if is_generated(text) => "<generated>".into(),
                "cells" if text.ends_with(['s', 'm']) && text.len() < 7 => "<age>".into(),
                // Ours are in our own words.
                "description" => "<description>".into(),
                _ => {
                    let text = self.uid.replace_all(text, "<uid>");
                    let text = self.time.replace_all(&text, "<time>");
                    let text = self.version.replace_all(&text, "<version>");
                    if text.contains("esource version") || text.contains("ResourceVersion") {
                        return self.number.replace_all(&text, "<n>").into();
                    }
                    text.into()
                }
            },
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }
}

fn is_generated(name: &str) -> bool {
    name.starts_with("gen-") || name.starts_with("g.")
}

/// What Go prints of typed objects though nobody set it.
fn is_go_zero(key: &str, value: &Value) -> bool {
    match key {
        "lastHeartbeatTime" | "lastTransitionTime" => value.is_null(),
        "f:lastHeartbeatTime" | "f:lastTransitionTime" | "daemonEndpoints" => true,
        _ => false,
    }
}

fn difference(path: &str, want: &Value, got: &Value, out: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let none = Value::String("<absent>".into());
                let (a, b) = (a.get(key).unwrap_or(&none), b.get(key).unwrap_or(&none));
                difference(&format!("{path}.{key}"), a, b, out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                difference(&format!("{path}[{i}]"), a, b, out);
            }
        }
        (a, b) if a == b => {}
        (a, b) => {
            let short = |v: &Value| v.to_string().chars().take(400).collect::<String>();
            out.push(format!("   {path}: want {}\n   {path}:  got {}", short(a), short(b)));
        }
    }
}
