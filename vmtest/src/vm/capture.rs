//! What is kept of a program's output.

use std::io;

use tokio::io::AsyncReadExt as _;
use vmtest_backends::session::Reader;
use vmtest_backends::{Error, ErrorKind, Result};

/// The largest output that is collected, in bytes, of each of the two; more is an error that says so.
const OUTPUT_LIMIT: usize = 256 * 1024 * 1024;

/// How much is moved at once, in bytes.
const PIECE: usize = 64 * 1024;

/// What is kept of an output.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) kept: Vec<u8>,
    /// All bytes that came.
    pub(super) seen: u64,
    /// Why not all came, if so.
    pub(super) broken: Option<io::Error>,
    limit: usize,
    /// Whether the end is kept where the limit is reached; an error otherwise.
    tail: bool,
}

impl Capture {
    pub(super) fn all() -> Self {
        Self {
            kept: Vec::new(),
            seen: 0,
            broken: None,
            limit: OUTPUT_LIMIT,
            tail: false,
        }
    }

    pub(super) fn tail(limit: usize) -> Self {
        Self {
            limit,
            tail: true,
            ..Self::all()
        }
    }

    pub(super) async fn fill(&mut self, reader: Option<Reader>) -> Result<()> {
        let Some(mut reader) = reader else {
            return Ok(());
        };
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            piece.clear();
            match reader.read_buf(&mut piece).await {
                Ok(0) => return Ok(()),
                Ok(_) => self.push(&piece)?,
                Err(cause) => {
                    // The end of the program tells more, and comes at once.
                    self.broken = Some(cause);
                    return Ok(());
                }
            }
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.seen += bytes.len() as u64;
        self.kept.extend_from_slice(bytes);
        if !self.tail && self.kept.len() > self.limit {
            let mib = self.limit / (1024 * 1024);
            let what =
                format!("a process wrote more than the {mib} MiB that are collected; stream it instead");
            return Err(Error::new(ErrorKind::Exec, what));
        }
        // Cut rarely: each cut moves what is kept.
        if self.tail && self.kept.len() > 2 * self.limit {
            self.kept.drain(..self.kept.len() - self.limit);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept() {
        let mut capture = Capture::tail(4);
        for byte in b'a'..=b'z' {
            capture.push(&[byte]).unwrap();
        }
        assert!(
            capture.kept.ends_with(b"wxyz") && capture.kept.len() <= 8,
            "{:?}",
            capture.kept
        );
        assert_eq!(capture.seen, 26);
        capture.push(&[b'!'; 100]).unwrap();
        assert_eq!(capture.kept, b"!!!!");
    }

    #[test]
    fn too_much_is_an_error() {
        let mut capture = Capture {
            limit: 4,
            ..Capture::all()
        };
        capture.push(b"1234").unwrap();
        assert_eq!(capture.push(b"5").unwrap_err().kind(), ErrorKind::Exec);
    }
}
