//! One connection to an agent: what is received, what waits to be sent, and who waits for what.

use std::collections::HashMap;
use std::io::{Error as IoError, ErrorKind as IoKind};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};
use vmtest_agent::wire::{Frame, Identity, MARKER, Parser, Raw, encode_data};

use super::channel::{Channel, Violation};
use super::greeting::{Greeted, Greeting, Hello, LEFTOVER_LIMIT};
use crate::error::{Error, ErrorKind, Report, Result};

/// Data waits with its writer while so many bytes are on their way.
const ENOUGH: usize = 512 * 1024;

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    received: Mutex<Received>,
    sending: Mutex<Sending>,
    /// Something waits that the kernel did not take at once.
    stuck: Notify,
    table: Mutex<Table>,
    pub(super) greeting: Mutex<Greeting>,
    /// An answer to a hello has come, or the connection is lost.
    pub(super) heard: Notify,
}

#[derive(Debug)]
struct Received {
    parser: Parser,
    /// Whether an answer to a hello is waited for, and nothing else believed.
    greeting: bool,
}

#[derive(Debug, Default)]
struct Sending {
    bytes: Vec<u8>,
    sent: usize,
    /// Who waits for room.
    waiting: Vec<Waker>,
}

#[derive(Debug)]
struct Table {
    channels: HashMap<u32, Arc<Channel>>,
    next: u32,
    asked: HashMap<u64, oneshot::Sender<()>>,
    next_question: u64,
    identity: Option<Identity>,
    greeted: Option<Greeted>,
    hello: Option<Hello>,
    /// Why it is over.
    lost: Option<Report>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn new(stream: UnixStream, parser: Parser, next: u32) -> Self {
        // A parser that knows where it stands has been handed over by someone who said hello.
        let greeting = parser.is_lost();
        Self {
            stream,
            received: Mutex::new(Received { parser, greeting }),
            sending: Mutex::default(),
            stuck: Notify::new(),
            table: Mutex::new(Table {
                channels: HashMap::new(),
                next: next.max(1),
                asked: HashMap::new(),
                next_question: 0,
                identity: None,
                greeted: None,
                hello: None,
                lost: None,
            }),
            greeting: Mutex::default(),
            heard: Notify::new(),
        }
    }

    /// The task that reads.
    pub(super) async fn read_on(self: Arc<Self>) {
        let why = loop {
            if let Err(cause) = self.stream.readable().await {
                break disconnected("the connection to the agent cannot be read").because(cause);
            }
            if let Err(error) = self.receive() {
                break error;
            }
        };
        self.lose(&why);
    }

    fn receive(&self) -> Result<()> {
        let mut received = lock(&self.received);
        match self.stream.try_read(received.parser.room()) {
            Ok(0) => Err(disconnected("the machine closed the connection to its agent")),
            Ok(count) => {
                received.parser.received(count);
                self.frames(&mut received)
            }
            Err(error) if matches!(error.kind(), IoKind::WouldBlock | IoKind::Interrupted) => Ok(()),
            Err(cause) => Err(disconnected("the connection to the agent cannot be read").because(cause)),
        }
    }

    fn frames(&self, received: &mut Received) -> Result<()> {
        let wrong = |cause| disconnected("the guest's agent does not keep to the protocol").because(cause);
        while let Some(raw) = received
            .parser
            .next_frame()
            .map_err(|bad| wrong(Violation::new(bad.to_string())))?
        {
            let frame = Frame::decode(raw.kind, received.parser.payload(&raw));
            if received.greeting {
                match frame {
                    Ok(Frame::HelloAck(ack)) if raw.marked && lock(&self.greeting).hear(&ack) => {
                        self.heard.notify_waiters();
                    }
                    _ => received.parser.distrust(&raw),
                }
            } else {
                let frame = frame.map_err(|malformed| wrong(Violation::new(malformed.to_string())))?;
                self.frame(&raw, &frame).map_err(wrong)?;
            }
        }
        if received.greeting && received.parser.skipped() > LEFTOVER_LIMIT {
            return Err(disconnected(format!(
                "the guest sent {LEFTOVER_LIMIT} bytes without an answer to the hello among them"
            )));
        }
        Ok(())
    }

