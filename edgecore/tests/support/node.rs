//! The real binary as a process.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::cloud::Cloud;
use super::wait_for;

pub struct Node {
    pub dir: TempDir,
    pub ops: SocketAddr,
    child: Option<Child>,
}

impl Node {
    /// Writes a configuration for this cloud and starts the node. The token is there.
    pub async fn start(cloud: &Cloud) -> Self {
        let dir = tempfile::tempdir().unwrap();
        cloud.write_token(&dir.path().join("token"));
        Self::start_in(dir, cloud).await
    }

    /// As [`Node::start`], but the hub is reached at another address.
    pub async fn start_via(cloud: &Cloud, hub: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        cloud.write_token(&dir.path().join("token"));
        Self::start_with(dir, cloud, hub).await
    }

    pub async fn start_in(dir: TempDir, cloud: &Cloud) -> Self {
        Self::start_with(dir, cloud, cloud.hub).await
    }

    async fn start_with(dir: TempDir, cloud: &Cloud, hub: SocketAddr) -> Self {
        // A free port; another process may take it in between, which the test then shows.
        let ops = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "nodeName: gw-1\n\
             cloud: {{hub: \"{}\", enrol: \"{}\", tokenFile: {path}/token, heartbeat: 2s}}\n\
             dataDir: {path}/data\n\
             dmi: {{socket: {path}/run/dmi.sock}}\n\
             ops: {{listen: \"{ops}\"}}\n\
             log: info,edgecore=debug\n",
            hub,
            cloud.enrol,
            path = dir.path().display(),
        );
        std::fs::write(dir.path().join("edgecore.yaml"), config).unwrap();
        let mut node = Self { dir, ops, child: None };
        node.spawn().await;
        node
    }

    /// Starts the process and waits until it is ready.
    pub async fn spawn(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("edgecore.log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_edgecore"))
            .arg("--config")
            .arg(self.dir.path().join("edgecore.yaml"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_for("edgecore is ready", async || {
            self.get("/readyz").await.filter(|answer| answer.starts_with("HTTP/1.1 200")).map(drop)
        })
        .await;
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops it with SIGTERM; returns the exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let kill = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(kill.success());
        wait_for("edgecore stops", async || child.try_wait().unwrap()).await.code()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/dmi.sock")
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub async fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.ops).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    pub async fn status(&self) -> serde_json::Value {
        let answer = self.get("/status").await.expect("edgecore answers");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("edgecore.log"));
            eprintln!("--- edgecore.log ---\n{}", log.unwrap_or_default());
        }
    }
}
