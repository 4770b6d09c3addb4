//! `cargo xtask test`: what CI runs. Every stage runs even after one failed; the tests come last.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use crate::nextest::{self, Counts, Suite};
use crate::stages::{Outcome, Stages};
use crate::tools::Tools;
use crate::{cargo, deny, rules, say};

/// Format, lints, rules, dependencies, documentation, and all tests.
#[derive(Args)]
pub struct TestArgs {
    /// Only the end-to-end stories; with $KUBECONFIG set, against that cluster.
    #[arg(long, conflicts_with = "no_e2e")]
    e2e: bool,
    /// Everything but the end-to-end stories.
    #[arg(long)]
    no_e2e: bool,
    /// Only tests whose name contains this, and nothing but tests.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A tool that the tests need is missing.
pub fn run(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let mut stages = Stages::default();
    let filter = args.filter.as_deref();
    if !args.e2e && filter.is_none() {
        static_checks(&mut stages);
    }
    let mut unit = Counts::default();
    let mut stories = Counts::default();
    let mut tools = None;
    stages.run("tools", || {
        tools = Some(Tools::prepare(cluster(args)?)?);
        Ok(Outcome::Passed)
    });
    if let Some(tools) = &tools {
        // Also puts every program where the tests look for it.
        stages.run("build", || {
            passed(cargo::run(cargo::command(&["build", "--workspace", "--all-targets"])))
        });
        // Tests of what was not built, or of yesterday's programs, say nothing.
        let (do_unit, do_stories) = match stages.last_failed() {
            true => (false, false),
            false => (!args.e2e, !args.no_e2e),
        };
        if do_unit {
            if filter.is_none() {
                stages.run("examples in docs", || nextest::doc_tests(tools, &mut unit));
            }
            stages.run("unit and integration", || {
                nextest::run(Suite::Unit, filter, tools, &mut unit)
            });
        }
        if do_stories {
            stages.run("end to end", || nextest::run(Suite::EndToEnd, filter, tools, &mut stories));
        }
    }
    close(&stages, unit, stories);
    Ok(if stages.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn static_checks(stages: &mut Stages) {
    stages.run("format", || {
        passed(cargo::run(cargo::command(&["fmt", "--all", "--", "--check", "--files-with-diff"])))
    });
    stages.run("house rules", rules::check);
    stages.run("clippy", || {
        let args =
            ["clippy", "--workspace", "--all-targets", "--keep-going", "--", "--deny", "warnings"];
        passed(cargo::run(cargo::command(&args)))
    });
    stages.run("documentation", || {
        let args = ["doc", "--workspace", "--no-deps", "--document-private-items", "--keep-going"];
        let mut command = cargo::command(&args);
        command.env("RUSTDOCFLAGS", "--deny warnings");
        passed(cargo::run(command))
    });
    stages.run("dependencies", deny::check);
}

fn passed(result: anyhow::Result<()>) -> anyhow::Result<Outcome> {
    result.map(|()| Outcome::Passed)
}

/// The cluster of `KUBECONFIG=... cargo xtask test --e2e`. A developer's cluster is never touched by a
/// plain `cargo xtask test`.
fn cluster(args: &TestArgs) -> anyhow::Result<Option<PathBuf>> {
    let named = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty());
    let Some(path) = named.filter(|_| args.e2e) else { return Ok(None) };
    let path = std::path::absolute(&path).context("resolving $KUBECONFIG")?;
    say::note(format_args!("the stories run against the cluster of {}", path.display()));
    Ok(Some(path))
}

fn close(stages: &Stages, unit: Counts, stories: Counts) {
    let total = unit.plus(stories);
    // Each of the two suites counts the other's tests as skipped.
    let skipped = if unit.run() > 0 && stories.run() > 0 {
        unit.skipped.saturating_sub(stories.run())
    } else {
        0
    };
    say::step(if stages.passed() { "all stages passed" } else { "NOT all stages passed" });
    say::result(stages.table());
    say::result(format_args!(
        "{} passed, {} failed, {skipped} skipped",
        total.passed, total.failed
    ));
}
