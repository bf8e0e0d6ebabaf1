//! Starting processes and opening byte streams.

use std::io::Error as IoError;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use tokio::time::timeout;
use vmtest_agent::wire::{self, ERRORS, Frame, OUTPUT, Refusal, Spawn};

use super::Owner;
use super::channel::{Begun, Channel, Kind, Waits};
use super::link::{Link, disconnected};
use super::stream::{StreamReader, StreamWriter};
use crate::error::{Error, ErrorKind, Result};
use crate::session::{ANSWER_LIMIT, Exec, Process, Reader, Signals, Target, Writer};

/// A claim on a channel, shared by all that use it. The last one to go closes it.
#[derive(Debug)]
pub(super) struct Hold {
    owner: Arc<Owner>,
    number: u32,
}

impl Hold {
    fn link(&self) -> &Link {
        &self.owner.0
    }

    /// Says something that matters only while the connection lives.
    pub(super) fn tell(&self, frame: &Frame<'_>) {
        let _ = self.link().send(self.number, frame);
    }

    pub(super) fn send_data(&self, stream: u8, bytes: &[u8], context: &Context<'_>) -> Result<bool> {
        self.link().send_data(self.number, stream, bytes, context)
    }

    fn close(&self) {
        if self.link().remove(self.number) {
            self.tell(&Frame::Close);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.close();
    }
}

/// Signals to a process; dropping it kills the process group.
#[derive(Debug)]
struct AgentSignals {
    hold: Arc<Hold>,
    detached: bool,
}

impl Signals for AgentSignals {
    fn send(&self, signal: i32) {
        if !self.detached {
            self.hold.tell(&Frame::Signal(signal));
        }
    }
}

impl Drop for AgentSignals {
    fn drop(&mut self) {
        self.hold.close();
    }
}

/// Asks for a channel and waits until the agent has made it. Whoever stops waiting closes it.
async fn begin(
    owner: &Arc<Owner>,
    kind: Kind,
    frame: &Frame<'_>,
    what: &str,
) -> Result<(Arc<Hold>, Arc<Channel>, Waits)> {
    let mut made = None;
    let channel = owner.0.add(|number| {
        let (channel, waits) = Channel::new(number, kind);
        made = Some(waits);
        channel
    })?;
    let hold = Arc::new(Hold {
        owner: Arc::clone(owner),
        number: channel.number,
    });
    let mut waits = made.ok_or_else(|| disconnected("no channel was made"))?;
    owner.0.send(channel.number, frame)?;
    match timeout(ANSWER_LIMIT, &mut waits.begun).await {
        Ok(Ok(Begun::Yes)) => Ok((hold, channel, waits)),
        Ok(Ok(Begun::No(refusal, errno))) => Err(refused(refusal, errno, what)),
        Ok(Ok(Begun::Lost(report))) => Err(report.into()),
        Ok(Err(_)) => Err(owner.0.lost()),
        Err(_) => Err(unanswered(ANSWER_LIMIT, what)),
    }
}

fn unanswered(limit: Duration, what: &str) -> Error {
    disconnected(format!(
        "the guest's agent did not answer within {limit:?}: {what}"
    ))
}

fn refused(refusal: Refusal, errno: i32, what: &str) -> Error {
    let why = match refusal {
        Refusal::Program => "the program cannot be executed",
        Refusal::Cwd => "the working directory cannot be entered",
        Refusal::Pipes => "the guest has no pipes left",
        Refusal::Connect => "nobody answers there",
    };
    Error::new(ErrorKind::Exec, format!("{what}: {why}")).because(IoError::from_raw_os_error(errno))
}

/// Starts a process.
pub(super) async fn spawn(owner: &Arc<Owner>, exec: &Exec) -> Result<Process> {
    let kind = if exec.detach {
        Kind::Detached
    } else {
        Kind::Process
    };
    let frame = Frame::Spawn(Spawn {
        stdin: exec.stdin && !exec.detach,
        detach: exec.detach,
        program: &exec.program,
        cwd: exec.cwd.as_deref().unwrap_or(""),
        args: exec.args.iter().map(String::as_str).collect(),
        env: exec
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect(),
    });
    let what = match &exec.cwd {
        Some(cwd) => format!("`{}` in {cwd}", exec.program),
        None => format!("`{}`", exec.program),
    };
    let (hold, channel, waits) = begin(owner, kind, &frame, &what).await?;
    if exec.detach {
        channel.output.end(0);
        channel.errors.end(0);
    }
    let reader = |inlet, stream| -> Reader {
        Box::new(StreamReader {
            hold: Arc::clone(&hold),
            inlet,
            stream,
        })
    };
    let stdin = (exec.stdin && !exec.detach).then(|| writer(&hold, &channel));
    Ok(Process {
        stdin,
        stdout: reader(Arc::clone(&channel.output), OUTPUT),
        stderr: reader(Arc::clone(&channel.errors), ERRORS),
        exit: waits.exit,
        signals: Box::new(AgentSignals {
            hold,
            detached: exec.detach,
        }),
    })
}

fn writer(hold: &Arc<Hold>, channel: &Channel) -> Writer {
    Box::new(StreamWriter {
        hold: Arc::clone(hold),
        outlet: Arc::clone(&channel.input),
    })
}

/// Opens a byte stream.
pub(super) async fn open(owner: &Arc<Owner>, target: &Target) -> Result<(Reader, Writer)> {
    let (frame, what) = match target {
        Target::Tcp(port) => (wire::Target::Tcp(*port), format!("port {port} in the guest")),
        Target::Unix(path) => (
            wire::Target::Unix(path),
            format!("unix socket {path} in the guest"),
        ),
    };
    let (hold, channel, _) = begin(owner, Kind::Bytes, &Frame::Open(frame), &what).await?;
    let reader = Box::new(StreamReader {
        hold: Arc::clone(&hold),
        inlet: Arc::clone(&channel.output),
        stream: OUTPUT,
    });
    Ok((reader, writer(&hold, &channel)))
}
