//! `keadm reset [edge]`: this machine is no longer a node. Removes exactly our files, names each, and
//! says what it left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::files;
use crate::join::{CONFIG_FILE, RECEIPT_FILE, TOKEN_FILE};
use crate::receipt::Receipt;
use crate::reset::confirm;
use crate::supervisor::SupervisorArgs;
use crate::systemd::EDGECORE_UNIT;
use crate::terminal::{Output, Steps};

/// Stops edgecore and removes what join made.
#[derive(Args, Clone, Debug)]
pub struct EdgeResetArgs {
    /// edgecore.yaml and the token.
    #[arg(long, default_value = "/etc/kedge", value_name = "DIR")]
    config_dir: PathBuf,
    /// The database and the node's key [default: as joined, else /var/lib/kedge]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Sockets [default: as joined, else /run/kedge]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    #[command(flatten)]
    supervisor: SupervisorArgs,
    /// Does not ask.
    #[arg(short, long)]
    force: bool,
    /// How to report.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// See [`crate::exit`].
pub fn run(args: &EdgeResetArgs) -> anyhow::Result<()> {
    let config_dir = std::path::absolute(&args.config_dir)?;
    let receipt = Receipt::read(&config_dir.join(RECEIPT_FILE))?;
    let chosen = |flag: &Option<PathBuf>, joined: &Option<PathBuf>, default: &str| {
        flag.clone().or_else(|| joined.clone()).unwrap_or_else(|| default.into())
    };
    let data_dir =
        std::path::absolute(chosen(&args.data_dir, &receipt.data_dir, "/var/lib/kedge"))?;
    let run_dir = std::path::absolute(chosen(&args.run_dir, &receipt.run_dir, "/run/kedge"))?;
    let plan = Removal::of(&config_dir, &data_dir, &run_dir, &receipt);
    confirm(
        args.force,
        &format!(
            "This stops edgecore and removes its files in {}, {} and {}. The node's key is lost: it \
             has to join again.\nGo on?",
            config_dir.display(),
            data_dir.display(),
            run_dir.display()
        ),
    )?;
    let node = joined_as(&config_dir);
    let mut steps = Steps::new("reset", args.output);
    args.supervisor.uninstall(EDGECORE_UNIT, &mut steps)?;
    plan.perform(&mut steps)?;
    if steps.lines().is_empty() {
        steps.say("nothing of Kedge was here");
    }
    if let Some(node) = node {
        steps.say(format_args!(
            "The Node stays in the cluster. To remove it: kubectl delete node {node}"
        ));
        steps.fact("node", node);
    }
    steps.finish();
    Ok(())
}

/// The name of the node that this machine is.
fn joined_as(config_dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(config_dir.join(CONFIG_FILE)).ok()?;
    let config: serde_json::Value = serde_yaml_ng::from_str(&text).ok()?;
    Some(config["nodeName"].as_str()?.to_owned())
}

/// What a reset removes.
#[derive(Debug, PartialEq, Eq)]
pub struct Removal {
    /// Removed if there.
    files: BTreeSet<PathBuf>,
    /// Removed if empty, deepest first.
    directories: Vec<PathBuf>,
}

impl Removal {
    /// Lists it. A directory that was there before the join stays.
    #[must_use]
    pub fn of(config_dir: &Path, data_dir: &Path, run_dir: &Path, receipt: &Receipt) -> Self {
        let mut files = receipt.files.clone();
        files.extend([CONFIG_FILE, TOKEN_FILE].map(|name| config_dir.join(name)));
        files
            .extend(["pki/ca.crt", "pki/node.crt", "pki/node.key"].map(|name| data_dir.join(name)));
        files.extend(states(data_dir));
        files.insert(run_dir.join("dmi.sock"));
        files.insert(config_dir.join(RECEIPT_FILE));
        let mut directories = receipt.directories.clone();
        if directories.is_empty() {
            // Installed by hand: what is ours by its default name and empty is of no use to others.
            directories.extend(
                ["/etc/kedge", "/var/lib/kedge", "/run/kedge"]
                    .map(PathBuf::from)
                    .into_iter()
                    .filter(|dir| [config_dir, data_dir, run_dir].contains(&dir.as_path())),
            );
        }
        directories.insert(data_dir.join("pki"));
        let mut directories: Vec<PathBuf> = directories.into_iter().collect();
        directories.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
        Self { files, directories }
    }

    /// Removes it, naming each.
    ///
    /// # Errors
    /// A file of ours that cannot be removed.
    pub fn perform(&self, steps: &mut Steps) -> anyhow::Result<()> {
        for file in &self.files {
            if files::remove_file(file)? {
                steps.done(format_args!("removed {}", file.display()));
            }
        }
        for dir in &self.directories {
            if files::remove_empty_dir(dir)? {
                steps.done(format_args!("removed {}", dir.display()));
            } else if dir.exists() {
                steps.done(format_args!("left {}: {}", dir.display(), contents(dir)));
            }
        }
        Ok(())
    }
}

/// The database with its journal, damaged ones that edgecore set aside, and its lock.
fn states(data_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data_dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("edgecore."))
        .map(|entry| entry.path())
        .collect()
}

fn contents(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    format!("holds {}, not ours", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_removal_list_holds_ours_and_nothing_else() {
        let receipt =
            Receipt { directories: ["/e", "/d"].map(PathBuf::from).into(), ..Receipt::default() };
        let plan = Removal::of(Path::new("/e"), Path::new("/d"), Path::new("/r"), &receipt);
        let files: Vec<_> = plan.files.iter().map(|file| file.to_str().unwrap()).collect();
        assert_eq!(
            files,
            [
                "/d/pki/ca.crt",
                "/d/pki/node.crt",
                "/d/pki/node.key",
                "/e/edgecore.yaml",
                "/e/join.json",
                "/e/token",
                "/r/dmi.sock"
            ]
        );
        // /r was there before the join.
        assert_eq!(plan.directories, ["/d/pki", "/d", "/e"].map(PathBuf::from));
    }

    #[test]
    fn what_others_put_there_is_left_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut receipt = Receipt::default();
        receipt.make_dir(&data, 0o700).unwrap();
        for name in ["edgecore.db", "edgecore.db-wal", "edgecore.lock", "notes.txt"] {
            files::write(&data.join(name), "x", 0o600).unwrap();
        }
        let mut steps = Steps::new("reset", Output::Json);
        let plan = Removal::of(&dir.path().join("etc"), &data, &dir.path().join("run"), &receipt);
        plan.perform(&mut steps).unwrap();
        let left: Vec<_> = std::fs::read_dir(&data).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert!(steps.lines().iter().any(|line| line.contains("notes.txt, not ours")));
    }
}
