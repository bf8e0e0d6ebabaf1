//! Beginning an epoch: the hello, and the search for its answer.

use std::fs::File;
use std::io::Read as _;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;
use vmtest_agent::wire::{self, Frame, HelloAck, PROTOCOL_MAX, PROTOCOL_MIN};

use super::REBOOT_POLL;
use super::link::Link;
use crate::error::{Error, ErrorKind, Result};

/// An answer that took longer is followed by another hello: the clock in the first one was late by then.
const FRESH: Duration = Duration::from_millis(250);

/// A hello is said again after this time: a guest that restarts may have taken it along.
const REPEAT: Duration = Duration::from_secs(1);

/// How many bytes of an older epoch may come before an answer: all that can be on its way in a port's queues.
pub(super) const LEFTOVER_LIMIT: u64 = 8 << 20;

/// What a machine is told when it is connected to. The clock and fresh randomness are added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hello {
    /// Unique to this fork.
    pub fork_id: [u8; 16],
    /// Counts the connections to this machine.
    pub epoch: u64,
}

/// What the agent answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeted {
    /// The protocol that is spoken.
    pub protocol: u16,
    /// The agent's build, for people.
    pub version: String,
    /// New whenever an agent starts.
    pub instance: u64,
    /// Whether the guest's wall clock was set.
    pub clock_set: bool,
    /// Whether the guest kernel's random generator was seeded.
    pub reseeded: bool,
    /// Whether the guest's kernel sees a VM generation id.
    pub has_vmgenid: bool,
}

/// Where the wait for an answer stands.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    /// The nonce of the latest hello.
    nonce: [u8; 16],
    answer: Option<Result<Greeted>>,
}

impl Greeting {
    /// Looks at an answer; true when it is the one that is waited for.
    pub(super) fn hear(&mut self, ack: &HelloAck<'_>) -> bool {
        if ack.nonce != self.nonce || self.answer.is_some() {
            return false;
        }
        self.answer = Some(understand(ack));
        true
    }
}

fn understand(ack: &HelloAck<'_>) -> Result<Greeted> {
    if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&ack.protocol) {
        return Err(Error::new(
            ErrorKind::Disconnected,
            format!(
                "the guest's agent ({}) speaks protocols {} to {}, this host {PROTOCOL_MIN} to {PROTOCOL_MAX}",
                ack.version, ack.min, ack.max
            ),
        ));
    }
    Ok(Greeted {
        protocol: ack.protocol,
        version: ack.version.to_owned(),
        instance: ack.instance,
        clock_set: ack.clock_set,
        reseeded: ack.reseeded,
        has_vmgenid: ack.has_vmgenid,
    })
}

impl Link {
    /// Says hello until an answer comes that is right and fresh. Unbounded: the caller sets the limit.
    pub(super) async fn greet(&self, hello: Hello, right: impl Fn(&Greeted) -> bool) -> Result<()> {
        loop {
            let said = Instant::now();
            self.say(hello)?;
            let Ok(answer) = timeout(REPEAT, self.answer()).await else {
                continue;
            };
            let greeted = answer?;
            if !right(&greeted) {
                tokio::time::sleep(REBOOT_POLL).await;
            } else if said.elapsed() <= FRESH {
                self.begin(hello, greeted);
                return Ok(());
            }
        }
    }

    fn say(&self, hello: Hello) -> Result<()> {
        let nonce = random()?;
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let frame = Frame::Hello(wire::Hello {
            nonce,
            epoch: hello.epoch,
            fork_id: hello.fork_id,
            clock: u64::try_from(clock.as_nanos()).unwrap_or(u64::MAX),
            seed: random()?,
            ..wire::Hello::default()
        });
        *self.greeting.lock().unwrap_or_else(PoisonError::into_inner) = Greeting { nonce, answer: None };
        self.send_marked(&frame)
    }

    async fn answer(&self) -> Result<Greeted> {
        loop {
            let heard = self.heard.notified();
            let answer = self
                .greeting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .answer
                .take();
            if let Some(answer) = answer {
                return answer;
            }
            self.alive()?;
            heard.await;
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|cause| Error::new(ErrorKind::Disconnected, "no randomness for a hello").because(cause))?;
    Ok(bytes)
}
