//! What the frames say.

use std::fmt;
use std::ops::RangeInclusive;

use super::marker::find_marker;
use super::{END, FRAME_LIMIT, PIECE};

pub(super) const KINDS: RangeInclusive<u8> = HELLO..=FAULT;

const HELLO: u8 = 1;
const ACK: u8 = 2;
const SPAWN: u8 = 3;
const OPEN: u8 = 4;
const DATA: u8 = 5;
const EOF: u8 = 6;
const CREDIT: u8 = 7;
const DEAF: u8 = 8;
const SIGNAL: u8 = 9;
const CLOSE: u8 = 10;
const PING: u8 = 11;
const SYNC: u8 = 12;
const STARTED: u8 = 13;
const OPENED: u8 = 14;
const REFUSED: u8 = 15;
const EXIT: u8 = 16;
const PONG: u8 = 17;
const SYNCED: u8 = 18;
const FAULT: u8 = 19;

pub(super) fn is_greeting(kind: u8) -> bool {
    matches!(kind, HELLO | ACK)
}

/// A frame, understood. H: sent by the host. A: sent by the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// H, channel 0, behind a marker: a new epoch begins.
    Hello(Hello),
    /// A, channel 0, behind a marker: the answer.
    HelloAck(HelloAck<'a>),
    /// H: start a process on this new channel.
    Spawn(Spawn<'a>),
    /// H: open a byte stream on this new channel.
    Open(Target<'a>),
    /// Both: bytes of a stream, at most [`PIECE`].
    Data {
        /// Which stream of the channel.
        stream: u8,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// Both: a stream has ended.
    Eof {
        /// Which stream of the channel.
        stream: u8,
        /// 0, or the errno that ended it.
        errno: i32,
    },
    /// Both: so many bytes of a stream were passed on.
    Credit {
        /// Which stream of the channel.
        stream: u8,
        /// How many bytes.
        bytes: u32,
    },
    /// Both: nobody reads a stream any more.
    Deaf {
        /// Which stream of the channel.
        stream: u8,
    },
    /// H: send a signal to the process group.
    Signal(i32),
    /// H: end the channel; its process group is killed.
    Close,
    /// H, channel 0: answer at once, with this token.
    Ping(u64),
    /// H, channel 0: write all file systems to their disks, then answer with this token.
    Sync(u64),
    /// A: the process runs, under this number.
    Started(u32, Identity),
    /// A: the byte stream is open.
    Opened,
    /// A: there will be no process or no byte stream.
    Refused(Refusal, i32),
    /// A: how the process ended; the channel's last frame.
    Exit(Ended),
    /// A, channel 0: the answer to a ping.
    Pong(u64, Identity),
    /// A, channel 0: the answer to a sync.
    Synced(u64),
    /// A: a frame was not understood.
    Fault(&'a str),
}

/// The beginning of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The oldest protocol that the host speaks.
    pub min: u16,
    /// The newest protocol that the host speaks.
    pub max: u16,
    /// Comes back in the answer.
    pub nonce: [u8; 16],
    /// Counts the connections to a machine.
    pub epoch: u64,
    /// Unique to this fork.
    pub fork_id: [u8; 16],
    /// The wall clock, in nanoseconds since 1970.
    pub clock: u64,
    /// Fresh randomness for the kernel's generator.
    pub seed: [u8; 64],
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            min: super::PROTOCOL_MIN,
            max: super::PROTOCOL_MAX,
            nonce: [0; 16],
            epoch: 0,
            fork_id: [0; 16],
            clock: 0,
            seed: [0; 64],
        }
    }
}

/// The answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloAck<'a> {
    /// The protocol to be spoken; 0 when the ranges do not meet.
    pub protocol: u16,
    /// The oldest protocol that the agent speaks.
    pub min: u16,
    /// The newest protocol that the agent speaks.
    pub max: u16,
    /// The nonce of the hello.
    pub nonce: [u8; 16],
    /// Random, new whenever an agent starts.
    pub instance: u64,
    /// Whether the wall clock was set.
    pub clock_set: bool,
    /// Whether the kernel's random generator was seeded.
    pub reseeded: bool,
    /// Whether the guest's kernel sees a VM generation id.
    pub has_vmgenid: bool,
    /// The agent's build, for people.
    pub version: &'a str,
}

