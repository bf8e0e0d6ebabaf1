//! The host's side of a leased machine, as the floors above see it.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use vmtest_backends::Result;
use vmtest_backends::backend::Life;

/// What the holder of a lease can ask of the machine's host.
#[async_trait]
pub trait Link: Send + Sync + fmt::Debug {
    /// How the machine is doing; every wait inside it races with this.
    fn life(&self) -> watch::Receiver<Life>;

    /// The end of its console.
    async fn console(&self) -> Result<String>;

    /// Presses one of its buttons.
    async fn control(&self, control: Control) -> Result<()>;
}

/// A button of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Control {
    /// Stop the virtual CPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// The reset button.
    Reset,
}

/// What is known of a machine when it is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leased {
    /// Unique among all machines: also the name of its folder.
    pub machine: String,
    /// Unique to this fork, 32 hexadecimal digits; the guest's agent knows it too.
    pub fork_id: String,
    /// The engine and how it executes: `QEMU 10.0.2 (tcg)`.
    pub engine: String,
    /// Whether it waited ready, forked ahead of demand.
    pub warm: bool,
    /// The process that owns it.
    pub owner: u32,
    /// Whether it is the first of its run of tests.
    pub first: bool,
    /// The first channel number that the next speaker on the agent's connection may use.
    pub next_channel: u32,
    /// How long each step took, in order.
    pub phases: Vec<(String, Duration)>,
}
