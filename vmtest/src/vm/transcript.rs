//! What was run in a machine: bounded, kept for the report of a failure.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmtest_backends::session::Exit;
use vmtest_backends::{Error, Result};

/// How many entries are kept: the last ones.
const KEPT: usize = 1000;

/// How much of a command an entry shows, in characters.
const SHOWN: usize = 2000;

/// Something that was done in a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The command, or what was done in its stead: `read /etc/hosts`.
    pub command: String,
    /// When it began, counted from the machine's handing over.
    pub began: Duration,
    /// How long it took.
    pub took: Duration,
    /// How it ended: `status 0`, `signal 9`, or the error.
    pub ended: String,
    /// Bytes that went in, by standard input or as a file.
    pub bytes_in: u64,
    /// Bytes that came out, by both outputs or as a file.
    pub bytes_out: u64,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (began, took) = (self.began.as_secs_f64(), self.took.as_secs_f64());
        write!(f, "+{began:.3}s {} -> {} ({took:.3}s", self.command, self.ended)?;
        write!(f, ", {} B in, {} B out)", self.bytes_in, self.bytes_out)
    }
}

/// The entries of one machine; a cheap handle.
#[derive(Debug, Clone)]
pub(crate) struct Transcript(Arc<Book>);

#[derive(Debug)]
struct Book {
    opened: Instant,
    entries: Mutex<VecDeque<Entry>>,
}

impl Default for Transcript {
    fn default() -> Self {
        Self(Arc::new(Book {
            opened: Instant::now(),
            entries: Mutex::default(),
        }))
    }
}

impl Transcript {
    /// Begins an entry; it is written when the recording is dropped.
    pub(crate) fn begin(&self, command: &str) -> Recording {
        Recording {
            transcript: self.clone(),
            command: command.chars().take(SHOWN).collect(),
            began: Instant::now(),
            ended: None,
            silent: false,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().cloned().collect()
    }

    fn push(&self, entry: Entry) {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(entry);
    }
}

/// An entry that is being written.
#[derive(Debug)]
pub(crate) struct Recording {
    transcript: Transcript,
    command: String,
    began: Instant,
    ended: Option<String>,
    /// Whether it leaves no entry: looks of a wait, which is an entry itself.
    pub(crate) silent: bool,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Recording {
    pub(crate) fn command(&self) -> &str {
        &self.command
    }

    pub(crate) fn took(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn exited(&mut self, result: &Result<Exit>) {
        self.ended = Some(match result {
            Ok(Exit::Code(code)) => format!("status {code}"),
            Ok(Exit::Signal(signal)) => format!("signal {signal}"),
            Err(error) => error.to_string(),
        });
    }

    /// The end of what did not even begin.
    pub(crate) fn failed<T>(mut self, error: Error) -> Result<T> {
        let result = Err(error);
        self.done(&result);
        result
    }

    pub(crate) fn done<T>(&mut self, result: &Result<T>) {
        self.ended = Some(match result {
            Ok(_) => "done".to_owned(),
            Err(error) => error.to_string(),
        });
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.silent {
            return;
        }
        self.transcript.push(Entry {
            command: std::mem::take(&mut self.command),
            began: self.began.duration_since(self.transcript.0.opened),
            took: self.began.elapsed(),
            ended: self.ended.take().unwrap_or_else(|| "given up".to_owned()),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        });
    }
}
