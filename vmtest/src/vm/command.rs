//! A program to run in the guest.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use vmtest_backends::session::{Exec, Exit, Writer};
use vmtest_backends::{Error, ErrorKind, Result};

use super::Vm;
use super::capture::Capture;
use super::child::{Child, Launch, Line, Source};
use super::output::Output;
use super::transcript::Recording;

/// How much of each output is kept, its end, where it is streamed; in bytes.
const STREAMED_KEPT: usize = 64 * 1024;

/// The longest text of a command in messages, in characters.
const SHOWN: usize = 500;

/// A program to run in the guest, made by [`Vm::command`] and [`Vm::sh`]. Awaiting it is the same as
/// [`output`](Command::output). It runs in a process group of its own, with no input unless given, in `/`, as the
/// guest's agent does (root).
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
/// use std::time::Duration;
///
/// let output = vm
///     .command("make")
///     .args(["-j2", "check"])
///     .env("CC", "gcc")
///     .cwd("/src")
///     .timeout(Duration::from_secs(60))
///     .await?
///     .check()?;
/// assert!(output.text().ends_with("ok"));
/// # Ok(())
/// # }
/// ```
#[must_use = "a command runs when it is awaited"]
pub struct Command {
    vm: Vm,
    exec: Exec,
    input: Option<Vec<u8>>,
    limit: Option<Duration>,
    label: Option<String>,
    silent: bool,
}

impl Command {
    pub(super) fn new(vm: Vm, program: String) -> Self {
        Self {
            vm,
            exec: Exec::new(program),
            input: None,
            limit: None,
            label: None,
            silent: false,
        }
    }

    pub(super) fn shell(vm: Vm, script: String) -> Self {
        let command = Self::new(vm, "/bin/sh".into()).args(["-c", &script]);
        command.label(script)
    }

    /// What messages and the transcript show in its stead.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// It is not to stand in the transcript.
    pub(super) fn silent(mut self) -> Self {
        self.silent = true;
        self
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.exec.args.push(arg.into());
        self
    }