/// Which agent and which fork speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Identity {
    /// As in [`HelloAck::instance`].
    pub instance: u64,
    /// As in [`Hello::fork_id`].
    pub fork_id: [u8; 16],
}

/// A process to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spawn<'a> {
    /// Whether standard input is a stream.
    pub stdin: bool,
    /// Whether it outlives the epoch, without streams.
    pub detach: bool,
    /// A path, or a name to be looked up.
    pub program: &'a str,
    /// The working directory; `/` when empty.
    pub cwd: &'a str,
    /// The arguments after the program's name.
    pub args: Vec<&'a str>,
    /// Variables added to the agent's own.
    pub env: Vec<(&'a str, &'a str)>,
}

/// Something that listens in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A TCP port on loopback.
    Tcp(u16),
    /// A unix socket.
    Unix(&'a str),
}

/// What was in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The program could not be executed.
    Program,
    /// The working directory could not be entered.
    Cwd,
    /// The pipes could not be made.
    Pipes,
    /// Nobody answered at the target.
    Connect,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A payload that does not say what its kind should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// The frame's kind.
    pub kind: u8,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the payload of a frame of kind {} makes no sense", self.kind)
    }
}

impl std::error::Error for Malformed {}

/// A frame that may not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsendable {
    /// It would be longer than [`FRAME_LIMIT`].
    TooLong(usize),
    /// It contains the marker of the protocol.
    Marker,
}

impl fmt::Display for Unsendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => write!(
                f,
                "{length} bytes are above the limit of {FRAME_LIMIT} for one request"
            ),
            Self::Marker => f.write_str("it contains the byte sequence that starts a connection anew"),
        }
    }
}

impl std::error::Error for Unsendable {}

/// Appends `bytes` of a stream as frames: pieces of at most [`PIECE`], none of which contains the marker.
pub fn encode_data(channel: u32, stream: u8, mut bytes: &[u8], out: &mut Vec<u8>) {
    while !bytes.is_empty() {
        let mut length = bytes.len().min(PIECE);
        if let Some(marker) = find_marker(&bytes[..length]) {
            length = marker + 8;
        }
        let (piece, rest) = bytes.split_at(length);
        encode_piece(channel, stream, piece, out);
        bytes = rest;
    }
}

/// Appends at most [`PIECE`] bytes of a stream as one frame, whatever they contain: for the agent.
pub fn encode_piece(channel: u32, stream: u8, bytes: &[u8], out: &mut Vec<u8>) {
    let begin = open(DATA, channel, out);
    out.push(stream);
    out.extend_from_slice(bytes);
    close(begin, out);
}

fn open(kind: u8, channel: u32, out: &mut Vec<u8>) -> usize {
    out.push(kind);
    out.extend(channel.to_le_bytes());
    out.extend([0; 4]);
    out.len()
}

fn close(begin: usize, out: &mut Vec<u8>) {
    let length = (out.len() - begin) as u32;
    out[begin - 4..begin].copy_from_slice(&length.to_le_bytes());
    out.push(END);
}

