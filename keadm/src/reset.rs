//! `keadm reset`: takes back what `join` made on a node, or what `init` made in a cluster.

pub mod cloud;
pub mod edge;

use std::io::IsTerminal as _;

use clap::{Args, Subcommand};

use crate::exit::{Exit, Failure};
use crate::terminal;

/// Takes back what join (bare, or `edge`) or init (`cloud`) made.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ResetArgs {
    #[command(subcommand)]
    side: Option<Side>,
    #[command(flatten)]
    edge: edge::EdgeResetArgs,
}

#[derive(Subcommand, Clone, Debug)]
enum Side {
    /// This machine is no longer a node.
    Edge(edge::EdgeResetArgs),
    /// This cluster no longer has a cloudcore.
    Cloud(cloud::CloudResetArgs),
}

/// Runs the command.
///
/// # Errors
/// See [`crate::exit`].
pub async fn run(args: &ResetArgs) -> anyhow::Result<()> {
    match &args.side {
        None => edge::run(&args.edge),
        Some(Side::Edge(edge)) => edge::run(edge),
        Some(Side::Cloud(cloud)) => cloud::run(cloud).await,
    }
}

/// Asks before something is destroyed. Without a terminal nobody can answer, so `--force` is required.
fn confirm(force: bool, question: &str) -> anyhow::Result<()> {
    if force {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "asking for confirmation without a terminal")
            .next("add --force")
            .into());
    }
    terminal::raw(&format!("{question} [y/N]: "));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "reset was not confirmed; nothing was removed").into())
}
