//! `cargo xtask bench NAME`: measures. One benchmark, one file.
//!
//! Each ends within minutes, works in its own temp dir, and prints a table for a person or, with
//! `--json`, one JSON object on the last line of stdout.

mod demo_stack;
mod footprint;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::say;

/// Measures something with a release build.
#[derive(Args)]
pub struct BenchArgs {
    /// What to measure.
    #[arg(value_enum)]
    name: Name,
    /// One JSON object on the last line of stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Sizes of the binaries, and memory with the demo's device and nothing to do.
    Footprint,
}

/// What a benchmark found.
pub struct Findings {
    /// For a person.
    pub table: String,
    /// For a program.
    pub json: Value,
}

/// Runs the command.
///
/// # Errors
/// The build fails or nothing could be measured.
pub fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let findings = match args.name {
        Name::Footprint => footprint::measure()?,
    };
    if args.json {
        say::result(findings.json);
    } else {
        say::result(findings.table);
    }
    Ok(ExitCode::SUCCESS)
}
