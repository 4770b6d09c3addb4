//! The binary as a process: signals, sudden death, and what is left afterwards.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use support::eventually;

/// The server as a child; killed when the test ends early.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn spawn(dir: &Path) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apiserver"));
    command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(dir).stderr(Stdio::null());
    Server(command.spawn().unwrap())
}

async fn client(dir: &Path) -> kube::Client {
    let path = dir.join("admin.kubeconfig");
    eventually("the kubeconfig is written", async || path.exists()).await;
    let kubeconfig = Kubeconfig::read_from(&path).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

fn signal(server: &Server, name: &str) {
    let id = server.0.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_within_five_seconds_even_with_watchers() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = spawn(dir.path());
    let maps: Api<ConfigMap> = Api::default_namespaced(client(dir.path()).await);
    maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let mut events = std::pin::pin!(maps.watch(&WatchParams::default(), "0").await.unwrap());
    events.next().await.unwrap().unwrap();
    let started = apiserver::clock::instant();
    signal(&server, "-TERM");
    let mut status = None;
    eventually("the process ends", async || {
        status = server.0.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert!(started.elapsed().as_secs() < 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_being_killed_and_versions_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = spawn(dir.path());
    let maps: Api<ConfigMap> = Api::default_namespaced(client(dir.path()).await);
    let mut last = 0;
    for index in 0..20 {
        let map = config_map(&format!("m{index}"));
        let made = maps.create(&PostParams::default(), &map).await.unwrap();
        last = made.metadata.resource_version.unwrap().parse().unwrap();
    }
    signal(&server, "-KILL");
    drop(server);
    std::fs::remove_file(dir.path().join("admin.kubeconfig")).unwrap();
    let _server = spawn(dir.path());
    let maps: Api<ConfigMap> = Api::default_namespaced(client(dir.path()).await);
    let list = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items.iter().filter(|m| m.data.is_none()).count(), 20);
    let made = maps.create(&PostParams::default(), &config_map("later")).await.unwrap();
    let next: u64 = made.metadata.resource_version.unwrap().parse().unwrap();
    assert!(next > last);
}
