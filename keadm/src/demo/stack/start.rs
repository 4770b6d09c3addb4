//! The start of the demo, step by step. Each step waits until what it started works.

use anyhow::Context as _;
use crds::{Device, DeviceModel};
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;
use tokio::sync::mpsc;

use super::ports::Ports;
use super::progress::Progress;
use super::{PATIENCE, Stack, local};
use crate::demo::hop::{Hop, failed};
use crate::demo::objects::{self, DEVICE, MODEL, NAMESPACE, NODE};
use crate::demo::process::Process;
use crate::demo::simulator::{self, Event};
use crate::init::config::{CloudConfig, Enrol, Listen};
use crate::join::{EdgePlaces, JoinArgs};
use crate::kubernetes::{self, OWNER};
use crate::supervisor::{Supervisor, SupervisorArgs};
use crate::terminal::{Output, Steps};
use crate::{binaries, files, gettoken, http, init, join};

/// The steps that are shown.
const STEPS: usize = 7;
/// The boiler says a few lines a second and they are read all the time; when this many wait, it waits.
const SIMULATOR_LINES: usize = 1024;
/// The mapper's name, by which edgecore lists it.
const MAPPER: &str = "modbus-mapper";

impl Stack {
    /// Starts everything.
    ///
    /// # Errors
    /// The hop that failed.
    pub async fn start(&mut self, show: bool) -> anyhow::Result<()> {
        self.ports = Ports::free()?;
        let mut progress = Progress::new(show, STEPS);
        progress.step("API server", self.start_apiserver()).await?;
        progress.step("CRDs", self.apply_definitions()).await?;
        progress.step("cloudcore", self.start_cloudcore()).await?;
        progress.step("edgecore, joined", self.start_edgecore()).await?;
        progress.step("simulated boiler", self.start_simulator()).await?;
        progress.step("modbus mapper", self.start_mapper()).await?;
        progress.step("device boiler-1", self.apply_device()).await
    }

    async fn start_apiserver(&mut self) -> anyhow::Result<()> {
        let data = self.dir.join("apiserver");
        let kubeconfig = self.kubeconfig();
        let args = words(&[
            "--data-dir",
            &data.display().to_string(),
            "--listen",
            "127.0.0.1:0",
            "--kubeconfig",
            &kubeconfig.display().to_string(),
        ]);
        self.spawn("apiserver", &args)?;
        self.wait(Hop::ApiServer, "it to write a kubeconfig", async |_| {
            kubeconfig.exists().then_some(()).ok_or_else(|| "no kubeconfig".to_owned())
        })
        .await?;
        let cluster = self
            .wait(Hop::ApiServer, "it to answer", async |_| {
                kubernetes::connect(Some(&kubeconfig)).await.map_err(|error| format!("{error:#}"))
            })
            .await?;
        self.cluster = Some(cluster);
        Ok(())
    }

    async fn apply_definitions(&mut self) -> anyhow::Result<()> {
        let mut steps = Steps::silent("init");
        init::prepare(self.cluster()?, "kubeedge", PATIENCE, &mut steps)
            .await
            .map_err(|error| failed(Hop::Crds, format!("{error:#}")))
    }

    async fn start_cloudcore(&mut self) -> anyhow::Result<()> {
        let listen = |port| Some(Listen { listen: local(port) });
        let mut enrol = Enrol::advertising(vec!["127.0.0.1".into(), "localhost".into()])?;
        enrol.listen = Some(local(self.ports.enrol));
        let config = CloudConfig {
            kubeconfig: self.kubeconfig(),
            namespace: "kubeedge".into(),
            enrol,
            hub: listen(self.ports.hub),
            ops: listen(self.ports.cloud_ops),
        };
        let file = self.dir.join("cloudcore.yaml");
        files::write(&file, &config.render()?, 0o600)?;
        self.spawn("cloudcore", &words(&["--config", &file.display().to_string()]))?;
        let ops = local(self.ports.cloud_ops);
        self.wait(Hop::CloudcoreReady, "its /readyz", async |_| ready(&ops).await).await
    }

    async fn start_edgecore(&mut self) -> anyhow::Result<()> {
        let token = gettoken::fetch(self.cluster()?, "kubeedge", PATIENCE)
            .await
            .map_err(|error| failed(Hop::CloudcoreReady, format!("no join token: {error:#}")))?;
        let at = |text: String| text.parse().map_err(|error: String| anyhow::anyhow!(error));
        let args = JoinArgs {
            cloudcore_ipport: at(local(self.ports.hub))?,
            token: Some(token.text().to_owned()),
            token_file: None,
            edgenode_name: Some(NODE.into()),
            certport: self.ports.enrol,
            places: EdgePlaces {
                config_dir: self.dir.join("edge/etc"),
                data_dir: self.dir.join("edge/lib"),
                run_dir: self.dir.join("edge/run"),
            },
            ops_listen: ([127, 0, 0, 1], self.ports.edge_ops).into(),
            supervisor: SupervisorArgs {
                supervisor: Some(Supervisor::None),
                unit_dir: self.dir.clone(),
                systemctl: "systemctl".into(),
            },
            dry_run: false,
            timeout: PATIENCE.as_secs(),
            output: Output::Json,
        };
        let command_line = join::perform(&args, &mut Steps::silent("join"))
            .await
            .map_err(|error| failed(Hop::NodeJoined, format!("{error:#}")))?;
        self.spawn("edgecore", command_line.get(1..).unwrap_or_default())?;
        self.wait(Hop::NodeJoined, "Node demo-gateway to be Ready", async |stack| {
            let view = stack.look().await?;
            if view.node == "Ready" { Ok(()) } else { Err(view.node) }
        })
        .await
    }

