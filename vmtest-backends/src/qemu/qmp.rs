//! QEMU's control channel: commands matched to answers by id, events in between.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, ErrorKind, Result};

/// How long QEMU may take to answer a command.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The longest line accepted from QEMU, in bytes.
const LINE_LIMIT: u64 = 16 * 1024 * 1024;

/// A connection to QEMU's monitor; a cheap handle.
#[derive(Debug, Clone)]
pub(super) struct Qmp(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
}

type Waiting = Arc<Mutex<Answers>>;

#[derive(Debug, Default)]
struct Answers {
    next: u64,
    open: HashMap<u64, oneshot::Sender<std::result::Result<Value, String>>>,
    closed: bool,
}

/// An event: its name and its data.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: Value,
}

/// The greeting: which QEMU this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    /// Major, minor, micro.
    pub(super) version: (u64, u64, u64),
    /// The distribution's name of the build.
    pub(super) package: String,
}

impl Qmp {
    /// Speaks on `stream`. Returns at once; what QEMU says first arrives as `greeting`, commands may be sent
    /// before. Events go to `events` until its receiver is gone.
    pub(super) fn connect(
        stream: StdStream,
        events: mpsc::UnboundedSender<Event>,
    ) -> io::Result<(Self, oneshot::Receiver<Greeting>)> {
        stream.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(stream)?.into_split();
        let waiting = Waiting::default();
        let (greeted, greeting) = oneshot::channel();
        tokio::spawn(read(reader, Arc::clone(&waiting), events, greeted));
        let writer = tokio::sync::Mutex::new(writer);
        Ok((Self(Arc::new(Shared { writer, waiting })), greeting))
    }

    /// Runs a command and returns what it returned.
    pub(super) async fn run(&self, command: &str, arguments: Value) -> Result<Value> {
        self.run_with(command, arguments, None).await
    }

    /// The same, with a descriptor passed along (for `getfd` and `add-fd`).
    pub(super) async fn run_with(
        &self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Value> {
        let broken = |what: String| Error::new(ErrorKind::Disconnected, format!("QEMU's {command}: {what}"));
        let (id, answer) = self
            .expect_answer()
            .ok_or_else(|| broken("the monitor is closed".into()))?;
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
        line.push('\n');
        self.send(line.as_bytes(), fd)
            .await
            .map_err(|cause| broken("cannot be sent".into()).because(cause))?;
        match tokio::time::timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(refusal))) => Err(broken(refusal)),
            Ok(Err(_)) => Err(broken("the monitor was closed before the answer".into())),
            Err(_) => Err(broken(format!("no answer within {} s", ANSWER_LIMIT.as_secs()))),
        }
    }

    fn expect_answer(&self) -> Option<(u64, oneshot::Receiver<std::result::Result<Value, String>>)> {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.closed {
            return None;
        }
        let id = waiting.next;
        waiting.next += 1;
        let (tell, answer) = oneshot::channel();
        waiting.open.insert(id, tell);
        Some((id, answer))
    }

    async fn send(&self, line: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut writer = self.0.writer.lock().await;
        let Some(fd) = fd else {
            return writer.write_all(line).await;
        };
        let stream: &UnixStream = writer.as_ref();
        let sent = loop {
            stream.writable().await?;
            match stream.try_io(Interest::WRITABLE, || send_with_fd(stream, line, fd)) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                other => break other?,
            }
        };
        writer.write_all(&line[sent..]).await
    }
}

fn send_with_fd(stream: &UnixStream, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    Ok(sendmsg(
        stream.as_fd(),
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?)
}

async fn read(
    reader: OwnedReadHalf,
    waiting: Waiting,
    events: mpsc::UnboundedSender<Event>,
    greeted: oneshot::Sender<Greeting>,
) {
    let mut greeted = Some(greeted);
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        // The process is ours, but a runaway line must still not eat the memory.
        let mut bounded = tokio::io::AsyncReadExt::take(&mut reader, LINE_LIMIT);
        match bounded.read_until(b'\n', &mut line).await {
            Ok(count) if count > 0 => {}
            _ => break,
        }
        let Ok(mut message) = serde_json::from_slice::<Value>(&line) else {
            break;
        };
        if let Some(name) = message["event"].as_str() {
            let name = name.to_owned();
            let data = message["data"].take();
            // Nobody listens any more: the machine is being buried.
            let _ = events.send(Event { name, data });
        } else if let Some(id) = message["id"].as_u64() {
            answer(&waiting, id, message);
        } else if let (Some(greeted), Some(greeting)) = (greeted.take(), greeting(&message)) {
            let _ = greeted.send(greeting);
        }
    }
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.closed = true;
    waiting.open.clear();
}

fn answer(waiting: &Waiting, id: u64, mut message: Value) {
    let open = waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .open
        .remove(&id);
    let Some(tell) = open else { return };
    let result = match message["error"]["desc"].as_str() {
        Some(refusal) => Err(refusal.to_owned()),
        None => Ok(message["return"].take()),
    };
    // Whoever asked has stopped waiting.
    let _ = tell.send(result);
}

fn greeting(message: &Value) -> Option<Greeting> {
    let version = &message["QMP"]["version"];
    let part = |name: &str| version["qemu"][name].as_u64();
    Some(Greeting {
        version: (part("major")?, part("minor")?, part("micro")?),
        package: version["package"].as_str().unwrap_or_default().to_owned(),
    })
}
