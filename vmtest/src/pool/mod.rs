//! Bounded machines: places, forks made ahead of demand, and burial. Knows nothing of tests.
//!
//! Forks of a snapshot come from a `line`: whoever waits gets the next one that is ready, and forks
//! nobody waits for stay warm. A machine's place is given back when its processes are gone, not before.

mod burial;
mod capacity;
mod engines;
mod fresh;
mod line;
mod memory;
mod reference;
mod run;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};
use vmtest_backends::backend::{Backend, Snapshot, Use};
use vmtest_backends::spec::Spec;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::config::PoolLimits;
use crate::dirs::Dirs;
use crate::store::Store;

pub use burial::Held;
pub use capacity::{Capacity, Cost, Entry, Room};
pub use engines::{EngineChoice, engine, names};
pub use fresh::Limits;
pub use run::Run;

use burial::Graveyard;
use capacity::{Admission, Slot};
use fresh::{Fresh, Source};
use line::Line;
use run::Runs;

/// A machine that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// By which engine.
    pub engine: EngineChoice,
    /// Made from what.
    pub origin: Origin,
    /// For what.
    pub purpose: Use,
    /// With an uplink to the network?
    pub network: bool,
    /// How long its making may take.
    pub limits: Limits,
    /// How long to wait for a place.
    pub lease_limit: Duration,
    /// How many forks may be kept warm ahead of demand.
    pub warm: u32,
    /// Which run of tests wants it: warm forks end soon after it.
    pub run: Run,
}

/// What a machine is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Booted.
    Boot(Box<Spec>),
    /// Forked.
    Fork(#[serde(with = "reference")] Box<Snapshot>),
}

impl Origin {
    fn spec(&self) -> &Spec {
        match self {
            Self::Boot(spec) => spec,
            Self::Fork(snapshot) => &snapshot.manifest.spec,
        }
    }

    /// The key of the snapshot, or the image's digest.
    fn key(&self) -> &str {
        match self {
            Self::Boot(spec) => &spec.image.digest,
            Self::Fork(snapshot) => &snapshot.manifest.key,
        }
    }

    fn source(&self) -> Source<'_> {
        match self {
            Self::Boot(spec) => Source::Boot(spec),
            Self::Fork(snapshot) => Source::Fork(snapshot),
        }
    }
}

/// The machines of one process; a cheap handle. Must be used on a tokio runtime with I/O and time.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dirs: Dirs,
    store: Store,
    capacity: Capacity,
    state: Mutex<State>,
    /// Told whenever a place was given back.
    freed: Arc<Notify>,
    graveyard: Graveyard,
}

#[derive(Debug, Default)]
struct State {
    engines: HashMap<EngineChoice, Arc<dyn Backend>>,
    lines: HashMap<LineKey, Line>,
    runs: Runs,
}

/// Forks that are alike: any of them serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LineKey {
    engine: EngineChoice,
    snapshot: String,
    network: bool,
}

/// What QEMU itself needs besides the guest's memory, in MiB; measured: 25 to 45.
pub const ENGINE_MIB: u64 = 64;

/// How often a full host is looked at again while machines of other processes fill it.
const RECHECK: Duration = Duration::from_millis(50);

impl Pool {
    /// A pool in these directories; sweeps what dead processes left there.
    pub fn open(dirs: &Dirs, limits: PoolLimits) -> Result<Self> {
        let capacity = Capacity::open(dirs, limits)?;
        capacity.sweep()?;
        let store = Store::open(dirs)?;
        let freed = Arc::new(Notify::new());
        let graveyard = Graveyard::new(store.clone(), Arc::clone(&freed));
        let (dirs, state) = (dirs.clone(), Mutex::default());
        Ok(Self(Arc::new(Inner {
            dirs,
            store,
            capacity,
            state,
            freed,
            graveyard,
        })))
    }

    /// A machine, when there is a place for it.
    pub async fn acquire(&self, want: Want) -> Result<Held> {
        let first = self.watch_run(want.run);
        let forked = matches!(want.origin, Origin::Fork(_)) && want.purpose == Use::Leaf;
        let (fresh, warm) = if forked {
            self.next_of_line(&want).await?
        } else {
            let slot = self.place(&want).await?;
            (self.make_alone(&want, slot).await?, false)
        };
        Ok(self
            .0
            .graveyard
            .hold(fresh, warm, snapshot_key(&want))
            .of_run(first))
    }

