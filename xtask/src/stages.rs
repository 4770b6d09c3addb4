//! Stages of a test run: each is timed, all are run, and a table says how they ended.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::say;

/// How a stage ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// With what is worth saying about it.
    Noted(String),
    Failed(String),
}

/// What has been run.
#[derive(Debug, Default)]
pub struct Stages {
    done: Vec<(&'static str, Outcome, Duration)>,
}

impl Stages {
    /// Runs a stage.
    #[expect(clippy::disallowed_methods, reason = "the stop-watch of a test run")]
    pub fn run(&mut self, name: &'static str, act: impl FnOnce() -> anyhow::Result<Outcome>) {
        say::step(name);
        let begin = Instant::now();
        let outcome = act().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        if let Outcome::Failed(why) = &outcome {
            say::problem(why);
        }
        self.done.push((name, outcome, begin.elapsed()));
    }

    /// Whether the stage that ran last failed.
    #[must_use]
    pub fn last_failed(&self) -> bool {
        matches!(self.done.last(), Some((_, Outcome::Failed(_), _)))
    }

    /// Whether everything passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.done.iter().any(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_)))
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (name, outcome, time) in &self.done {
            let (word, remark) = match outcome {
                Outcome::Passed => ("ok", ""),
                Outcome::Noted(remark) => ("ok", remark.as_str()),
                Outcome::Failed(why) => ("FAILED", why.lines().next().unwrap_or_default()),
            };
            let line = format!("  {name:<22} {word:<7} {:>7.1} s  {remark}", time.as_secs_f64());
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_stage_fails_the_run_and_the_others_still_run() {
        let mut stages = Stages::default();
        stages.run("first", || anyhow::bail!("broken\nin detail"));
        stages.run("second", || Ok(Outcome::Noted("advisories not checked".into())));
        assert!(!stages.passed());
        let table = stages.table();
        assert!(table.contains("first                  FAILED"), "{table}");
        assert!(table.contains("s  broken\n"), "{table}");
        assert!(table.contains("advisories not checked"), "{table}");
    }
}
