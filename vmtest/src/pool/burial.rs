//! A machine in somebody's hand, and its end.

use std::fs;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use vmtest_backends::backend::Machine;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::pool::fresh::Fresh;
use crate::pool::hex;
use crate::store::Store;

/// Where machines end, off everybody's path. A place is given back when its machine is gone.
#[derive(Debug, Clone)]
pub(super) struct Graveyard {
    store: Store,
    freed: Arc<Notify>,
    /// How many machines there are or are being ended.
    open: watch::Sender<usize>,
}

/// A machine in somebody's hand. Dropping it begins the machine's end and waits for nothing.
#[derive(Debug)]
pub struct Held {
    fresh: Option<Holding>,
    graveyard: Graveyard,
    snapshot: Option<String>,
    warm: bool,
    first: bool,
}

#[derive(Debug)]
struct Holding {
    /// Ends first: the guest's connection, then the machine, then its place.
    agent: Option<(UnixStream, u32)>,
    machine: Box<dyn Machine>,
    slot: crate::pool::capacity::Slot,
    fork_id: [u8; 16],
    engine: String,
    phases: Vec<(String, Duration)>,
}

impl Held {
    /// Its id.
    pub fn id(&self) -> &str {
        self.fresh.as_ref().map_or("", |held| held.slot.id())
    }

    /// Its fork's id, 32 hexadecimal digits.
    pub fn fork_id(&self) -> String {
        self.fresh
            .as_ref()
            .map_or_else(String::new, |held| hex(&held.fork_id))
    }

    /// Whether it waited ready.
    pub fn warm(&self) -> bool {
        self.warm
    }

    /// Whether it is the first of its run of tests.
    pub fn first(&self) -> bool {
        self.first
    }

    pub(super) fn of_run(mut self, first: bool) -> Self {
        self.first = first;
        self
    }

    /// How long each step of its making took.
    pub fn phases(&self) -> &[(String, Duration)] {
        self.fresh.as_ref().map_or(&[], |held| &held.phases)
    }

    /// The machine.
    pub fn machine(&mut self) -> Result<&mut (dyn Machine + 'static)> {
        let gone = || Error::new(ErrorKind::Teardown, "the machine was released already");
        Ok(self.fresh.as_mut().ok_or_else(gone)?.machine.as_mut())
    }

    /// The engine and how it executes.
    pub fn engine(&self) -> &str {
        self.fresh.as_ref().map_or("", |held| &held.engine)
    }

    /// The idle connection to its guest's agent and the first channel number to use; given out once.
    pub fn agent(&mut self) -> Option<(UnixStream, u32)> {
        self.fresh.as_mut()?.agent.take()
    }

    /// Ends the machine and returns when it is gone.
    pub async fn release(mut self) -> Result<()> {
        match self.fresh.take() {
            Some(held) => self.graveyard.clone().bury(held, self.snapshot.take()).await,
            None => Ok(()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(held) = self.fresh.take() else { return };
        let (graveyard, snapshot) = (self.graveyard.clone(), self.snapshot.take());
        // Without a runtime the process is ending, and the machine with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // An error keeps the place taken until the process ends; the next sweep removes what is left.
            runtime.spawn(async move { drop(graveyard.bury(held, snapshot).await) });
        }
    }
}

impl Graveyard {
    pub(super) fn new(store: Store, freed: Arc<Notify>) -> Self {
        let open = watch::Sender::new(0);
        Self { store, freed, open }
    }

    pub(super) fn hold(&self, fresh: Fresh, warm: bool, snapshot: Option<String>) -> Held {
        self.open.send_modify(|open| *open += 1);
        let Fresh {
            machine,
            agent,
            engine,
            slot,
            fork_id,
            phases,
        } = fresh;
        let agent = Some(agent);
        let fresh = Some(Holding {
            agent,
            machine,
            slot,
            fork_id,
            engine,
            phases,
        });
        Held {
            fresh,
            graveyard: self.clone(),
            snapshot,
            warm,
            first: false,
        }
    }

    async fn bury(self, mut held: Holding, snapshot: Option<String>) -> Result<()> {
        drop(held.agent.take());
        if let (Some(key), Some(pid)) = (snapshot, held.machine.pid()) {
            let store = self.store.clone();
            // Walking a process's page tables takes a millisecond or two: not on the loop. It only guides
            // admission, so a thread that is lost is no error.
            let _ = tokio::task::spawn_blocking(move || note_use(&store, &key, pid)).await;
        }
        let killed = held.machine.kill().await;
        if killed.is_ok() {
            drop(held);
        } else {
            // A machine that will not die keeps its place.
            std::mem::forget(held.slot);
        }
        self.open.send_modify(|open| *open -= 1);
        self.freed.notify_waiters();
        killed
    }

    /// Waits until no machine is held or being ended.
    pub(super) async fn wait(&self, limit: Duration) -> Result<()> {
        let mut open = self.open.subscribe();
        let empty = async { open.wait_for(|open| *open == 0).await.map(|_| ()) };
        match tokio::time::timeout(limit, empty).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let text = format!("machines were still there after {} s", limit.as_secs());
                Err(Error::new(ErrorKind::Teardown, text))
            }
        }
    }
}

fn note_use(store: &Store, key: &str, pid: u32) {
    if let Some(bytes) = private_bytes(pid) {
        store.note_use(key, bytes);
    }
}

/// Memory of a process that is nobody else's: what it wrote. A counter of the kernel's, for to walk all of its
/// pages would take longer than its end.
fn private_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let written = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = written.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
