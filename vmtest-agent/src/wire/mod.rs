//! The protocol between host and agent: frames on one byte stream, both ways.
//!
//! **A frame** is `kind: u8 | channel: u32 | length: u32 | payload | END`, little-endian. Kinds are below 0x80, the
//! length is at most [`FRAME_LIMIT`], [`END`] is a fixed byte. Channel 0 is the connection itself; the host numbers
//! the others, upwards, one for each process or byte stream.
//!
//! **Finding the start again.** A machine is frozen at any instant, so a fork's agent may stand in the middle of a
//! frame whose rest will never come, and may hold half of a frame that it was sending. Therefore a hello, and its
//! answer, are preceded by the [`MARKER`]: 16 different bytes, all of them 0x80 or above. No frame from the host
//! contains it (data is cut in two where it would; other frames are refused), and none can contain it across a border,
//! for a frame begins with its kind and ends with `END`, both below 0x80. So the agent believes a marker wherever it
//! sees one, inside a payload too; and a frame that lost its rest is never completed by a marker's bytes,
//! because one of them would have to stand where a kind, the length's highest byte or `END` is checked. What fails a
//! check is skipped up to the next marker. Frames *from* the agent are not cut: the host looks for markers only while
//! it waits for the answer to a hello, and believes the one that is followed by an answer with its own random nonce.
//!
//! **Flow.** In each direction of each stream a sender may be [`WINDOW`] bytes ahead of what the receiver has passed
//! on; [`Frame::Credit`] gives bytes back. A reader that does not read thus stops its own stream and nothing else.

mod frame;
mod marker;
mod parser;

pub use frame::{
    Ended, Frame, Hello, HelloAck, Identity, Malformed, Refusal, Spawn, Target, Unsendable, encode_data,
    encode_piece,
};
pub use marker::{MARKER, find_marker};
pub use parser::{Bad, Parser, Raw};

/// The oldest protocol spoken here.
pub const PROTOCOL_MIN: u16 = 1;

/// The newest protocol spoken here. Version N serves N - 1 as well.
pub const PROTOCOL_MAX: u16 = 1;

/// The longest payload of a frame, in bytes.
pub const FRAME_LIMIT: usize = 1 << 20;

/// The longest payload of a hello or its answer, in bytes.
pub const HELLO_LIMIT: usize = 4096;

/// The most bytes of a stream in one frame.
pub const PIECE: usize = 64 * 1024;

/// How many bytes a sender may be ahead of its receiver, for each stream and direction.
pub const WINDOW: u32 = 256 * 1024;

/// A receiver gives credit back once it owes this many bytes.
pub const CREDIT_STEP: u32 = WINDOW / 4;

/// The bytes of a frame before its payload.
pub const HEAD: usize = 9;

/// The byte after a payload.
pub const END: u8 = b'\n';

/// The stream from host to guest: standard input, or what is sent on a connection.
pub const INPUT: u8 = 0;

/// The stream from guest to host: standard output, or what is received on a connection.
pub const OUTPUT: u8 = 1;

/// Standard error.
pub const ERRORS: u8 = 2;