    /// Ends all warm forks and waits, for at most `limit`, until nothing is left of any machine that was
    /// released.
    pub async fn drain(&self, limit: Duration) -> Result<()> {
        let lines = std::mem::take(&mut self.state().lines);
        for (key, line) in lines {
            self.bury_all(&key, line.close());
        }
        self.0.graveyard.wait(limit).await
    }

    /// The number of warm forks.
    pub fn warm(&self) -> usize {
        self.state().lines.values().map(Line::ready).sum()
    }

    /// How many machines were found dead when they were to be handed out.
    pub fn sick(&self) -> u64 {
        self.state().lines.values().map(Line::sick).sum()
    }

    /// The ledger of places.
    pub fn capacity(&self) -> &Capacity {
        &self.0.capacity
    }

    /// Makes a machine that nobody else could take over: if its only waiter goes away, it ends in order.
    async fn make_alone(&self, want: &Want, slot: Slot) -> Result<Fresh> {
        let (mut tell, wait) = oneshot::channel();
        let (pool, want) = (self.clone(), want.clone());
        tokio::spawn(async move {
            let made = pool.make(&want, slot, tell.closed()).await;
            if let Err(Ok(unwanted)) = tell.send(made) {
                drop(pool.0.graveyard.hold(unwanted, false, None));
            }
        });
        wait.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Start,
                "the task that made the machine was lost",
            ))
        })
    }

    async fn make(&self, want: &Want, slot: Slot, abandoned: impl Future<Output = ()>) -> Result<Fresh> {
        let backend = self.engine(&want.engine)?;
        let made = fresh::make(
            &*backend,
            want.origin.source(),
            slot,
            want.purpose,
            want.network,
            want.limits,
            abandoned,
        );
        let made = made.await;
        if made.is_err() {
            self.0.freed.notify_waiters();
        }
        made
    }

    fn engine(&self, choice: &EngineChoice) -> Result<Arc<dyn Backend>> {
        let mut state = self.state();
        if let Some(engine) = state.engines.get(choice) {
            return Ok(Arc::clone(engine));
        }
        let engine = engine(choice, &self.0.dirs)?;
        state.engines.insert(choice.clone(), Arc::clone(&engine));
        Ok(engine)
    }

    /// Waits for a place; warm forks give way.
    async fn place(&self, want: &Want) -> Result<Slot> {
        let id = hex(&unique());
        let cost = self.cost(want);
        let deadline = tokio::time::Instant::now() + want.lease_limit;
        loop {
            let freed = self.0.freed.notified();
            let short = match self.0.capacity.admit(&id, cost, want.origin.key())? {
                Admission::Granted(slot) => return Ok(slot),
                Admission::Later(short) => short,
            };
            self.evict_one();
            let (now, recheck) = (tokio::time::Instant::now(), tokio::time::sleep(RECHECK));
            if now >= deadline {
                let text = format!(
                    "no place for a machine within {} s: {short}",
                    want.lease_limit.as_secs()
                );
                return Err(Error::new(ErrorKind::Exhausted, text));
            }
            tokio::select! {
                () = freed => {}
                () = recheck => {}
            }
        }
    }

    /// A place if there is one right now.
    fn free_place(&self, want: &Want) -> Option<Slot> {
        let (id, cost) = (hex(&unique()), self.cost(want));
        match self.0.capacity.admit(&id, cost, want.origin.key()) {
            Ok(Admission::Granted(slot)) => Some(slot),
            _ => None,
        }
    }

    /// A fork costs what its like were seen to use, with a margin of a quarter; anything else its full size.
    fn cost(&self, want: &Want) -> Cost {
        let spec = want.origin.spec();
        let full = u64::from(spec.memory_mib) + ENGINE_MIB;
        let seen = snapshot_key(want).filter(|_| want.purpose == Use::Leaf);
        let seen = seen.and_then(|key| self.0.store.high_water(&key));
        let memory_mib = seen.map_or(full, |bytes| (((bytes >> 20) * 5).div_ceil(4) + 8).min(full));
        Cost {
            memory_mib,
            cpus: spec.cpus,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn snapshot_key(want: &Want) -> Option<String> {
    match &want.origin {
        Origin::Fork(snapshot) => Some(snapshot.manifest.key.clone()),
        Origin::Boot(_) => None,
    }
}

/// Sixteen bytes that no other machine has.
fn unique() -> [u8; 16] {
    let mut bytes = [0; 16];
    // Without a random generator there would be no machines either; the fallback is unique on this host.
    if File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .is_err()
    {
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_nanos();
        bytes = (now ^ (u128::from(std::process::id()) << 96)).to_le_bytes();
    }
    bytes
}

/// Hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
