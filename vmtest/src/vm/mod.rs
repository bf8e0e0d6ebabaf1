//! The machine as a test sees it.
//!
//! ```no_run
//! # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
//! let kernel = vm.command("uname").arg("-r").await?.check()?;
//! assert!(kernel.text().starts_with("6."));
//! # Ok(())
//! # }
//! ```
//!
//! Everything here stands on the two verbs of a [`Session`] and knows no transport. All work that must go
//! on while a body blocks its thread (forwards, output, time limits) is done on the I/O runtime.

mod archive;
mod capture;
mod child;
mod command;
mod copy;
mod current;
mod file;
mod forward;
mod lifeline;
mod network;
mod output;
mod power;
mod ssh;
mod task;
#[cfg(test)]
mod tests;
mod transcript;
mod wait;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use vmtest_backends::error::Report;
use vmtest_backends::session::Session;
use vmtest_backends::spec::Ready;
use vmtest_backends::{Error, Result};

use crate::broker::{Leased, Link};
use lifeline::Lifeline;
use task::Task;

pub use child::{Child, Line, Lines, Source};
pub use command::Command;
pub use forward::Forward;
pub use output::Output;
pub use ssh::Ssh;
pub use transcript::Entry;
pub use vmtest_backends::session::{Exit, Reader, Target, Writer};
pub use wait::{Condition, Conditions, File, Http, LogLine, Port, Succeeds, Unit, Wait};

#[doc(hidden)]
pub use current::{Guard, enter};

use transcript::Transcript;

/// How many errors are looked at when a body has panicked.
const ERRORS_KEPT: usize = 32;

/// How long the console may take to be told when an error is made.
const CONSOLE_LIMIT: Duration = Duration::from_secs(2);

/// The machine as a test sees it: a cheap handle, `Send` and `Sync`; dropping it ends nothing.
///
/// Its methods work from any thread and any runtime, and each wait inside the machine races with the
/// machine's death: then it ends at once with [`ErrorKind::Died`](crate::ErrorKind::Died) and the end of
/// the console.
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
/// vm.sh("systemctl start postgresql").await?.check()?;
/// let hostname = vm.command("hostname").await?.check()?;
/// assert_eq!(hostname.text(), "debian");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Vm(Arc<Inner>);

struct Inner {
    session: Arc<dyn Session>,
    lifeline: Lifeline,
    leased: Leased,
    origin: Origin,
    io: Handle,
    transcript: Transcript,
    /// What went wrong with it: who panics over one of these blames us, not the test.
    errors: Mutex<VecDeque<Report>>,
    /// Dropped with the last handle: what listens for the machine's sake ends then.
    held: watch::Sender<()>,
}

/// Where a machine came from, and what its holder needs to know of that.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Origin {
    /// The image's name.
    pub image: String,
    /// The snapshot's name, if it is a fork.
    pub snapshot: Option<String>,
    /// When it counts as ready after a reboot.
    pub ready: Ready,
    /// Whether it has an uplink to the network.
    pub network: bool,
    /// What our own limits are multiplied by: 1.0 with hardware virtualisation, more without.
    pub patience: f64,
}

impl Vm {
    /// The handle of a machine whose guest is reached over `session` and whose host over `link`. `io` is a
    /// runtime with I/O and time that never runs code of a test.
    #[doc(hidden)]
    pub fn new(
        session: Arc<dyn Session>,
        link: Arc<dyn Link>,
        leased: Leased,
        origin: Origin,
        io: Handle,
    ) -> Self {
        Self(Arc::new(Inner {
            session,
            lifeline: Lifeline::new(link),
            leased,
            origin,
            io,
            transcript: Transcript::default(),
            errors: Mutex::default(),
            held: watch::Sender::new(()),
        }))
    }