    /// More arguments.
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.exec.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// A variable of its environment, besides `PATH`, `HOME=/root`, `LANG=C.UTF-8` and `TERM=dumb`.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.exec.env.push((name.into(), value.into()));
        self
    }

    /// More variables of its environment.
    pub fn envs<N: Into<String>, V: Into<String>>(mut self, envs: impl IntoIterator<Item = (N, V)>) -> Self {
        let envs = envs.into_iter().map(|(name, value)| (name.into(), value.into()));
        self.exec.env.extend(envs);
        self
    }

    /// Its working directory in the guest; `/` otherwise.
    pub fn cwd(mut self, folder: impl Into<String>) -> Self {
        self.exec.cwd = Some(folder.into());
        self
    }

    /// All of its standard input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Its standard input is to be [`Child::stdin`]; for [`spawn`](Command::spawn).
    pub fn piped(mut self) -> Self {
        self.exec.stdin = true;
        self
    }

    /// Its process group is killed when it has not ended within `limit`, and that is an error of kind
    /// [`ErrorKind::TimedOut`] with what it had written. Without one, only the test's own limit counts.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Runs it to its end and collects what it writes, at most 256 MiB of each output.
    ///
    /// How it ended is no error: see [`Output::check`]. Errors: [`ErrorKind::Exec`] when it could not be
    /// started or wrote too much, [`ErrorKind::TimedOut`], [`ErrorKind::Died`] and
    /// [`ErrorKind::Disconnected`]. Giving up the wait kills the process group.
    pub async fn output(self) -> Result<Output> {
        self.run(Capture::all).await
    }

    /// Runs it to its end and discards what it writes.
    pub async fn status(self) -> Result<Exit> {
        Ok(self.run(|| Capture::tail(0)).await?.status)
    }

    /// Runs it to its end and gives each line to `on_line` as it comes, on the thread of the caller. The output
    /// that is returned holds the last 64 KiB of each stream.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// vm.sh("apt-get update").stream(|line| println!("{}", line.text)).await?.check()?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stream(mut self, mut on_line: impl FnMut(Line)) -> Result<Output> {
        let mut recording = self.recording();
        let input = self.take_input(&mut recording);
        let starting = Child::start(self.vm.clone(), self.launch(None));
        let mut child = match self.vm.on_io(starting).await {
            Ok(child) => child,
            Err(error) => return recording.failed(error),
        };
        let feeding = feed(child.stdin.take(), input);
        let _feeder = self.vm.on_io(async move {
            feeding.await;
            Ok(())
        });
        let mut kept = (Capture::tail(STREAMED_KEPT), Capture::tail(STREAMED_KEPT));
        let mut lines = child.lines();
        let ended = loop {
            let line = tokio::select! {
                line = lines.next() => line,
                Err(error) = child.finished() => Err(error),
            };
            match line {
                Ok(Some(line)) => {
                    let side = if line.source == Source::Stdout {
                        &mut kept.0
                    } else {
                        &mut kept.1
                    };
                    side.push(line.text.as_bytes())?;
                    side.push(b"\n")?;
                    on_line(line);
                }
                Ok(None) => break child.finished().await,
                Err(error) => break Err(error),
            }
        };
        conclude(ended, &child, kept.0, kept.1, recording)
    }

    /// Starts it and hands out its streams. Input given by [`stdin`](Command::stdin) is written meanwhile.
    pub async fn spawn(mut self) -> Result<Child> {
        let mut recording = self.recording();
        let input = self.take_input(&mut recording);
        let launch = self.launch(Some(recording));
        let starting = Child::start(self.vm.clone(), launch);
        let mut child = self.vm.on_io(starting).await?;
        if let Some(input) = input {
            self.vm.0.io.spawn(feed(child.stdin.take(), Some(input)));
        }
        Ok(child)
    }

    /// Starts it so that it outlives the connection, a commit and a fork. Its three streams are `/dev/null`;
    /// how it ends is not told.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// vm.command("sleep").arg("1000").detach().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn detach(mut self) -> Result<()> {
        let mut recording = self.recording();
        self.exec.detach = true;
        self.exec.stdin = false;
        let (vm, exec) = (self.vm.clone(), self.exec);
        let what = format!("while `{}` was started", recording.command());
        let started = self.vm.on_io(async move {
            vm.0.lifeline
                .race(&what, vm.0.session.spawn(exec))
                .await
                .map(drop)
        });
        let started = started.await;
        recording.done(&started);
        started
    }

    async fn run(mut self, capture: fn() -> Capture) -> Result<Output> {
        let mut recording = self.recording();
        let input = self.take_input(&mut recording);
        let vm = self.vm.clone();
        let launch = self.launch(None);
        let work = async move {
            let mut child = match Child::start(vm, launch).await {
                Ok(child) => child,
                Err(error) => return recording.failed(error),
            };
            let (mut stdout, mut stderr) = (capture(), capture());
            let (reader, errors) = (child.stdout.take(), child.stderr.take());
            let feeding = feed(child.stdin.take(), input);
            let work = async { tokio::try_join!(stdout.fill(reader), stderr.fill(errors), child.finished()) };
            let ended = tokio::select! {
                ended = work => ended.map(|((), (), exit)| exit),
                never = async { feeding.await; std::future::pending().await } => never,
            };
            conclude(ended, &child, stdout, stderr, recording)
        };
        self.vm.on_io(work).await
    }

    fn recording(&self) -> Recording {
        let mut recording = self.vm.0.transcript.begin(&self.shown());
        recording.silent = self.silent;
        recording
    }

    fn take_input(&mut self, recording: &mut Recording) -> Option<Vec<u8>> {
        let input = self.input.take()?;
        recording.bytes_in = input.len() as u64;
        self.exec.stdin = true;
        Some(input)
    }

    fn launch(&mut self, recording: Option<Recording>) -> Launch {
        let shown = self.shown();
        Launch {
            exec: std::mem::replace(&mut self.exec, Exec::new("")),
            shown,
            limit: self.limit,
            recording,
        }
    }

    fn shown(&self) -> String {
        let whole = match &self.label {
            Some(label) => label.trim().to_owned(),
            None => quoted(&self.exec),
        };
        let mut shown: String = whole.chars().take(SHOWN).collect();
        if whole.chars().nth(SHOWN).is_some() {
            shown.push('…');
        }
        shown
    }
}

impl IntoFuture for Command {
    type Output = Result<Output>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.output())
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("exec", &self.exec)
            .field("timeout", &self.limit)
            .finish_non_exhaustive()
    }
}

fn conclude(
    ended: Result<Exit>,
    child: &Child,
    stdout: Capture,
    stderr: Capture,
    mut recording: Recording,
) -> Result<Output> {
    recording.bytes_out = stdout.seen + stderr.seen;
    let ended = match child.was_overdue() {
        true => Err(child.overdue(&stderr.kept, &stdout.kept)),
        false => ended,
    };
    let ended = match stdout.broken.or(stderr.broken) {
        Some(cause) if ended.is_ok() => {
            let what = format!("the output of `{}` broke off", recording.command());
            Err(Error::new(ErrorKind::Disconnected, what).because(cause))
        }
        _ => ended,
    };
    recording.exited(&ended);
    ended.map(|status| Output {
        status,
        stdout: stdout.kept,
        stderr: stderr.kept,
        took: recording.took(),
        command: recording.command().to_owned(),
    })
}

/// Writes all of `input` and closes the stream. A program need not read it all: that is no error.
async fn feed(stdin: Option<Writer>, input: Option<Vec<u8>>) {
    let (Some(mut stdin), Some(input)) = (stdin, input) else {
        return;
    };
    if stdin.write_all(&input).await.is_ok() {
        let _ = stdin.shutdown().await;
    }
}

/// A program and its arguments as a shell would read them.
fn quoted(exec: &Exec) -> String {
    let words = std::iter::once(&exec.program).chain(&exec.args);
    words.map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
