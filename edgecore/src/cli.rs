//! The command line: `--config FILE` runs; `check-config FILE` and `default-config` help before it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Config, DEFAULT_CONFIG};

#[derive(Parser)]
#[command(version, about = "The node: keeps devices working with the cloud gone.")]
struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Reads a configuration and says whether it is good: exit 0, or 2 with the reason.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Prints a commented configuration.
    DefaultConfig,
}

/// Runs the program. Exit codes: 0 done or stopped by a signal, 1 failed, 2 bad configuration or
/// arguments.
#[must_use]
#[expect(clippy::print_stdout, reason = "the answers of check-config and default-config")]
#[expect(clippy::print_stderr, reason = "errors before and after logging is up")]
pub fn main() -> ExitCode {
    let args = Args::parse();
    let file = match (args.command, args.config) {
        (Some(Command::DefaultConfig), _) => {
            print!("{DEFAULT_CONFIG}");
            return ExitCode::SUCCESS;
        }
        (Some(Command::CheckConfig { file }), _) => {
            return match Config::load(&file) {
                Ok(config) => {
                    println!("{}: good, node {}", file.display(), config.node_name);
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("{error:#}");
                    ExitCode::from(2)
                }
            };
        }
        (None, Some(file)) => file,
        (None, None) => {
            eprintln!("--config FILE is required; `edgecore default-config` prints one");
            return ExitCode::from(2);
        }
    };
    let config = match Config::load(&file) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(2);
        }
    };
    match start(config, &file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config, file: &Path) -> anyhow::Result<()> {
    init_log(&config.log);
    tracing::info!(config = %file.display(), version = env!("CARGO_PKG_VERSION"), "starting");
    // One thread: the agent decides everything anyway, and a gateway has little memory for stacks.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        let signals = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            stop.send_replace(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = crate::run(config, stopped) => result,
            () = signals => Ok(()),
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

fn init_log(filter: &str) {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second call, as in tests, keeps the first subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
