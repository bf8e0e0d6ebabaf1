//! The session through our own agent in the guest, over any byte stream to it.
//!
//! One task reads, one writes when the kernel's buffer is full; everything else happens on the threads of those who
//! ask. A request is one `write`, made at once by the thread that makes the request.

mod channel;
mod greeting;
mod link;
mod process;
mod stream;

use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use vmtest_agent::wire::{Frame, Parser};

use super::{ANSWER_LIMIT, Exec, Process, Reader, Session, Target, Writer};
use crate::error::{Error, ErrorKind, Result};
use link::{Link, disconnected};

pub use greeting::{Greeted, Hello};

/// How often [`restarted`](Session::restarted) asks while the old guest still answers.
const REBOOT_POLL: Duration = Duration::from_millis(100);

/// How long an agent that has not been heard of yet may take to say who it is, before a restart is waited for.
const WHO_LIMIT: Duration = Duration::from_millis(300);

/// A session with the agent of one machine.
///
/// The connection is closed when the session and everything that was opened through it have been dropped.
pub struct AgentSession {
    owner: Arc<Owner>,
    tasks: [JoinHandle<()>; 2],
}

impl fmt::Debug for AgentSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentSession")
            .field("instance", &self.instance())
            .finish_non_exhaustive()
    }
}

/// Held by everything that uses the connection, but not by the tasks that serve it.
#[derive(Debug)]
struct Owner(Arc<Link>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.lose(&disconnected("the session was closed"));
    }
}

impl AgentSession {
    /// Begins a new epoch on a fresh connection, within `limit`: whatever the agent was doing for an earlier one ends,
    /// the guest's clock is set and its random generator seeded.
    ///
    /// Must be called on a tokio runtime, on which the connection is then served.
    pub async fn connect(stream: UnixStream, hello: Hello, limit: Duration) -> Result<Self> {
        let session = Self::serve(stream, Parser::lost(), 1)?;
        let greeted = timeout(limit, session.link().greet(hello, |_| true)).await;
        greeted.map_err(|_| {
            Error::new(
                ErrorKind::TimedOut,
                format!("the guest's agent did not answer a hello within {limit:?}"),
            )
        })??;
        Ok(session)
    }

    /// Takes over a connection whose agent has been greeted, which stands idle, from [`release`](Self::release).
    /// Nothing is sent. Must be called on a tokio runtime.
    pub fn adopt(stream: UnixStream, next_channel: u32) -> Result<Self> {
        Self::serve(stream, Parser::at_border(), next_channel)
    }

    fn serve(stream: UnixStream, parser: Parser, next_channel: u32) -> Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|cause| {
            Error::new(ErrorKind::Invalid, "a session needs a tokio runtime").because(cause)
        })?;
        let broken = |cause| {
            Error::new(
                ErrorKind::Disconnected,
                "the connection to the agent cannot be used",
            )
            .because(cause)
        };
        stream.set_nonblocking(true).map_err(broken)?;
        let stream = tokio::net::UnixStream::from_std(stream).map_err(broken)?;
        let link = Arc::new(Link::new(stream, parser, next_channel));
        let tasks = [
            runtime.spawn(Arc::clone(&link).read_on()),
            runtime.spawn(Arc::clone(&link).write_on()),
        ];
        let owner = Arc::new(Owner(link));
        Ok(Self { owner, tasks })
    }

    fn link(&self) -> &Arc<Link> {
        &self.owner.0
    }

    /// Gives the connection back, standing idle, with the first channel number that is free: for
    /// [`adopt`](Self::adopt), also in another process. The stream stays non-blocking.
    ///
    /// An error when something is still open; the connection is then closed. Waits for a round trip to the agent.
    pub async fn release(self) -> Result<(UnixStream, u32)> {
        self.ping(ANSWER_LIMIT).await?;
        let taken = self.link().retire()?;
        for task in self.tasks {
            task.abort();
            // It was aborted, or had ended; both are what is wanted.
            let _ = task.await;
        }
        self.owner.0.leftover()?;
        Ok(taken)
    }

    /// Has the guest write all its file systems to their disks, within `limit`.
    pub async fn sync_disks(&self, limit: Duration) -> Result<()> {
        self.ask(Frame::Sync, limit, "sync its disks").await
    }

    /// Waits for the agent to answer, within `limit`. Starts nothing in the guest.
    pub async fn ping(&self, limit: Duration) -> Result<()> {
        self.ask(Frame::Ping, limit, "answer a ping").await
    }

    async fn ask(&self, frame: fn(u64) -> Frame<'static>, limit: Duration, what: &str) -> Result<()> {
        let answer = self.link().ask(frame)?;
        match timeout(limit, answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.link().lost()),
            Err(_) => Err(Error::new(
                ErrorKind::TimedOut,
                format!("the guest's agent did not {what} within {limit:?}"),
            )),
        }
    }

    /// A number that is new whenever an agent starts; none while the agent has not been heard of.
    pub fn instance(&self) -> Option<u64> {
        self.link().identity().map(|identity| identity.instance)
    }

    /// What the agent answered to the latest hello; none after [`adopt`](Self::adopt).
    pub fn greeted(&self) -> Option<Greeted> {
        self.link().greeted()
    }
}

#[async_trait]
impl Session for AgentSession {
    async fn spawn(&self, exec: Exec) -> Result<Process> {
        process::spawn(&self.owner, &exec).await
    }

    async fn open(&self, target: Target) -> Result<(Reader, Writer)> {
        process::open(&self.owner, &target).await
    }

    async fn restarted(&self, limit: Duration) -> Result<()> {
        if self.link().identity().is_none() {
            // If nobody answers, then the old agent is gone already.
            let _ = self.ping(WHO_LIMIT).await;
        }
        let known = self.link().identity();
        let again = self.link().next_hello(known.map(|identity| identity.fork_id));
        let other = |greeted: &Greeted| known.is_none_or(|known| known.instance != greeted.instance);
        self.link().restart();
        timeout(limit, self.link().greet(again, other))
            .await
            .map_err(|_| {
                Error::new(
                    ErrorKind::TimedOut,
                    format!("the guest was not there again within {limit:?} after its restart"),
                )
            })?
    }
}