    fn frame(&self, raw: &Raw, frame: &Frame<'_>) -> Result<(), Violation> {
        let mut table = lock(&self.table);
        match frame {
            Frame::Pong(token, identity) => {
                table.identity = Some(*identity);
                answer(&mut table, *token);
                return Ok(());
            }
            Frame::Synced(token) => {
                answer(&mut table, *token);
                return Ok(());
            }
            Frame::Fault(text) => return Err(Violation::new(format!("it complains: {text:.200}"))),
            Frame::Started(_, identity) => table.identity = Some(*identity),
            _ => {}
        }
        if raw.channel == 0 || raw.channel >= table.next {
            let (kind, channel) = (raw.kind, raw.channel);
            return Err(Violation::new(format!(
                "a frame of kind {kind} came for channel {channel}, which never was"
            )));
        }
        // What was on its way when a channel was closed comes to nobody.
        let Some(channel) = table.channels.get(&raw.channel).map(Arc::clone) else {
            return Ok(());
        };
        // A writer holds its stream's lock when it takes the table's.
        drop(table);
        if channel.hear(frame)? {
            lock(&self.table).channels.remove(&raw.channel);
        }
        Ok(())
    }

    /// The task that sends what the kernel did not take at once.
    pub(super) async fn write_on(self: Arc<Self>) {
        while self.alive().is_ok() {
            self.stuck.notified().await;
            while self.alive().is_ok() && !lock(&self.sending).is_empty() {
                let ready = self.stream.writable().await;
                let done = ready.and_then(|()| {
                    self.stream
                        .try_io(Interest::WRITABLE, || lock(&self.sending).flush(&self.stream))
                });
                match done {
                    Err(error) if error.kind() != IoKind::WouldBlock => {
                        let why =
                            disconnected("the connection to the agent cannot be written to").because(error);
                        return self.lose(&why);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Sends a frame, at once if the kernel takes it.
    pub(super) fn send(&self, channel: u32, frame: &Frame<'_>) -> Result<()> {
        self.alive()?;
        self.push(|bytes| {
            frame.encode(channel, bytes).map_err(|cause| {
                Error::new(ErrorKind::Invalid, "the request cannot be sent to the guest").because(cause)
            })
        })
    }

    pub(super) fn send_marked(&self, frame: &Frame<'_>) -> Result<()> {
        self.alive()?;
        {
            let mut sending = lock(&self.sending);
            sending.bytes.clear();
            sending.sent = 0;
        }
        self.push(|bytes| {
            bytes.extend(MARKER);
            frame
                .encode(0, bytes)
                .map_err(|cause| disconnected("a hello cannot be sent").because(cause))
        })
    }

    /// Sends a piece of a stream; false when there is no room, and `context` is woken when there is.
    pub(super) fn send_data(
        &self,
        channel: u32,
        stream: u8,
        bytes: &[u8],
        context: &Context<'_>,
    ) -> Result<bool> {
        self.alive()?;
        {
            let mut sending = lock(&self.sending);
            if sending.bytes.len() - sending.sent >= ENOUGH {
                sending.waiting.push(context.waker().clone());
                return Ok(false);
            }
        }
        self.push(|out| {
            encode_data(channel, stream, bytes, out);
            Ok(())
        })?;
        Ok(true)
    }

    fn push(&self, encode: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
        let mut sending = lock(&self.sending);
        let idle = sending.is_empty();
        encode(&mut sending.bytes)?;
        // An error shows again to the task that writes, which tells everybody.
        if !idle || sending.flush(&self.stream).is_err() {
            drop(sending);
            self.stuck.notify_one();
        }
        Ok(())
    }

    /// Puts a question that is answered with its own number.
    pub(super) fn ask(&self, frame: fn(u64) -> Frame<'static>) -> Result<oneshot::Receiver<()>> {
        let (sender, receiver) = oneshot::channel();
        let number = {
            let mut table = lock(&self.table);
            table.next_question += 1;
            let number = table.next_question;
            table.asked.retain(|_, asker| !asker.is_closed());
            table.asked.insert(number, sender);
            number
        };
        self.send(0, &frame(number))?;
        Ok(receiver)
    }

    /// Makes room for a new channel.
    pub(super) fn add(&self, make: impl FnOnce(u32) -> Arc<Channel>) -> Result<Arc<Channel>> {
        let mut table = lock(&self.table);
        if let Some(report) = &table.lost {
            return Err(report.clone().into());
        }
        let number = table.next;
        table.next = number
            .checked_add(1)
            .ok_or_else(|| disconnected("all channel numbers have been used"))?;
        let channel = make(number);
        table.channels.insert(number, Arc::clone(&channel));
        Ok(channel)
    }

    /// Forgets a channel; true when it was open.
    pub(super) fn remove(&self, number: u32) -> bool {
        lock(&self.table).channels.remove(&number).is_some()
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        lock(&self.table).identity
    }

    pub(super) fn greeted(&self) -> Option<Greeted> {
        lock(&self.table).greeted.clone()
    }

    /// The hello that begins the next epoch.
    pub(super) fn next_hello(&self, fork_id: Option<[u8; 16]>) -> Hello {
        let last = lock(&self.table).hello.unwrap_or_default();
        Hello {
            fork_id: fork_id.unwrap_or(last.fork_id),
            epoch: last.epoch + 1,
        }
    }

    /// The answer was the right one: from here on every byte must belong to a frame.
    pub(super) fn begin(&self, hello: Hello, greeted: Greeted) {
        {
            let mut received = lock(&self.received);
            received.greeting = false;
            received.parser.trust();
        }
        let mut table = lock(&self.table);
        table.identity = Some(Identity {
            instance: greeted.instance,
            fork_id: hello.fork_id,
        });
        table.greeted = Some(greeted);
        table.hello = Some(hello);
    }

    /// Everything that was open is lost; only an answer to a hello is believed from here on.
    pub(super) fn restart(&self) {
        {
            let mut received = lock(&self.received);
            received.parser.lose();
            received.greeting = true;
        }
        self.end_all(&disconnected("the guest was restarted").report());
    }

    fn end_all(&self, why: &Report) {
        let (channels, asked) = {
            let mut table = lock(&self.table);
            (
                std::mem::take(&mut table.channels),
                std::mem::take(&mut table.asked),
            )
        };
        drop(asked);
        for channel in channels.into_values() {
            channel.lose(why);
        }
        for waker in lock(&self.sending).waiting.drain(..) {
            waker.wake();
        }
    }

    /// The connection is over: it is closed, and everybody is told why.
    pub(super) fn lose(&self, why: &Error) {
        {
            let mut table = lock(&self.table);
            if table.lost.is_some() {
                return;
            }
            table.lost = Some(why.report());
        }
        // If it cannot be shut down then it is down already.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
        self.end_all(&why.report());
        self.heard.notify_waiters();
        self.stuck.notify_one();
    }

    /// Why it is over; or an error, if it is.
    pub(super) fn alive(&self) -> Result<()> {
        match &lock(&self.table).lost {
            Some(report) => Err(report.clone().into()),
            None => Ok(()),
        }
    }

    /// Why an answer did not come.
    pub(super) fn lost(&self) -> Error {
        match self.alive() {
            Err(error) => error,
            Ok(()) => disconnected("the guest was restarted"),
        }
    }

    /// Ends the use of an idle connection without closing it.
    pub(super) fn retire(&self) -> Result<(StdStream, u32)> {
        let mut table = lock(&self.table);
        if let Some(report) = &table.lost {
            return Err(report.clone().into());
        }
        let open = table.channels.len();
        if open > 0 || !lock(&self.sending).is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("a session in use cannot be handed over: {open} channels are open"),
            ));
        }
        let stream = self.stream.as_fd().try_clone_to_owned();
        let stream =
            stream.map_err(|cause| disconnected("the connection cannot be handed over").because(cause))?;
        table.lost = Some(disconnected("the session was handed over").report());
        Ok((stream.into(), table.next))
    }

    /// Makes sure that nothing was received that belongs to whoever takes over.
    pub(super) fn leftover(&self) -> Result<()> {
        if lock(&self.received).parser.is_empty() {
            return Ok(());
        }
        Err(disconnected(
            "the agent sent something while the connection was handed over",
        ))
    }
}

fn answer(table: &mut Table, token: u64) {
    if let Some(asker) = table.asked.remove(&token) {
        // Who asked may have gone.
        let _ = asker.send(());
    }
}

pub(super) fn disconnected(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Disconnected, message)
}

impl Sending {
    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Sends all, or fails; who waits for room is woken when there is some.
    fn flush(&mut self, stream: &UnixStream) -> Result<(), IoError> {
        let result = self.write(stream);
        if self.is_empty() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent > ENOUGH {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        if self.bytes.len() - self.sent < ENOUGH {
            self.waiting.drain(..).for_each(Waker::wake);
        }
        result
    }

    fn write(&mut self, stream: &UnixStream) -> Result<(), IoError> {
        while !self.is_empty() {
            match rustix::net::send(
                stream,
                &self.bytes[self.sent..],
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(count) => self.sent += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
