//! The loop: one thread, one epoll.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::channel::{Channel, Connecting, Flow, Process, Sink, Source, Taken, errno, of_token, token};
use crate::epoch::{self, Refreshed};
use crate::outbox::Outbox;
use crate::spawn::Spawner;
use crate::sys::{self, Address, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, Epoll, EpollEvent};
use crate::wire::{
    ERRORS, Ended, Frame, Hello, HelloAck, INPUT, Identity, OUTPUT, PIECE, PROTOCOL_MAX, PROTOCOL_MIN,
    Parser, Raw, Refusal, Spawn, Target,
};

/// How long the outputs of an ended process are still read while others hold them open.
const GRACE: Duration = Duration::from_millis(200);

/// How many reads of the link, and how many turns of streams, make up one round of the loop.
const ROUND: usize = 16;

const LINK: u64 = 0;
const SIGNALS: u64 = 1;

/// What the link to the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// A virtio-serial port: its end means that the host is away, and will come back.
    Port,
    /// A socket: its end is the end.
    Socket,
}

/// Whom an ended child concerns.
enum Waiting {
    Channel(u32),
    Sync(u64),
}

pub(crate) struct Server {
    kind: Link,
    link: OwnedFd,
    /// Whether the link may have something to read.
    readable: bool,
    epoll: Epoll,
    signals: OwnedFd,
    spawner: Spawner,
    outbox: Outbox,
    channels: HashMap<u32, Channel>,
    children: HashMap<i32, Waiting>,
    /// Streams that have something to send, in the order in which they may.
    turns: VecDeque<(u32, u8)>,
    /// Ended processes whose outputs are still open.
    ending: Vec<u32>,
    identity: Option<Identity>,
    has_vmgenid: bool,
    scratch: Vec<u8>,
}

impl Server {
    pub(crate) fn new(kind: Link, link: OwnedFd) -> Result<Self> {
        let epoll = Epoll::new()?;
        let signals = sys::signal_descriptor(&[sys::SIGCHLD])?;
        epoll.add(&link, EPOLLIN | EPOLLOUT | EPOLLRDHUP, LINK)?;
        epoll.add(&signals, EPOLLIN, SIGNALS)?;
        Ok(Self {
            kind,
            link,
            readable: true,
            epoll,
            signals,
            spawner: Spawner::new(kind == Link::Port)?,
            outbox: Outbox::default(),
            channels: HashMap::new(),
            children: HashMap::new(),
            turns: VecDeque::new(),
            ending: Vec::new(),
            identity: None,
            has_vmgenid: epoch::has_vmgenid(),
            scratch: vec![0; PIECE],
        })
    }

    /// Serves until the link has ended.
    pub(crate) fn run(mut self) -> Result<()> {
        let mut received = Parser::lost();
        let mut events = [EpollEvent::default(); 64];
        loop {
            let timeout = self.timeout();
            let Self { epoll, .. } = &self;
            let told: Vec<(u32, u64)> = epoll.wait(&mut events, timeout)?.collect();
            for (events, token) in told {
                self.event(events, token);
            }
            self.cut_off();
            if self.readable && !self.receive(&mut received)? {
                self.channels.values().for_each(Channel::kill);
                return Ok(());
            }
            self.send()?;
        }
    }

    /// In milliseconds; 0 when there is something to do, negative when only an event can bring it.
    fn timeout(&self) -> i32 {
        if self.readable || (!self.turns.is_empty() && !self.outbox.is_full()) {
            return 0;
        }
        let cut = |channel: &u32| self.channels.get(channel)?.process.as_ref()?.cut;
        match self.ending.iter().filter_map(cut).min() {
            Some(cut) => cut.saturating_duration_since(Instant::now()).as_millis() as i32 + 1,
            None => -1,
        }
    }

    fn event(&mut self, events: u32, number: u64) {
        match (number, of_token(number)) {
            (LINK, _) => {
                self.readable = true;
                self.outbox.unblock();
            }
            (SIGNALS, _) => self.reap(),
            (_, (channel, INPUT)) => self.drain(channel),
            (_, (channel, stream)) => self.stream_event(channel, stream, events),
        }
    }

