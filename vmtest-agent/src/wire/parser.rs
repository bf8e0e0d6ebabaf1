//! Frames out of a byte stream that may begin, or begin anew, anywhere.

use std::fmt;
use std::ops::Range;

use super::frame::{self, KINDS};
use super::marker::{MARKER, find_marker};
use super::{END, FRAME_LIMIT, HEAD, HELLO_LIMIT};

/// The least room offered for reading, in bytes.
const ROOM: usize = 64 * 1024;

/// Cuts a byte stream into frames.
///
/// With `watch` on it looks for the marker everywhere and skips what lies before it; what is no frame
/// is then skipped too, never an error. With `watch` off every byte must belong to a frame.
#[derive(Debug)]
pub struct Parser {
    /// Received bytes are `buf[at..end]`.
    buf: Vec<u8>,
    at: usize,
    end: usize,
    /// No whole marker begins in `buf[at..searched]`.
    searched: usize,
    state: State,
    watch: bool,
    skipped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the border of two frames.
    Border,
    /// Right behind a marker.
    Marked,
    /// Somewhere; only a marker helps.
    Lost,
}

/// A frame, not yet understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// What it is.
    pub kind: u8,
    /// Whom it concerns.
    pub channel: u32,
    /// Whether it came right behind a marker.
    pub marked: bool,
    payload: Range<usize>,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bad {
    /// No frame begins with this byte.
    Kind(u8),
    /// The payload would be longer than [`FRAME_LIMIT`].
    Length(u32),
    /// The payload is not followed by [`END`].
    End(u8),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "no frame is of kind {kind:#04x}"),
            Self::Length(length) => {
                write!(f, "a frame of {length} bytes is above the limit of {FRAME_LIMIT}")
            }
            Self::End(byte) => write!(f, "a frame ends with {byte:#04x} instead of {END:#04x}"),
        }
    }
}

impl std::error::Error for Bad {}

impl Parser {
    /// A parser that believes nothing before the first marker.
    pub fn lost() -> Self {
        Self {
            buf: Vec::new(),
            at: 0,
            end: 0,
            searched: 0,
            state: State::Lost,
            watch: true,
            skipped: 0,
        }
    }

    /// A parser for a stream that stands at the border of two frames.
    pub fn at_border() -> Self {
        Self {
            state: State::Border,
            watch: false,
            ..Self::lost()
        }
    }

    /// Forgets where it stands: believes nothing before the next marker.
    pub fn lose(&mut self) {
        self.state = State::Lost;
        self.watch = true;
        self.skipped = 0;
    }

    /// Whether it believes nothing before the next marker.
    pub fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// The frame before was none of those that are waited for: believes nothing before the next marker, which may
    /// lie inside that frame.
    pub fn distrust(&mut self, raw: &Raw) {
        self.state = State::Lost;
        self.at = self.at.min(raw.payload.start);
        self.searched = self.at;
    }

    /// Looks for markers no longer.
    pub fn trust(&mut self) {
        self.watch = false;
    }

    /// How many bytes have been skipped since it was lost.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether it holds no received byte that belongs to no frame yet.
    pub fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// Room to receive into; say with [`received`](Self::received) how much of it was used.
    pub fn room(&mut self) -> &mut [u8] {
        if self.at == self.end {
            (self.at, self.end, self.searched) = (0, 0, 0);
            self.buf.truncate(4 * ROOM);
        } else if self.at > 0 && self.buf.len() - self.end < ROOM {
            self.buf.copy_within(self.at..self.end, 0);
            self.end -= self.at;
            self.searched = self.searched.saturating_sub(self.at);
            self.at = 0;
        }
        if self.buf.len() - self.end < ROOM {
            self.buf.resize(self.end + ROOM, 0);
        }
        &mut self.buf[self.end..]
    }

    /// Takes over `count` bytes that were put into [`room`](Self::room).
    pub fn received(&mut self, count: usize) {
        self.end += count;
        assert!(
            self.end <= self.buf.len(),
            "more was received than there was room for"
        );
    }

    /// The payload of a frame; valid until the next call of [`room`](Self::room).
    pub fn payload(&self, raw: &Raw) -> &[u8] {
        &self.buf[raw.payload.clone()]
    }

    /// The next whole frame, if one is there.
    pub fn next_frame(&mut self) -> Result<Option<Raw>, Bad> {
        if !self.watch {
            return self.frame_within(self.end);
        }
        loop {
            let marker = self.search();
            if self.state != State::Lost {
                match self.frame_within(marker.unwrap_or(self.end)) {
                    Ok(None) if marker.is_none() => return Ok(None),
                    Ok(None) => {}
                    Ok(frame) => return Ok(frame),
                    Err(_) => self.state = State::Lost,
                }
            }
            match marker {
                Some(begin) => {
                    self.skip_to(begin);
                    self.at = begin + MARKER.len();
                    self.state = State::Marked;
                }
                None => {
                    // A marker may have begun in the last bytes.
                    self.skip_to(self.end.saturating_sub(MARKER.len() - 1).max(self.at));
                    return Ok(None);
                }
            }
        }
    }

    fn skip_to(&mut self, place: usize) {
        self.skipped += (place - self.at) as u64;
        self.at = place;
    }

    fn search(&mut self) -> Option<usize> {
        let from = self.searched.max(self.at);
        match find_marker(&self.buf[from..self.end]) {
            Some(offset) => {
                self.searched = from + offset;
                Some(from + offset)
            }
            None => {
                self.searched = self.end.saturating_sub(MARKER.len() - 1).max(from);
                None
            }
        }
    }

