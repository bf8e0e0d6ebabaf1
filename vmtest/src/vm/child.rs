//! A running program in the guest.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};
use vmtest_backends::session::{Exec, Exit, Process, Reader, Signals, Writer};
use vmtest_backends::{Error, ErrorKind, Result};

use super::Vm;
use super::output::excerpt;
use super::task::Task;
use super::transcript::Recording;

/// Ends a process whatever it does about it.
pub(super) const SIGKILL: i32 = 9;

/// Lines longer than this many bytes are given out in pieces.
const LINE_LIMIT: usize = 64 * 1024;

/// How much is read at once, in bytes.
const PIECE: usize = 16 * 1024;

/// A running program in the guest, made by [`Command::spawn`](super::Command::spawn). Dropping it kills its
/// process group.
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
/// use tokio::io::AsyncWriteExt as _;
///
/// let mut child = vm.command("cat").piped().spawn().await?;
/// let mut stdin = child.stdin.take().expect("asked for by piped()");
/// stdin.write_all(b"hello\n").await.expect("cat reads");
/// let mut lines = child.lines();
/// assert_eq!(lines.next().await?.expect("a line").text, "hello");
/// child.kill();
/// child.wait().await?;
/// # Ok(())
/// # }
/// ```
pub struct Child {
    /// Its standard input, if asked for by [`Command::piped`](super::Command::piped). Dropping it ends it.
    pub stdin: Option<Writer>,
    /// Its standard output. What is not read holds the program up, once 256 KiB or so are waiting.
    pub stdout: Option<Reader>,
    /// Its standard error; the same holds.
    pub stderr: Option<Reader>,
    command: String,
    limit: Option<Duration>,
    signals: Arc<dyn Signals>,
    ending: Task<Ending>,
    ended: Option<Ending>,
}

/// How a program came to its end.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// By itself or by a signal.
    Exited(Exit),
    /// It reached its limit and was killed for that.
    Overdue,
}

/// What is to be started, and how it is shown and watched.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) exec: Exec,
    pub(super) shown: String,
    pub(super) limit: Option<Duration>,
    /// Written when the program has ended; `None` where somebody else keeps it.
    pub(super) recording: Option<Recording>,
}

impl Child {
    /// Starts a program. To be polled on the I/O runtime.
    pub(super) async fn start(vm: Vm, mut launch: Launch) -> Result<Self> {
        let deadline = launch.limit.map(|limit| Instant::now() + limit);
        let what = format!("while `{}` ran", launch.shown);
        let spawned = vm.0.lifeline.race(&what, vm.0.session.spawn(launch.exec));
        let spawned = match deadline {
            Some(deadline) => timeout_at(deadline, spawned)
                .await
                .unwrap_or_else(|_| Err(overdue(&launch.shown, launch.limit, b"", b""))),
            None => spawned.await,
        };
        let process = match (spawned, launch.recording.take()) {
            (Err(error), Some(recording)) => return recording.failed(error),
            (spawned, recording) => {
                launch.recording = recording;
                spawned?
            }
        };
        let Process {
            stdin,
            stdout,
            stderr,
            exit,
            signals,
        } = process;
        let signals: Arc<dyn Signals> = Arc::from(signals);
        let reaper = Reaper {
            vm: vm.clone(),
            what,
            exit,
            signals: signals.clone(),
            deadline,
            recording: launch.recording,
        };
        Ok(Self {
            stdin,
            stdout: Some(stdout),
            stderr: Some(stderr),
            command: launch.shown,
            limit: launch.limit,
            signals,
            ending: vm.on_io(reaper.reap()),
            ended: None,
        })
    }

    /// Sends signal number `signal` to its process group; nothing happens when it has ended.
    pub fn signal(&self, signal: i32) {
        self.signals.send(signal);
    }

    /// Sends SIGKILL to its process group.
    pub fn kill(&self) {
        self.signal(SIGKILL);
    }

    /// Both outputs from here on, line by line as they come. Takes `stdout` and `stderr`.
    pub fn lines(&mut self) -> Lines {
        Lines {
            stdout: Side::new(Source::Stdout, self.stdout.take()),
            stderr: Side::new(Source::Stderr, self.stderr.take()),
        }
    }

    /// Waits for its end. Its standard input is closed first, and what has not been taken of its outputs is
    /// discarded, so that neither holds it up.
    ///
    /// Errors: [`ErrorKind::TimedOut`] when its [`timeout`](super::Command::timeout) ended it,
    /// [`ErrorKind::Died`] when the machine did, [`ErrorKind::Disconnected`] when the guest was lost.
    pub async fn wait(&mut self) -> Result<Exit> {
        self.stdin = None;
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        tokio::select! {
            exit = self.finished() => exit,
            never = async { tokio::join!(discard(stdout), discard(stderr)); std::future::pending().await } => never,
        }
    }