impl<'a> Frame<'a> {
    /// Appends the frame to `out`, or leaves `out` as it was.
    pub fn encode(&self, channel: u32, out: &mut Vec<u8>) -> Result<(), Unsendable> {
        let start = out.len();
        let begin = open(self.kind(), channel, out);
        self.encode_payload(out);
        close(begin, out);
        let problem = match out.len() - begin - 1 {
            length if length > FRAME_LIMIT => Some(Unsendable::TooLong(length)),
            _ => find_marker(&out[start..]).map(|_| Unsendable::Marker),
        };
        if let Some(problem) = problem {
            out.truncate(start);
            return Err(problem);
        }
        Ok(())
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => HELLO,
            Self::HelloAck(_) => ACK,
            Self::Spawn(_) => SPAWN,
            Self::Open(_) => OPEN,
            Self::Data { .. } => DATA,
            Self::Eof { .. } => EOF,
            Self::Credit { .. } => CREDIT,
            Self::Deaf { .. } => DEAF,
            Self::Signal(_) => SIGNAL,
            Self::Close => CLOSE,
            Self::Ping(_) => PING,
            Self::Sync(_) => SYNC,
            Self::Started(..) => STARTED,
            Self::Opened => OPENED,
            Self::Refused(..) => REFUSED,
            Self::Exit(_) => EXIT,
            Self::Pong(..) => PONG,
            Self::Synced(_) => SYNCED,
            Self::Fault(_) => FAULT,
        }
    }

    fn encode_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => hello.encode(out),
            Self::HelloAck(ack) => ack.encode(out),
            Self::Spawn(spawn) => spawn.encode(out),
            Self::Open(Target::Tcp(port)) => {
                out.push(0);
                out.extend(port.to_le_bytes());
            }
            Self::Open(Target::Unix(path)) => {
                out.push(1);
                put_str(path, out);
            }
            Self::Data { stream, bytes } => {
                out.push(*stream);
                out.extend_from_slice(bytes);
            }
            Self::Eof { stream, errno } => {
                out.push(*stream);
                out.extend(errno.to_le_bytes());
            }
            Self::Credit { stream, bytes } => {
                out.push(*stream);
                out.extend(bytes.to_le_bytes());
            }
            Self::Deaf { stream } => out.push(*stream),
            Self::Signal(number) => out.extend(number.to_le_bytes()),
            Self::Close | Self::Opened => {}
            Self::Ping(token) | Self::Sync(token) | Self::Synced(token) => out.extend(token.to_le_bytes()),
            Self::Started(pid, identity) => {
                out.extend(pid.to_le_bytes());
                identity.encode(out);
            }
            Self::Refused(refusal, errno) => {
                out.push(*refusal as u8);
                out.extend(errno.to_le_bytes());
            }
            Self::Exit(Ended::Code(code)) => {
                out.push(0);
                out.extend(code.to_le_bytes());
            }
            Self::Exit(Ended::Signal(number)) => {
                out.push(1);
                out.extend(number.to_le_bytes());
            }
            Self::Pong(token, identity) => {
                out.extend(token.to_le_bytes());
                identity.encode(out);
            }
            Self::Fault(text) => out.extend_from_slice(text.as_bytes()),
        }
    }

    /// Understands a payload. Nothing may be missing or left over.
    pub fn decode(kind: u8, payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = Payload(payload);
        let frame = Self::take(kind, &mut rest).filter(|_| rest.0.is_empty());
        frame.ok_or(Malformed { kind })
    }

    fn take(kind: u8, rest: &mut Payload<'a>) -> Option<Self> {
        Some(match kind {
            HELLO => Self::Hello(Hello::take(rest)?),
            ACK => Self::HelloAck(HelloAck::take(rest)?),
            SPAWN => Self::Spawn(Spawn::take(rest)?),
            OPEN => Self::Open(match rest.byte()? {
                0 => Target::Tcp(u16::from_le_bytes(rest.array()?)),
                1 => Target::Unix(rest.str()?),
                _ => return None,
            }),
            DATA => Self::Data {
                stream: rest.byte()?,
                bytes: rest.all(),
            },
            EOF => Self::Eof {
                stream: rest.byte()?,
                errno: rest.i32()?,
            },
            CREDIT => Self::Credit {
                stream: rest.byte()?,
                bytes: rest.u32()?,
            },
            DEAF => Self::Deaf { stream: rest.byte()? },
            SIGNAL => Self::Signal(rest.i32()?),
            CLOSE => Self::Close,
            PING => Self::Ping(rest.u64()?),
            SYNC => Self::Sync(rest.u64()?),
            STARTED => Self::Started(rest.u32()?, Identity::take(rest)?),
            OPENED => Self::Opened,
            REFUSED => Self::Refused(Refusal::from_byte(rest.byte()?)?, rest.i32()?),
            EXIT => Self::Exit(match rest.byte()? {
                0 => Ended::Code(rest.i32()?),
                1 => Ended::Signal(rest.i32()?),
                _ => return None,
            }),
            PONG => Self::Pong(rest.u64()?, Identity::take(rest)?),
            SYNCED => Self::Synced(rest.u64()?),
            FAULT => Self::Fault(std::str::from_utf8(rest.all()).ok()?),
            _ => return None,
        })
    }
}

