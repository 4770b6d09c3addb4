//! cargo-deny: licences, sources and bans of every dependency; advisories where their database is.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context as _;

use crate::stages::Outcome;
use crate::{cargo, say};

/// Checks the dependencies by `deny.toml`.
///
/// # Errors
/// A dependency is denied, or cargo-deny cannot be installed.
pub fn check() -> anyhow::Result<Outcome> {
    let deny = find_or_install()?;
    let run = |checks: &[&str]| {
        let mut command = cargo::by_path(&deny);
        command.args(["--log-level", "warn", "check"]).args(checks).stdin(Stdio::null());
        cargo::run(command)
    };
    run(&["bans", "licenses", "sources"])?;
    if has_advisories() {
        run(&["--disable-fetch", "advisories"])?;
        return Ok(Outcome::Passed);
    }
    let note = "advisories NOT checked: their database is not on this machine";
    say::note(note);
    Ok(Outcome::Noted(note.into()))
}

fn find_or_install() -> anyhow::Result<PathBuf> {
    let ours = cargo::tools().join("bin/cargo-deny");
    let works = |path: &PathBuf| {
        let mut command = std::process::Command::new(path);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    for candidate in [PathBuf::from("cargo-deny"), ours.clone()] {
        if works(&candidate) {
            return Ok(candidate);
        }
    }
    say::note("installing cargo-deny into target/tools, once; this takes some minutes");
    let mut command = cargo::command(&["install", "cargo-deny", "--locked", "--root"]);
    command.arg(cargo::tools()).env("CARGO_TARGET_DIR", cargo::tools().join("build"));
    // Quick to build matters more than quick to run.
    command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    command.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    cargo::run(command)
        .context("cargo-deny is missing and could not be installed from crates.io")?;
    drop(std::fs::remove_dir_all(cargo::tools().join("build")));
    Ok(ours)
}

/// cargo-deny keeps the database in cargo's home.
fn has_advisories() -> bool {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    ["advisory-db", "advisory-dbs"]
        .iter()
        .filter_map(|name| std::fs::read_dir(home.as_ref()?.join(name)).ok())
        .any(|mut entries| entries.next().is_some())
}
