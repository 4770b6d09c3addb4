//! Who runs a daemon: systemd, or the operator by hand.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::exit::{Exit, Failure};
use crate::files;
use crate::systemd::{self, Unit};
use crate::terminal::Steps;

/// Who runs a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Supervisor {
    /// A systemd unit, enabled and started.
    Systemd,
    /// Nobody: keadm prints the command line.
    None,
}

/// The arguments that say who runs a daemon.
#[derive(Args, Clone, Debug)]
pub struct SupervisorArgs {
    /// Who runs the daemon [default: systemd where it runs this machine, else none]
    #[arg(long, value_enum)]
    pub supervisor: Option<Supervisor>,
    /// Where units are written.
    #[arg(long, hide = true, default_value = "/etc/systemd/system", value_name = "DIR")]
    pub unit_dir: PathBuf,
    /// The program that speaks to systemd.
    #[arg(long, hide = true, default_value = "systemctl", value_name = "PATH")]
    pub systemctl: PathBuf,
}

impl SupervisorArgs {
    /// What was asked for, or what this machine has.
    #[must_use]
    pub fn choice(&self) -> Supervisor {
        self.supervisor.unwrap_or(if systemd::is_running() {
            Supervisor::Systemd
        } else {
            Supervisor::None
        })
    }

    /// Refuses systemd where it does not run, before anything is written.
    ///
    /// # Errors
    /// [`Exit::Usage`].
    pub fn check(&self) -> anyhow::Result<()> {
        let real = self.systemctl == Path::new("systemctl");
        if self.supervisor == Some(Supervisor::Systemd) && real && !systemd::is_running() {
            return Err(Failure::new(Exit::Usage, "systemd does not run this machine")
                .next("run it by hand: --supervisor none")
                .into());
        }
        Ok(())
    }

    /// Writes the unit, and starts it anew when it or its configuration changed.
    ///
    /// # Errors
    /// The unit cannot be written or systemd says no.
    pub fn install(
        &self,
        name: &str,
        unit: &Unit,
        configuration_changed: bool,
        steps: &mut Steps,
    ) -> anyhow::Result<PathBuf> {
        let path = self.unit_dir.join(name);
        let written = files::write(&path, &unit.to_string(), 0o644)?;
        steps.done(format_args!("unit {}: {}", path.display(), written.word()));
        if written != files::Written::Unchanged {
            systemd::control(&self.systemctl, &["daemon-reload"])?;
        }
        systemd::control(&self.systemctl, &["enable", "--now", name])?;
        if configuration_changed {
            systemd::control(&self.systemctl, &["restart", name])?;
        }
        steps.done(format_args!("service {name}: enabled and started"));
        Ok(path)
    }

    /// Stops the service and removes its unit, if there is one.
    ///
    /// # Errors
    /// systemd says no, or the unit cannot be removed.
    pub fn uninstall(&self, name: &str, steps: &mut Steps) -> anyhow::Result<()> {
        let path = self.unit_dir.join(name);
        if !path.exists() {
            return Ok(());
        }
        systemd::control(&self.systemctl, &["disable", "--now", name])?;
        files::remove_file(&path)?;
        systemd::control(&self.systemctl, &["daemon-reload"])?;
        steps.done(format_args!("service {name}: stopped, {} removed", path.display()));
        Ok(())
    }
}