impl Refusal {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Program, Self::Cwd, Self::Pipes, Self::Connect]
            .into_iter()
            .find(|refusal| *refusal as u8 == byte)
    }
}

impl Hello {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.min.to_le_bytes());
        out.extend(self.max.to_le_bytes());
        out.extend(self.nonce);
        out.extend(self.epoch.to_le_bytes());
        out.extend(self.fork_id);
        out.extend(self.clock.to_le_bytes());
        out.extend(self.seed);
    }

    /// A later protocol may append; what is unknown is passed over, so that versions can be told at all.
    fn take(rest: &mut Payload<'_>) -> Option<Self> {
        let hello = Self {
            min: rest.u16()?,
            max: rest.u16()?,
            nonce: rest.array()?,
            epoch: rest.u64()?,
            fork_id: rest.array()?,
            clock: rest.u64()?,
            seed: rest.array()?,
        };
        rest.all();
        Some(hello)
    }
}

impl<'a> HelloAck<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.protocol.to_le_bytes());
        out.extend(self.min.to_le_bytes());
        out.extend(self.max.to_le_bytes());
        out.extend(self.nonce);
        out.extend(self.instance.to_le_bytes());
        out.extend([self.clock_set, self.reseeded, self.has_vmgenid].map(u8::from));
        put_str(self.version, out);
    }

    /// A later protocol may append; see [`Hello::take`].
    fn take(rest: &mut Payload<'a>) -> Option<Self> {
        let ack = Self {
            protocol: rest.u16()?,
            min: rest.u16()?,
            max: rest.u16()?,
            nonce: rest.array()?,
            instance: rest.u64()?,
            clock_set: rest.byte()? != 0,
            reseeded: rest.byte()? != 0,
            has_vmgenid: rest.byte()? != 0,
            version: rest.str()?,
        };
        rest.all();
        Some(ack)
    }
}

impl Identity {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.instance.to_le_bytes());
        out.extend(self.fork_id);
    }

    fn take(rest: &mut Payload<'_>) -> Option<Self> {
        Some(Self {
            instance: rest.u64()?,
            fork_id: rest.array()?,
        })
    }
}

impl<'a> Spawn<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.stdin) | u8::from(self.detach) << 1);
        put_str(self.program, out);
        put_str(self.cwd, out);
        out.extend((self.args.len() as u32).to_le_bytes());
        for arg in &self.args {
            put_str(arg, out);
        }
        out.extend((self.env.len() as u32).to_le_bytes());
        for (name, value) in &self.env {
            put_str(name, out);
            put_str(value, out);
        }
    }

    fn take(rest: &mut Payload<'a>) -> Option<Self> {
        let flags = rest.byte()?;
        let (program, cwd) = (rest.str()?, rest.str()?);
        let args = (0..rest.u32()?).map(|_| rest.str()).collect::<Option<_>>()?;
        let env = (0..rest.u32()?)
            .map(|_| Some((rest.str()?, rest.str()?)))
            .collect::<Option<_>>()?;
        (flags < 4).then_some(Self {
            stdin: flags & 1 != 0,
            detach: flags & 2 != 0,
            program,
            cwd,
            args,
            env,
        })
    }
}

fn put_str(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

struct Payload<'a>(&'a [u8]);

impl<'a> Payload<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn all(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn str(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        std::str::from_utf8(self.bytes(length)?).ok()
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