    /// How it ended, as soon as that is known; can be asked again.
    pub(super) async fn finished(&mut self) -> Result<Exit> {
        let ending = match self.ended {
            Some(ended) => ended,
            None => (&mut self.ending).await?,
        };
        self.ended = Some(ending);
        match ending {
            Ending::Exited(exit) => Ok(exit),
            Ending::Overdue => Err(self.overdue(b"", b"")),
        }
    }

    /// Sends it signals while its end is waited for.
    pub(super) fn signals(&self) -> Arc<dyn Signals> {
        self.signals.clone()
    }

    /// The error of having been killed at its limit, with its outputs so far.
    pub(super) fn overdue(&self, stderr: &[u8], stdout: &[u8]) -> Error {
        overdue(&self.command, self.limit, stderr, stdout)
    }

    /// Whether it was killed for reaching its limit.
    pub(super) fn was_overdue(&self) -> bool {
        matches!(self.ended, Some(Ending::Overdue))
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("command", &self.command)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

fn overdue(command: &str, limit: Option<Duration>, stderr: &[u8], stdout: &[u8]) -> Error {
    let limit = limit.unwrap_or_default();
    let mut message = format!("`{command}` was killed at its limit of {limit:?}");
    message.push_str(&excerpt(stderr, stdout));
    Error::new(ErrorKind::TimedOut, message)
}

async fn discard(reader: Option<Reader>) {
    if let Some(mut reader) = reader {
        // That it broke off is told by the program's end.
        let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
    }
}

/// Waits for the end of a program, whatever else its holder does.
struct Reaper {
    vm: Vm,
    what: String,
    exit: oneshot::Receiver<Result<Exit>>,
    signals: Arc<dyn Signals>,
    deadline: Option<Instant>,
    recording: Option<Recording>,
}

impl Reaper {
    async fn reap(mut self) -> Result<Ending> {
        let exit = &mut self.exit;
        let exited = async {
            exit.await.unwrap_or_else(|cause| {
                let lost = "the end of a process was never told";
                Err(Error::new(ErrorKind::Disconnected, lost).because(cause))
            })
        };
        let result = tokio::select! {
            result = self.vm.0.lifeline.race(&self.what, exited) => result,
            () = reached(self.deadline) => {
                self.signals.send(SIGKILL);
                return Ok(Ending::Overdue);
            }
        };
        if let Some(recording) = &mut self.recording {
            recording.exited(&result);
        }
        result.map(Ending::Exited)
    }
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Which output a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line that a program wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line {
    /// Where it was written.
    pub source: Source,
    /// Its text without the end of line, bytes that are no UTF-8 replaced; at most 64 KiB, longer lines come in
    /// pieces.
    pub text: String,
}

/// Both outputs of a program, line by line as they come; made by [`Child::lines`]. Between the two, the order
/// is that of arrival.
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
/// let mut child = vm.sh("journalctl --follow").spawn().await?;
/// let mut lines = child.lines();
/// while let Some(line) = lines.next().await? {
///     if line.text.contains("Listening") {
///         break;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Lines {
    stdout: Side,
    stderr: Side,
}

impl Lines {
    /// The next line of either output; `None` after the last one of both. Nothing is lost when the wait is
    /// given up.
    pub async fn next(&mut self) -> Result<Option<Line>> {
        loop {
            let ready = self.stdout.line().or_else(|| self.stderr.line());
            if ready.is_some() {
                return Ok(ready);
            }
            let filled = tokio::select! {
                filled = self.stdout.fill(), if self.stdout.is_open() => filled,
                filled = self.stderr.fill(), if self.stderr.is_open() => filled,
                else => return Ok(None),
            };
            filled.map_err(|cause| {
                Error::new(ErrorKind::Disconnected, "the output of a process broke off").because(cause)
            })?;
        }
    }
}

/// One output of a program and what has been read of its next line.
struct Side {
    source: Source,
    reader: Option<Reader>,
    pending: Vec<u8>,
}

impl Side {
    fn new(source: Source, reader: Option<Reader>) -> Self {
        Self {
            source,
            reader,
            pending: Vec::new(),
        }
    }

    fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    async fn fill(&mut self) -> std::io::Result<()> {
        let Some(reader) = &mut self.reader else {
            return Ok(());
        };
        self.pending.reserve(PIECE);
        let read = reader.read_buf(&mut self.pending).await;
        if !matches!(read, Ok(1..)) {
            self.reader = None;
        }
        read.map(drop)
    }

    fn line(&mut self) -> Option<Line> {
        let end = self
            .pending
            .iter()
            .take(LINE_LIMIT)
            .position(|&byte| byte == b'\n');
        let (text, gone) = match end {
            Some(end) => (end, end + 1),
            None if self.pending.len() >= LINE_LIMIT => (LINE_LIMIT, LINE_LIMIT),
            None if !self.is_open() && !self.pending.is_empty() => (self.pending.len(), self.pending.len()),
            None => return None,
        };
        let line = Line {
            source: self.source,
            text: String::from_utf8_lossy(&self.pending[..text]).into_owned(),
        };
        self.pending.drain(..gone);
        Some(line)
    }
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side")
            .field("source", &self.source)
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}
