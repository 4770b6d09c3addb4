//! What `join` and `init` made on this machine, written down so that `reset` takes back exactly that.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::files;

/// A list of what was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Receipt {
    /// Files that keadm wrote.
    pub files: BTreeSet<PathBuf>,
    /// Directories that were not there before. Removed when nothing else is in them.
    pub directories: BTreeSet<PathBuf>,
    /// Where the daemon keeps its state.
    pub data_dir: Option<PathBuf>,
    /// Where the daemon keeps its sockets.
    pub run_dir: Option<PathBuf>,
}

impl Receipt {
    /// Reads a receipt; one that is not there is empty.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Writes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        files::write(path, &text, 0o600)?;
        Ok(())
    }

    /// Makes a directory and notes what had to be made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_dir(&mut self, path: &Path, mode: u32) -> anyhow::Result<()> {
        self.directories.extend(files::make_dir(path, mode)?);
        Ok(())
    }

    /// Writes a file and notes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_file(
        &mut self,
        path: &Path,
        content: &str,
        mode: u32,
    ) -> anyhow::Result<files::Written> {
        let written = files::write(path, content, mode)?;
        self.files.insert(path.to_path_buf());
        Ok(written)
    }
}
