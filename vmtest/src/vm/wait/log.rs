//! Waiting for a line of a log.

use std::collections::VecDeque;
use std::fmt;

use async_trait::async_trait;
use vmtest_backends::session::Exec;
use vmtest_backends::{Error, ErrorKind, Result};

use super::sealed::Look;
use super::{Condition, Seen, Vm};
use crate::vm::child::{Child, Launch};
use crate::vm::file::absolute;
use crate::vm::output::{ended, last_lines};

/// How many lines of the log the message shows when the wait gives up.
const SHOWN: usize = 5;

/// A line of a log that contains a text. Lines count that were there before the wait began; the log is followed, over
/// its rotation too.
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
/// use vmtest::vm::LogLine;
///
/// vm.wait_for(LogLine::file("/var/log/app.log", "ready to serve")).await?;
/// vm.wait_for(LogLine::journal("ssh.service", "Server listening")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    log: Log,
    contains: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Log {
    File(String),
    Journal(String),
}

impl LogLine {
    /// A line of the file at `path`, which need not exist yet.
    pub fn file(path: impl Into<String>, contains: impl Into<String>) -> Self {
        Self {
            log: Log::File(path.into()),
            contains: contains.into(),
        }
    }

    /// A message of the systemd unit `unit` in the journal.
    pub fn journal(unit: impl Into<String>, contains: impl Into<String>) -> Self {
        Self {
            log: Log::Journal(unit.into()),
            contains: contains.into(),
        }
    }

    fn follow(&self) -> Result<Exec> {
        let (program, args) = match &self.log {
            Log::File(path) => ("tail", vec!["-n", "+1", "-F", "--", path]),
            Log::Journal(unit) => {
                let args = vec!["--follow", "--no-tail", "--quiet", "--output=cat", "--unit", unit];
                ("journalctl", args)
            }
        };
        let mut exec = Exec::new(program);
        exec.args = args.into_iter().map(str::to_owned).collect();
        if let (Log::File(path), Some(last)) = (&self.log, exec.args.last_mut()) {
            *last = absolute(path)?;
        }
        Ok(exec)
    }
}

impl Condition for LogLine {}

#[async_trait]
impl Look for LogLine {
    async fn met(&self, vm: &Vm, seen: &Seen) -> Result<()> {
        let launch = Launch {
            exec: self.follow()?,
            shown: self.to_string(),
            limit: None,
            recording: None,
        };
        let mut child = Child::start(vm.clone(), launch).await?;
        let mut lines = child.lines();
        let mut last = VecDeque::new();
        while let Some(line) = lines.next().await? {
            if line.text.contains(&self.contains) {
                return Ok(());
            }
            last.push_back(line.text);
            if last.len() > SHOWN {
                last.pop_front();
            }
            seen.note(shown(&last));
        }
        let exit = child.wait().await?;
        let what = format!(
            "the log could not be followed for {self}: the guest's tool {}",
            ended(exit)
        );
        Err(Error::new(
            ErrorKind::Exec,
            format!("{what}; it said: {}", shown(&last)),
        ))
    }
}

fn shown(last: &VecDeque<String>) -> String {
    let text = last.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
    let lines = last_lines(text.as_bytes(), SHOWN);
    lines.iter().map(|line| format!("\n  | {line}")).collect()
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.log {
            Log::File(path) => write!(f, "a line with {:?} in {path}", self.contains),
            Log::Journal(unit) => write!(f, "a line with {:?} in the journal of {unit}", self.contains),
        }
    }
}
