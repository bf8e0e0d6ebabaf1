//! What is open in the guest, as the host knows it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use vmtest_agent::wire::{ERRORS, Ended, Frame, INPUT, OUTPUT, Refusal};

use super::stream::{Inlet, Outlet};
use crate::error::{Error, Report, Result};
use crate::session::Exit;

/// Something that an honest agent does not do.
#[derive(Debug)]
pub(super) struct Violation(String);

impl Violation {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

/// The answer to a request for a channel.
#[derive(Debug)]
pub(super) enum Begun {
    Yes,
    No(Refusal, i32),
    Lost(Report),
}

/// One channel: a process, or a byte stream.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) number: u32,
    kind: Kind,
    begun: Mutex<Option<oneshot::Sender<Begun>>>,
    exit: Mutex<Option<oneshot::Sender<Result<Exit>>>>,
    pub(super) input: Arc<Outlet>,
    pub(super) output: Arc<Inlet>,
    pub(super) errors: Arc<Inlet>,
}

/// What a channel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Process,
    Detached,
    Bytes,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the maker of a channel waits on.
#[derive(Debug)]
pub(super) struct Waits {
    pub(super) begun: oneshot::Receiver<Begun>,
    pub(super) exit: oneshot::Receiver<Result<Exit>>,
}

impl Channel {
    pub(super) fn new(number: u32, kind: Kind) -> (Arc<Self>, Waits) {
        let (begun, begun_waits) = oneshot::channel();
        let (exit, exit_waits) = oneshot::channel();
        let channel = Self {
            number,
            kind,
            begun: Mutex::new(Some(begun)),
            exit: Mutex::new(Some(exit)),
            input: Arc::default(),
            output: Arc::default(),
            errors: Arc::default(),
        };
        let waits = Waits {
            begun: begun_waits,
            exit: exit_waits,
        };
        (Arc::new(channel), waits)
    }

    /// Takes in what the agent says of it; true when that was the last of it.
    pub(super) fn hear(&self, frame: &Frame<'_>) -> Result<bool, Violation> {
        match frame {
            Frame::Started(..) if self.kind != Kind::Bytes => {
                self.begin(Begun::Yes).map(|()| self.kind == Kind::Detached)
            }
            Frame::Opened if self.kind == Kind::Bytes => self.begin(Begun::Yes).map(|()| false),
            Frame::Refused(refusal, errno) => self.begin(Begun::No(*refusal, *errno)).map(|()| true),
            Frame::Data { stream, bytes } => self.inlet(*stream)?.hear(bytes).map(|()| false),
            Frame::Eof { stream, errno } => {
                self.inlet(*stream)?.end(*errno);
                Ok(self.kind == Kind::Bytes && self.input.is_over())
            }
            Frame::Credit { stream: INPUT, bytes } => self.input.credit(*bytes).map(|()| false),
            Frame::Deaf { stream: INPUT } => {
                self.input.deafen();
                Ok(self.kind == Kind::Bytes && self.output.is_over())
            }
            Frame::Exit(ended) if self.kind == Kind::Process => {
                self.end(Ok(match ended {
                    Ended::Code(code) => Exit::Code(*code),
                    Ended::Signal(number) => Exit::Signal(*number),
                }));
                Ok(true)
            }
            _ => Err(Violation::new(format!(
                "channel {} cannot be told {frame:.200?}",
                self.number
            ))),
        }
    }

    fn begin(&self, how: Begun) -> Result<(), Violation> {
        let Some(begun) = lock(&self.begun).take() else {
            return Err(Violation::new(format!("channel {} has begun twice", self.number)));
        };
        // Who asked may have gone.
        let _ = begun.send(how);
        Ok(())
    }

    fn inlet(&self, stream: u8) -> Result<&Inlet, Violation> {
        match stream {
            OUTPUT if self.kind != Kind::Detached => Ok(&self.output),
            ERRORS if self.kind == Kind::Process => Ok(&self.errors),
            _ => Err(Violation::new(format!(
                "channel {} has no stream {stream}",
                self.number
            ))),
        }
    }

    fn end(&self, how: Result<Exit>) {
        let none = |inlet: &Inlet| inlet.end(0);
        none(&self.output);
        none(&self.errors);
        self.input.deafen();
        if let Some(exit) = lock(&self.exit).take() {
            // Who waited may have gone.
            let _ = exit.send(how);
        }
    }

    /// The connection is over, or the guest was restarted.
    pub(super) fn lose(&self, why: &Report) {
        self.input.lose(why);
        self.output.lose(why);
        self.errors.lose(why);
        if let Some(begun) = lock(&self.begun).take() {
            // Who asked may have gone.
            let _ = begun.send(Begun::Lost(why.clone()));
        }
        self.end(Err(Error::from(why.clone())));
    }
}
