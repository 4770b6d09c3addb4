//! The product as `keadm demo` runs it, for measuring: idle, with the demo's device.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// A running demo. Ends by itself.
pub struct DemoStack {
    keadm: Child,
    description: Value,
}

impl DemoStack {
    /// Starts it from the binaries in `dir` and returns when everything runs; it ends after `time`.
    ///
    /// # Errors
    /// It does not come up; keadm has said why.
    pub fn start(dir: &Path, time: Duration) -> anyhow::Result<Self> {
        let mut keadm = Command::new(dir.join("keadm"))
            .args(["demo", "--idle", "--output", "json", "--for"])
            .arg(format!("{}s", time.as_secs()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting keadm demo")?;
        let stdout = keadm.stdout.take().context("keadm demo has no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("reading from keadm demo")?;
        let Ok(description) = serde_json::from_str(&line) else {
            drop(keadm.wait());
            bail!("keadm demo did not come up");
        };
        Ok(Self { keadm, description })
    }

    /// The process id of one of the programs.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn pid(&self, name: &str) -> anyhow::Result<u64> {
        let pid = self.description["processes"][name].as_u64();
        pid.with_context(|| format!("keadm demo names no process {name}"))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// A process of it failed meanwhile, so what was measured is worth nothing.
    pub fn finish(mut self) -> anyhow::Result<()> {
        let status = self.keadm.wait().context("waiting for keadm demo")?;
        if !status.success() {
            bail!("keadm demo ended with {status}");
        }
        Ok(())
    }
}
