//! Exit codes, and the errors that carry one.
//!
//! | code | name | when |
//! |---|---|---|
//! | 0 | done | what was asked is so |
//! | 1 | failed | anything without a code of its own |
//! | 2 | usage | arguments or a configuration that cannot work |
//! | 3 | unreachable | the cluster or the cloud cannot be reached |
//! | 4 | not clean | something is already there that must not be replaced |
//! | 5 | timed out | something was reached but did not become so in time |
//! | 6 | refused | the other side, or a check of its identity, said no |

use std::error::Error as StdError;
use std::fmt;
use std::process::ExitCode;

/// How a command ended; see the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Usage,
    Unreachable,
    NotClean,
    TimedOut,
    Refused,
}

impl Exit {
    /// The number that the shell sees.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::NotClean => 4,
            Self::TimedOut => 5,
            Self::Refused => 6,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error that an operator can act on: what was being done to what, why it failed, what to do next.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    what: String,
    cause: Option<Box<dyn StdError + Send + Sync>>,
    next: Option<String>,
}

impl Failure {
    /// A failure that needs no deeper cause.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), cause: None, next: None }
    }

    /// Adds what made it fail.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds the next command or act.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

/// The exit code of an error: that of the first [`Failure`] in its chain.
#[must_use]
pub fn of(error: &anyhow::Error) -> Exit {
    failure(error).map_or(Exit::Failed, |failure| failure.exit)
}

/// What an operator should do next, where that is known.
#[must_use]
pub fn next(error: &anyhow::Error) -> Option<&str> {
    failure(error)?.next.as_deref()
}

/// The chain as one line; a cause whose text its parent already says is left out.
#[must_use]
pub fn line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.contains(text.as_str()) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line.replace('\n', " ")
}

fn failure(error: &anyhow::Error) -> Option<&Failure> {
    error.chain().find_map(|cause| cause.downcast_ref::<Failure>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_failure_keeps_its_code_and_its_next_step_under_added_context() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let failure = Failure::new(Exit::Unreachable, "connecting to 127.0.0.1:1")
            .because(refused)
            .next("start it");
        let error = Err::<(), _>(failure).context("joining gw-1").unwrap_err();
        assert_eq!(of(&error), Exit::Unreachable);
        assert_eq!(next(&error), Some("start it"));
        assert_eq!(line(&error), "joining gw-1: connecting to 127.0.0.1:1: connection refused");
    }

    #[test]
    fn an_error_without_a_code_is_a_plain_failure() {
        assert_eq!(of(&anyhow::anyhow!("no")), Exit::Failed);
        assert_eq!(next(&anyhow::anyhow!("no")), None);
    }
}
