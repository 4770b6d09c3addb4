//! `cargo xtask demo`: builds the product and becomes `keadm demo`.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::Args;

use crate::{cargo, say};

/// Builds everything and runs it with a simulated boiler, until Ctrl-C.
#[derive(Args)]
pub struct DemoArgs {
    /// Ends after this time, e.g. 20s, and fails unless a value made it in each direction.
    #[arg(long = "for", value_name = "DURATION")]
    time: Option<String>,
    /// Keeps the directory with all files and logs.
    #[arg(long)]
    keep: bool,
    /// Optimised binaries; takes minutes to build.
    #[arg(long)]
    release: bool,
}

/// Runs the command. Does not return when the demo starts: keadm takes this process over, so that
/// Ctrl-C and the exit code are its own.
///
/// # Errors
/// The build fails, or keadm cannot be started.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    say::step("building");
    let binaries = cargo::build_product(args.release)?;
    let mut keadm = Command::new(binaries.join("keadm"));
    keadm.arg("demo");
    if let Some(time) = &args.time {
        keadm.args(["--for", time]);
    }
    if args.keep {
        keadm.arg("--keep");
    }
    say::step("keadm demo");
    Err(keadm.exec()).context("starting keadm demo")
}
