//! A cluster of one apiserver process and one cloudcore process, and scripted edges over real TLS.

#![expect(dead_code, reason = "every test file uses its part of this")]

pub mod edge;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Long enough for a machine that compiles at the same time; nothing waits this long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `probe` gives something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut probe: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A process that dies with the test.
pub struct Process(Child);

impl Process {
    fn spawn(program: &Path, arguments: &[&str], log: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        Self(child)
    }

    /// Asks it to stop and waits; returns the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let pid = self.0.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        self.0.wait().unwrap().code()
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The cluster.
pub struct World {
    pub directory: tempfile::TempDir,
    pub client: Client,
    api: SocketAddr,
    pub hub: SocketAddr,
    pub enrol: SocketAddr,
    pub ops: SocketAddr,
    pub cloudcore: Process,
    apiserver: Process,
}

impl World {
    /// A cluster with our kinds and a cloudcore that is ready.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same, with lines added to the configuration of cloudcore.
    pub async fn start_with(more: &str) -> Self {
        Self::build(more, true).await
    }

    /// A cluster with kinds as upstream defines them: without the status subresource.
    pub async fn start_without_subresources() -> Self {
        Self::build("", false).await
    }

    async fn build(more: &str, subresources: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let kubeconfig = at("kubeconfig");
        let [api, hub, enrol, ops] = free_addresses();
        let apiserver = start_apiserver(directory.path(), api);
        eventually("apiserver writes its kubeconfig", async || kubeconfig.exists().then_some(()))
            .await;
        let config = Kubeconfig::read_from(&kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(config, &options).await.unwrap();
        let client = Client::try_from(config).unwrap();
        install_kinds(&client, subresources).await;

        let config = format!(
            "kubeconfig: {}\nhub: {{ listen: \"{hub}\" }}\nenrol: {{ listen: \"{enrol}\" }}\n\
             ops: {{ listen: \"{ops}\" }}\nlog: debug,hyper=info,rustls=info,kube=info,tower=info\n{more}\n",
            kubeconfig.display(),
        );
        std::fs::write(at("cloudcore.yaml"), config).unwrap();
        let cloudcore = start_cloudcore(directory.path());
        let world = Self { directory, client, api, hub, enrol, ops, cloudcore, apiserver };
        world.ready().await;
        world
    }

    pub async fn ready(&self) {
        eventually("cloudcore is ready", async || {
            self.get("/readyz").await.filter(|(status, _)| *status == 200)
        })
        .await;
    }

    /// kill -9 and a new process.
    pub async fn restart_cloudcore(&mut self) {
        self.kill_cloudcore();
        self.cloudcore = start_cloudcore(self.directory.path());
        self.ready().await;
    }

    pub fn kill_apiserver(&mut self) {
        self.apiserver.kill();
    }

    pub async fn start_apiserver(&mut self) {
        self.apiserver = start_apiserver(self.directory.path(), self.api);
        let devices = self.devices();
        eventually("the API is back", async || devices.list(&ListParams::default()).await.ok())
            .await;
    }

    /// One more cloudcore on the same cluster, as a replica would be.
    pub fn start_replica(&self) -> (Process, SocketAddr) {
        let [hub, enrol, ops] = free_addresses();
        let at = |name: &str| self.directory.path().join(name);
        let config = format!(
            "kubeconfig: {}\nnamespace: fresh\nhub: {{ listen: \"{hub}\" }}\n\
             enrol: {{ listen: \"{enrol}\" }}\nops: {{ listen: \"{ops}\" }}\n",
            at("kubeconfig").display(),
        );
        let file = at(&format!("replica-{}.yaml", ops.port()));
        std::fs::write(&file, config).unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_cloudcore"));
        let log = at("replicas.log");
        (Process::spawn(&program, &["--config", file.to_str().unwrap()], &log), enrol)
    }

    pub fn kill_cloudcore(&mut self) {
        self.cloudcore.kill();
    }

    pub async fn start_cloudcore(&mut self) {
        self.cloudcore = start_cloudcore(self.directory.path());
        self.ready().await;
    }

    /// GET from the ops endpoint.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let stream = tokio::net::TcpStream::connect(self.ops).await.ok()?;
        edge::http(stream, &format!("GET {path} HTTP/1.1\r\n"), &[])
            .await
            .ok()
            .map(|(status, body)| (status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// The value of a metric line that starts with this.
    pub async fn metric(&self, line: &str) -> u64 {
        let (_, text) = self.get("/metrics").await.unwrap();
        let found = text
            .lines()
            .find(|l| l.starts_with(&format!("{line} ")) || l.starts_with(&format!("{line}{{")));
        found.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
    }

    pub async fn token(&self) -> String {
        let secrets: Api<k8s_openapi::api::core::v1::Secret> =
            Api::namespaced(self.client.clone(), "kubeedge");
        let secret = secrets.get("tokensecret").await.unwrap();
        String::from_utf8(secret.data.unwrap()["tokendata"].0.clone()).unwrap()
    }

    pub fn devices(&self) -> Api<crds::Device> {
        Api::namespaced(self.client.clone(), "dev")
    }

    pub fn models(&self) -> Api<crds::DeviceModel> {
        Api::namespaced(self.client.clone(), "dev")
    }

    pub fn statuses(&self) -> Api<crds::DeviceStatus> {
        Api::namespaced(self.client.clone(), "dev")
    }

    pub async fn create_model(&self, name: &str) {
        let model = json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
            "metadata": { "name": name, "namespace": "dev" },
            "spec": { "protocol": "virtual", "properties": [
                { "name": "temp", "type": "FLOAT", "accessMode": "ReadOnly" },
                { "name": "set", "type": "INT", "accessMode": "ReadWrite" },
            ] },
        });
        let model = serde_json::from_value(model).unwrap();
        self.models().create(&PostParams::default(), &model).await.unwrap();
    }

    pub async fn create_device(&self, name: &str, node: &str, set: u32) {
        let device = json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "metadata": { "name": name, "namespace": "dev" },
            "spec": {
                "deviceModelRef": { "name": "m" }, "nodeName": node,
                "protocol": { "protocolName": "virtual" },
                "properties": [
                    { "name": "temp", "reportToCloud": true },
                    { "name": "set", "reportToCloud": true, "desired": { "value": set.to_string() } },
                ],
            },
        });
        let device = serde_json::from_value(device).unwrap();
        self.devices().create(&PostParams::default(), &device).await.unwrap();
    }

