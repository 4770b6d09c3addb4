//! Rules of the house that no lint knows. Each answers with the places that break it.

mod length;
mod orphans;
mod purity;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::stages::Outcome;
use crate::{cargo, say};

/// Checks all rules.
///
/// # Errors
/// A rule is broken; every place is named.
pub fn check() -> anyhow::Result<Outcome> {
    let root = cargo::root();
    let files = rust_files(&root)?;
    let mut problems = length::check(&root, &files)?;
    problems.extend(orphans::check(&root, &files)?);
    problems.extend(purity::check()?);
    for problem in &problems {
        say::note(problem);
    }
    match problems.len() {
        0 => Ok(Outcome::Noted(format!("{} files", files.len()))),
        count => bail!("{count} places break a rule of the house"),
    }
}

/// Every Rust file of the workspace, relative to the root, sorted.
fn rust_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder);
        for entry in entries.with_context(|| format!("listing {}", folder.display()))? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                files.push(path.strip_prefix(root).unwrap_or(&path).to_path_buf());
            }
        }
    }
    files.sort();
    Ok(files)
}
