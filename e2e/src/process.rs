//! A child process with a log, and the ways to end it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait;

/// What a process may take to stop when asked to.
const GRACE: Duration = Duration::from_secs(5);

/// How much of a log is printed when a story fails.
const TAIL: u64 = 12 * 1024;

/// Something that can be started, killed and started again with the same command line.
pub struct Process {
    name: String,
    binary: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Describes a process; nothing is started yet.
    #[must_use]
    pub fn new(name: &str, binary: PathBuf, arguments: Vec<String>, logs: &Path) -> Self {
        let log = logs.join(format!("{name}.log"));
        Self { name: name.to_owned(), binary, arguments, log, child: None }
    }

    /// Starts it. Output goes to the log, after what earlier runs left there.
    ///
    /// # Panics
    /// When it runs already or cannot be started.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(!self.is_running(), "{} runs already", self.name);
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap_or_else(|error| panic!("{}: {error}", self.log.display()));
        let _ = writeln!(log, "--- start {} {}", self.name, self.arguments.join(" "));
        let output = || {
            Stdio::from(log.try_clone().unwrap_or_else(|e| panic!("{}: {e}", self.log.display())))
        };
        let child = Command::new(&self.binary)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .env_remove("KUBECONFIG")
            .env_remove("RUST_LOG")
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        self.child = Some(child);
    }

    /// Whether it was started and has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Ends it as a power cut does.
    ///
    /// # Panics
    /// When it is not running: a process that ended by itself is a finding, not a convenience.
    #[track_caller]
    pub fn kill(&mut self) {
        assert!(self.is_running(), "{} should run, but it ended:\n{}", self.name, self.tail());
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to stop and sees that it does, cleanly and in time.
    ///
    /// # Panics
    /// When it is not running, takes longer than 5 s, or exits with anything but 0.
    #[track_caller]
    pub fn stop(&mut self) {
        assert!(self.is_running(), "{} should run, but it ended:\n{}", self.name, self.tail());
        self.signal("TERM");
        let status = self.wait(GRACE);
        assert!(status.success(), "{} stopped with {status}", self.name);
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not within the deadline.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let name = self.name.clone();
        let child = self.child.as_mut().unwrap_or_else(|| panic!("{name} was not started"));
        let status = wait::within(deadline, &format!("{name} ends"), || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        self.child = None;
        status
    }

    /// Freezes it: its connections stay open and nobody answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets a frozen process go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// The whole log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of the log.
    #[must_use]
    pub fn tail(&self) -> String {
        let Ok(mut file) = File::open(&self.log) else { return "(no log)".into() };
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(TAIL)));
        let mut bytes = Vec::new();
        let _ = file.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn signal(&self, signal: &str) {
        let Some(child) = &self.child else { return };
        // The shell's own kill, since sending a signal otherwise takes unsafe code or a dependency.
        let sent =
            Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status();
        assert!(
            sent.as_ref().is_ok_and(ExitStatus::success),
            "SIG{signal} to {}: {sent:?}",
            self.name
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
