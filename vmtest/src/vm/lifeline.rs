//! The race of every wait with the machine's death.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use vmtest_backends::backend::Life;
use vmtest_backends::{Error, ErrorKind, Result, console};

use super::CONSOLE_LIMIT;
use crate::broker::Link;

/// How long a lost connection may wait for the news that the machine died, which explains it: the two come
/// on different ways, in any order.
const NEWS_LIMIT: Duration = Duration::from_millis(500);

/// How many lines of the console an error shows.
const CONSOLE_LINES: usize = 40;

/// The host's side of a machine, asked whether it lives.
#[derive(Debug, Clone)]
pub(crate) struct Lifeline(Arc<dyn Link>);

impl Lifeline {
    pub(crate) fn new(link: Arc<dyn Link>) -> Self {
        Self(link)
    }

    pub(crate) fn link(&self) -> Arc<dyn Link> {
        self.0.clone()
    }

    /// The result of `work`, or an error as soon as the machine dies. `what` says what was being done:
    /// "while `apt-get update` ran". To be polled on the I/O runtime.
    pub(crate) async fn race<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            result = work => match result {
                Err(error) if error.kind() == ErrorKind::Disconnected => Err(self.explain(what, error).await),
                other => other,
            },
            death = self.death() => Err(self.with_console(obituary(what, &death)).await),
        }
    }

    /// Returns when the machine is no longer running, with how it ended.
    async fn death(&self) -> Life {
        let mut life = self.0.life();
        let ended = life
            .wait_for(|life| *life != Life::Running)
            .await
            .map(|life| life.clone());
        ended.unwrap_or_else(|_| Life::Exited("the connection to its host was lost".into()))
    }

    /// A lost connection is the machine's death where that is known in time.
    async fn explain(&self, what: &str, lost: Error) -> Error {
        let error = match timeout(NEWS_LIMIT, self.death()).await {
            Ok(death) => obituary(what, &death).because(lost),
            Err(_) => Error::new(ErrorKind::Disconnected, format!("the guest was lost {what}")).because(lost),
        };
        self.with_console(error).await
    }

    pub(crate) async fn with_console(&self, error: Error) -> Error {
        match timeout(CONSOLE_LIMIT, self.0.console()).await {
            Ok(Ok(console)) => error.with_console(console::tail(&console, CONSOLE_LINES)),
            // The error at hand matters more than why its console is missing.
            Ok(Err(_)) | Err(_) => error,
        }
    }
}

fn obituary(what: &str, death: &Life) -> Error {
    let how = match death {
        Life::Running => "it runs".to_owned(),
        Life::Panicked(line) => format!("kernel panic: {line}"),
        Life::Exited(why) => why.clone(),
    };
    Error::new(ErrorKind::Died, format!("the machine ended {what}: {how}"))
}
