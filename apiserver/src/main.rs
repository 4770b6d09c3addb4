//! `apiserver`: a Kubernetes API for one machine.

use std::process::ExitCode;

use anyhow::Context as _;
use apiserver::config::Config;
use clap::Parser as _;

fn main() -> ExitCode {
    let config = Config::parse();
    config.log.install();
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    // Two workers serve one machine; the blocking threads are the database readers.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    runtime.block_on(apiserver::run(&config, apiserver::config::stop_signal()))
}