    async fn start_simulator(&mut self) -> anyhow::Result<()> {
        let program = binaries::find("boiler")?;
        let args = words(&["--listen", "127.0.0.1:0"]);
        let guard = self.guard.as_mut().context("the guard was released")?;
        let (process, stdout) =
            Process::start_talking("boiler", &program, &args, &self.dir, guard)?;
        self.processes.push(process);
        let (sender, mut receiver) = mpsc::channel(SIMULATOR_LINES);
        // Ends with the boiler's stdout, which ends with the boiler.
        tokio::spawn(read_events(stdout, sender));
        let first = tokio::time::timeout(PATIENCE, receiver.recv()).await;
        let Ok(Some(Event::Listening(address))) = first else {
            return Err(failed(
                Hop::SimulatorUp,
                format!("it did not say where it listens: {first:?}"),
            ));
        };
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        self.simulator_port = port.context("the boiler's address has no port")?;
        self.events = Some(receiver);
        Ok(())
    }

    async fn start_mapper(&mut self) -> anyhow::Result<()> {
        let run = self.dir.join("edge/run");
        let config = serde_json::json!({
            "grpc_server": { "socket_path": run.join("modbus.sock") },
            "common": {
                "name": MAPPER, "version": "v0.1.0", "api_version": "v1.0.0", "protocol": "modbus",
                "address": "127.0.0.1", "edgecore_sock": run.join("dmi.sock"),
                "http_port": self.ports.mapper_http.to_string(),
            },
            "log": "info",
        });
        let file = self.dir.join("modbus.yaml");
        files::write(&file, &serde_yaml_ng::to_string(&config)?, 0o600)?;
        self.spawn("mapper-modbus", &words(&["--config-file", &file.display().to_string()]))?;
        let ops = local(self.ports.edge_ops);
        self.wait(Hop::MapperRegistered, "edgecore to list it", async |_| {
            let (_, body) =
                http::get_plain(&ops, "/status").await.map_err(|error| format!("{error:#}"))?;
            let status: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let mappers = status["mappers"].as_array();
            let there = mappers.into_iter().flatten().any(|mapper| mapper["name"] == MAPPER);
            there.then_some(()).ok_or_else(|| "edgecore does not know the mapper".to_owned())
        })
        .await
    }

    async fn apply_device(&mut self) -> anyhow::Result<()> {
        let client = self.cluster()?.client.clone();
        let params = PatchParams::apply(OWNER).force();
        let models: Api<DeviceModel> = Api::namespaced(client.clone(), NAMESPACE);
        let devices: Api<Device> = Api::namespaced(client, NAMESPACE);
        let doing = |what: &str| format!("applying {what} {NAMESPACE}/");
        models
            .patch(MODEL, &params, &Patch::Apply(&objects::model()))
            .await
            .map_err(|error| kubernetes::explain(error, &(doing("DeviceModel") + MODEL)))?;
        devices
            .patch(DEVICE, &params, &Patch::Apply(&objects::device(self.simulator_port)))
            .await
            .map_err(|error| kubernetes::explain(error, &(doing("Device") + DEVICE)))?;
        for (hop, condition) in [
            (Hop::DeviceDelivered, "Delivered"),
            (Hop::MapperRegistered, "Accepted"),
            (Hop::RegisterWritten, "Converged"),
        ] {
            let what = format!("condition {condition} of the device");
            self.wait(hop, &what, async |stack| {
                let view = stack.look().await?;
                match view.condition(condition) {
                    Some("True") => Ok(()),
                    Some(other) => Err(format!("it is {other}")),
                    None => Err("it is not there".into()),
                }
            })
            .await?;
        }
        Ok(())
    }
}

async fn read_events(stdout: ChildStdout, sender: mpsc::Sender<Event>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(event) = simulator::parse(&line)
            && sender.send(event).await.is_err()
        {
            return;
        }
    }
}

async fn ready(ops: &str) -> Result<(), String> {
    match http::get_plain(ops, "/readyz").await {
        Ok((200, _)) => Ok(()),
        Ok((status, body)) => {
            Err(format!("it answers {status}: {}", String::from_utf8_lossy(&body).trim()))
        }
        Err(error) => Err(format!("{error:#}")),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