    /// The machine of the test that runs on this thread, for bodies that take no argument.
    ///
    /// # Panics
    ///
    /// Outside the body of a test with a machine; [`Vm::try_current`] gives `None` there.
    ///
    /// ```no_run
    /// # async fn body() -> vmtest::Result<()> {
    /// vmtest::vm::Vm::current().sh("true").await?.check()?;
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn current() -> Self {
        Self::try_current()
            .expect("no machine here: Vm::current() works on the thread of a #[vm_test] body only")
    }

    /// The machine of the test that runs on this thread, if there is one.
    pub fn try_current() -> Option<Self> {
        current::get()
    }

    /// The machine's name, unique among all machines.
    pub fn machine(&self) -> &str {
        &self.0.leased.machine
    }

    /// 32 hexadecimal digits, unique to this fork.
    pub fn fork_id(&self) -> &str {
        &self.0.leased.fork_id
    }

    /// The engine and how it executes: `QEMU 10.0.2 (tcg)`.
    pub fn engine(&self) -> &str {
        &self.0.leased.engine
    }

    /// The name of the image it was booted from.
    pub fn image(&self) -> &str {
        &self.0.origin.image
    }

    /// The name of the snapshot it is a fork of.
    pub fn snapshot(&self) -> Option<&str> {
        self.0.origin.snapshot.as_deref()
    }

    /// Whether it was forked ahead of demand.
    pub fn is_warm(&self) -> bool {
        self.0.leased.warm
    }

    /// How long each step to this machine took, in order.
    pub fn phases(&self) -> &[(String, Duration)] {
        &self.0.leased.phases
    }

    /// The end of its console (at most 256 KiB), with bytes that are no UTF-8 replaced.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// assert!(!vm.console().await?.contains("Call Trace"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn console(&self) -> Result<String> {
        let link = self.0.lifeline.link();
        self.on_io(async move { link.console().await }).await
    }

    /// What was run in it so far, oldest first: the last 1000 entries.
    pub fn transcript(&self) -> Vec<Entry> {
        self.0.transcript.entries()
    }

    /// A program to run in it, looked up in the guest's `PATH` unless it is a path. Nothing interprets the
    /// arguments.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// let output = vm.command("grep").arg("-c").arg("a b").stdin("a b\n").await?.check()?;
    /// assert_eq!(output.text(), "1");
    /// # Ok(())
    /// # }
    /// ```
    pub fn command(&self, program: impl Into<String>) -> Command {
        Command::new(self.clone(), program.into())
    }

    /// A script for the guest's `/bin/sh -c`, with no options set: as in any shell, its status is that of its last
    /// command. Begin it with `set -e` to end at the first failure.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// vm.sh("set -e; mkdir /data; echo 1 > /data/version").await?.check()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sh(&self, script: impl Into<String>) -> Command {
        Command::shell(self.clone(), script.into())
    }

    /// Does `work` on the I/O runtime; dropping the result gives it up.
    fn on_io<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Task<T> {
        let vm = Arc::downgrade(&self.0);
        Task::new(self.0.io.spawn(async move {
            let done = work.await;
            match vm.upgrade() {
                Some(vm) => Self(vm).noted(done),
                None => done,
            }
        }))
    }

    /// Remembers an error that is given to the holder.
    fn noted<T>(&self, done: Result<T>) -> Result<T> {
        if let Err(error) = &done {
            let mut errors = self.0.errors.lock().unwrap_or_else(PoisonError::into_inner);
            errors.push_back(error.report());
            let excess = errors.len().saturating_sub(ERRORS_KEPT);
            errors.drain(..excess);
        }
        done
    }

    /// The errors it has given to its holder, oldest first; the last few.
    pub(crate) fn errors(&self) -> Vec<Error> {
        let errors = self.0.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.iter().cloned().map(Error::from).collect()
    }

    /// A limit of ours, scaled to how fast the machine executes.
    fn scaled(&self, limit: Duration) -> Duration {
        crate::config::stretched(limit, self.0.origin.patience.clamp(1.0, 100.0))
    }
}

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm")
            .field("machine", &self.machine())
            .field("image", &self.image())
            .field("snapshot", &self.snapshot())
            .finish_non_exhaustive()
    }
}
