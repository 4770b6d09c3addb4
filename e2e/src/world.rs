//! A world for one story: a Kubernetes API, a cloudcore, edges with their mappers, all of it gone
//! when the story ends.
//!
//! Nothing is started before the story says so, but for the API. Processes are named `apiserver`,
//! `cloudcore`, and for each edge `edgecore` and `mapper`, with `-NAME` behind for further edges.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::device::Device;
use crate::edge::Edge;
use crate::kubectl::Kubectl;
use crate::process::Process;
use crate::wire::Wire;
use crate::{ops, port, setting, wait};

/// Everything a story needs. Dropping it ends every process and, if the story failed, prints the
/// end of every log.
pub struct World {
    // Dropped in this order: processes before the folder they write to.
    processes: BTreeMap<String, Process>,
    /// The user's hand.
    pub kubectl: Kubectl,
    /// The test's eyes.
    pub cluster: Cluster,
    /// The edge that most stories need only one of.
    pub edge: Edge,
    /// The wire that edges dial for their websocket, if the world was made with wires.
    wires: Option<(Wire, Wire)>,
    ports: Ports,
    names: Names,
    dir: TempDir,
}

/// How fast time runs in a world. Short, so that a story about a dead link need not wait long.
#[derive(Clone, Debug)]
pub struct Pace {
    /// `cloud.heartbeat` of the edges.
    pub heartbeat: &'static str,
    /// `hub.keepaliveTimeout` of the cloud.
    pub keepalive: &'static str,
    /// `nodes.leaseDuration` of the cloud.
    pub lease: &'static str,
    /// `status.interval` of the cloud.
    pub status: &'static str,
}

impl Default for Pace {
    fn default() -> Self {
        Self { heartbeat: "2s", keepalive: "8s", lease: "8s", status: "200ms" }
    }
}

struct Ports {
    hub: u16,
    enrol: u16,
    ops: u16,
}

struct Names {
    /// Where the story's devices are.
    devices: String,
    /// Where cloudcore keeps its secrets.
    system: String,
    /// Part of every name that is not in a namespace.
    unique: String,
    nodes: Vec<String>,
    shared: bool,
}

impl World {
    /// A world whose edges dial the cloud directly.
    #[must_use]
    pub fn new() -> Self {
        Self::with(&Pace::default(), false)
    }

    /// A world whose edges dial through wires.
    #[must_use]
    pub fn wired() -> Self {
        Self::with(&Pace::default(), true)
    }

