//! The cargo that started us, called again.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// The binaries of the product, by package.
pub const PRODUCT: [&str; 5] = ["apiserver", "cloudcore", "edgecore", "mapper-modbus", "keadm"];

/// The repository.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo builds.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Our own tools live where `cargo clean` finds them.
#[must_use]
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// A cargo command in the repository.
#[must_use]
pub fn command(args: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = by_path(Path::new(&cargo));
    command.args(args);
    command
}

/// A program that works on the repository as cargo does.
///
/// `cargo run` tells xtask about xtask (`CARGO_PKG_NAME` and so on). Some build scripts ask to be run
/// again when those change, so they are taken away: a build by xtask and one by hand are the same.
#[must_use]
pub fn by_path(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if ours.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command whose output is for the person who waits.
///
/// # Errors
/// It cannot be started or fails.
pub fn run(mut command: Command) -> anyhow::Result<()> {
    let words: Vec<_> =
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let program = command.get_program().to_string_lossy().into_owned();
    let name = Path::new(&program).file_name().map(|name| name.to_string_lossy().into_owned());
    let line = format!("{} {}", name.unwrap_or(program), words.join(" "));
    let status = command.status().with_context(|| format!("starting {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// Builds the product's binaries and returns where they are.
///
/// # Errors
/// The build fails.
pub fn build_product(release: bool) -> anyhow::Result<PathBuf> {
    let mut args = vec!["build", "--bins"];
    args.extend(PRODUCT.iter().flat_map(|package| ["--package", package]));
    if release {
        args.push("--release");
    }
    run(command(&args))?;
    Ok(target().join(if release { "release" } else { "debug" }))
}
