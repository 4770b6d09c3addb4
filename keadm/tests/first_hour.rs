//! The operator's first hour with the real programs: init, gettoken, join, reset, join again, reset
//! cloud. What was there before is there after, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keadm::kubernetes;
use kube::Api;
use kube::api::ListParams;

const DEADLINE: Duration = Duration::from_secs(30);

/// A program beside keadm, as an operator unpacks them.
fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_keadm")).with_file_name(name);
    assert!(path.exists(), "{} is missing: cargo build -p {name}", path.display());
    path
}

fn keadm(args: &[&str]) -> Output {
    let mut command = Command::new(program("keadm"));
    command.args(args).stdin(Stdio::null()).env_remove("KUBECONFIG").output().unwrap()
}

fn done(args: &[&str]) -> String {
    let output = keadm(args);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "keadm {args:?}: {}\n{out}\n{err}", output.status);
    out
}

/// The exit code and what was said on stderr.
fn refused(args: &[&str]) -> (Option<i32>, String) {
    let output = keadm(args);
    assert!(!output.status.success(), "keadm {args:?}: {}", text(&output.stdout));
    (output.status.code(), text(&output.stderr))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A daemon that dies with the test.
struct Daemon(Child);

impl Daemon {
    fn start(name: &str, args: &[&str], log: &Path) -> Self {
        let log = std::fs::File::create(log).unwrap();
        let child = Command::new(program(name))
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited {} s for {what}", DEADLINE.as_secs());
}

/// Every path below `dir` with its mode and content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut tree = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let mode = entry.metadata().unwrap().permissions().mode();
            let content = std::fs::read(entry.path()).unwrap_or_default();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
            tree.insert(entry.path(), (mode, content));
        }
    }
    tree
}

