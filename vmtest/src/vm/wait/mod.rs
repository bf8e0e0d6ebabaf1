//! Waiting for something in the guest.

mod file;
mod http;
mod log;
mod port;
mod seen;
mod succeeds;
mod unit;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use vmtest_backends::{Error, ErrorKind, Result};

use super::Vm;
pub use file::File;
pub use http::Http;
pub use log::LogLine;
pub use port::Port;
pub use succeeds::Succeeds;
pub use unit::Unit;

use sealed::Look;
use seen::Seen;

/// How long is waited where nothing else is asked for, on a machine with hardware virtualisation.
const LIMIT: Duration = Duration::from_secs(30);

/// The pause after the first look.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// The pause between looks, after it has doubled each time.
const LAST_PAUSE: Duration = Duration::from_millis(100);

impl Vm {
    /// Waits for a condition in the guest: [`Port`], [`Unit`], [`File`], [`Succeeds`], [`LogLine`], [`Http`], or
    /// a tuple, array or vector of them, which is waited for as a whole.
    ///
    /// The limit is 30 s, longer without hardware virtualisation, unless [`timeout`](Wait::timeout) says
    /// otherwise. A condition is looked at after 5 ms and then at least every 100 ms; a log is followed.
    ///
    /// Errors: [`ErrorKind::TimedOut`] with what was waited for, the limit and what was last seen;
    /// [`ErrorKind::Died`] at once when the machine dies; [`ErrorKind::Exec`] when the guest lacks the tool that
    /// could tell.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// use std::time::Duration;
    /// use vmtest::vm::{Http, Port, Unit};
    ///
    /// vm.wait_for(Port(5432)).await?;
    /// vm.wait_for((Unit("nginx.service"), Http::get(80, "/health"))).timeout(Duration::from_secs(5)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_for(&self, conditions: impl Conditions) -> Wait {
        Wait {
            vm: self.clone(),
            conditions: conditions.list(),
            limit: self.scaled(LIMIT),
        }
    }
}

/// A wait that begins when it is awaited; made by [`Vm::wait_for`].
#[must_use = "a wait begins when it is awaited"]
pub struct Wait {
    vm: Vm,
    conditions: Vec<Arc<dyn Condition>>,
    limit: Duration,
}

impl Wait {
    /// How long is waited; not scaled to how fast the machine executes.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn run(self) -> Result<()> {
        let watched: Vec<_> = self
            .conditions
            .iter()
            .map(|one| (one.clone(), Seen::default()))
            .collect();
        let names: Vec<String> = watched.iter().map(|(one, _)| one.to_string()).collect();
        let mut recording = self
            .vm
            .0
            .transcript
            .begin(&format!("wait for {}", names.join(", ")));
        let what = format!("while {} was waited for", names.join(", "));
        let lifeline = self.vm.0.lifeline.clone();
        let all = all_met(self.vm, watched.clone());
        let result = match timeout(self.limit, lifeline.race(&what, all)).await {
            Ok(result) => result,
            Err(_) => Err(lifeline.with_console(unmet(self.limit, &watched)).await),
        };
        recording.done(&result);
        result
    }
}

impl IntoFuture for Wait {
    type Output = Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let vm = self.vm.clone();
            vm.on_io(self.run()).await
        })
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait")
            .field("conditions", &self.conditions)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

async fn all_met(vm: Vm, watched: Vec<(Arc<dyn Condition>, Seen)>) -> Result<()> {
    let mut waits = JoinSet::new();
    for (condition, seen) in watched {
        let vm = vm.clone();
        waits.spawn(async move {
            condition.met(&vm, &seen).await?;
            seen.met();
            Ok(())
        });
    }
    while let Some(ended) = waits.join_next().await {
        ended.unwrap_or_else(|cause| Err(Error::new(ErrorKind::Exec, "a wait broke off").because(cause)))?;
    }
    Ok(())
}

fn unmet(limit: Duration, watched: &[(Arc<dyn Condition>, Seen)]) -> Error {
    let message = match watched {
        [(one, seen)] => format!("waited {limit:?} for {one}; last seen: {seen}"),
        all => {
            let lines: Vec<String> = all
                .iter()
                .map(|(one, seen)| format!("\n  {one}: {seen}"))
                .collect();
            format!("waited {limit:?} for all of these; last seen:{}", lines.concat())
        }
    };
    Error::new(ErrorKind::TimedOut, message)
}

/// Something in the guest that can be waited for; its `Display` stands in messages. Made in this crate only.
pub trait Condition: Look + fmt::Debug + fmt::Display + Send + Sync + 'static {}

mod sealed {
    use async_trait::async_trait;
    use vmtest_backends::Result;

    use super::{Seen, Vm};

    /// The part of a condition that is not for others: the I/O runtime runs no code of a test.
    #[async_trait]
    pub trait Look {
        /// Returns when it is met; notes what it sees until then. Errors are those that waiting cannot cure.
        async fn met(&self, vm: &Vm, seen: &Seen) -> Result<()>;
    }
}

/// One condition, or several that must all be met: tuples of up to four, arrays, vectors.
pub trait Conditions {
    /// Each of them.
    fn list(self) -> Vec<Arc<dyn Condition>>;
}

impl<C: Condition> Conditions for C {
    fn list(self) -> Vec<Arc<dyn Condition>> {
        vec![Arc::new(self)]
    }
}

impl<C: Conditions> Conditions for Vec<C> {
    fn list(self) -> Vec<Arc<dyn Condition>> {
        self.into_iter().flat_map(Conditions::list).collect()
    }
}

impl<C: Conditions, const N: usize> Conditions for [C; N] {
    fn list(self) -> Vec<Arc<dyn Condition>> {
        self.into_iter().flat_map(Conditions::list).collect()
    }
}

impl<A: Conditions, B: Conditions> Conditions for (A, B) {
    fn list(self) -> Vec<Arc<dyn Condition>> {
        [self.0.list(), self.1.list()].concat()
    }
}

impl<A: Conditions, B: Conditions, C: Conditions> Conditions for (A, B, C) {
    fn list(self) -> Vec<Arc<dyn Condition>> {
        [self.0.list(), self.1.list(), self.2.list()].concat()
    }
}

impl<A: Conditions, B: Conditions, C: Conditions, D: Conditions> Conditions for (A, B, C, D) {
    fn list(self) -> Vec<Arc<dyn Condition>> {
        [self.0.list(), self.1.list(), self.2.list(), self.3.list()].concat()
    }
}

/// Looks until there is nothing more to say: `Some` is what was seen instead of what is waited for.
async fn poll<F: Future<Output = Result<Option<String>>>>(
    seen: &Seen,
    mut look: impl FnMut() -> F,
) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    while let Some(state) = look().await? {
        seen.note(state);
        sleep(pause).await;
        pause = LAST_PAUSE.min(pause * 2);
    }
    Ok(())
}

/// Whether waiting cannot cure this: then the error is given at once.
fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Died | ErrorKind::Disconnected | ErrorKind::Broker | ErrorKind::Invalid
    )
}

/// What an error says in the end: `connection refused`.
fn reason(error: &Error) -> String {
    let report = error.report();
    report.causes.last().unwrap_or(&report.message).clone()
}
