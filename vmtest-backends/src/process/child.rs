//! A process of ours that is reaped by a task and can be killed from anywhere.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::process::spawn;
use crate::sys;

/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A process of ours. Dropping the last handle kills it; a task reaps it.
#[derive(Debug, Clone)]
pub struct Child {
    pid: u32,
    life: Arc<Life>,
    ended: watch::Receiver<Option<Ended>>,
}

#[derive(Debug)]
struct Life {
    pidfd: OwnedFd,
}

impl Drop for Life {
    fn drop(&mut self) {
        // A pidfd never names another process, so a process that is gone is the only possible error.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// As the system tells it; `None` when it could not be found out.
    pub status: Option<ExitStatus>,
}

impl Child {
    /// Starts `command`, bound to the life of this process; it inherits the descriptors `keep`. Must be
    /// called on a tokio runtime with I/O, which goes on to reap it.
    pub(crate) async fn start(command: Command, keep: Vec<OwnedFd>) -> io::Result<Self> {
        let mut child = spawn(command, keep).await?;
        let pid = child.id();
        let watched = watch_fd(pid).inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        });
        let (pidfd, readable) = watched?;
        let (tell, ended) = watch::channel(None);
        tokio::spawn(async move {
            // An error here would be the runtime's; waiting then blocks this task's thread at worst briefly,
            // for the process is being killed with the runtime.
            let _ = readable.ready(Interest::READABLE).await;
            let status = child.try_wait().ok().flatten();
            tell.send_replace(Some(Ended { status }));
        });
        Ok(Self {
            pid,
            life: Arc::new(Life { pidfd }),
            ended,
        })
    }

    /// Its process id; only for accounting and messages, for a number may be used again.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, once it has.
    pub fn ended(&self) -> watch::Receiver<Option<Ended>> {
        self.ended.clone()
    }

    /// Begins its end.
    pub fn kill_now(&self) {
        // As in Drop: the only possible error is that it is gone.
        let _ = pidfd_send_signal(&self.life.pidfd, Signal::KILL);
    }

    /// Ends it and returns when it is gone; an error when it is not gone within 5 s.
    pub async fn kill(&self) -> io::Result<()> {
        self.kill_now();
        self.wait(KILL_LIMIT).await.map(|_| ())
    }

    /// Waits for its end.
    pub async fn wait(&self, limit: Duration) -> io::Result<Ended> {
        let mut ended = self.ended();
        let gone = async { ended.wait_for(Option::is_some).await.map(|ended| ended.clone()) };
        match tokio::time::timeout(limit, gone).await {
            Ok(Ok(ended)) => Ok(ended.unwrap_or(Ended { status: None })),
            Ok(Err(_)) => Err(io::Error::other("the task that reaps it is gone")),
            Err(_) => {
                let text = format!("process {} is still there after {} s", self.pid, limit.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }
}

fn watch_fd(pid: u32) -> io::Result<(OwnedFd, AsyncFd<OwnedFd>)> {
    let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    let readable = sys::readable(pidfd.try_clone()?)?;
    Ok((pidfd, readable))
}

/// Waits until a process that may be anybody's has ended; one that is not there has.
pub async fn wait_for_end(pid: u32) -> io::Result<()> {
    match watch_fd(pid) {
        Ok((_, readable)) => readable.ready(Interest::READABLE).await.map(|_| ()),
        Err(cause) if cause.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
        Err(cause) => Err(cause),
    }
}
