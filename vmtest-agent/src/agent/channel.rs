//! What is open for the host: processes and connections, and their streams.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use crate::sys::{self, Address};
use crate::wire::{CREDIT_STEP, Ended, INPUT, WINDOW};

/// One channel.
#[derive(Default)]
pub(crate) struct Channel {
    pub(crate) process: Option<Process>,
    /// What is still to be tried, while a connection is being made.
    pub(crate) connecting: Option<Connecting>,
    /// The stream from the host.
    pub(crate) sink: Option<Sink>,
    /// The streams to the host: number 1, and number 2.
    pub(crate) sources: [Option<Source>; 2],
}

pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) ended: Option<Ended>,
    /// When, after its end, its outputs are cut off, should others still hold them.
    pub(crate) cut: Option<Instant>,
}

pub(crate) struct Connecting {
    pub(crate) socket: Rc<OwnedFd>,
    pub(crate) next: Option<Address>,
}

impl Channel {
    pub(crate) fn source(&mut self, stream: u8) -> Option<&mut Source> {
        self.sources
            .get_mut(usize::from(stream).checked_sub(1)?)?
            .as_mut()
    }

    /// Ends a stream to the host.
    pub(crate) fn drop_source(&mut self, stream: u8) {
        if let Some(source) = usize::from(stream)
            .checked_sub(1)
            .and_then(|at| self.sources.get_mut(at))
        {
            *source = None;
        }
    }

    /// Whether nothing will come of it any more: a process is told apart by its end.
    pub(crate) fn is_silent(&self) -> bool {
        self.sources.iter().all(Option::is_none)
    }

    /// Kills what still runs.
    pub(crate) fn kill(&self) {
        if let Some(process) = self.process.as_ref().filter(|process| process.ended.is_none()) {
            sys::kill_group(process.pid, sys::SIGKILL);
        }
    }
}

/// A stream towards the host.
pub(crate) struct Source {
    pub(crate) fd: Rc<OwnedFd>,
    /// How many bytes the host still takes.
    pub(crate) credit: u32,
    /// Whether there may be something to read.
    pub(crate) ready: bool,
    /// Whether the other end is closed: reading goes on until nothing is left.
    pub(crate) hung_up: bool,
    /// How many bytes are taken before it is cut off.
    pub(crate) left: Option<usize>,
    /// Whether it waits for its turn.
    pub(crate) queued: bool,
}

/// What reading a stream has brought.
pub(crate) enum Taken {
    Bytes(usize),
    Nothing,
    End(i32),
}

impl Source {
    pub(crate) fn new(fd: Rc<OwnedFd>) -> Self {
        Self {
            fd,
            credit: WINDOW,
            ready: false,
            hung_up: false,
            left: None,
            queued: false,
        }
    }

    pub(crate) fn wants_turn(&self) -> bool {
        self.ready && self.credit > 0
    }

    /// Takes what is there, as far as the credit goes.
    pub(crate) fn take(&mut self, room: &mut [u8]) -> Taken {
        let most = room
            .len()
            .min(self.credit as usize)
            .min(self.left.unwrap_or(usize::MAX));
        if self.left == Some(0) {
            return Taken::End(0);
        }
        match sys::read(&self.fd, &mut room[..most]) {
            Ok(0) => Taken::End(0),
            Ok(count) => {
                // An emptied stream tells by a new event that there is more; one that has hung up does not.
                self.ready = count == most || self.hung_up;
                self.credit -= count as u32;
                self.left = self.left.map(|left| left - count);
                Taken::Bytes(count)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Taken::Nothing,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.ready = false;
                Taken::Nothing
            }
            Err(error) => Taken::End(errno(&error)),
        }
    }
}

/// A stream from the host.
pub(crate) struct Sink {
    pub(crate) fd: Rc<OwnedFd>,
    socket: bool,
    backlog: VecDeque<u8>,
    /// Whether the host has ended it.
    ending: bool,
    /// Bytes passed on and not yet given back as credit.
    owed: u32,
}

/// How a stream from the host stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Open,
    /// All was passed on, and the end too.
    Done,
    /// Nobody reads it.
    Broken,
    /// The host sent more than it was allowed.
    Flooded,
}

impl Sink {
    pub(crate) fn new(fd: Rc<OwnedFd>, socket: bool) -> Self {
        Self {
            fd,
            socket,
            backlog: VecDeque::new(),
            ending: false,
            owed: 0,
        }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Flow {
        if self.backlog.len() + bytes.len() > WINDOW as usize {
            return Flow::Flooded;
        }
        let mut rest = bytes;
        while self.backlog.is_empty() && !rest.is_empty() {
            match self.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Flow::Broken,
            }
        }
        self.backlog.extend(rest);
        Flow::Open
    }

    /// Nothing more will come.
    pub(crate) fn end(&mut self) -> Flow {
        self.ending = true;
        self.drain()
    }

    /// Passes on what waits.
    pub(crate) fn drain(&mut self) -> Flow {
        while !self.backlog.is_empty() {
            let front = std::mem::take(&mut self.backlog);
            let written = self.write(front.as_slices().0);
            self.backlog = front;
            match written {
                Ok(count) => drop(self.backlog.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Flow::Open,
                Err(_) => return Flow::Broken,
            }
        }
        if !self.ending {
            return Flow::Open;
        }
        if self.socket {
            sys::shut_sending(&self.fd);
        }
        Flow::Done
    }

    /// The credit to give back, once it is worth a frame.
    pub(crate) fn credit(&mut self) -> Option<u32> {
        (self.owed >= CREDIT_STEP).then(|| std::mem::take(&mut self.owed))
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = if self.socket {
            sys::send(&self.fd, bytes)
        } else {
            sys::write(&self.fd, bytes)
        }?;
        self.owed += count as u32;
        Ok(count)
    }
}

/// The number of an error, for the host.
pub(crate) fn errno(error: &Error) -> i32 {
    error.raw_os_error().unwrap_or(5)
}

/// What epoll is to give back with an event of a stream.
pub(crate) fn token(channel: u32, stream: u8) -> u64 {
    u64::from(channel) << 8 | u64::from(stream)
}

/// The channel and the stream of a token; channel 0 for what is not a stream.
pub(crate) fn of_token(token: u64) -> (u32, u8) {
    ((token >> 8) as u32, token as u8)
}

const _: () = assert!(
    INPUT == 0,
    "a process's input and the first byte of a token are numbered alike"
);
