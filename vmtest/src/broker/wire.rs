//! JSON lines on a unix socket, with a descriptor beside a line where one is handed over.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The longest line, in bytes. A manifest or a console is far below.
const LINE_LIMIT: usize = 4 << 20;

/// The two ends of a connection.
pub(crate) fn split(stream: std::os::unix::net::UnixStream) -> io::Result<(Reader, Writer)> {
    stream.set_nonblocking(true)?;
    let stream = Arc::new(UnixStream::from_std(stream)?);
    let reader = Reader {
        stream: Arc::clone(&stream),
        buffer: Vec::new(),
        scanned: 0,
        fds: VecDeque::new(),
    };
    Ok((reader, Writer { stream }))
}

/// Reads lines and the descriptors beside them.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: Arc<UnixStream>,
    buffer: Vec<u8>,
    /// How far no end of a line was found.
    scanned: usize,
    fds: VecDeque<OwnedFd>,
}

impl Reader {
    /// The next message; `None` at the end. May be cancelled without loss.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=self.scanned + at).collect();
                self.scanned = 0;
                return serde_json::from_slice(&line).map(Some).map_err(io::Error::from);
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() > LINE_LIMIT {
                return Err(io::Error::other("a line of more than 4 MiB"));
            }
            if self.fill().await? == 0 {
                let whole = self.buffer.is_empty();
                return if whole {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// The descriptor that came beside the last message.
    pub(crate) fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    async fn fill(&mut self) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            let mut chunk = [0; 16 * 1024];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = self.stream.try_io(Interest::READABLE, || {
                let mut parts = [IoSliceMut::new(&mut chunk)];
                Ok(recvmsg(
                    &*self.stream,
                    &mut parts,
                    &mut ancillary,
                    RecvFlags::CMSG_CLOEXEC,
                )?)
            });
            match received {
                Ok(message) => {
                    self.buffer.extend_from_slice(&chunk[..message.bytes]);
                    for message in ancillary.drain() {
                        if let RecvAncillaryMessage::ScmRights(fds) = message {
                            self.fds.extend(fds);
                        }
                    }
                    return Ok(message.bytes);
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => return Err(cause),
            }
        }
    }
}

/// Writes lines. Not to be shared by two who write at once.
#[derive(Debug)]
pub(crate) struct Writer {
    stream: Arc<UnixStream>,
}

impl Writer {
    /// Sends a message, with a descriptor beside it.
    pub(crate) async fn send<T: Serialize>(
        &mut self,
        message: &T,
        fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut rest = line.as_slice();
        let mut fd = fd;
        while !rest.is_empty() {
            self.stream.writable().await?;
            match self
                .stream
                .try_io(Interest::WRITABLE, || send_part(&self.stream, rest, fd))
            {
                Ok(sent) => {
                    rest = &rest[sent..];
                    fd = None;
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(())
    }

    /// Whether the other end belongs to this user.
    pub(crate) fn peer_is_us(&self) -> bool {
        let peer = rustix::net::sockopt::socket_peercred(&*self.stream);
        peer.is_ok_and(|peer| peer.uid == rustix::process::geteuid())
    }
}

fn send_part(stream: &UnixStream, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if let Some(fd) = &fd {
        ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
    }
    Ok(sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?)
}