    fn stream_event(&mut self, number: u32, stream: u8, events: u32) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        if channel.connecting.is_some() {
            if events & (EPOLLOUT | EPOLLERR | EPOLLHUP) != 0 {
                self.connected(number, events);
            }
            return;
        }
        let socket = channel.process.is_none();
        if let Some(source) = channel.source(stream) {
            source.hung_up |= events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP) != 0;
            source.ready |= source.hung_up || events & EPOLLIN != 0;
            self.queue(number, stream);
        }
        if socket && events & (EPOLLOUT | EPOLLERR | EPOLLHUP) != 0 {
            self.drain(number);
        }
    }

    /// Lets a stream wait for its turn, if it has something to send and may.
    fn queue(&mut self, number: u32, stream: u8) {
        let source = self
            .channels
            .get_mut(&number)
            .and_then(|channel| channel.source(stream));
        if let Some(source) = source.filter(|source| !source.queued && source.wants_turn()) {
            source.queued = true;
            self.turns.push_back((number, stream));
        }
    }

    /// Sends control frames, and then one piece of each stream after the other.
    fn send(&mut self) -> Result<()> {
        for _ in 0..ROUND {
            self.flush()?;
            if self.outbox.is_full() {
                return Ok(());
            }
            let Some((channel, stream)) = self.turns.pop_front() else {
                return Ok(());
            };
            self.take_turn(channel, stream);
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        match self.outbox.flush(&self.link) {
            // Whatever ails a port, the host can come back.
            Err(_) if self.kind == Link::Port => Ok(()),
            // The end of the socket is found by reading.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    fn take_turn(&mut self, number: u32, stream: u8) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let Some(source) = channel.source(stream) else {
            return;
        };
        source.queued = false;
        match source.take(&mut self.scratch) {
            Taken::Bytes(count) => {
                self.outbox.push_data(number, stream, &self.scratch[..count]);
                self.queue(number, stream);
            }
            Taken::Nothing => self.queue(number, stream),
            Taken::End(errno) => {
                self.outbox.push(number, &Frame::Eof { stream, errno });
                channel.drop_source(stream);
                self.finish(number);
            }
        }
    }

    /// Ends a channel that has nothing more to say.
    fn finish(&mut self, number: u32) {
        let Some(channel) = self.channels.get(&number) else {
            return;
        };
        if !channel.is_silent() {
            return;
        }
        match &channel.process {
            Some(Process {
                ended: Some(ended), ..
            }) => self.outbox.push(number, &Frame::Exit(*ended)),
            Some(_) => return,
            None if channel.sink.is_some() || channel.connecting.is_some() => return,
            None => {}
        }
        self.channels.remove(&number);
        self.ending.retain(|ending| *ending != number);
    }

    fn reap(&mut self) {
        // One signal may stand for many children; what it says of one of them is of no use.
        let _ = sys::read(&self.signals, &mut self.scratch[..4096]);
        while let Some((pid, status)) = sys::reap() {
            match self.children.remove(&pid) {
                Some(Waiting::Channel(channel)) => self.ended(channel, status),
                Some(Waiting::Sync(token)) => self.outbox.push(0, &Frame::Synced(token)),
                None => {}
            }
        }
    }

    fn ended(&mut self, number: u32, status: i32) {
        let Some(process) = self
            .channels
            .get_mut(&number)
            .and_then(|channel| channel.process.as_mut())
        else {
            return;
        };
        process.ended = Some(match status & 0x7f {
            0 => Ended::Code(status >> 8 & 0xff),
            signal => Ended::Signal(signal),
        });
        process.cut = Some(Instant::now() + GRACE);
        self.ending.push(number);
        self.finish(number);
    }

    /// After the grace, what an ended process has left in its pipes is still sent, and no more.
    fn cut_off(&mut self) {
        if self.ending.is_empty() {
            return;
        }
        let now = Instant::now();
        for number in self.ending.clone() {
            let Some(channel) = self.channels.get_mut(&number) else {
                continue;
            };
            let Some(process) = channel
                .process
                .as_mut()
                .filter(|process| process.cut.is_some_and(|cut| cut <= now))
            else {
                continue;
            };
            process.cut = None;
            for source in channel.sources.iter_mut().flatten() {
                source.left = Some(sys::waiting(&source.fd));
                source.ready = true;
            }
            self.queue(number, OUTPUT);
            self.queue(number, ERRORS);
        }
    }

    /// Reads from the link; false when it has ended.
    fn receive(&mut self, received: &mut Parser) -> Result<bool> {
        for _ in 0..ROUND {
            match sys::read(&self.link, received.room()) {
                Ok(0) => {
                    self.readable = false;
                    return Ok(self.kind == Link::Port);
                }
                Ok(count) => {
                    received.received(count);
                    self.frames(received);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock || self.kind == Link::Port => {
                    self.readable = false;
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn frames(&mut self, received: &mut Parser) {
        while let Ok(Some(raw)) = received.next_frame() {
            match Frame::decode(raw.kind, received.payload(&raw)) {
                Ok(Frame::Hello(hello)) if raw.marked => {
                    if !self.greet(&hello) {
                        received.lose();
                    }
                }
                Ok(frame) if self.identity.is_some() => self.frame(&raw, &frame),
                Ok(_) => {}
                Err(problem) => self.outbox.push(raw.channel, &Frame::Fault(&problem.to_string())),
            }
        }
    }

    /// Begins an epoch; false when host and agent have no protocol in common.
    fn greet(&mut self, hello: &Hello) -> bool {
        self.forget();
        let protocol = PROTOCOL_MAX.min(hello.max);
        let agreed = protocol >= PROTOCOL_MIN.max(hello.min);
        let refreshed = match self.kind {
            Link::Port if agreed => epoch::refresh(hello),
            _ => Refreshed::default(),
        };
        // The host's randomness makes it unique: a machine that has just booted has none of its own.
        let own = || u64::from_le_bytes(hello.nonce[..8].try_into().unwrap_or_default());
        let instance = self.identity.map_or_else(own, |identity| identity.instance);
        if agreed {
            self.identity = Some(Identity {
                instance,
                fork_id: hello.fork_id,
            });
        }
        self.outbox.restart(&Frame::HelloAck(HelloAck {
            protocol: if agreed { protocol } else { 0 },
            min: PROTOCOL_MIN,
            max: PROTOCOL_MAX,
            nonce: hello.nonce,
            instance,
            clock_set: refreshed.clock_set,
            reseeded: refreshed.reseeded,
            has_vmgenid: self.has_vmgenid,
            version: crate::VERSION,
        }));
        agreed
    }

    /// Ends everything that belongs to an older epoch.
    fn forget(&mut self) {
        self.channels.values().for_each(Channel::kill);
        self.channels.clear();
        self.children.clear();
        self.turns.clear();
        self.ending.clear();
    }

    fn frame(&mut self, raw: &Raw, frame: &Frame<'_>) {
        let number = raw.channel;
        match frame {
            Frame::Spawn(spawn) => self.spawn(number, spawn),
            Frame::Open(target) => self.open(number, *target),
            Frame::Data { stream: INPUT, bytes } => {
                if let Some(sink) = self.sink(number) {
                    let flow = sink.put(bytes);
                    self.flowed(number, flow);
                }
            }
            Frame::Eof { stream: INPUT, .. } => {
                if let Some(sink) = self.sink(number) {
                    let flow = sink.end();
                    self.flowed(number, flow);
                }
            }
            Frame::Credit { stream, bytes } => {
                if let Some(source) = self
                    .channels
                    .get_mut(&number)
                    .and_then(|channel| channel.source(*stream))
                {
                    source.credit = source.credit.saturating_add(*bytes);
                    self.queue(number, *stream);
                }
            }
            Frame::Deaf { stream } => self.deaf(number, *stream),
            Frame::Signal(signal) => self.signal(number, *signal),
            Frame::Close => self.close(number),
            Frame::Ping(token) => self
                .outbox
                .push(0, &Frame::Pong(*token, self.identity.unwrap_or_default())),
            Frame::Sync(token) => match sys::sync_in_child() {
                Ok(pid) => drop(self.children.insert(pid, Waiting::Sync(*token))),
                Err(error) => self.outbox.push(0, &Frame::Fault(&format!("sync: {error}"))),
            },
            _ => self.outbox.push(
                number,
                &Frame::Fault(&format!("kind {} is not for an agent", raw.kind)),
            ),
        }
    }

    fn sink(&mut self, number: u32) -> Option<&mut Sink> {
        self.channels.get_mut(&number)?.sink.as_mut()
    }

    fn spawn(&mut self, number: u32, spawn: &Spawn<'_>) {
        let child = match self.spawner.start(spawn) {
            Ok(child) => child,
            Err(refused) => return self.outbox.push(number, &Frame::Refused(refused.0, refused.1)),
        };
        self.outbox.push(
            number,
            &Frame::Started(child.pid as u32, self.identity.unwrap_or_default()),
        );
        if spawn.detach {
            return;
        }
        self.children.insert(child.pid, Waiting::Channel(number));
        let mut channel = Channel {
            process: Some(Process {
                pid: child.pid,
                ended: None,
                cut: None,
            }),
            ..Channel::default()
        };
        if let Some(fd) = child.stdin {
            self.watch(&fd, EPOLLOUT, token(number, INPUT));
            channel.sink = Some(Sink::new(Rc::new(fd), false));
        }
        for (fd, stream) in [(child.stdout, OUTPUT), (child.stderr, ERRORS)] {
            if let Some(fd) = fd {
                self.watch(&fd, EPOLLIN, token(number, stream));
                channel.sources[usize::from(stream) - 1] = Some(Source::new(Rc::new(fd)));
            }
        }
        self.channels.insert(number, channel);
    }

    fn watch(&mut self, fd: &OwnedFd, events: u32, token: u64) {
        if let Err(error) = self.epoll.add(fd, events, token) {
            self.outbox.push(0, &Frame::Fault(&format!("epoll: {error}")));
        }
    }

    fn open(&mut self, number: u32, target: Target<'_>) {
        match target {
            Target::Tcp(port) => {
                self.connect(number, Address::Loopback4(port), Some(Address::Loopback6(port)))
            }
            Target::Unix(path) => self.connect(number, Address::Unix(path.as_bytes().to_vec()), None),
        }
    }

    fn connect(&mut self, number: u32, address: Address, next: Option<Address>) {
        match sys::connect(&address) {
            Ok((socket, _)) => {
                // An edge tells how it ended, at once if it has.
                self.watch(&socket, EPOLLIN | EPOLLOUT | EPOLLRDHUP, token(number, OUTPUT));
                let socket = Rc::new(socket);
                self.channels.insert(
                    number,
                    Channel {
                        connecting: Some(Connecting { socket, next }),
                        ..Channel::default()
                    },
                );
            }
            Err(error) => self.unreachable(number, &error, next),
        }
    }

    fn unreachable(&mut self, number: u32, error: &std::io::Error, next: Option<Address>) {
        self.channels.remove(&number);
        match next {
            Some(address) => self.connect(number, address, None),
            None => self
                .outbox
                .push(number, &Frame::Refused(Refusal::Connect, errno(error))),
        }
    }

    fn connected(&mut self, number: u32, events: u32) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let Some(connecting) = channel.connecting.take() else {
            return;
        };
        if let Err(error) = sys::connected(&connecting.socket) {
            return self.unreachable(number, &error, connecting.next);
        }
        channel.sink = Some(Sink::new(Rc::clone(&connecting.socket), true));
        let mut source = Source::new(connecting.socket);
        source.ready = true;
        // The same edge may tell that the other end has written all and gone: there is no other one.
        source.hung_up = events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP) != 0;
        channel.sources[0] = Some(source);
        self.outbox.push(number, &Frame::Opened);
        self.queue(number, OUTPUT);
    }

    fn drain(&mut self, number: u32) {
        if let Some(sink) = self.sink(number) {
            let flow = sink.drain();
            self.flowed(number, flow);
        }
    }

    /// What follows from bytes having been passed on, or not.
    fn flowed(&mut self, number: u32, flow: Flow) {
        match flow {
            Flow::Open => {
                if let Some(bytes) = self.sink(number).and_then(Sink::credit) {
                    self.outbox.push(number, &Frame::Credit { stream: INPUT, bytes });
                }
                return;
            }
            Flow::Done => {}
            Flow::Broken => self.outbox.push(number, &Frame::Deaf { stream: INPUT }),
            Flow::Flooded => {
                self.outbox
                    .push(number, &Frame::Fault("more was sent than the window allows"));
                return self.close(number);
            }
        }
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.sink = None;
        }
        self.finish(number);
    }

    fn deaf(&mut self, number: u32, stream: u8) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        if let Some(source) = channel.source(stream) {
            sys::shut_receiving(&source.fd);
        }
        channel.drop_source(stream);
        self.finish(number);
    }

    fn signal(&mut self, number: u32, signal: i32) {
        let process = self
            .channels
            .get(&number)
            .and_then(|channel| channel.process.as_ref());
        if let Some(process) = process.filter(|process| process.ended.is_none()) {
            sys::kill_group(process.pid, signal);
        }
    }

    fn close(&mut self, number: u32) {
        if let Some(channel) = self.channels.remove(&number) {
            channel.kill();
            self.ending.retain(|ending| *ending != number);
        }
    }
}
