//! The guest's agent, spoken to by hand.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vmtest_agent::wire::{Ended, Frame, Hello, MARKER, Parser, Spawn};

use crate::error::Result;

/// How long a guest may be silent; a boot is within it.
const SILENCE_LIMIT: Duration = Duration::from_secs(180);

/// A connection to an agent.
#[derive(Debug)]
pub(crate) struct Agent {
    stream: UnixStream,
    parser: Parser,
    channel: u32,
    epoch: u64,
}

impl Agent {
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(SILENCE_LIMIT))?;
        Ok(Self {
            stream,
            parser: Parser::lost(),
            channel: 0,
            epoch: 0,
        })
    }

    /// Begins an epoch: sets the guest's clock, seeds its random generator, and waits for the answer.
    pub(crate) fn hello(&mut self) -> Result {
        let mut random = [0; 96];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        self.epoch += 1;
        let hello = Hello {
            nonce: random[..16].try_into()?,
            fork_id: random[16..32].try_into()?,
            seed: random[32..].try_into()?,
            epoch: self.epoch,
            clock: u64::try_from(clock)?,
            ..Hello::default()
        };
        self.parser.lose();
        let mut bytes = MARKER.to_vec();
        Frame::Hello(hello).encode(0, &mut bytes)?;
        self.stream.write_all(&bytes)?;
        self.until(|channel, frame| match frame {
            Frame::HelloAck(ack) if channel == 0 && ack.nonce == random[..16] => Some(()),
            _ => None,
        })?;
        self.parser.trust();
        Ok(())
    }

    /// Runs a program to its end.
    pub(crate) fn exec(&mut self, program: &str, args: &[&str]) -> Result {
        self.channel += 1;
        let spawn = Spawn {
            stdin: false,
            detach: false,
            program,
            cwd: "",
            args: args.to_vec(),
            env: Vec::new(),
        };
        let own = self.channel;
        let mut bytes = Vec::new();
        Frame::Spawn(spawn).encode(own, &mut bytes)?;
        self.stream.write_all(&bytes)?;
        let ended = self.until(|channel, frame| match frame {
            Frame::Exit(ended) if channel == own => Some(Ok(*ended)),
            Frame::Refused(..) if channel == own => Some(Err("the program was refused")),
            _ => None,
        })?;
        match ended? {
            Ended::Code(_) => Ok(()),
            Ended::Signal(number) => Err(format!("`{program}` was killed by signal {number}").into()),
        }
    }

    /// Has the guest write its file systems to disk.
    pub(crate) fn sync(&mut self) -> Result {
        let mut bytes = Vec::new();
        Frame::Sync(1).encode(0, &mut bytes)?;
        self.stream.write_all(&bytes)?;
        self.until(|_, frame| matches!(frame, Frame::Synced(1)).then_some(()))
    }

    fn until<T>(&mut self, mut wanted: impl FnMut(u32, &Frame<'_>) -> Option<T>) -> Result<T> {
        loop {
            while let Some(raw) = self.parser.next_frame()? {
                if let Ok(frame) = Frame::decode(raw.kind, self.parser.payload(&raw))
                    && let Some(found) = wanted(raw.channel, &frame)
                {
                    return Ok(found);
                }
            }
            let count = self.stream.read(self.parser.room())?;
            if count == 0 {
                return Err("the agent's connection was closed".into());
            }
            self.parser.received(count);
        }
    }
}
