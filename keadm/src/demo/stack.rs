//! The processes of the demo: started in order with visible progress, watched, stopped in reverse.

mod ports;
mod progress;
mod start;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use crds::{Device, DeviceStatus};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::demo::guard::Guard;
use crate::demo::hop::{self, Hop, failed};
use crate::demo::objects::{self, DEVICE, NAMESPACE, NODE};
use crate::demo::process::{Process, Stopped};
use crate::demo::simulator::{Event, Registers};
use crate::demo::stack::ports::Ports;
use crate::demo::view::{self, View};
use crate::kubernetes::{self, Cluster};
use crate::{binaries, terminal};

/// For each step; generous, because a laptop may be busy.
const PATIENCE: Duration = Duration::from_secs(30);
/// For one read of the API while somebody looks.
const GLANCE: Duration = Duration::from_secs(2);
/// Between two looks at something that is not so yet.
const AGAIN: Duration = Duration::from_millis(40);

/// Everything that runs.
pub struct Stack {
    dir: PathBuf,
    guard: Option<Guard>,
    processes: Vec<Process>,
    cluster: Option<Cluster>,
    registers: Registers,
    events: Option<mpsc::Receiver<Event>>,
    simulator_port: u16,
    ports: Ports,
}

impl Stack {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(dir: &Path, guard: Guard) -> Self {
        Self {
            dir: dir.to_path_buf(),
            guard: Some(guard),
            processes: Vec::new(),
            cluster: None,
            registers: Registers::default(),
            events: None,
            simulator_port: 0,
            ports: Ports::default(),
        }
    }

    /// Where everything is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The boiler's registers as it told them.
    #[must_use]
    pub fn simulator(&self) -> &Registers {
        &self.registers
    }

    /// One JSON line for a program that measures.
    #[must_use]
    pub fn describe(&self) -> serde_json::Value {
        let pids: serde_json::Map<String, serde_json::Value> = self
            .processes
            .iter()
            .map(|process| (process.name.to_owned(), process.pid.into()))
            .collect();
        serde_json::json!({
            "ready": true,
            "dir": self.dir,
            "kubeconfig": self.kubeconfig(),
            "processes": pids,
            "cloudcoreOps": local(self.ports.cloud_ops),
            "edgecoreOps": local(self.ports.edge_ops),
        })
    }

    /// Changes the setpoint through the API, as a person would.
    ///
    /// # Errors
    /// The API server does not take it.
    pub async fn set_setpoint(&mut self, value: &str) -> anyhow::Result<()> {
        let devices: Api<Device> = Api::namespaced(self.cluster()?.client.clone(), NAMESPACE);
        let device = objects::device_with_setpoint(self.simulator_port, value);
        let patch = serde_json::json!({ "spec": { "properties": device["spec"]["properties"] } });
        devices
            .patch(DEVICE, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(|error| kubernetes::explain(error, "patching the setpoint"))?;
        Ok(())
    }

    /// Reads the API; a failure to read is part of what is shown.
    pub async fn view(&mut self) -> View {
        match self.look().await {
            Ok(view) => view,
            Err(problem) => View { problem: Some(problem), ..View::default() },
        }
    }

    async fn look(&self) -> Result<View, String> {
        let client = self.cluster().map_err(|error| format!("{error:#}"))?.client.clone();
        let devices: Api<Device> = Api::namespaced(client.clone(), NAMESPACE);
        let statuses: Api<DeviceStatus> = Api::namespaced(client.clone(), NAMESPACE);
        let nodes: Api<Node> = Api::all(client);
        let read = async {
            tokio::try_join!(devices.get_opt(DEVICE), statuses.get_opt(DEVICE), nodes.get_opt(NODE))
        };
        match tokio::time::timeout(GLANCE, read).await {
            Ok(Ok((device, status, node))) => {
                Ok(view::of(device.as_ref(), status.as_ref(), node.as_ref(), &self.registers))
            }
            Ok(Err(error)) => Err(format!("{:#}", kubernetes::explain(error, "reading the API"))),
            Err(_) => Err(format!("no answer within {} s", GLANCE.as_secs())),
        }
    }

    /// The boiler's next line. Never ends once the boiler has: its end is noticed elsewhere.
    pub async fn next_simulator_event(&mut self) -> Event {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        match events.recv().await {
            Some(event) => {
                self.registers.apply(&event);
                event
            }
            None => std::future::pending().await,
        }
    }

    /// Takes the boiler's lines without waiting for one.
    pub fn drain_simulator(&mut self) {
        while let Some(Ok(event)) = self.events.as_mut().map(mpsc::Receiver::try_recv) {
            self.registers.apply(&event);
        }
    }

    /// Notices a process that ended.
    ///
    /// # Errors
    /// One has.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            if let Some(status) = process.ended() {
                let hop = Hop::of_process(process.name);
                return Err(failed(hop, format!("{} ended by itself: {status}", process.name)));
            }
        }
        Ok(())
    }

    /// Prints what the process behind the failed hop said last.
    #[must_use]
    pub fn with_log(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(hop) = hop::of(&error) else { return error };
        if let Some(process) = self.processes.iter().find(|one| one.name == hop.process()) {
            terminal::error(format_args!("\nlast lines of {}:", process.name));
            terminal::error(process.last_lines(15));
        }
        error
    }

    /// Stops everything, the last started first.
    pub async fn stop(&mut self, quiet: bool) {
        let mut forced = Vec::new();
        let mut count = 0;
        while let Some(process) = self.processes.pop() {
            let name = process.name;
            count += 1;
            if process.stop().await == Stopped::Killed {
                forced.push(name);
            }
        }
        if let Some(guard) = self.guard.take() {
            guard.release();
        }
        if !quiet {
            terminal::line(format_args!("\nstopped {count} processes"));
        }
        if !forced.is_empty() {
            terminal::error(format_args!("had to kill after 5 s: {}", forced.join(", ")));
        }
    }

    fn cluster(&self) -> anyhow::Result<&Cluster> {
        self.cluster.as_ref().context("the API server was not started")
    }

    fn spawn(&mut self, name: &'static str, args: &[String]) -> anyhow::Result<()> {
        let program = binaries::find(name)?;
        let guard = self.guard.as_mut().context("the guard was released")?;
        self.processes.push(Process::start(name, &program, args, &self.dir, guard)?);
        Ok(())
    }

    /// Looks again and again until it is so, a process ends, or the time is up.
    async fn wait<T>(
        &mut self,
        hop: Hop,
        what: &str,
        look: impl AsyncFn(&Self) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let problem = match look(self).await {
                Ok(value) => return Ok(value),
                Err(problem) => problem,
            };
            self.check_alive()?;
            self.drain_simulator();
            if Instant::now() >= deadline {
                let seconds = PATIENCE.as_secs();
                return Err(failed(hop, format!("waited {seconds} s for {what}: {problem}")));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