    pub async fn set_desired(&self, name: &str, set: u32) {
        let patch = json!({ "spec": { "properties": [
            { "name": "temp", "reportToCloud": true },
            { "name": "set", "reportToCloud": true, "desired": { "value": set.to_string() } },
        ] } });
        self.devices().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub async fn delete_device(&self, name: &str) {
        self.devices().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// `True Reason` of a condition of a device.
    pub async fn condition(&self, name: &str, kind: &str) -> Option<String> {
        let device = self.devices().get(name).await.ok()?;
        let status = device.status?;
        let condition = status.conditions.into_iter().find(|c| c.type_ == kind)?;
        Some(format!("{} {}", condition.status, condition.reason))
    }

    pub async fn wait_condition(&self, name: &str, kind: &str, expected: &str) {
        eventually(&format!("{kind} of {name} is {expected}"), async || {
            self.condition(name, kind).await.filter(|found| found == expected)
        })
        .await;
    }

    /// What DeviceStatus says was reported.
    pub async fn reported(&self, name: &str, property: &str) -> Option<Value> {
        let status = self.statuses().get(name).await.ok()?.status?;
        let twin = status.twins.into_iter().find(|twin| twin.property_name == property)?;
        serde_json::to_value(twin.reported?).ok()
    }

    pub async fn wait_reported(&self, name: &str, property: &str, value: &str) -> Value {
        eventually(&format!("{property} of {name} is {value}"), async || {
            self.reported(name, property).await.filter(|found| found["value"] == value)
        })
        .await
    }
}

fn start_cloudcore(directory: &Path) -> Process {
    let config = directory.join("cloudcore.yaml");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_cloudcore"));
    Process::spawn(
        &program,
        &["--config", config.to_str().unwrap()],
        &directory.join("cloudcore.log"),
    )
}

fn start_apiserver(directory: &Path, listen: SocketAddr) -> Process {
    let at = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (data, kubeconfig, listen) = (at("api"), at("kubeconfig"), listen.to_string());
    let arguments = ["--data-dir", &data, "--listen", &listen, "--kubeconfig", &kubeconfig];
    Process::spawn(&apiserver_binary(), &arguments, &directory.join("apiserver.log"))
}

/// The workspace's own API server stands in for a cluster. Built if nobody has built it yet.
fn apiserver_binary() -> PathBuf {
    let cloudcore = PathBuf::from(env!("CARGO_BIN_EXE_cloudcore"));
    let binary = cloudcore.with_file_name("apiserver");
    if !binary.exists() {
        let cargo = option_env!("CARGO").unwrap_or("cargo");
        let built = Command::new(cargo).args(["build", "-p", "apiserver"]).status();
        assert!(built.is_ok_and(|status| status.success()), "cannot build apiserver");
    }
    binary
}

async fn install_kinds(client: &Client, subresources: bool) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/manifests");
    let resource = kube::api::ApiResource {
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        api_version: "apiextensions.k8s.io/v1".into(),
        kind: "CustomResourceDefinition".into(),
        plural: "customresourcedefinitions".into(),
    };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut names = Vec::new();
    for file in std::fs::read_dir(directory).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let mut object: DynamicObject = serde_yaml_ng::from_str(&text).unwrap();
        if !subresources {
            object.data["spec"]["versions"][0].as_object_mut().unwrap().remove("subresources");
        }
        names.push(object.name_any());
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    for name in names {
        eventually("the kind is served", async || {
            let object = api.get(&name).await.ok()?;
            let conditions = object.data["status"]["conditions"].as_array()?.clone();
            conditions
                .iter()
                .any(|c| c["type"] == "Established" && c["status"] == "True")
                .then_some(())
        })
        .await;
    }
    let devices: Api<crds::Device> = Api::all(client.clone());
    eventually("devices can be listed", async || devices.list(&ListParams::default()).await.ok())
        .await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    let dev = serde_json::from_value(json!({ "metadata": { "name": "dev" } })).unwrap();
    let created = namespaces.create(&PostParams::default(), &dev).await;
    assert!(created.is_ok() || format!("{created:?}").contains("AlreadyExists"), "{created:?}");
}

fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let held: Vec<_> = (0..N).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    std::array::from_fn(|n| held[n].local_addr().unwrap())
}