    fn frame_within(&mut self, limit: usize) -> Result<Option<Raw>, Bad> {
        let bytes = &self.buf[self.at..limit];
        let marked = self.state == State::Marked;
        let Some(&kind) = bytes.first() else {
            return Ok(None);
        };
        if !KINDS.contains(&kind) || (marked && !frame::is_greeting(kind)) {
            return Err(Bad::Kind(kind));
        }
        let Some((head, rest)) = bytes.split_at_checked(HEAD) else {
            return Ok(None);
        };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (channel, length) = (word(1), word(5));
        if length as usize > if marked { HELLO_LIMIT } else { FRAME_LIMIT } {
            return Err(Bad::Length(length));
        }
        let Some(&last) = rest.get(length as usize) else {
            return Ok(None);
        };
        if last != END {
            return Err(Bad::End(last));
        }
        let begin = self.at + HEAD;
        let payload = begin..begin + length as usize;
        self.at = payload.end + 1;
        self.state = State::Border;
        Ok(Some(Raw {
            kind,
            channel,
            marked,
            payload,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Frame, encode_data};
    use super::*;

    fn feed(parser: &mut Parser, bytes: &[u8]) -> Vec<Raw> {
        parser.room()[..bytes.len()].copy_from_slice(bytes);
        parser.received(bytes.len());
        let mut frames = Vec::new();
        while let Ok(Some(raw)) = parser.next_frame() {
            frames.push(raw);
        }
        frames
    }

    fn hello() -> Vec<u8> {
        let mut bytes = MARKER.to_vec();
        Frame::Hello(super::super::Hello::default())
            .encode(0, &mut bytes)
            .unwrap();
        bytes
    }

    /// The heart of the matter: a stream cut anywhere, then a hello, in pieces of every small size.
    #[test]
    fn a_hello_is_found_wherever_the_stream_was_cut() {
        let mut old = Vec::new();
        Frame::Ping(7).encode(0, &mut old).unwrap();
        encode_data(9, 0, &[0xf6; 70], &mut old);
        let whole = old.len();
        Frame::Signal(15).encode(0xf69b_d184, &mut old).unwrap();
        for cut in 0..old.len() {
            for size in [1, 3, 16, 1000] {
                let mut parser = Parser::lost();
                assert!(feed(&mut parser, &hello())[0].marked);
                let stream: Vec<u8> = old[..cut].iter().copied().chain(hello()).collect();
                let frames: Vec<Raw> = stream
                    .chunks(size)
                    .flat_map(|piece| feed(&mut parser, piece))
                    .collect();
                let (last, before) = frames.split_last().unwrap();
                assert!(last.marked, "cut at {cut}, pieces of {size}");
                assert!(before.iter().all(|raw| !raw.marked));
                let expected = [20, whole].iter().filter(|end| **end <= cut).count();
                assert!(
                    before.len() <= 2 && before.len() >= expected.min(1),
                    "cut at {cut}: {before:?}"
                );
                assert!(parser.is_empty());
            }
        }
    }

    #[test]
    fn garbage_is_skipped_and_counted() {
        let mut parser = Parser::lost();
        assert!(feed(&mut parser, &[0x55; 1000]).is_empty());
        assert_eq!(feed(&mut parser, &hello()).len(), 1);
        assert_eq!(parser.skipped(), 1000);
    }

    #[test]
    fn without_watching_every_byte_must_fit() {
        let fail = |bytes: &[u8]| {
            let mut parser = Parser::at_border();
            parser.room()[..bytes.len()].copy_from_slice(bytes);
            parser.received(bytes.len());
            parser.next_frame().unwrap_err()
        };
        assert_eq!(fail(&[0xf6]), Bad::Kind(0xf6));
        assert_eq!(fail(&[9, 0, 0, 0, 0, 1, 0, 16, 0]), Bad::Length((1 << 20) + 1));
        assert_eq!(fail(&[9, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2]), Bad::End(2));
    }

    #[test]
    fn data_that_holds_the_marker_is_carried_unharmed() {
        let mut body = vec![1; 100];
        for _ in 0..3 {
            body.extend(MARKER);
        }
        body.extend([2; 10]);
        let mut bytes = hello();
        let begin = bytes.len();
        encode_data(3, 1, &body, &mut bytes);
        assert_eq!(find_marker(&bytes[begin..]), None);
        let mut parser = Parser::lost();
        parser.room()[..bytes.len()].copy_from_slice(&bytes);
        parser.received(bytes.len());
        let mut got = Vec::new();
        while let Some(raw) = parser.next_frame().unwrap() {
            if let Ok(Frame::Data { bytes, .. }) = Frame::decode(raw.kind, parser.payload(&raw)) {
                got.extend_from_slice(bytes);
            }
        }
        assert_eq!(got, body);
    }

    #[test]
    fn a_large_frame_survives_the_moving_of_the_buffer() {
        let mut bytes = Vec::new();
        for channel in 0..40 {
            encode_data(channel, 1, &vec![channel as u8; 60_000], &mut bytes);
        }
        let mut parser = Parser::at_border();
        let mut seen = 0;
        for piece in bytes.chunks(7_001) {
            parser.room()[..piece.len()].copy_from_slice(piece);
            parser.received(piece.len());
            while let Some(raw) = parser.next_frame().unwrap() {
                assert_eq!(raw.channel, seen);
                assert!(parser.payload(&raw)[1..].iter().all(|byte| *byte == seen as u8));
                seen += 1;
            }
        }
        assert_eq!(seen, 40);
    }
}
