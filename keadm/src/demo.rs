//! `keadm demo`: the whole product in a temp dir, with a simulated boiler at its end.
//!
//! [`stack`] starts the processes, [`view`] reads what the API says, [`simulator`] what the boiler
//! says, [`proof`] judges whether both directions worked, [`screen`] shows it. A [`guard`] ends the
//! processes should keadm be killed.

pub mod guard;
pub mod hop;
pub mod objects;
pub mod process;
pub mod proof;
pub mod screen;
pub mod simulator;
pub mod stack;
pub mod view;

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior};

use crate::demo::guard::Guard;
use crate::demo::hop::failed;
use crate::demo::proof::Proof;
use crate::demo::screen::Screen;
use crate::demo::stack::Stack;
use crate::terminal::{self, Output};

/// How often the API is asked while somebody looks.
const REDRAW: Duration = Duration::from_millis(250);
/// What `--for` sets the setpoint to, to see it arrive. In degrees, and as the register holds it.
const PROOF_SETPOINT: (&str, i32) = ("72", 720);

/// Runs the whole product in a temp dir, with a simulated Modbus boiler, until Ctrl-C.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Ends after this time, e.g. 20s, and fails unless a value made it in each direction. Counted
    /// from the moment everything runs.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    time: Option<Duration>,
    /// Keeps the directory with all files and logs.
    #[arg(long)]
    keep: bool,
    /// Changes nothing and asks nothing once everything runs: for measurements.
    #[arg(long)]
    idle: bool,
    /// `json` prints one line when everything runs: kubeconfig, addresses, process ids.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

fn duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        text.parse().map_err(|_| "expected a duration like 20s or 2m".to_owned())?;
    Duration::try_from(signed)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "the duration must be above zero".into())
}

/// Runs the command.
///
/// # Errors
/// The hop that failed, with the last lines of its log.
pub async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new()
        .prefix("kedge-demo-")
        .tempdir()
        .context("making a temp dir for the demo")?;
    // From here on the guard removes the directory, whatever happens to this process.
    let dir = dir.keep();
    let guard = Guard::start(&dir, args.keep).context("starting the demo's guard")?;
    let mut stack = Stack::new(&dir, guard);
    let result = tokio::select! {
        result = live(args, &mut stack) => result,
        stopped = stop_signal() => stopped,
    };
    let result = result.map_err(|error| stack.with_log(error));
    let quiet = args.output == Output::Json;
    stack.stop(quiet).await;
    tidy(&dir, args.keep, quiet)?;
    result
}

async fn stop_signal() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

fn tidy(dir: &Path, keep: bool, quiet: bool) -> anyhow::Result<()> {
    if keep {
        if !quiet {
            terminal::line(format_args!("kept {}", dir.display()));
        }
        return Ok(());
    }
    std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))
}

/// Starts everything, then watches it for as long as was asked.
async fn live(args: &DemoArgs, stack: &mut Stack) -> anyhow::Result<()> {
    let text = args.output == Output::Text;
    if text {
        terminal::line(format_args!("Kedge demo in {}\n", stack.dir().display()));
    }
    let begin = Instant::now();
    stack.start(text).await?;
    if text {
        let seconds = begin.elapsed().as_secs_f64();
        terminal::line(format_args!(
            "\nEverything runs after {seconds:.1} s. Try in another terminal:\n"
        ));
        terminal::line(objects::kubectl_lines(&stack.kubeconfig()));
    } else {
        terminal::line(stack.describe());
    }
    if args.idle {
        return idle(args.time, stack).await;
    }
    watch(args.time, stack, text).await
}

async fn idle(time: Option<Duration>, stack: &mut Stack) -> anyhow::Result<()> {
    let end = time.map(|time| Instant::now() + time);
    while end.is_none_or(|end| Instant::now() < end) {
        stack.check_alive()?;
        stack.drain_simulator();
        tokio::time::sleep(REDRAW).await;
    }
    Ok(())
}

async fn watch(time: Option<Duration>, stack: &mut Stack, text: bool) -> anyhow::Result<()> {
    let begin = Instant::now();
    let end = time.map(|time| begin + time);
    let mut screen = Screen::new(std::io::stdout().is_terminal());
    let mut proof = Proof::new(stack.simulator());
    let mut tick = tokio::time::interval(REDRAW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut patched_at = None;
    let mut written_after = None;
    while end.is_none_or(|end| Instant::now() < end) {
        tokio::select! {
            event = stack.next_simulator_event() => {
                proof.simulator(&event);
                if let (Some(at), true, None) = (patched_at, proof.is_written(), written_after) {
                    written_after = Some(Instant::now().duration_since(at));
                }
                continue;
            }
            _ = tick.tick() => {}
        }
        stack.check_alive()?;
        let view = stack.view().await;
        if let Some(value) = view.reported("temperature") {
            proof.reported(value);
        }
        if time.is_some() && patched_at.is_none() && proof.may_patch() {
            patched_at = Some(Instant::now());
            proof.patched(PROOF_SETPOINT.1);
            stack.set_setpoint(PROOF_SETPOINT.0).await?;
        }
        if text {
            screen.show(&view, begin.elapsed());
        }
    }
    match proof.missing() {
        None => {
            if text {
                let millis = written_after.unwrap_or_default().as_secs_f64() * 1e3;
                terminal::line(format_args!(
                    "\nproved: desired setpoint {} reached the register as {} after {millis:.0} ms; \
                     the simulator's temperature {} was reported",
                    PROOF_SETPOINT.0,
                    PROOF_SETPOINT.1,
                    proof.last_reported(),
                ));
            }
            Ok(())
        }
        Some(hop) => Err(failed(hop, proof.explain())),
    }
}
