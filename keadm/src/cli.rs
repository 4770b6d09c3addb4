//! The command line. Flags that exist upstream keep their upstream names.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::terminal::{self, Output};
use crate::{demo, exit, gettoken, init, join, reset};

#[derive(Parser, Debug)]
#[command(
    name = "keadm",
    version,
    about = "The operator's hand: installs Kedge, joins nodes, cleans up."
)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 unreachable, \
                        4 not clean, 5 timed out, 6 refused.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Init(init::InitArgs),
    Gettoken(gettoken::GettokenArgs),
    Join(join::JoinArgs),
    Reset(reset::ResetArgs),
    Demo(demo::DemoArgs),
    /// Prints the version.
    Version {
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    #[command(hide = true)]
    DemoGuard(demo::guard::GuardArgs),
}

/// Runs keadm; the exit codes are those of [`exit::Exit`].
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::error(format_args!("error: {}", exit::line(&error)));
            if let Some(next) = exit::next(&error) {
                terminal::error(format_args!("  next: {next}"));
            }
            exit::of(&error).into()
        }
    }
}

fn start(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(async {
        match command {
            Command::Init(args) => init::run(&args).await,
            Command::Gettoken(args) => gettoken::run(&args).await,
            Command::Join(args) => join::run(&args).await,
            Command::Reset(args) => reset::run(&args).await,
            Command::Demo(args) => demo::run(&args).await,
            Command::DemoGuard(args) => demo::guard::run(&args),
            Command::Version { output } => {
                version(output);
                Ok(())
            }
        }
    });
    // A name look-up that hangs in its thread does not keep the command from ending.
    runtime.shutdown_background();
    result
}

fn version(output: Output) {
    let version = env!("CARGO_PKG_VERSION");
    match output {
        Output::Text => terminal::line(format_args!("keadm {version}")),
        Output::Json => terminal::line(serde_json::json!({ "version": version })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn upstream_flag_names_are_understood() {
        for line in [
            "keadm init --advertise-address=10.0.0.5,cloud --kube-config /k --dry-run",
            "keadm gettoken --kube-config=/k",
            "keadm join -e 10.0.0.5:10000 -t a.b.c.d -i gw-1 -s 10002",
            "keadm join --cloudcore-ipport=10.0.0.5:10000 --token=a --edgenode-name=gw-1",
            "keadm reset --force",
            "keadm reset edge --force",
            "keadm reset cloud --force --kube-config /k",
            "keadm demo --for 20s --keep",
            "keadm version -o json",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn a_join_needs_a_token_from_one_place() {
        let join =
            |rest: &str| Cli::try_parse_from(format!("keadm join -e h:1{rest}").split(' ')).is_ok();
        assert!(!join(""));
        assert!(join(" --token-file -"));
        assert!(!join(" --token a --token-file -"));
    }
}
