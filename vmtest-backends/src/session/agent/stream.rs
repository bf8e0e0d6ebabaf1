//! The two ends of a stream: bytes that came and wait to be read, and the room for bytes to be sent.

use std::collections::VecDeque;
use std::io::{Error as IoError, ErrorKind as IoKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use vmtest_agent::wire::{CREDIT_STEP, Frame, INPUT, PIECE, WINDOW};

use super::channel::Violation;
use super::process::Hold;
use crate::error::{Error, Report};

/// Bytes out of the guest.
#[derive(Debug, Default)]
pub(super) struct Inlet(Mutex<Came>);

#[derive(Debug, Default)]
struct Came {
    pieces: VecDeque<Vec<u8>>,
    /// How much of the first piece has been read.
    read: usize,
    /// Bytes that came and were not given back as credit yet.
    held: u32,
    /// Bytes that were read and not given back as credit yet.
    owed: u32,
    end: Option<End>,
    deaf: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Clone)]
enum End {
    Errno(i32),
    Lost(Report),
}

impl End {
    fn result(&self) -> Result<(), IoError> {
        match self {
            Self::Errno(0) => Ok(()),
            Self::Errno(number) => Err(IoError::from_raw_os_error(*number)),
            Self::Lost(report) => Err(lost(report)),
        }
    }
}

fn lost(report: &Report) -> IoError {
    IoError::new(IoKind::ConnectionAborted, Error::from(report.clone()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inlet {
    pub(super) fn hear(&self, bytes: &[u8]) -> Result<(), Violation> {
        let mut came = lock(&self.0);
        if came.deaf {
            return Ok(());
        }
        let held = came
            .held
            .saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        if held > WINDOW || came.end.is_some() {
            return Err(Violation::new("a stream brought more bytes than it may"));
        }
        came.held = held;
        if !bytes.is_empty() {
            came.pieces.push_back(bytes.to_vec());
        }
        came.wake();
        Ok(())
    }

    pub(super) fn end(&self, errno: i32) {
        lock(&self.0).finish(End::Errno(errno));
    }

    pub(super) fn lose(&self, why: &Report) {
        lock(&self.0).finish(End::Lost(why.clone()));
    }

    pub(super) fn is_over(&self) -> bool {
        let came = lock(&self.0);
        came.end.is_some() || came.deaf
    }

    /// Reads what is there, and says how many bytes of credit to give back.
    fn read(&self, context: &Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<u32, IoError>> {
        let mut came = lock(&self.0);
        let before = buf.filled().len();
        while let Some(piece) = came.pieces.front() {
            let rest = &piece[came.read..];
            let count = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..count]);
            came.read += count;
            came.owed += u32::try_from(count).unwrap_or(u32::MAX);
            if came.read < came.pieces.front().map_or(0, Vec::len) {
                break;
            }
            came.pieces.pop_front();
            came.read = 0;
        }
        if buf.filled().len() > before || buf.remaining() == 0 {
            return Poll::Ready(Ok(came.credit()));
        }
        match &came.end {
            Some(end) => Poll::Ready(end.result().map(|()| 0)),
            None => {
                came.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Nobody will read; true when the guest does not know that it has ended anyway.
    fn deafen(&self) -> bool {
        let mut came = lock(&self.0);
        came.pieces.clear();
        came.deaf = true;
        came.end.is_none()
    }
}

impl Came {
    fn credit(&mut self) -> u32 {
        if self.owed < CREDIT_STEP || self.end.is_some() {
            return 0;
        }
        self.held -= self.owed;
        std::mem::take(&mut self.owed)
    }

    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Room for bytes into the guest.
#[derive(Debug)]
pub(super) struct Outlet(Mutex<Room>);

#[derive(Debug)]
struct Room {
    window: u32,
    ended: bool,
    broken: Option<Broken>,
    waker: Option<Waker>,
}

#[derive(Debug)]
enum Broken {
    Deaf,
    Lost(Report),
}

impl Default for Outlet {
    fn default() -> Self {
        Self(Mutex::new(Room {
            window: WINDOW,
            ended: false,
            broken: None,
            waker: None,
        }))
    }
}

impl Outlet {
    pub(super) fn credit(&self, bytes: u32) -> Result<(), Violation> {
        let mut room = lock(&self.0);
        let window = room.window.saturating_add(bytes);
        if window > WINDOW {
            return Err(Violation::new("a stream was given more credit than there is"));
        }
        room.window = window;
        room.wake();
        Ok(())
    }

    /// Nobody in the guest reads it.
    pub(super) fn deafen(&self) {
        lock(&self.0).break_off(Broken::Deaf);
    }

    pub(super) fn lose(&self, why: &Report) {
        lock(&self.0).break_off(Broken::Lost(why.clone()));
    }

    pub(super) fn is_over(&self) -> bool {
        let room = lock(&self.0);
        room.ended || room.broken.is_some()
    }
}

impl Room {
    fn break_off(&mut self, how: Broken) {
        self.broken.get_or_insert(how);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn check(&self) -> Result<(), IoError> {
        match &self.broken {
            Some(Broken::Lost(report)) => Err(lost(report)),
            Some(Broken::Deaf) => Err(IoKind::BrokenPipe.into()),
            None if self.ended => Err(IoKind::BrokenPipe.into()),
            None => Ok(()),
        }
    }
}

/// The reader of a stream.
#[derive(Debug)]
pub(super) struct StreamReader {
    pub(super) hold: Arc<Hold>,
    pub(super) inlet: Arc<Inlet>,
    pub(super) stream: u8,
}

impl AsyncRead for StreamReader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), IoError>> {
        let Poll::Ready(read) = self.inlet.read(context, buf) else {
            return Poll::Pending;
        };
        match read? {
            0 => {}
            bytes => self.hold.tell(&Frame::Credit {
                stream: self.stream,
                bytes,
            }),
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        if self.inlet.deafen() {
            self.hold.tell(&Frame::Deaf { stream: self.stream });
        }
    }
}

/// The writer of a stream.
#[derive(Debug)]
pub(super) struct StreamWriter {
    pub(super) hold: Arc<Hold>,
    pub(super) outlet: Arc<Outlet>,
}

impl AsyncWrite for StreamWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize, IoError>> {
        let mut room = lock(&self.outlet.0);
        room.check()?;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = buf.len().min(room.window as usize).min(PIECE);
        if count == 0 {
            room.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        match self.hold.send_data(INPUT, &buf[..count], context) {
            Ok(true) => {
                room.window -= u32::try_from(count).unwrap_or(u32::MAX);
                Poll::Ready(Ok(count))
            }
            Ok(false) => {
                room.waker = Some(context.waker().clone());
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(IoError::new(IoKind::ConnectionAborted, error))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl StreamWriter {
    fn end(&self) {
        let first = {
            let mut room = lock(&self.outlet.0);
            let first = !room.ended && room.broken.is_none();
            room.ended = true;
            first
        };
        if first {
            self.hold.tell(&Frame::Eof {
                stream: INPUT,
                errno: 0,
            });
        }
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.end();
    }
}
