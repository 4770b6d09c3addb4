//! A second process that outlives keadm by a moment. Should keadm be killed with no chance to clean
//! up, the pipe between them closes, and the guard ends the demo's processes and removes its directory.
//!
//! Why not PR_SET_PDEATHSIG: it needs code between fork and exec, which is unsafe; and it would leave
//! the directory.

use std::io::{BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use rustix::process::{Pid, Signal, kill_process_group};

/// The arguments of the guard process.
#[derive(Args, Clone, Debug)]
pub struct GuardArgs {
    /// Removed in the end.
    #[arg(long)]
    dir: PathBuf,
    /// Not removed after all.
    #[arg(long)]
    keep: bool,
}

/// keadm's end.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts the guard.
    ///
    /// # Errors
    /// keadm cannot start itself.
    pub fn start(dir: &Path, keep: bool) -> anyhow::Result<Self> {
        let keadm = std::env::current_exe().context("finding keadm itself")?;
        let mut command = Command::new(keadm);
        command.arg("demo-guard").arg("--dir").arg(dir);
        if keep {
            command.arg("--keep");
        }
        // A group of its own: Ctrl-C is for keadm.
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Tells of a process that leads a group of its own.
    pub fn watch(&mut self, pid: u32) {
        self.tell(&format!("watch {pid}"));
    }

    /// Ends the guard: keadm has cleaned up itself.
    pub fn release(mut self) {
        self.tell("done");
        self.pipe = None;
        // It has nothing left to do; not waiting would leave a zombie.
        drop(self.child.wait());
    }

    fn tell(&mut self, line: &str) {
        if let Some(pipe) = &mut self.pipe {
            // A guard that is gone guards nothing, and the demo can do without.
            drop(writeln!(pipe, "{line}").and_then(|()| pipe.flush()));
        }
    }
}

/// Runs the guard process: collects process ids until its stdin ends.
///
/// # Errors
/// The directory cannot be removed.
pub fn run(args: &GuardArgs) -> anyhow::Result<()> {
    let mut watched = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if line == "done" {
            return Ok(());
        }
        if let Some(pid) = line.strip_prefix("watch ").and_then(|pid| pid.parse::<i32>().ok()) {
            watched.push((pid, start_time(pid)));
        }
    }
    // A process id may have been given to another process since.
    let ours =
        |(pid, start): &&(i32, Option<String>)| start.is_some() && start_time(*pid) == *start;
    for (pid, _) in watched.iter().filter(ours) {
        if let Some(pid) = Pid::from_raw(*pid) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
    for _ in 0..50 {
        if !watched.iter().any(|process| ours(&process)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if !args.keep {
        std::fs::remove_dir_all(&args.dir)
            .with_context(|| format!("removing {}", args.dir.display()))?;
    }
    Ok(())
}

/// When a process started, in the kernel's words; with the process id it names a process for good.
fn start_time(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; what follows it has fixed places.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    // A zombie is as good as gone.
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18).map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = i32::try_from(std::process::id()).unwrap();
        let start = start_time(own).unwrap();
        assert!(start.parse::<u64>().unwrap() > 0);
        assert_eq!(start_time(own), Some(start));
        assert_eq!(start_time(i32::MAX), None);
    }
}
