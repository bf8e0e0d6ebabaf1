//! What a finished command leaves.

use std::borrow::Cow;
use std::time::Duration;

use vmtest_backends::session::Exit;
use vmtest_backends::{Error, ErrorKind, Result, console};

/// How many lines of each output an error shows.
const SHOWN_LINES: usize = 20;

/// How many characters of each of these lines.
const SHOWN_WIDTH: usize = 400;

/// What a finished command leaves. A bad status is no error until [`check`](Output::check) makes it one.
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
/// let output = vm.sh("echo fine; echo odd >&2; exit 3").await?;
/// assert_eq!(output.code(), Some(3));
/// assert_eq!(output.text(), "fine");
/// assert_eq!(output.stderr, b"odd\n");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub status: Exit,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
    /// How long it ran, in the host's time.
    pub took: Duration,
    /// The command, as messages show it.
    pub command: String,
}

impl Output {
    /// Whether it ended by itself with status 0.
    pub fn success(&self) -> bool {
        self.status == Exit::Code(0)
    }

    /// Its status, unless a signal ended it.
    pub fn code(&self) -> Option<i32> {
        match self.status {
            Exit::Code(code) => Some(code),
            Exit::Signal(_) => None,
        }
    }

    /// Standard output without trailing white space, bytes that are no UTF-8 replaced.
    pub fn text(&self) -> Cow<'_, str> {
        trimmed(&self.stdout)
    }

    /// Standard error without trailing white space, bytes that are no UTF-8 replaced.
    pub fn stderr_text(&self) -> Cow<'_, str> {
        trimmed(&self.stderr)
    }

    /// Standard output as it is, which must be UTF-8: [`ErrorKind::Exec`] otherwise.
    pub fn stdout_str(&self) -> Result<&str> {
        std::str::from_utf8(&self.stdout).map_err(|cause| {
            let what = format!("the standard output of `{}` is not UTF-8", self.command);
            Error::new(ErrorKind::Exec, what).because(cause)
        })
    }

    /// Itself, if it ended with status 0; otherwise [`ErrorKind::CommandFailed`], with the command, the
    /// status or signal, and the last 20 lines of both outputs.
    pub fn check(self) -> Result<Self> {
        if self.success() {
            return Ok(self);
        }
        let mut message = format!("`{}` {}", self.command, ended(self.status));
        message.push_str(&excerpt(&self.stderr, &self.stdout));
        Err(Error::new(ErrorKind::CommandFailed, message))
    }
}

/// `ended with status 1`, `was ended by signal 9 (SIGKILL)`.
pub(crate) fn ended(status: Exit) -> String {
    match status {
        Exit::Code(code) => format!("ended with status {code}"),
        Exit::Signal(signal) => match signal_name(signal) {
            Some(name) => format!("was ended by signal {signal} ({name})"),
            None => format!("was ended by signal {signal}"),
        },
    }
}

/// The last lines of both outputs, each under its name; empty where both are.
pub(crate) fn excerpt(stderr: &[u8], stdout: &[u8]) -> String {
    let mut text = String::new();
    for (name, bytes) in [("stderr", stderr), ("stdout", stdout)] {
        let lines = last_lines(bytes, SHOWN_LINES);
        if !lines.is_empty() {
            text.push_str(&format!("\n{name}, its end:"));
        }
        for line in lines {
            text.push_str("\n  | ");
            text.push_str(&line);
        }
    }
    text
}

/// The last `count` lines, shortened, without control characters that would disturb a terminal.
pub(crate) fn last_lines(bytes: &[u8], count: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let shown = console::tail(text.trim_end(), count);
    shown.lines().map(shorten).collect()
}

fn shorten(line: &str) -> String {
    let plain = |c: char| {
        if c.is_control() && c != '\t' {
            '\u{fffd}'
        } else {
            c
        }
    };
    let mut short: String = line.chars().take(SHOWN_WIDTH).map(plain).collect();
    if line.chars().nth(SHOWN_WIDTH).is_some() {
        short.push('…');
    }
    short
}

fn trimmed(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes.trim_ascii_end())
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(status: Exit) -> Output {
        Output {
            status,
            stdout: b"one\ntwo\n".to_vec(),
            stderr: b"bad \x1b[31mred\n".to_vec(),
            took: Duration::ZERO,
            command: "prog -x".into(),
        }
    }

    #[test]
    fn check_shows_command_status_and_both_outputs() {
        let error = output(Exit::Code(4)).check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CommandFailed);
        let expected = "`prog -x` ended with status 4\nstderr, its end:\n  | bad \u{fffd}[31mred\nstdout, its end:\n  | one\n  | two";
        assert_eq!(error.message(), expected);
        let error = output(Exit::Signal(9)).check().unwrap_err();
        assert!(
            error
                .message()
                .starts_with("`prog -x` was ended by signal 9 (SIGKILL)")
        );
        assert!(output(Exit::Code(0)).check().is_ok());
    }

    #[test]
    fn excerpts_are_bounded() {
        let long = format!("{}\nlast\n", "x".repeat(10_000));
        let lines = last_lines(long.repeat(100).as_bytes(), 3);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "last");
        assert_eq!(lines[1].chars().count(), SHOWN_WIDTH + 1);
    }
}
