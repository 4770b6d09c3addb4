//! `main` of a mapper: command line, configuration file, log, signals. Start at [`main`].

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Arg, ArgMatches, Command, value_parser};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{config::Config, driver::Driver, mapper::Mapper};

/// Name and version of the program, as `--version` prints them. Made by [`about!`](crate::about).
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The program's name.
    pub name: &'static str,
    /// The program's version.
    pub version: &'static str,
}

/// Takes [`About`] from the package that calls it.
#[macro_export]
macro_rules! about {
    () => {
        $crate::About { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") }
    };
}

/// Runs a driver as a mapper process: reads `--config-file` (default `./config.yaml`), serves until
/// SIGTERM or SIGINT, drains. The flag `--v N` of other mappers is accepted and ignored.
///
/// Exit codes: 0 after a signal, 2 for a wrong command line or configuration, 1 for anything else.
pub fn main<D: Driver>(driver: D, about: About) -> ExitCode {
    let arguments = match command(about).try_get_matches() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            // Nothing is left to do if the terminal is gone.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let config = match load(&arguments) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{}: {error:#}", about.name);
            return ExitCode::from(2);
        }
    };
    match serve(driver, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(about: About) -> Command {
    Command::new(about.name)
        .version(about.version)
        .arg(
            Arg::new("config-file")
                .long("config-file")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .default_value("./config.yaml")
                .help("the mapper's configuration"),
        )
        .arg(Arg::new("v").long("v").value_name("N").hide(true))
}

fn load(arguments: &ArgMatches) -> anyhow::Result<Config> {
    let path = arguments.get_one::<PathBuf>("config-file").context("--config-file is missing")?;
    let (config, unknown) =
        Config::load(path).with_context(|| format!("cannot use {}", path.display()))?;
    let filter = EnvFilter::try_new(&config.log).context("log")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    for key in unknown {
        tracing::warn!(key, file = %path.display(), "unknown key, ignored");
    }
    Ok(config)
}

fn serve<D: Driver>(driver: D, config: Config) -> anyhow::Result<()> {
    // Two workers: a mapper waits most of the time, and shares a small machine.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch SIGINT")?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Mapper::new(driver, config).run(shutdown).await.context("the mapper stopped")
    });
    // A driver may still sit in a blocking call; the process does not wait for it.
    runtime.shutdown_background();
    outcome
}
