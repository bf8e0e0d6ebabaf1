//! Programs that are run with a limit, and what they wrote.

use std::io;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// A program under way. It leads a process group, which is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    group: Option<Pid>,
    output: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<io::Result<Instant>>,
    begin: Instant,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it wrote to standard output and standard error, as it came.
    pub output: String,
    /// How long it took.
    pub took: Duration,
    /// How long after its end somebody else still held its output.
    pub held: Duration,
}

impl Running {
    /// Starts `command` with no input.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let (reader, writer) = io::pipe().expect("there are pipes");
        let output = Receiver::from_owned_fd(reader.into()).expect("a pipe can be read");
        let other = writer.try_clone().expect("a pipe has two writers");
        command
            .stdin(std::process::Stdio::null())
            .stdout(writer)
            .stderr(other);
        command.process_group(0).kill_on_drop(true);
        let begin = Instant::now();
        let child = command
            .spawn()
            .unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
        // Our own ends of the pipe go with the command.
        drop(command);
        let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        let reading = tokio::spawn(read(output, Arc::clone(&kept)));
        Self {
            child,
            group,
            output: kept,
            reading,
            begin,
        }
    }

    /// Its process.
    pub fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()))
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Waits for its end and for the end of its output.
    ///
    /// # Panics
    ///
    /// When that takes longer than `limit`: then the whole group is killed.
    pub async fn ended(mut self, limit: Duration) -> Ended {
        let end = async {
            let status = self.child.wait().await?;
            let exit = Instant::now();
            let eof = (&mut self.reading).await.map_err(io::Error::other)??;
            io::Result::Ok((status, exit, eof))
        };
        let Ok(end) = tokio::time::timeout(limit, end).await else {
            panic!(
                "a program did not end within {limit:?}; it wrote:\n{}",
                self.output()
            );
        };
        let (status, exit, eof) = end.expect("a child can be waited for");
        Ended {
            status,
            output: self.output(),
            took: exit - self.begin,
            held: eof.saturating_duration_since(exit),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Once it has been reaped the group is either empty or still its own.
        if let (Some(group), Some(_)) = (self.group, self.child.id()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn read(mut from: Receiver, kept: Arc<Mutex<Vec<u8>>>) -> io::Result<Instant> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(Instant::now());
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..count]);
    }
}

/// Runs `command` to its end, see [`Running::ended`].
pub async fn run(command: Command, limit: Duration) -> Ended {
    Running::start(command).ended(limit).await
}
