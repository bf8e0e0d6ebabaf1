//! Forks of one snapshot: made for those who wait, and a few ahead of demand.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use vmtest_backends::backend::Life;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::pool::fresh::Fresh;
use crate::pool::{LineKey, Origin, Pool, Want};

/// How long a test that took a warm fork has the host to itself before the next one is made: some execs. Whoever
/// waits meanwhile is served at once.
const HEAD_START: Duration = Duration::from_millis(20);

/// The forks of one snapshot.
#[derive(Debug, Default)]
pub(super) struct Line {
    ready: VecDeque<Fresh>,
    waiting: VecDeque<oneshot::Sender<Result<Fresh>>>,
    /// How many are being made.
    making: usize,
    /// How often one was asked for, ever.
    asked: u64,
    sick: u64,
}

impl Line {
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn sick(&self) -> u64 {
        self.sick
    }

    pub(super) fn asked(&self) -> u64 {
        self.asked
    }

    /// Everything that waits to be handed out.
    pub(super) fn close(self) -> VecDeque<Fresh> {
        self.ready
    }

    pub(super) fn take_warm(&mut self) -> VecDeque<Fresh> {
        std::mem::take(&mut self.ready)
    }

    pub(super) fn evict(&mut self) -> Option<Fresh> {
        self.ready.pop_back()
    }

    /// The next one that lives, and those that were found dead.
    fn pick(&mut self) -> (Option<Fresh>, Vec<Fresh>) {
        let mut dead = Vec::new();
        while let Some(fresh) = self.ready.pop_front() {
            if *fresh.machine.life().borrow() == Life::Running {
                return (Some(fresh), dead);
            }
            self.sick += 1;
            dead.push(fresh);
        }
        (None, dead)
    }

    /// How many to make ahead: none for the first, so that a single test wastes nothing.
    fn wanted_ahead(&self, warm: u32) -> usize {
        usize::try_from(self.asked.saturating_sub(1).min(u64::from(warm))).unwrap_or(0)
    }
}

impl Pool {
    /// The next fork of its line; the flag tells whether it was ready.
    pub(super) async fn next_of_line(&self, want: &Want) -> Result<(Fresh, bool)> {
        let key = key(want);
        let (picked, wait) = {
            let mut state = self.state();
            let line = state.lines.entry(key.clone()).or_default();
            line.asked += 1;
            let (picked, dead) = line.pick();
            let wait = picked.is_none().then(|| {
                let (tell, wait) = oneshot::channel();
                line.waiting.push_back(tell);
                wait
            });
            self.bury_all(&key, dead);
            (picked, wait)
        };
        self.note_use_of_line(want.run, &key);
        let fresh = match (picked, wait) {
            (Some(fresh), _) => {
                self.refill_later(want, key);
                return Ok((fresh, true));
            }
            (None, Some(wait)) => {
                self.serve_waiting(want, &key);
                wait.await
                    .unwrap_or_else(|_| Err(Error::new(ErrorKind::Fork, "the pool was closed")))?
            }
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::Fork,
                    "the line gave neither a fork nor a wait",
                ));
            }
        };
        self.refill_later(want, key);
        Ok((fresh, false))
    }

    /// Sees to it that at least as many are being made as are waited for.
    fn serve_waiting(&self, want: &Want, key: &LineKey) {
        let mut state = self.state();
        let line = state.lines.entry(key.clone()).or_default();
        while line.making < line.waiting.len() {
            line.making += 1;
            let (pool, want, key) = (self.clone(), want.clone(), key.clone());
            tokio::spawn(async move {
                let made = match pool.place(&want).await {
                    Ok(slot) => pool.make(&want, slot, std::future::pending()).await,
                    Err(cause) => Err(cause),
                };
                pool.deliver(&want, &key, made);
            });
        }
    }

    /// Makes up for a fork that was taken, after its test has had a head start.
    fn refill_later(&self, want: &Want, key: LineKey) {
        let (pool, want) = (self.clone(), want.clone());
        tokio::spawn(async move {
            tokio::time::sleep(HEAD_START).await;
            pool.refill(&want, &key);
        });
    }

    /// Makes forks ahead of demand, where there is a place for them.
    fn refill(&self, want: &Want, key: &LineKey) {
        let mut state = self.state();
        let Some(line) = state.lines.get_mut(key) else {
            return;
        };
        let wanted = line.wanted_ahead(want.warm) + line.waiting.len();
        while line.making + line.ready.len() < wanted {
            let Some(slot) = self.free_place(want) else { return };
            line.making += 1;
            let (pool, want, key) = (self.clone(), want.clone(), key.clone());
            tokio::spawn(async move {
                let made = pool.make(&want, slot, std::future::pending()).await;
                pool.deliver(&want, &key, made);
            });
        }
    }

    /// Hands a fork to whoever waits longest, or keeps it warm; tells a failure to one who waits.
    fn deliver(&self, want: &Want, key: &LineKey, made: Result<Fresh>) {
        let mut state = self.state();
        let wanted = state.runs.want(key);
        let Some(line) = state.lines.get_mut(key) else {
            // The pool was drained meanwhile.
            drop(state);
            self.bury_all(key, made.ok());
            return;
        };
        line.making -= 1;
        let mut made = Some(made);
        while let Some(result) = made.take() {
            let Some(tell) = line.waiting.pop_front() else {
                made = Some(result);
                break;
            };
            // Whoever has gone away gives it back.
            made = tell.send(result).err();
        }
        let unclaimed = made.and_then(Result::ok);
        let surplus = match unclaimed {
            Some(fresh) if wanted && line.ready.len() < line.wanted_ahead(want.warm) => {
                line.ready.push_back(fresh);
                None
            }
            other => other,
        };
        drop(state);
        self.bury_all(key, surplus);
    }

    /// Gives up one warm fork for somebody who needs its place.
    pub(super) fn evict_one(&self) {
        let mut state = self.state();
        let evicted = state
            .lines
            .iter_mut()
            .find_map(|(key, line)| Some((key.clone(), line.evict()?)));
        drop(state);
        if let Some((key, fresh)) = evicted {
            self.bury_all(&key, [fresh]);
        }
    }

    pub(super) fn bury_all(&self, key: &LineKey, dead: impl IntoIterator<Item = Fresh>) {
        for fresh in dead {
            drop(self.0.graveyard.hold(fresh, true, Some(key.snapshot.clone())));
        }
    }
}

pub(super) fn key(want: &Want) -> LineKey {
    let snapshot = match &want.origin {
        Origin::Fork(snapshot) => snapshot.manifest.key.clone(),
        Origin::Boot(spec) => spec.image.digest.clone(),
    };
    LineKey {
        engine: want.engine.clone(),
        snapshot,
        network: want.network,
    }
}
