//! cloudcore: Kubernetes on one side, nodes on the other.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cloudcore::cli::main(cloudcore::cli::Args::parse())
}
