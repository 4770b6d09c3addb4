//! Lines for a person: results on stdout, everything else on stderr.

use std::fmt::Display;
use std::io::Write as _;

/// A result. A closed pipe is no error: who closed it has seen enough.
pub fn result(text: impl Display) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// What is being done.
pub fn step(text: impl Display) {
    drop(writeln!(std::io::stderr().lock(), "\n==> {text}"));
}

/// A remark on what is being done.
pub fn note(text: impl Display) {
    drop(writeln!(std::io::stderr().lock(), "    {text}"));
}

/// Why it cannot go on.
pub fn problem(text: impl Display) {
    drop(writeln!(std::io::stderr().lock(), "error: {text}"));
}

/// Bytes of a child, passed on as they come.
pub fn pass_on(bytes: &[u8]) {
    let mut err = std::io::stderr().lock();
    drop(err.write_all(bytes).and_then(|()| err.flush()));
}
