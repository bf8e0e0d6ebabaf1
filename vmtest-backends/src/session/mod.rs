//! Running things inside one machine: two verbs, start a process and open a byte stream. Copying, waiting
//! and forwarding are written once, on top, and know no transport.

mod agent;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::error::Result;

pub use agent::{AgentSession, Greeted, Hello};

/// A byte stream out of the guest. Dropping it tells the guest that nobody reads any more.
pub type Reader = Box<dyn AsyncRead + Send + Sync + Unpin>;

/// A byte stream into the guest. `shutdown` ends it; dropping it does so too.
pub type Writer = Box<dyn AsyncWrite + Send + Sync + Unpin>;

/// A way to run things inside one machine. Usable from any thread and any tokio runtime; its own work is
/// done on the runtime it was made on.
#[async_trait]
pub trait Session: Send + Sync + fmt::Debug {
    /// Starts a process. An error means that it did not start; how it ended is told by its [`Exit`].
    async fn spawn(&self, exec: Exec) -> Result<Process>;

    /// Opens a byte stream to something that listens in the guest.
    async fn open(&self, target: Target) -> Result<(Reader, Writer)>;

    /// Waits until the guest has started anew after a reboot, and goes on with that guest. Everything that
    /// was open before is lost. `limit` bounds the wait.
    async fn restarted(&self, limit: Duration) -> Result<()>;
}

/// A process to start in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program: a path, or a name looked up in the guest's `PATH`.
    pub program: String,
    /// Its arguments, without the program's name.
    pub args: Vec<String>,
    /// Variables added to the agent's environment (`PATH`, `HOME=/root`, `LANG=C.UTF-8`, `TERM=dumb`).
    pub env: Vec<(String, String)>,
    /// Its working directory; `/` otherwise.
    pub cwd: Option<String>,
    /// Whether its standard input is a stream; `/dev/null` otherwise.
    pub stdin: bool,
    /// Whether it outlives the connection. Its three streams are then `/dev/null`, and its exit is not told.
    pub detach: bool,
}

impl Exec {
    /// A program without arguments, with no input.
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            stdin: false,
            detach: false,
        }
    }
}

/// A process in the guest. Dropping it kills the process group, unless it was detached.
pub struct Process {
    /// Its standard input, if asked for.
    pub stdin: Option<Writer>,
    /// Its standard output.
    pub stdout: Reader,
    /// Its standard error.
    pub stderr: Reader,
    /// How it ended; told after the last bytes of both outputs. An error when the connection was lost first.
    pub exit: oneshot::Receiver<Result<Exit>>,
    /// Sends it signals.
    pub signals: Box<dyn Signals>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}

/// Sends signals to a process and its group.
pub trait Signals: Send + Sync {
    /// Sends signal number `signal`. Nothing happens when the process has ended.
    fn send(&self, signal: i32);
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Something that listens in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// A TCP port on the guest's loopback (IPv4, then IPv6).
    Tcp(u16),
    /// A unix socket.
    Unix(String),
}

/// How long a guest may take to answer on a channel before the connection counts as lost.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);
