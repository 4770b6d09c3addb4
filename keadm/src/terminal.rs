//! What a command says: steps as they are done, for a person or, at the end, as one JSON object.

use std::fmt::Display;
use std::io::Write as _;

use serde_json::{Map, Value, json};

/// How a command reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Lines for a person.
    #[default]
    Text,
    /// One JSON object on the last line of stdout.
    Json,
}

/// The steps of one command.
#[derive(Debug)]
pub struct Steps {
    command: &'static str,
    output: Output,
    done: Vec<String>,
    facts: Map<String, Value>,
}

impl Steps {
    /// Starts the steps of `command`.
    #[must_use]
    pub fn new(command: &'static str, output: Output) -> Self {
        Self { command, output, done: Vec::new(), facts: Map::new() }
    }

    /// Steps that nobody reads: another command reports in their place.
    #[must_use]
    pub fn silent(command: &'static str) -> Self {
        Self::new(command, Output::Json)
    }

    /// Says what has been done.
    pub fn done(&mut self, what: impl Display) {
        let what = what.to_string();
        if self.output == Output::Text {
            line(format_args!("[{}] {what}", self.command));
        }
        self.done.push(what);
    }

    /// Says something that a person may need and a script finds elsewhere.
    pub fn say(&self, text: impl Display) {
        if self.output == Output::Text {
            line(text);
        }
    }

    /// Keeps a value for the JSON object.
    pub fn fact(&mut self, key: &str, value: impl Into<Value>) {
        self.facts.insert(key.to_owned(), value.into());
    }

    /// What has been done so far.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.done
    }

    /// Ends the command: prints the JSON object where that was asked for.
    pub fn finish(mut self) {
        if self.output == Output::Json {
            self.facts.insert("command".into(), json!(self.command));
            self.facts.insert("steps".into(), json!(self.done));
            line(Value::Object(self.facts));
        }
    }
}

/// Prints one line to stdout. A closed pipe is no error: who closed it has seen enough.
pub fn line(text: impl Display) {
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

/// Prints text to stdout as it is, at once.
pub fn raw(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Prints one line to stderr.
pub fn error(text: impl Display) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}