    /// A world with a pace of its own.
    ///
    /// # Panics
    /// When the API does not come up or refuses our CRDs.
    #[must_use]
    pub fn with(pace: &Pace, wired: bool) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kedge-e2e-")
            .disable_cleanup(setting::keep())
            .tempdir()
            .unwrap_or_else(|error| panic!("a temporary folder: {error}"));
        let unique = unique();
        let mut names = Names {
            devices: format!("e2e-{unique}"),
            system: format!("e2e-{unique}-system"),
            unique,
            nodes: Vec::new(),
            shared: false,
        };
        let mut processes = BTreeMap::new();
        let kubeconfig = if let Some(kubeconfig) = setting::shared_cluster() {
            names.shared = true;
            kubeconfig
        } else {
            let (kubeconfig, api) = apiserver(dir.path());
            processes.insert("apiserver".to_owned(), api);
            kubeconfig
        };
        if let Some(api) = processes.get_mut("apiserver") {
            api.start();
            wait::until("the apiserver writes its kubeconfig", || {
                assert!(api.is_running(), "the apiserver ended:\n{}", api.tail());
                if kubeconfig.is_file() { Ok(()) } else { Err("no file".into()) }
            });
        }
        let ports = Ports { hub: port::free(), enrol: port::free(), ops: port::free() };
        let wires = wired.then(|| (Wire::to(ports.hub), Wire::to(ports.enrol)));
        let kubectl = Kubectl::new(&kubeconfig, &names.devices, &dir.path().join("cache"));
        let cluster = Cluster::new(&kubeconfig, &names.devices);
        let edge = Edge::at("", &names.unique, dir.path());
        let mut world = Self { processes, kubectl, cluster, edge, wires, ports, names, dir };
        world.prepare_cluster();
        world.describe_cloudcore(&kubeconfig, pace);
        let edge = world.edge.clone();
        world.describe_edge(&edge, pace);
        world
    }

    /// A world where everything runs, with the boiler's model and one boiler `boiler-1` on
    /// [`World::edge`], whose setpoint 40 has arrived.
    #[must_use]
    pub fn with_a_boiler(self) -> (Self, Device) {
        let mut world = self;
        let device = Device::start(port::free());
        world.start_everything();
        world.kubectl.apply(&crate::boiler::model());
        world.kubectl.apply(&crate::boiler::device(
            "boiler-1",
            &world.edge.node,
            device.port(),
            "40",
        ));
        device.await_cells(crate::device::Table::Holding, crate::boiler::cell::SETPOINT, &[40]);
        world.cluster.await_reported("boiler-1", "temperature", "0");
        (world, device)
    }

    /// Starts cloudcore, lets the edge join, and starts the edge and its mapper.
    pub fn start_everything(&mut self) {
        self.start("cloudcore");
        let edge = self.edge.clone();
        self.issue_token(&edge);
        self.start(&edge.edgecore);
        self.start(&edge.mapper);
    }

    /// A second gateway, not started.
    pub fn add_edge(&mut self, name: &str) -> Edge {
        let edge = Edge::at(&format!("-{name}"), &self.names.unique, self.dir.path());
        self.describe_edge(&edge, &Pace::default());
        edge
    }

    /// A process that claims to be the node of an edge already there, with a folder of its own.
    pub fn add_twin_of(&mut self, original: &Edge, name: &str) -> Edge {
        let mut edge = Edge::at(&format!("-{name}"), &self.names.unique, self.dir.path());
        edge.node.clone_from(&original.node);
        self.describe_edge(&edge, &Pace::default());
        edge
    }

    /// Waits for the join token and puts it where the edge looks for it.
    ///
    /// # Panics
    /// When cloudcore makes none.
    pub fn issue_token(&self, edge: &Edge) {
        let token = self.token();
        std::fs::write(&edge.token, token)
            .unwrap_or_else(|error| panic!("{}: {error}", edge.token.display()));
    }

    /// The join token, as it stands in cloudcore's Secret.
    ///
    /// # Panics
    /// When cloudcore makes none.
    #[must_use]
    pub fn token(&self) -> String {
        wait::until("cloudcore makes a join token", || {
            let template = "{{ .data.tokendata | base64decode }}";
            let run = self.kubectl.run(
                &[
                    "--namespace",
                    &self.names.system,
                    "get",
                    "secret",
                    "tokensecret",
                    &format!("-ogo-template={template}"),
                ],
                None,
            );
            if run.success && !run.stdout.is_empty() { Ok(run.stdout) } else { Err(run.stderr) }
        })
    }

    /// A process by its name.
    ///
    /// # Panics
    /// When there is none of that name.
    #[track_caller]
    pub fn process(&mut self, name: &str) -> &mut Process {
        let known: Vec<_> = self.processes.keys().cloned().collect();
        self.processes.get_mut(name).unwrap_or_else(|| panic!("no {name} among {known:?}"))
    }

    /// Starts a process.
    #[track_caller]
    pub fn start(&mut self, name: &str) {
        self.process(name).start();
    }

    /// Ends a process as a power cut does.
    #[track_caller]
    pub fn kill(&mut self, name: &str) {
        self.process(name).kill();
    }

    /// Kills a process and starts it again at once.
    #[track_caller]
    pub fn restart(&mut self, name: &str) {
        self.kill(name);
        self.start(name);
    }

    /// Asks a process to stop.
    #[track_caller]
    pub fn stop(&mut self, name: &str) {
        self.process(name).stop();
    }

    /// Adds a process of the story's own, not started.
    pub fn add_process(&mut self, name: &str, binary: &str, arguments: &[&str]) {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let process = Process::new(name, setting::binary(binary), arguments, self.dir.path());
        self.processes.insert(name.to_owned(), process);
    }

    /// A mapper of an edge, not started.
    pub fn add_mapper(&mut self, edge: &Edge, name: &str, binary: &str, protocol: &str) {
        let sockets = self.sockets(edge);
        let config = json!({
            "grpc_server": {"socket_path": sockets.join(format!("{protocol}.sock"))},
            "common": {
                "name": format!("{protocol}-mapper"),
                "version": "v0.1.0",
                "api_version": "v1.0.0",
                "protocol": protocol,
                "address": "127.0.0.1",
                "edgecore_sock": sockets.join("dmi.sock"),
                "http_port": port::free().to_string(),
            },
            "log": "info,mapper_sdk=debug",
        });
        let file = self.write(&format!("{name}.yaml"), &config);
        self.add_process(name, binary, &["--config-file", &file]);
    }

    /// The wire of the websocket.
    ///
    /// # Panics
    /// When the world was made without.
    #[must_use]
    pub fn wire(&self) -> &Wire {
        &self.wires.as_ref().unwrap_or_else(|| panic!("a world without wires")).0
    }

    /// The wire of the enrolment.
    ///
    /// # Panics
    /// When the world was made without.
    #[must_use]
    pub fn enrol_wire(&self) -> &Wire {
        &self.wires.as_ref().unwrap_or_else(|| panic!("a world without wires")).1
    }

    /// A folder that goes with the world.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The namespace of the story's devices.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.names.devices
    }

    /// A page of cloudcore's own.
    #[must_use]
    pub fn cloudcore_page(&self, path: &str) -> Option<(u16, String)> {
        ops::get(self.ports.ops, path)
    }

    /// cloudcore's ports: websocket, enrolment.
    #[must_use]
    pub fn cloud_ports(&self) -> (u16, u16) {
        (self.ports.hub, self.ports.enrol)
    }

    fn prepare_cluster(&self) {
        let manifests = setting::repository().join("crds/manifests");
        let manifests = manifests.to_string_lossy();
        // Server-side, since several stories may install at once on a cluster they share.
        self.kubectl.ok(&["apply", "--server-side", "--force-conflicts", "-f", &manifests]);
        self.kubectl.ok(&[
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            "crd/devices.devices.kubeedge.io",
            "crd/devicemodels.devices.kubeedge.io",
            "crd/devicestatuses.devices.kubeedge.io",
        ]);
        for name in [&self.names.devices, &self.names.system] {
            self.kubectl.apply(
                &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            );
        }
    }

    fn describe_cloudcore(&mut self, kubeconfig: &Path, pace: &Pace) {
        let config = json!({
            "kubeconfig": kubeconfig,
            "namespace": self.names.system,
            "watchNamespaces": [self.names.devices],
            "hub": {
                "listen": format!("127.0.0.1:{}", self.ports.hub),
                "keepaliveTimeout": pace.keepalive,
            },
            "enrol": {
                "listen": format!("127.0.0.1:{}", self.ports.enrol),
                "advertise": ["127.0.0.1"],
            },
            "status": {"interval": pace.status},
            "nodes": {"leaseDuration": pace.lease},
            "ops": {"listen": format!("127.0.0.1:{}", self.ports.ops)},
            "log": "info,cloudcore=debug",
        });
        let file = self.write("cloudcore.yaml", &config);
        self.add_process("cloudcore", "cloudcore", &["--config", &file]);
    }

    fn describe_edge(&mut self, edge: &Edge, pace: &Pace) {
        let (hub, enrol) = match &self.wires {
            Some((hub, enrol)) => (hub.port(), enrol.port()),
            None => (self.ports.hub, self.ports.enrol),
        };
        let sockets = self.sockets(edge);
        let config = json!({
            "nodeName": edge.node,
            "cloud": {
                "hub": format!("127.0.0.1:{hub}"),
                "enrol": format!("127.0.0.1:{enrol}"),
                "tokenFile": edge.token,
                "heartbeat": pace.heartbeat,
            },
            "dataDir": edge.data,
            "dmi": {"socket": sockets.join("dmi.sock")},
            "ops": {"listen": format!("127.0.0.1:{}", edge.ops)},
            "log": "info,edgecore=debug",
        });
        let file = self.write(&format!("{}.yaml", edge.edgecore), &config);
        self.add_process(&edge.edgecore, "edgecore", &["--config", &file]);

        self.add_mapper(edge, &edge.mapper, "mapper-modbus", "modbus");
        if !self.names.nodes.contains(&edge.node) {
            self.names.nodes.push(edge.node.clone());
        }
    }

    fn sockets(&self, edge: &Edge) -> PathBuf {
        self.dir.path().join(format!("s-{}", edge.edgecore))
    }

    /// JSON is YAML.
    fn write(&self, name: &str, config: &Value) -> String {
        let file = self.dir.path().join(name);
        std::fs::write(&file, format!("{config:#}\n"))
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        file.to_string_lossy().into_owned()
    }

    /// What was said, by everybody, in the end.
    fn report(&self) {
        for (name, process) in &self.processes {
            eprintln!("===== {name} =====\n{}", process.tail());
        }
        for what in ["devices,devicestatuses", "nodes"] {
            let run = self.kubectl.run(&["get", what, "-o", "yaml"], None);
            eprintln!("===== {what} =====\n{}{}", run.stdout, run.stderr);
        }
        eprintln!("===== (KEDGE_E2E_KEEP=1 keeps {}) =====", self.dir.path().display());
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
        }
        if self.names.shared {
            let (devices, system) = (&self.names.devices, &self.names.system);
            self.processes.clear();
            let _ =
                self.kubectl.run(&["delete", "namespace", devices, system, "--wait=false"], None);
            for node in &self.names.nodes {
                let _ = self.kubectl.run(&["delete", "node", node, "--ignore-not-found"], None);
                let lease = ["--namespace=kube-node-lease", "delete", "lease", node];
                let _ = self.kubectl.run(&[&lease[..], &["--ignore-not-found"]].concat(), None);
            }
        }
    }
}

fn apiserver(dir: &Path) -> (PathBuf, Process) {
    let data = dir.join("api");
    let kubeconfig = dir.join("kubeconfig");
    // A fixed port, since everybody must find it again after a restart.
    let arguments = vec![
        "--data-dir".to_owned(),
        data.to_string_lossy().into_owned(),
        "--listen".to_owned(),
        format!("127.0.0.1:{}", port::free()),
        "--kubeconfig".to_owned(),
        kubeconfig.to_string_lossy().into_owned(),
    ];
    let process = Process::new("apiserver", setting::binary("apiserver"), arguments, dir);
    (kubeconfig, process)
}

/// Unlike any name that another story, or an earlier run on the same cluster, has used.
fn unique() -> String {
    let nanoseconds = jiff::Timestamp::now().as_nanosecond().unsigned_abs();
    format!("{:x}-{:x}", std::process::id(), nanoseconds % (1 << 36))
}
