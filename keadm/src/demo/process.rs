//! One child process of the demo: its log goes to a file, its end is noticed, its stop is certain.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, ChildStdout, Command};

use crate::demo::guard::Guard;

/// The time that the house gives a daemon to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A running child.
#[derive(Debug)]
pub struct Process {
    pub name: &'static str,
    pub pid: u32,
    child: Child,
    log: PathBuf,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// By itself, before it was asked.
    Before,
    /// When asked.
    Gracefully,
    /// It had to be killed.
    Killed,
}

impl Process {
    /// Starts a program with its output in `dir/NAME.log`.
    ///
    /// # Errors
    /// It cannot be started or its log cannot be made.
    pub fn start(
        name: &'static str,
        program: &Path,
        args: &[String],
        dir: &Path,
        guard: &mut Guard,
    ) -> anyhow::Result<Self> {
        Self::spawn(name, program, args, dir, guard, false)
    }

    /// The same, but stdout is for the caller and only stderr goes to the log.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_talking(
        name: &'static str,
        program: &Path,
        args: &[String],
        dir: &Path,
        guard: &mut Guard,
    ) -> anyhow::Result<(Self, ChildStdout)> {
        let mut process = Self::spawn(name, program, args, dir, guard, true)?;
        let stdout = process.child.stdout.take().context("its stdout was taken")?;
        Ok((process, stdout))
    }

    fn spawn(
        name: &'static str,
        program: &Path,
        args: &[String],
        dir: &Path,
        guard: &mut Guard,
        talking: bool,
    ) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let stdout = if talking { Stdio::piped() } else { file.try_clone()?.into() };
        let child = Command::new(program)
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(file)
            // A group of its own: Ctrl-C is for keadm, which stops all in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let pid = child.id().context("it ended at once")?;
        guard.watch(pid);
        Ok(Self { name, pid, child, log })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The last lines of its log.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(count);
        lines.get(from..).unwrap_or_default().join("\n")
    }

    /// Asks it to stop, waits, and insists.
    pub async fn stop(mut self) -> Stopped {
        if self.ended().is_some() {
            return Stopped::Before;
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await.is_ok() {
            return Stopped::Gracefully;
        }
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        drop(self.child.wait().await);
        Stopped::Killed
    }
}
