//! Files as an operator's tool writes them: whole or not at all, with a mode, and only when they differ.

use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// What writing a file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    New,
    Changed,
    Unchanged,
}

impl Written {
    /// As a word for a step.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::New => "written",
            Self::Changed => "rewritten",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Writes a file atomically with `mode`; a file that already holds the same is left, its mode put right.
///
/// # Errors
/// The directory or the file cannot be written; the error names the file.
pub fn write(path: &Path, content: &str, mode: u32) -> anyhow::Result<Written> {
    let what = || format!("writing {}", path.display());
    let before = match std::fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(what),
    };
    if before.as_deref() == Some(content.as_bytes()) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).with_context(what)?;
        return Ok(Written::Unchanged);
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".keadm-")
        .permissions(std::fs::Permissions::from_mode(mode))
        .tempfile_in(dir)
        .with_context(what)?;
    file.write_all(content.as_bytes()).with_context(what)?;
    // The umask may have narrowed the mode.
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).with_context(what)?;
    file.as_file().sync_all().with_context(what)?;
    file.persist(path).map_err(|error| error.error).with_context(what)?;
    Ok(if before.is_some() { Written::Changed } else { Written::New })
}

/// Makes a directory and its parents with `mode`, and returns those that were not there, outermost first.
///
/// # Errors
/// A directory cannot be made; the error names it.
pub fn make_dir(path: &Path, mode: u32) -> anyhow::Result<Vec<PathBuf>> {
    let missing: Vec<PathBuf> = path
        .ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .map(Path::to_path_buf)
        .collect();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("making directory {}", path.display()))?;
    Ok(missing.into_iter().rev().collect())
}

/// Removes a file; says whether it was there.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove_file(path: &Path) -> anyhow::Result<bool> {
    gone(std::fs::remove_file(path)).with_context(|| format!("removing {}", path.display()))
}

/// Removes a directory if it is empty; says whether it was removed.
///
/// # Errors
/// It is there, is empty, and cannot be removed.
pub fn remove_empty_dir(path: &Path) -> anyhow::Result<bool> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Ok(false);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            return Err(error).with_context(|| format!("listing {}", path.display()));
        }
    }
    gone(std::fs::remove_dir(path)).with_context(|| format!("removing {}", path.display()))
}

fn gone(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert_eq!(write(&path, "a", 0o600).unwrap(), Written::New);
        assert_eq!(write(&path, "a", 0o600).unwrap(), Written::Unchanged);
        assert_eq!(write(&path, "b", 0o600).unwrap(), Written::Changed);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(write(&path, "b", 0o600).unwrap(), Written::Unchanged);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_directories_that_were_missing_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        assert_eq!(make_dir(&deep, 0o755).unwrap(), [dir.path().join("a"), deep.clone()]);
        assert!(make_dir(&deep, 0o755).unwrap().is_empty());
        assert!(!remove_empty_dir(&dir.path().join("a")).unwrap());
        assert!(remove_empty_dir(&deep).unwrap());
        assert!(!remove_empty_dir(&deep).unwrap());
    }
}
