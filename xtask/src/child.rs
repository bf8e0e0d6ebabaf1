//! One child process: bounded in time, ended with everything it started, its output shown and read.

use std::ffi::OsStr;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::say::{say, span};
use crate::stop::Stop;

/// From the polite signal to SIGKILL: nextest itself grants its tests 10 s.
const GRACE: Duration = Duration::from_secs(12);
/// From a child's end to the end of its output; what holds it longer was left behind.
const OUTPUT_END: Duration = Duration::from_secs(5);

/// What of cargo's own settings for *this* program must not reach the cargo that we call.
const OURS: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];

/// A command without our own cargo variables, with nothing to read.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let ours = |name: &str| OURS.iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(ours) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Status(ExitStatus),
    /// It ended, but something it started still holds its output.
    Held(ExitStatus),
    /// It did not end within its limit, and was ended.
    Limit,
}

impl End {
    pub(crate) fn success(self) -> bool {
        matches!(self, Self::Status(status) if status.success())
    }

    /// Why this is no success.
    pub(crate) fn reason(self, limit: Duration) -> String {
        match self {
            Self::Status(status) => format!("{status}"),
            Self::Held(status) => format!(
                "{status}, but something it started still held its output {} later",
                span(OUTPUT_END)
            ),
            Self::Limit => format!("not done within {}, ended", span(limit)),
        }
    }
}

/// Runs to the end with our own output streams.
pub(crate) async fn show(command: Command, limit: Duration, stop: &Stop) -> Result<End> {
    let mut child = start(command)?;
    supervise(&mut child, limit, stop)
        .await
        .map(|status| status.map_or(End::Limit, End::Status))
}

/// Runs to the end; shows the output as it comes and hands each line to `read`.
pub(crate) async fn tee(
    mut command: Command,
    limit: Duration,
    stop: &Stop,
    mut read: impl FnMut(&str),
) -> Result<End> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(command)?;
    let (lines, mut read_lines) = mpsc::unbounded_channel();
    let pumps = [
        child
            .stdout
            .take()
            .map(|pipe| pump(pipe, io::stdout(), lines.clone())),
        child.stderr.take().map(|pipe| pump(pipe, io::stderr(), lines)),
    ];
    let status = supervise(&mut child, limit, stop).await;
    let all_read = async {
        while let Some(line) = read_lines.recv().await {
            read(&line)
        }
    };
    let held = timeout(OUTPUT_END, all_read).await.is_err();
    for pump in pumps.into_iter().flatten() {
        pump.abort();
    }
    Ok(match status? {
        None => End::Limit,
        Some(status) if held => End::Held(status),
        Some(status) => End::Status(status),
    })
}

/// Runs to the end and returns what it wrote to standard output; errors unless it succeeds.
pub(crate) async fn capture(mut command: Command, limit: Duration, stop: &Stop) -> Result<String> {
    let name = name_of(&command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = start(command)?;
    let output = tokio::select! {
        output = timeout(limit, child.wait_with_output()) => output,
        () = stop.asked() => return Err(Error::Interrupted),
    };
    let output = output
        .map_err(|_| Error::new(format!("`{name}` was not done within {}", span(limit))))?
        .map_err(Error::at(format!("`{name}` cannot be waited for")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(format!("`{name}` failed ({}): {said}", output.status)))
}

pub(crate) fn name_of(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// In a process group of its own, so that all of it can be ended at once.
fn start(mut command: Command) -> Result<Child> {
    let name = name_of(&command);
    command.process_group(0).kill_on_drop(true);
    command
        .spawn()
        .map_err(Error::at(format!("cannot start `{name}`")))
}

/// The status, or nothing when the limit was reached and the child ended by us.
async fn supervise(child: &mut Child, limit: Duration, stop: &Stop) -> Result<Option<ExitStatus>> {
    let waited = Error::at("a child cannot be waited for");
    tokio::select! {
        status = child.wait() => status.map(Some).map_err(waited),
        () = tokio::time::sleep(limit) => {
            say(format!("the limit of {} is reached: ending it", span(limit)));
            end(child, Signal::TERM).await;
            Ok(None)
        }
        () = stop.asked() => {
            end(child, Signal::INT).await;
            Err(Error::Interrupted)
        }
    }
}

async fn end(child: &mut Child, polite: Signal) {
    let Some(group) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else {
        return;
    };
    let _already_gone = kill_process_group(group, polite);
    let _overdue = timeout(GRACE, child.wait()).await;
    // Also what outlived its leader: the group exists as long as one member does.
    let _already_gone = kill_process_group(group, Signal::KILL);
    let _reaped = timeout(GRACE, child.wait()).await;
}

fn pump<R, W>(mut from: R, mut to: W, lines: mpsc::UnboundedSender<String>) -> JoinHandle<()>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: io::Write + Send + 'static,
{
    tokio::spawn(async move {
        let mut chunk = [0; 8192];
        let mut line = Vec::new();
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            let _reader_gone = to.write_all(&chunk[..count]).and_then(|()| to.flush());
            for &byte in &chunk[..count] {
                match byte {
                    b'\n' => {
                        let _nobody_reads = lines.send(String::from_utf8_lossy(&line).into_owned());
                        line.clear();
                    }
                    _ => line.push(byte),
                }
            }
        }
        let _nobody_reads = lines.send(String::from_utf8_lossy(&line).into_owned());
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn sh(script: &str) -> Command {
        let mut command = command("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn lines_of_both_streams_are_read() {
        let stop = Stop::listen().unwrap();
        let mut lines = Vec::new();
        let end = tee(sh("echo out; echo err >&2; printf tail"), LIMIT, &stop, |line| {
            lines.push(line.to_owned())
        });
        assert!(end.await.unwrap().success());
        for line in ["out", "err", "tail"] {
            assert!(lines.iter().any(|read| read == line), "{line} in {lines:?}");
        }
    }

    #[tokio::test]
    async fn a_limit_ends_the_grandchildren_too() {
        let stop = Stop::listen().unwrap();
        let mut pid = String::new();
        let end = tee(
            sh("sleep 600 & echo $!; wait"),
            Duration::from_millis(300),
            &stop,
            |line| {
                pid.push_str(line);
            },
        );
        assert_eq!(end.await.unwrap(), End::Limit);
        // Its end is no event for us, and a machine without an init leaves it as a zombie.
        let gone = async {
            while std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(5), gone)
            .await
            .expect("the grandchild lives on");
    }

    #[tokio::test]
    async fn held_output_is_told_apart() {
        let stop = Stop::listen().unwrap();
        // Ends by itself soon after the limit on held output.
        let end = tee(sh("setsid sleep 7 & exit 0"), LIMIT, &stop, |_| {})
            .await
            .unwrap();
        assert!(matches!(end, End::Held(_)), "{end:?}");
        assert!(!end.success());
    }
}
