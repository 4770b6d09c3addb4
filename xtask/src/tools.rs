//! The programs that tests need and cargo does not bring: kubectl, and a Python with a Modbus server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::{cargo, say};

/// The oldest kubectl that the stories are written for.
const OLDEST_KUBECTL: (u32, u32) = (1, 32);

/// What was found or installed.
#[derive(Clone, Debug)]
pub struct Tools {
    pub kubectl: PathBuf,
    pub python: PathBuf,
    /// A cluster to run the stories against, in place of our own API server.
    pub cluster: Option<PathBuf>,
}

impl Tools {
    /// Finds or installs everything.
    ///
    /// # Errors
    /// What is missing, and how to get it by hand.
    pub fn prepare(cluster: Option<PathBuf>) -> anyhow::Result<Self> {
        let python = venv_python()?;
        let kubectl = match find_kubectl() {
            Some(kubectl) => kubectl,
            None => venv_kubectl()?,
        };
        Ok(Self { kubectl, python, cluster })
    }

    /// Hands the tools to a command, by the names that the tests know.
    #[must_use]
    pub fn given_to(&self, mut command: Command) -> Command {
        command.env("KUBECTL", &self.kubectl).env("KEDGE_PYTHON", &self.python);
        // Only e2e on request speaks to a user's cluster.
        command.env_remove("KUBECONFIG").env_remove("KEDGE_E2E_KUBECONFIG");
        if let Some(cluster) = &self.cluster {
            command.env("KEDGE_E2E_KUBECONFIG", cluster);
        }
        command
    }
}

/// `$KUBECTL`, or a good one on the path.
fn find_kubectl() -> Option<PathBuf> {
    let named = std::env::var_os("KUBECTL").filter(|path| !path.is_empty()).map(PathBuf::from);
    let candidate = named.unwrap_or_else(|| "kubectl".into());
    match kubectl_version(&candidate) {
        Some(version) if is_usable(&version) => {
            say::note(format_args!("kubectl {version} ({})", candidate.display()));
            Some(candidate)
        }
        Some(version) => {
            let wanted = format!("{}.{}", OLDEST_KUBECTL.0, OLDEST_KUBECTL.1);
            say::note(format_args!("kubectl {version} is a dispatcher or older than {wanted}"));
            None
        }
        None => None,
    }
}

fn kubectl_version(kubectl: &Path) -> Option<String> {
    let output = Command::new(kubectl)
        .args(["version", "--client", "--output", "json"])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    Some(version["clientVersion"]["gitVersion"].as_str()?.to_owned())
}

/// A dispatcher picks another kubectl by the server's version: a test cannot say what it ran.
fn is_usable(version: &str) -> bool {
    if version.contains("dispatcher") {
        return false;
    }
    let mut numbers = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST_KUBECTL,
        _ => false,
    }
}

/// The kubectl that the packages of the stories bring.
fn venv_kubectl() -> anyhow::Result<PathBuf> {
    let kubectl = cargo::tools().join("venv/bin/kubectl");
    match kubectl_version(&kubectl) {
        Some(version) => {
            say::note(format_args!("kubectl {version} ({})", kubectl.display()));
            Ok(kubectl)
        }
        None => bail!(
            "no usable kubectl: none on the path, and {} does not run; name one: \
             KUBECTL=/path/to/kubectl",
            kubectl.display()
        ),
    }
}

/// The interpreter of our own virtual environment, with what `e2e/device` needs.
fn venv_python() -> anyhow::Result<PathBuf> {
    let venv = cargo::tools().join("venv");
    let python = venv.join("bin/python");
    let requirements = cargo::root().join("e2e/device/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)
        .with_context(|| format!("reading {}", requirements.display()))?;
    // What was installed last, so that a second run asks no registry.
    let stamp = venv.join("installed-requirements.txt");
    if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(python);
    }
    say::note(format_args!("making a Python environment in {}", venv.display()));
    let mut command = Command::new("python3");
    command.args(["-m", "venv"]).arg(&venv);
    cargo::run(command).context(
        "python3 with its venv module is missing (Debian: apt-get install python3 python3-venv)",
    )?;
    let file = requirements.display().to_string();
    pip_install(&python, &["--requirement", &file]).with_context(|| {
        format!("the packages of {file} could not be installed from PyPI; is this machine offline?")
    })?;
    std::fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(python)
}

fn pip_install(python: &Path, what: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    command.args(what).stdin(Stdio::null());
    cargo::run(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dispatcher_or_an_old_kubectl_is_not_used() {
        for (version, usable) in [
            ("v1.32.0", true),
            ("v1.37.2", true),
            ("v2.0.0", true),
            ("v1.31.9", false),
            ("v1.32.4-dispatcher", false),
            ("", false),
        ] {
            assert_eq!(is_usable(version), usable, "{version}");
        }
    }
}
