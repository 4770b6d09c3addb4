//! The command line, and what runs before the first log line.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, DEFAULT_CONFIG};

/// The cloud side of Kedge.
#[derive(Debug, Parser)]
#[command(name = "cloudcore", version, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// The configuration file.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether a configuration file is good: exit code 0, or 2 and the reason.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Print the default configuration with comments.
    DefaultConfig,
}

/// Does what the command line says.
#[must_use]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the command line's output")]
pub fn main(args: Args) -> ExitCode {
    match (args.command, args.config) {
        (Some(Command::DefaultConfig), _) => {
            print!("{DEFAULT_CONFIG}");
            ExitCode::SUCCESS
        }
        (Some(Command::CheckConfig { file }), _) => match Config::read(&file) {
            Ok(_) => {
                println!("{}: good", file.display());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                ExitCode::from(2)
            }
        },
        (None, Some(file)) => match run(&file) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cloudcore: {error:#}");
                ExitCode::FAILURE
            }
        },
        (None, None) => {
            eprintln!("cloudcore: --config FILE is needed; `cloudcore default-config` prints one");
            ExitCode::from(2)
        }
    }
}

fn run(file: &Path) -> anyhow::Result<()> {
    let config = Config::read(file).with_context(|| file.display().to_string())?;
    let filter = EnvFilter::try_new(&config.log).context("log")?;
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .init();
    // Two threads: gateways are many but quiet, and every thread has its own heap.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "cloudcore starts");
        crate::run(config, shutdown).await
    });
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    outcome
}
