//! What can go wrong that is ours, by the step that broke.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A result whose error is ours, never the test's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The step that broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// What was asked for makes no sense: an unknown name, a malformed file, a cycle.
    Invalid,
    /// No engine here can do what was asked, or a program it needs is missing.
    Unavailable,
    /// An image could not be made.
    Image,
    /// A snapshot could not be made.
    Build,
    /// No place for another machine within the limit.
    Exhausted,
    /// A machine did not start.
    Start,
    /// A snapshot did not come to life.
    Fork,
    /// A machine could not be frozen into a snapshot.
    Commit,
    /// The machine was never reached, or was lost.
    Disconnected,
    /// The machine died: guest panic, or its process ended.
    Died,
    /// A program could not be started in the guest, or a file not be moved.
    Exec,
    /// A checked command of the test ended badly: this blames the test, not us.
    CommandFailed,
    /// A named wait reached its limit.
    TimedOut,
    /// The store or another of our directories is unusable: no space, no permission, damaged.
    Store,
    /// The broker could not be started or spoken to.
    Broker,
    /// A machine could not be put away.
    Teardown,
}

impl ErrorKind {
    /// The word for the step, as it stands in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid request",
            Self::Unavailable => "unavailable",
            Self::Image => "image",
            Self::Build => "snapshot build",
            Self::Exhausted => "admission",
            Self::Start => "start",
            Self::Fork => "fork",
            Self::Commit => "commit",
            Self::Disconnected => "connection to the guest",
            Self::Died => "machine died",
            Self::Exec => "exec",
            Self::CommandFailed => "command failed",
            Self::TimedOut => "time limit",
            Self::Store => "store",
            Self::Broker => "broker",
            Self::Teardown => "teardown",
        }
    }
}

/// An error of vmtest: never a failed assertion of a test.
///
/// [`kind`](Error::kind) names the step, the message says what was attempted and with what, `source()`
/// keeps the cause, and [`console`](Error::console) holds the end of the machine's console where
/// there is one. It crosses process borders as a [`Report`].
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    console: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of the step `kind`; `message` is a lowercase fragment that says what was attempted.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            console: None,
            source: None,
        }))
    }

    /// The same error with its cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(cause.into());
        self
    }

    /// The same error with the end of the machine's console, unless it has one already or `tail` is blank.
    #[must_use]
    pub fn with_console(mut self, tail: impl Into<String>) -> Self {
        let tail = tail.into();
        if self.0.console.is_none() && !tail.trim().is_empty() {
            self.0.console = Some(tail);
        }
        self
    }

    /// The step that broke.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was attempted, without the causes.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The end of the console of the machine concerned.
    pub fn console(&self) -> Option<&str> {
        self.0.console.as_deref()
    }

    /// The error as data, to be told to another process.
    pub fn report(&self) -> Report {
        let mut causes = Vec::new();
        let mut next = self.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        Report {
            kind: self.0.kind,
            message: self.0.message.clone(),
            causes,
            console: self.0.console.clone(),
        }
    }

    /// The whole chain on several lines: message, causes, console.
    pub fn chain(&self) -> String {
        let report = self.report();
        let mut text = self.to_string();
        for cause in &report.causes {
            text.push_str("\n  caused by: ");
            text.push_str(&cause.replace('\n', "\n    "));
        }
        if let Some(console) = &report.console {
            text.push_str("\n  the console's last lines:");
            for line in console.lines() {
                text.push_str("\n    | ");
                text.push_str(line);
            }
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.as_str(), self.0.message)
    }
}

/// Shows the whole chain: this is what a test that returns the error prints.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|cause| cause as _)
    }
}

/// An [`Error`] as it crosses a process border: the causes become text, nothing is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The step that broke.
    pub kind: ErrorKind,
    /// What was attempted.
    pub message: String,
    /// The causes, outermost first.
    pub causes: Vec<String>,
    /// The end of the console.
    pub console: Option<String>,
}

impl From<Report> for Error {
    fn from(report: Report) -> Self {
        let mut cause: Option<TextCause> = None;
        for text in report.causes.into_iter().rev() {
            cause = Some(TextCause {
                text,
                source: cause.map(Box::new),
            });
        }
        Self(Box::new(Inner {
            kind: report.kind,
            message: report.message,
            console: report.console,
            source: cause.map(|cause| Box::new(cause) as _),
        }))
    }
}

/// The error of a path of ours: `unusable("/a/b", "cannot be read", cause)`.
pub fn unusable(path: &Path, what: &str, cause: io::Error) -> Error {
    Error::new(ErrorKind::Store, format!("{} {what}", path.display())).because(cause)
}

#[derive(Debug)]
struct TextCause {
    text: String,
    source: Option<Box<TextCause>>,
}

impl fmt::Display for TextCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for TextCause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_keeps_message_causes_and_console() {
        let inner = Error::new(ErrorKind::Exec, "ran true").because(io::Error::other("pipe"));
        let outer = Error::new(ErrorKind::Fork, "the fork did not answer")
            .because(inner)
            .with_console("Kernel panic");
        let report = outer.report();
        assert_eq!(report.causes, ["exec: ran true", "pipe"]);
        let back = Error::from(report.clone());
        assert_eq!(back.report(), report);
        assert_eq!(back.chain(), outer.chain());
    }
}
