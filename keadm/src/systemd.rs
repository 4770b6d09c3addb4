//! Units as typed data, and the few things that keadm asks of systemd.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::exit::{Exit, Failure};

/// The service of the cloud side. Not `cloudcore.service`: an upstream installation owns that name.
pub const CLOUDCORE_UNIT: &str = "kedge-cloudcore.service";
/// The service of a node. Not `edgecore.service`, for the same reason.
pub const EDGECORE_UNIT: &str = "kedge-edgecore.service";

/// A service that runs one of our daemons, shut in to what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// For people.
    pub description: String,
    /// The program and its arguments.
    pub exec: Vec<String>,
    /// Everything else is read-only to the service.
    pub writable: Vec<PathBuf>,
    /// A directory under `/run`, made by systemd at every start: `/run` is empty after a boot.
    pub runtime_dir: Option<String>,
    /// Whether the service sees no hardware. Ours need none: mappers are services of their own.
    pub private_devices: bool,
}

/// The name for [`Unit::runtime_dir`] of a path, if it is under `/run`.
#[must_use]
pub fn runtime_dir(path: &Path) -> Option<String> {
    let name = path.strip_prefix("/run").ok()?.to_str()?;
    (!name.is_empty() && !name.contains(char::is_whitespace)).then(|| name.to_owned())
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exec: Vec<String> = self.exec.iter().map(|word| quote(word)).collect();
        let writable: Vec<String> =
            self.writable.iter().map(|path| quote(&path.display().to_string())).collect();
        writeln!(f, "# Written by keadm; `keadm reset` removes it.")?;
        writeln!(f, "[Unit]\nDescription={}", self.description.replace('\n', " "))?;
        writeln!(f, "Wants=network-online.target\nAfter=network-online.target")?;
        // No limit on starts: a gateway is to come back by itself however long its cloud was away.
        writeln!(f, "StartLimitIntervalSec=0\n")?;
        writeln!(f, "[Service]\nType=exec\nExecStart={}", exec.join(" "))?;
        writeln!(f, "Restart=always\nRestartSec=2\nTimeoutStopSec=10\nUMask=0077")?;
        writeln!(f, "NoNewPrivileges=yes\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes")?;
        if self.private_devices {
            writeln!(f, "PrivateDevices=yes")?;
        }
        writeln!(
            f,
            "ProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectControlGroups=yes"
        )?;
        writeln!(f, "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX\nRestrictSUIDSGID=yes")?;
        writeln!(f, "LockPersonality=yes\nMemoryDenyWriteExecute=yes\nCapabilityBoundingSet=")?;
        if let Some(name) = &self.runtime_dir {
            writeln!(f, "RuntimeDirectory={name}\nRuntimeDirectoryMode=0750")?;
            // The mappers' sockets are there too.
            writeln!(f, "RuntimeDirectoryPreserve=yes")?;
        }
        writeln!(f, "ReadWritePaths={}\n", writable.join(" "))?;
        writeln!(f, "[Install]\nWantedBy=multi-user.target")
    }
}

/// Quotes a word for a unit file: systemd splits on space and expands `%` and `$`.
fn quote(word: &str) -> String {
    let mut quoted = String::with_capacity(word.len());
    for character in word.chars() {
        match character {
            '%' => quoted.push_str("%%"),
            '$' => quoted.push_str("$$"),
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            '\n' => quoted.push_str("\\n"),
            other => quoted.push(other),
        }
    }
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c == '"' || c == '\'') {
        let mut whole = String::with_capacity(quoted.len() + 2);
        let _ = write!(whole, "\"{quoted}\"");
        return whole;
    }
    quoted
}

/// Whether systemd runs this machine.
#[must_use]
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Runs `systemctl` with `args`.
///
/// # Errors
/// It cannot be started or says no; its own words are in the error.
pub fn control(program: &Path, args: &[&str]) -> anyhow::Result<()> {
    let doing = format!("running {} {}", program.display(), args.join(" "));
    let output = std::process::Command::new(program)
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| doing.clone())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let unit = args.last().copied().unwrap_or_default();
    Err(Failure::new(Exit::Failed, format!("{doing} ({})", output.status))
        .because(if said.is_empty() { "it said nothing".to_owned() } else { said })
        .next(format!("journalctl -u {unit} -n 50"))
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_reads_as_written_here() {
        let unit = Unit {
            description: "Kedge edge node gw-1".into(),
            exec: vec![
                "/opt/my kedge/edgecore".into(),
                "--config".into(),
                "/etc/kedge/100%.yaml".into(),
            ],
            writable: vec!["/var/lib/kedge".into()],
            runtime_dir: runtime_dir(Path::new("/run/kedge")),
            private_devices: true,
        };
        assert_eq!(
            unit.to_string(),
            r#"# Written by keadm; `keadm reset` removes it.
[Unit]
Description=Kedge edge node gw-1
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart="/opt/my kedge/edgecore" --config /etc/kedge/100%%.yaml
Restart=always
RestartSec=2
TimeoutStopSec=10
UMask=0077
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
CapabilityBoundingSet=
RuntimeDirectory=kedge
RuntimeDirectoryMode=0750
RuntimeDirectoryPreserve=yes
ReadWritePaths=/var/lib/kedge

[Install]
WantedBy=multi-user.target
"#
        );
    }

    #[test]
    fn a_word_that_systemd_would_read_otherwise_is_quoted() {
        for (word, quoted) in [
            ("plain", "plain"),
            ("two words", "\"two words\""),
            ("$HOME", "$$HOME"),
            ("50%", "50%%"),
            ("a\"b", "\"a\\\"b\""),
            ("", "\"\""),
        ] {
            assert_eq!(quote(word), quoted);
        }
    }
}
