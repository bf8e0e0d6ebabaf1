//! Bytes between a thread that blocks and tasks that do not: a bounded channel of pieces.

use std::io::{self, Read, Write};

use tokio::sync::mpsc;

/// The size of a piece, in bytes.
const SIZE: usize = 64 * 1024;

/// How many pieces wait at most: together 512 KiB, whatever is moved.
const WAITING: usize = 8;

/// Some bytes.
pub(crate) type Piece = Vec<u8>;

/// A new channel.
pub(crate) fn pieces() -> (mpsc::Sender<Piece>, mpsc::Receiver<Piece>) {
    mpsc::channel(WAITING)
}

/// The blocking end that writes. What it holds back is sent by `flush`.
#[derive(Debug)]
pub(crate) struct PieceWriter {
    pieces: mpsc::Sender<Piece>,
    pending: Piece,
}

impl PieceWriter {
    pub(crate) fn new(pieces: mpsc::Sender<Piece>) -> Self {
        let pending = Vec::with_capacity(SIZE);
        Self { pieces, pending }
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(SIZE - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == SIZE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.pending, Vec::with_capacity(SIZE));
        let closed = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the guest takes no more");
        self.pieces.blocking_send(piece).map_err(closed)
    }
}

/// The blocking end that reads; ends when the other end is dropped.
#[derive(Debug)]
pub(crate) struct PieceReader {
    pieces: mpsc::Receiver<Piece>,
    current: Piece,
    taken: usize,
}

impl PieceReader {
    pub(crate) fn new(pieces: mpsc::Receiver<Piece>) -> Self {
        Self {
            pieces,
            current: Vec::new(),
            taken: 0,
        }
    }
}

impl Read for PieceReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.current.len() {
            let Some(piece) = self.pieces.blocking_recv() else {
                return Ok(0);
            };
            self.current = piece;
            self.taken = 0;
        }
        let rest = &self.current[self.taken..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        Ok(count)
    }
}
