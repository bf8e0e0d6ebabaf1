//! Runs of tests: who wanted warm forks, and when they no longer do.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pool::{LineKey, Pool};

/// How long warm forks outlive the run that wanted them.
const AFTER_RUN: Duration = Duration::from_secs(2);

/// How long warm forks wait unused, for runs whose end nobody can see (a shell, a debugger).
const UNUSED: Duration = Duration::from_secs(30);

/// A run of tests, by the process that drives it: cargo, nextest, or whoever started the test binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Run {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since the host's boot: pids are used again.
    pub started: u64,
}

impl Run {
    /// The run this process belongs to: the parent's.
    pub fn current() -> Self {
        Self::of(std::os::unix::process::parent_id())
    }

    /// This process as a run of its own.
    pub fn own() -> Self {
        Self::of(std::process::id())
    }

    fn of(pid: u32) -> Self {
        Self {
            pid,
            started: start_time(pid).unwrap_or(0),
        }
    }

    /// Whether its process is there.
    pub fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// Field 22 of `/proc/PID/stat`.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, is in parentheses and may hold anything.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// The runs that are watched, and which lines they use.
#[derive(Debug, Default)]
pub(super) struct Runs {
    watched: HashSet<Run>,
    lines: HashMap<LineKey, HashSet<Run>>,
}

impl Runs {
    /// Whether a run that lives wants forks of this line.
    pub(super) fn want(&self, key: &LineKey) -> bool {
        self.lines.get(key).is_some_and(|runs| !runs.is_empty())
    }
}

impl Pool {
    /// Notes that `run` uses a line; its warm forks end 2 s after the run.
    pub(super) fn note_use_of_line(&self, run: Run, key: &LineKey) {
        let mut state = self.state();
        state.runs.lines.entry(key.clone()).or_default().insert(run);
        let asked = state.lines.get(key).map_or(0, super::line::Line::asked);
        drop(state);
        let (pool, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            tokio::time::sleep(UNUSED).await;
            pool.cool_unused(&key, asked);
        });
    }

    /// Watches a run that was not seen before; tells whether it was not.
    pub(super) fn watch_run(&self, run: Run) -> bool {
        if !self.state().runs.watched.insert(run) {
            return false;
        }
        let pool = self.clone();
        tokio::spawn(async move {
            // A process that cannot be watched has ended.
            if run.is_alive() {
                let _ = vmtest_backends::process::wait_for_end(run.pid).await;
            }
            tokio::time::sleep(AFTER_RUN).await;
            pool.forget_run(run);
        });
        true
    }

    fn forget_run(&self, run: Run) {
        let mut state = self.state();
        let state = &mut *state;
        state.runs.watched.remove(&run);
        let mut cold = Vec::new();
        for (key, runs) in &mut state.runs.lines {
            if runs.remove(&run) && runs.is_empty() {
                cold.push(key.clone());
            }
        }
        let mut dead = Vec::new();
        for key in cold {
            state.runs.lines.remove(&key);
            if let Some(line) = state.lines.get_mut(&key) {
                dead.push((line.take_warm(), key));
            }
        }
        for (forks, key) in dead {
            self.bury_all(&key, forks);
        }
    }

    /// Ends the warm forks of a line that nobody asked for since.
    fn cool_unused(&self, key: &LineKey, asked: u64) {
        let mut state = self.state();
        let unused = state.lines.get_mut(key).filter(|line| line.asked() == asked);
        let forks = unused.map(super::line::Line::take_warm);
        drop(state);
        self.bury_all(key, forks.into_iter().flatten());
    }
}
