//! The cut between engines and the rest: few verbs, and what an engine cannot do is absent.

use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::manifest::{Layer, Manifest};
use crate::spec::Spec;

/// An engine that starts machines.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// Its name, as tests and settings write it: `qemu`.
    fn name(&self) -> &'static str;

    /// What it can do here, found by starting something, or why it cannot be used. `trial` is a machine to
    /// try an accelerator with; what it told is remembered.
    async fn probe(&self, trial: Option<&Spec>) -> Result<Capabilities>;

    /// What must match for a snapshot of `spec` to load: engine build, CPU, normalised arguments.
    async fn identity(&self, spec: &Spec) -> Result<String>;

    /// Boots a machine in the empty folder of `place`, which it owns until it is killed.
    async fn start(&self, spec: &Spec, place: &Place) -> Result<Box<dyn Machine>>;

    /// Freezing and forking, where the engine can.
    fn snapshots(&self) -> Option<&dyn Snapshots>;
}

/// What an engine can do on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The engine and its version, as people read it: `QEMU 10.0.2`.
    pub engine: String,
    /// How guest code is executed: `kvm` or `tcg`.
    pub accelerator: String,
    /// Why a better accelerator is not used; printed once a run.
    pub fallback: Option<String>,
    /// Whether a fork can bring memory and processes, not only disks.
    pub memory_fork: bool,
    /// Whether a machine can have a network uplink, or why not.
    pub network: std::result::Result<(), String>,
}

/// Where and how a machine is to live.
#[derive(Debug, Clone)]
pub struct Place {
    /// An existing, empty folder of its own.
    pub folder: PathBuf,
    /// Whether it will be frozen.
    pub purpose: Use,
    /// Whether it gets an uplink to the network.
    pub network: bool,
}

/// What a machine is for: an engine may have to know before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Runs and is thrown away.
    Leaf,
    /// May be committed.
    Parent,
}

/// Frozen machines and their forks.
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// A fork of the snapshot at each place, made at once; one result a place.
    async fn fork(&self, snapshot: &Snapshot, places: &[Place]) -> Vec<Result<Box<dyn Machine>>>;
}

/// A snapshot as it lies in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The folder that holds all snapshot folders, each named by its key.
    pub store: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
}

impl Snapshot {
    /// Its own folder.
    pub fn folder(&self) -> PathBuf {
        self.store.join(&self.manifest.key)
    }
}

/// A running machine as its host sees it.
///
/// Dropping it begins its end and waits for nothing; [`kill`](Machine::kill) returns when it is gone.
#[async_trait]
pub trait Machine: Send + Sync + fmt::Debug {
    /// How its guest is reached; given out once.
    fn endpoint(&mut self) -> Option<Endpoint>;

    /// What it has written to its console.
    fn console(&self) -> Console;

    /// How it is doing.
    fn life(&self) -> watch::Receiver<Life>;

    /// Freezing it, where the engine can and its [`Use`] allows.
    fn freezer(&mut self) -> Option<&mut dyn Freeze>;

    /// Power and the like, where the engine has them.
    fn controls(&self) -> Option<&dyn Controls>;

    /// The process that runs it, for accounting.
    fn pid(&self) -> Option<u32>;

    /// Ends it; idempotent, returns when its processes are gone.
    async fn kill(&mut self) -> Result<()>;
}

/// How a machine is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Life {
    /// It runs.
    Running,
    /// Its guest's kernel panicked; the text is the console's line.
    Panicked(String),
    /// Its process ended, or the guest powered off; the text says why.
    Exited(String),
}

/// Freezes a machine.
#[async_trait]
pub trait Freeze: Send {
    /// Freezes memory, devices and disks into the existing, empty folder `to`, whose name is the
    /// snapshot's key. The guest's file systems must have been synced. Returns what only the engine
    /// knows of it; the caller writes the manifest.
    async fn commit(&mut self, to: &Path, then: Then) -> Result<Frozen>;
}

/// What becomes of a machine after its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// It runs on.
    Resume,
    /// It stays frozen and is to be killed; cheaper, for its memory is moved and not copied.
    Discard,
}

/// What an engine has put into a snapshot's folder.
#[derive(Debug, Clone)]
pub struct Frozen {
    /// The chain of each disk.
    pub disks: Vec<Vec<Layer>>,
    /// Files and their sizes in bytes.
    pub files: Vec<(String, u64)>,
}

/// Power and the like.
#[async_trait]
pub trait Controls: Send + Sync {
    /// Stops the virtual CPUs.
    async fn pause(&self) -> Result<()>;
    /// Lets them go on.
    async fn resume(&self) -> Result<()>;
    /// Presses the reset button.
    async fn reset(&self) -> Result<()>;
}

pub use crate::console::Console;
