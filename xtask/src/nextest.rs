//! Runs tests and counts them. cargo-nextest does both best; `cargo test` stands in where it is missing.

use std::io::Read as _;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::cargo;
use crate::say;
use crate::stages::Outcome;
use crate::tools::Tools;

/// How many tests did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Counts {
    /// Those that ran.
    #[must_use]
    pub fn run(self) -> usize {
        self.passed + self.failed
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

/// Which tests to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Everything but e2e: no test here starts more than its own crate's programs.
    Unit,
    /// The stories.
    EndToEnd,
}

/// Whether cargo-nextest is installed.
#[must_use]
pub fn is_installed() -> bool {
    let mut command = cargo::command(&["nextest", "--version"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a suite, optionally only the tests whose name contains `filter`.
///
/// # Errors
/// The runner cannot be started.
pub fn run(
    suite: Suite,
    filter: Option<&str>,
    tools: &Tools,
    counts: &mut Counts,
) -> anyhow::Result<Outcome> {
    // One selection of packages for both suites: another would be built with other features, anew.
    let nextest = is_installed();
    let command = if nextest {
        let expression = match suite {
            Suite::Unit => "not package(e2e)",
            Suite::EndToEnd => "package(e2e)",
        };
        let mut command = cargo::command(&["nextest", "run", "--workspace", "--no-fail-fast"]);
        command.args(["-E", expression]);
        if let Some(filter) = filter {
            // A filter may leave one of the two suites empty.
            command.args(["--no-tests", "pass", filter]);
        }
        command
    } else {
        say::note("cargo-nextest is not installed; using cargo test");
        let mut command = match suite {
            Suite::Unit => cargo::command(&[
                "test",
                "--workspace",
                "--exclude",
                "e2e",
                "--lib",
                "--bins",
                "--tests",
            ]),
            Suite::EndToEnd => cargo::command(&["test", "--package", "e2e", "--tests"]),
        };
        command.args(["--no-fail-fast", "--"]).args(filter);
        if suite == Suite::EndToEnd {
            command.args(["--test-threads", "2"]);
        }
        command
    };
    let (passed, text) = tee(tools.given_to(command))?;
    let seen = if nextest { count_nextest(&text) } else { count_cargo_test(&text) };
    *counts = counts.plus(seen);
    Ok(match (passed, seen) {
        (true, _) => Outcome::Noted(format!("{} tests", seen.run())),
        (false, seen) if seen.failed > 0 => Outcome::Failed(format!("{} failed", seen.failed)),
        (false, _) => Outcome::Failed("the tests did not run; see above".into()),
    })
}

/// Runs the documentation's examples.
///
/// # Errors
/// cargo cannot be started.
pub fn doc_tests(tools: &Tools, counts: &mut Counts) -> anyhow::Result<Outcome> {
    let (passed, text) = tee(tools.given_to(cargo::command(&["test", "--workspace", "--doc"])))?;
    let seen = count_cargo_test(&text);
    *counts = counts.plus(seen);
    Ok(if passed {
        Outcome::Noted(format!("{} examples", seen.run()))
    } else {
        Outcome::Failed(format!("{} failed", seen.failed))
    })
}

/// Runs a command, passing its output on while keeping it.
fn tee(mut command: Command) -> anyhow::Result<(bool, String)> {
    use std::io::IsTerminal as _;
    if std::io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let (mut reader, writer) = std::io::pipe().context("making a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("starting cargo")?;
    // The command holds the pipe's other end: without this the reading never ends.
    drop(command);
    let mut kept = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        let read = reader.read(&mut chunk).context("reading the tests' output")?;
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        say::pass_on(bytes);
        kept.extend_from_slice(bytes);
    }
    let status = child.wait().context("waiting for cargo")?;
    Ok((status.success(), plain(&String::from_utf8_lossy(&kept))))
}

/// The text without colours.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain.push_str(rest);
    plain
}

/// Reads nextest's last line. What failed tests printed, and may look like it, stands before.
fn count_nextest(text: &str) -> Counts {
    let numbers = text.lines().rev().find_map(|line| line.trim_start().strip_prefix("Summary ["));
    numbers.map(count).unwrap_or_default()
}

/// Adds up the closing lines of every test program.
fn count_cargo_test(text: &str) -> Counts {
    text.lines()
        .filter_map(|line| line.strip_prefix("test result:"))
        .fold(Counts::default(), |counts, numbers| counts.plus(count(numbers)))
}

/// Reads the numbers of a closing line.
fn count(numbers: &str) -> Counts {
    let mut counts = Counts::default();
    for phrase in numbers.split([',', ';', ':', '.', '(', ')']) {
        let Some((number, word)) = phrase.trim().split_once(' ') else { continue };
        let Ok(number) = number.parse::<usize>() else { continue };
        match word {
            "passed" => counts.passed += number,
            "failed" | "timed out" | "exec failed" => counts.failed += number,
            "skipped" | "ignored" => counts.skipped += number,
            // `tests run`, `slow`, `flaky`, `measured`, `filtered out`: parts of the others.
            _ => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let nextest = "     Summary [  12.3s] 20/21 tests run: 17 passed (2 slow, 1 leaky), 2 failed, \
                       1 timed out, 4 skipped";
        let printed =
            format!("test result: FAILED. 0 passed; 1 failed\nSummary [ 1 passed\n{nextest}\n");
        assert_eq!(count_nextest(&printed), Counts { passed: 17, failed: 3, skipped: 4 });
        let test = "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out; \
                    finished in 0.10s\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(count_cargo_test(test), Counts { passed: 6, failed: 2, skipped: 1 });
    }

    #[test]
    fn colours_do_not_hide_a_number() {
        let text = plain(
            "\x1b[32;1m     Summary\x1b[0m [   1.0s] \x1b[1m3\x1b[0m tests run: \
                          \x1b[1m3\x1b[0m \x1b[32;1mpassed\x1b[0m, \x1b[1m0\x1b[0m skipped",
        );
        assert_eq!(count_nextest(&text), Counts { passed: 3, failed: 0, skipped: 0 });
    }
}
