//! The user's hand: a real kubectl.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::process::Process;
use crate::setting;

/// kubectl with a kubeconfig and a namespace.
#[derive(Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    namespace: String,
    cache: PathBuf,
}

/// What a run of kubectl left.
#[derive(Debug)]
pub struct Run {
    /// The command, for messages.
    pub command: String,
    /// Whether it exited with 0.
    pub success: bool,
    /// Its output.
    pub stdout: String,
    /// Its complaints.
    pub stderr: String,
}

impl Kubectl {
    /// `cache` keeps kubectl's discovery cache out of the home folder, where it would outlive the API.
    #[must_use]
    pub fn new(kubeconfig: &Path, namespace: &str, cache: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
            namespace: namespace.to_owned(),
            cache: cache.to_owned(),
        }
    }

    /// Runs it, whatever comes of it.
    ///
    /// # Panics
    /// When kubectl cannot be started at all.
    #[track_caller]
    pub fn run(&self, arguments: &[&str], stdin: Option<&str>) -> Run {
        self.run_with_editor("false", arguments, stdin)
    }

    /// As [`Kubectl::run`], with a command that stands for the user at an editor.
    ///
    /// # Panics
    /// When kubectl cannot be started at all.
    #[track_caller]
    pub fn run_with_editor(&self, editor: &str, arguments: &[&str], stdin: Option<&str>) -> Run {
        let kubectl = setting::kubectl();
        let mut child = Command::new(&kubectl)
            .env("KUBE_EDITOR", editor)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(["--namespace", &self.namespace])
            .args(arguments)
            .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error} (set $KUBECTL)", kubectl.display()));
        if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
            let _ = pipe.write_all(text.as_bytes());
        }
        let output =
            child.wait_with_output().unwrap_or_else(|e| panic!("{}: {e}", kubectl.display()));
        Run {
            command: format!("kubectl {}", arguments.join(" ")),
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// A kubectl that goes on until it is killed, such as `get --watch`; its output is its log.
    #[must_use]
    pub fn process(&self, name: &str, arguments: &[&str], logs: &Path) -> Process {
        let kubeconfig = self.kubeconfig.to_string_lossy();
        let cache = self.cache.to_string_lossy();
        let ours =
            ["--kubeconfig", &kubeconfig, "--cache-dir", &cache, "--namespace", &self.namespace];
        let arguments = ours.iter().chain(arguments).map(|&argument| argument.to_owned()).collect();
        Process::new(name, setting::kubectl(), arguments, logs)
    }

    /// Runs it and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments, None).ok()
    }

    /// Applies an object.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn apply(&self, object: &Value) -> String {
        self.run(&["apply", "-f", "-"], Some(&object.to_string())).ok()
    }

    /// Sets the desired value of the device's first property.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn desire(&self, device: &str, value: &str) {
        let patch = format!(
            r#"[{{"op":"replace","path":"/spec/properties/0/desired/value","value":"{value}"}}]"#
        );
        self.ok(&["patch", "device", device, "--type=json", "-p", &patch]);
    }
}

impl Run {
    /// What it printed.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success, "{} failed:\n{}{}", self.command, self.stdout, self.stderr);
        self.stdout
    }

    /// What it complained about.
    ///
    /// # Panics
    /// When it succeeded.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(!self.success, "{} should fail, but printed:\n{}", self.command, self.stdout);
        self.stderr
    }
}
