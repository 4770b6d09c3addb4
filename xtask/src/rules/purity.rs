//! Rooms that promise to do no IO cannot: no runtime is among their dependencies.

use anyhow::{Context as _, bail};

use crate::cargo;

/// The rooms, by package.
const PURE: [&str; 2] = ["crds", "hub-proto"];
/// What would let them do IO behind a reader's back.
const RUNTIMES: [&str; 4] = ["tokio", "async-std", "smol", "hyper"];

/// Names pure rooms that depend on a runtime.
///
/// # Errors
/// cargo cannot say what they depend on.
pub fn check() -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for room in PURE {
        let args = ["tree", "--edges", "normal", "--prefix", "none", "--package", room];
        let output = cargo::command(&args).output().context("starting cargo tree")?;
        if !output.status.success() {
            bail!("cargo tree {room}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let found = runtimes(&String::from_utf8_lossy(&output.stdout));
        problems
            .extend(found.iter().map(|name| format!("{room}: depends on {name}, but it is pure")));
    }
    Ok(problems)
}

fn runtimes(tree: &str) -> Vec<&'static str> {
    let has = |name: &str| tree.lines().any(|line| line.split(' ').next() == Some(name));
    RUNTIMES.into_iter().filter(|name| has(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_found_by_its_whole_name() {
        assert_eq!(runtimes("crds v0.1.0\nserde v1.0.0\ntokio-util v0.7.0\n"), [""; 0]);
        assert_eq!(runtimes("crds v0.1.0\ntokio v1.0.0 (*)\n"), ["tokio"]);
    }
}
