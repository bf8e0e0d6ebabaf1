//! A machine that is reached, with nothing between it and the engine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use vmtest_backends::backend::{Life, Machine};
use vmtest_backends::endpoint::Endpoint;
use vmtest_backends::session::{AgentSession, Exec, Exit, Hello, Session as _};
use vmtest_backends::{Error, ErrorKind, Result};

/// From fork to the agent's answer.
pub(super) const FORK_LIMIT: Duration = Duration::from_secs(60);

/// How long a command may take.
const EXEC_LIMIT: Duration = Duration::from_secs(60);

/// How long the end of a machine may go unnoticed.
const NOTICE_LIMIT: Duration = Duration::from_secs(15);

/// A machine that is reached.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) machine: Box<dyn Machine>,
    pub(super) session: Arc<AgentSession>,
    pub(super) folder: PathBuf,
}

impl Guest {
    pub(super) async fn greet(
        mut machine: Box<dyn Machine>,
        folder: PathBuf,
        limit: Duration,
    ) -> Result<Self> {
        let Some(Endpoint::Agent(stream)) = machine.endpoint() else {
            return Err(Error::new(
                ErrorKind::Disconnected,
                "the engine gave no way into the guest",
            ));
        };
        let fork_id = *blake3::hash(folder.as_os_str().as_encoded_bytes()).as_bytes();
        let fork_id: [u8; 16] = std::array::from_fn(|index| fork_id[index]);
        let greeted = AgentSession::connect(stream, Hello { fork_id, epoch: 1 }, limit).await;
        let session = greeted.map_err(|cause| cause.with_console(machine.console().tail(30)))?;
        Ok(Self {
            machine,
            session: Arc::new(session),
            folder,
        })
    }

    /// What a script writes, which must end well.
    pub(super) async fn sh(&self, script: &str) -> Result<String> {
        let mut exec = Exec::new("sh");
        exec.args = vec!["-c".into(), script.into()];
        let work = async {
            let mut process = self.session.spawn(exec).await?;
            let mut output = String::new();
            let failed =
                |cause| Error::new(ErrorKind::Exec, format!("`{script}` could not be read")).because(cause);
            process.stdout.read_to_string(&mut output).await.map_err(failed)?;
            let lost = || Err(Error::new(ErrorKind::Disconnected, "the exit was never told"));
            match process.exit.await.unwrap_or_else(|_| lost())? {
                Exit::Code(0) => Ok(output.trim().to_owned()),
                other => Err(Error::new(
                    ErrorKind::Exec,
                    format!("`{script}` ended with {other:?}: {output}"),
                )),
            }
        };
        let late = |_| {
            Error::new(
                ErrorKind::TimedOut,
                format!("`{script}` did not end within {EXEC_LIMIT:?}"),
            )
        };
        tokio::time::timeout(EXEC_LIMIT, work).await.map_err(late)?
    }

    /// Starts a script that goes on when nobody is connected.
    pub(super) async fn leave_running(&self, script: &str, env: (&str, &str)) -> Result<()> {
        let mut exec = Exec::new("sh");
        exec.args = vec!["-c".into(), script.into()];
        exec.env = vec![(env.0.into(), env.1.into())];
        exec.detach = true;
        self.session.spawn(exec).await.map(drop)
    }

    /// Waits until the machine no longer runs.
    pub(super) async fn ceases(&self) -> Result<Life> {
        let mut life = self.machine.life();
        let ceased = async {
            life.wait_for(|life| *life != Life::Running)
                .await
                .map(|life| life.clone())
        };
        let lost = || Error::new(ErrorKind::Died, "how the machine is doing is no longer told");
        match tokio::time::timeout(NOTICE_LIMIT, ceased).await {
            Ok(life) => life.map_err(|_| lost()),
            Err(_) => Err(Error::new(
                ErrorKind::TimedOut,
                format!("nothing was noticed within {NOTICE_LIMIT:?}"),
            )),
        }
    }

    pub(super) async fn end(mut self) -> Result<()> {
        self.machine.kill().await
    }
}
