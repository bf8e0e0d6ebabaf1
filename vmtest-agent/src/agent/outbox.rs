//! What waits to be sent to the host.

use std::io::{ErrorKind, Result};
use std::os::fd::OwnedFd;

use crate::sys;
use crate::wire::{Frame, MARKER, encode_piece};

/// No more data is taken from processes while so many bytes wait.
const ENOUGH: usize = 128 * 1024;

/// Frames on their way to the host.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// The link took no more; an event will tell when it does.
    blocked: bool,
}

impl Outbox {
    pub(crate) fn push(&mut self, channel: u32, frame: &Frame<'_>) {
        // The agent's own frames are short, and what the host finds of the marker in them does no harm.
        let _ = frame.encode(channel, &mut self.bytes);
    }

    pub(crate) fn push_data(&mut self, channel: u32, stream: u8, bytes: &[u8]) {
        encode_piece(channel, stream, bytes, &mut self.bytes);
    }

    /// Forgets everything, half-sent frames too, and begins anew.
    pub(crate) fn restart(&mut self, frame: &Frame<'_>) {
        self.bytes.clear();
        self.sent = 0;
        self.bytes.extend(MARKER);
        self.push(0, frame);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() - self.sent >= ENOUGH
    }

    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Sends what the link takes.
    pub(crate) fn flush(&mut self, link: &OwnedFd) -> Result<()> {
        while !self.blocked && self.sent < self.bytes.len() {
            match sys::write(link, &self.bytes[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
                Err(error) => return Err(error),
            }
        }
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent > ENOUGH {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }
}