/// Fails naming the paths that differ, not their contents.
fn assert_same(now: &Path, before: &BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    let now = tree(now);
    let all: BTreeSet<&PathBuf> = now.keys().chain(before.keys()).collect();
    let differ: Vec<_> =
        all.into_iter().filter(|path| now.get(*path) != before.get(*path)).collect();
    assert!(differ.is_empty(), "not as before: {differ:?}");
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// cloudcore.yaml as init wrote it, on other ports: several of these tests run on one machine.
fn on_ports(yaml: &Path, [hub, enrol, ops]: [u16; 3]) -> String {
    let text = std::fs::read_to_string(yaml).unwrap();
    let mut config: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
    config["hub"] = serde_json::json!({ "listen": format!("127.0.0.1:{hub}") });
    config["ops"] = serde_json::json!({ "listen": format!("127.0.0.1:{ops}") });
    config["enrol"]["listen"] = format!("127.0.0.1:{enrol}").into();
    serde_yaml_ng::to_string(&config).unwrap()
}

#[tokio::test]
async fn everything_that_is_installed_can_be_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let kubeconfig = path("admin.kubeconfig");
    let _apiserver = Daemon::start(
        "apiserver",
        &["--data-dir", &path("api"), "--listen", "127.0.0.1:0", "--kubeconfig", &kubeconfig],
        &dir.path().join("apiserver.log"),
    );
    until("the kubeconfig", async || Path::new(&kubeconfig).exists()).await;
    let cluster = kubernetes::connect(Some(Path::new(&kubeconfig))).await.unwrap();

    // The machine, with something of somebody else on it.
    let machine = dir.path().join("machine");
    std::fs::create_dir_all(machine.join("etc")).unwrap();
    std::fs::write(machine.join("etc/other.conf"), "not ours").unwrap();
    let before = tree(&machine);
    let on_machine = |name: &str| machine.join(name).display().to_string();

    // init, twice.
    let (cloud_etc, cloud_lib) = (on_machine("etc/kedge-cloud"), on_machine("lib/kedge-cloud"));
    let init = [
        "init",
        "--kube-config",
        &kubeconfig,
        "--config-dir",
        &cloud_etc,
        "--data-dir",
        &cloud_lib,
        "--supervisor",
        "none",
    ];
    let said = done(&init);
    assert!(said.contains("CRD devices.devices.kubeedge.io: created"), "{said}");
    let said = done(&init);
    assert!(said.contains("CRD devices.devices.kubeedge.io: unchanged"), "{said}");
    assert!(said.contains("cloudcore.yaml: unchanged"), "{said}");
    let cloud_yaml = Path::new(&cloud_etc).join("cloudcore.yaml");
    assert_eq!(mode(&cloud_yaml), 0o600);
    let check = Command::new(program("cloudcore")).arg("check-config").arg(&cloud_yaml).output();
    let check = check.unwrap();
    assert!(check.status.success(), "{}", text(&check.stderr));

    // No token before cloudcore ran.
    let gettoken = ["gettoken", "--kube-config", &kubeconfig, "--timeout"];
    let (code, said) = refused(&[&gettoken[..], &["0"]].concat());
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("next: start cloudcore"), "{said}");

    let ports @ [hub, enrol, _] = free_ports();
    let yaml = path("cloudcore.yaml");
    std::fs::write(&yaml, on_ports(&cloud_yaml, ports)).unwrap();
    let log = dir.path().join("cloudcore.log");
    let cloudcore = Daemon::start("cloudcore", &["--config", &yaml], &log);
    let token = done(&[&gettoken[..], &["30"]].concat());
    let token_file = path("token");
    std::fs::write(&token_file, &token).unwrap();

    // join, run, reset; and all of it again.
    let (etc, lib, run) =
        (on_machine("etc/kedge"), on_machine("lib/kedge"), on_machine("run/kedge"));
    let (hub, enrol) = (format!("127.0.0.1:{hub}"), enrol.to_string());
    let places = ["--config-dir", &etc, "--data-dir", &lib, "--run-dir", &run];
    let [edge_ops] = free_ports();
    let edge_ops = format!("127.0.0.1:{edge_ops}");
    let join = |name: &'static str| {
        let how = [
            "join",
            "-e",
            &hub,
            "-s",
            &enrol,
            "--token-file",
            &token_file,
            "-i",
            name,
            "--supervisor",
            "none",
            "--ops-listen",
            &edge_ops,
        ];
        [&how[..], &places[..]].concat()
    };
    let with_cloud = tree(&machine);
    for _ in 0..2 {
        done(&join("gw-1"));
        let edge_yaml = Path::new(&etc).join("edgecore.yaml");
        assert_eq!(mode(&edge_yaml), 0o600);
        assert_eq!(mode(&Path::new(&etc).join("token")), 0o600);
        let check = Command::new(program("edgecore")).arg("check-config").arg(&edge_yaml).output();
        let check = check.unwrap();
        assert!(check.status.success(), "{}", text(&check.stderr));
        assert!(done(&join("gw-1")).contains("edgecore.yaml: unchanged"));
        let (code, said) = refused(&join("gw-2"));
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("keadm reset"), "{said}");

        let config = edge_yaml.display().to_string();
        let log = dir.path().join("edgecore.log");
        let edgecore = Daemon::start("edgecore", &["--config", &config], &log);
        until("the node's certificate", async || Path::new(&lib).join("pki/node.crt").exists())
            .await;
        until("the DMI socket", async || Path::new(&run).join("dmi.sock").exists()).await;
        drop(edgecore);

        done(&["reset", "--force", "--config-dir", &etc]);
        assert_same(&machine, &with_cloud);
    }
    drop(cloudcore);

    done(&["reset", "cloud", "--force", "--kube-config", &kubeconfig, "--config-dir", &cloud_etc]);
    assert_same(&machine, &before);
    let client = || cluster.client.clone();
    let namespaces: Api<Namespace> = Api::all(client());
    until("the namespace to be gone", async || {
        namespaces.get_opt("kubeedge").await.unwrap().is_none()
    })
    .await;
    let all = ListParams::default();
    let secrets = Api::<Secret>::namespaced(client(), "kubeedge").list(&all).await.unwrap();
    assert!(secrets.items.is_empty(), "{:?}", secrets.items);
    let definitions: Api<CustomResourceDefinition> = Api::all(client());
    until("the definitions to be gone", async || {
        definitions.list(&all).await.unwrap().items.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kubeconfig");
    let [port] = free_ports();
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": format!("https://127.0.0.1:{port}") } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        "users": [{ "name": "u", "user": {} }],
    });
    std::fs::write(&file, config.to_string()).unwrap();
    let output = keadm(&["gettoken", "--kube-config", &file.display().to_string()]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty(), "a script would take it for the token");
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etc").display().to_string();
    let said = done(&["init", "--dry-run", "--config-dir", &path, "--supervisor", "none"]);
    assert!(said.contains("kind: CustomResourceDefinition"), "{said}");
    assert!(said.contains("kind: ClusterRole\n"), "{said}");
    assert!(tree(dir.path()).is_empty());
}

#[test]
fn a_bad_token_is_named_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etc").display().to_string();
    let (code, said) =
        refused(&["join", "-e", "127.0.0.1:1", "-t", "abc", "-i", "gw-1", "--config-dir", &path]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("next: get one on the cloud side: keadm gettoken"), "{said}");
    assert!(!said.contains("abc"), "the token is repeated: {said}");
    assert!(tree(dir.path()).is_empty());
}

#[test]
fn systemd_is_asked_to_start_and_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("calls");
    let systemctl = dir.path().join("systemctl");
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", log.display());
    keadm::files::write(&systemctl, &script, 0o755).unwrap();
    let units = dir.path().join("units");
    std::fs::create_dir(&units).unwrap();
    std::fs::write(units.join("kedge-edgecore.service"), "[Unit]\n").unwrap();
    let flag = |path: &Path| path.display().to_string();
    let said = done(&[
        "reset",
        "--force",
        "--config-dir",
        &flag(&dir.path().join("etc")),
        "--data-dir",
        &flag(&dir.path().join("lib")),
        "--run-dir",
        &flag(&dir.path().join("run")),
        "--unit-dir",
        &flag(&units),
        "--systemctl",
        &flag(&systemctl),
    ]);
    assert!(said.contains("service kedge-edgecore.service: stopped"), "{said}");
    assert!(tree(&units).is_empty());
    let calls = std::fs::read_to_string(&log).unwrap();
    assert_eq!(calls, "disable --now kedge-edgecore.service\ndaemon-reload\n");
}
