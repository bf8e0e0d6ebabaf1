//! What clients and broker say to each other, a JSON line each.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmtest_backends::backend::{Life, Then};
use vmtest_backends::error::Report;
use vmtest_backends::manifest::Layer;

use crate::broker::{Control, Leased};
use crate::pool::Want;

/// The protocol's number: another one is another broker, beside this one.
pub(super) const PROTOCOL: u32 = 1;

/// The first line of a connection. The connection *is* the lease: when it closes, the machine ends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Hello {
    /// A machine is wanted.
    Lease(Box<Want>),
    /// How are things?
    Status,
    /// The broker is to end all machines and itself.
    Stop,
}

/// What the broker says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reply {
    /// Here is the machine; its agent's connection comes beside this line.
    Leased(Box<Leased>),
    /// The answer to request `id`.
    Answer {
        /// As in the request.
        id: u64,
        /// What came of it.
        answer: Result<Answer, Report>,
    },
    /// The machine's life changed.
    Life(Life),
    /// How things are.
    Status(Status),
    /// What was asked for could not be had.
    Failed(Report),
    /// Done, and the connection ends.
    Done,
}

/// What the holder of a lease can ask.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Chosen by the client.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What the holder of a lease can ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Ask {
    /// The end of the console.
    Console,
    /// A button is pressed.
    Control(Control),
    /// The machine is to end; answered when it is gone, and the lease with it.
    Release,
    /// The machine is frozen into an existing, empty folder.
    Commit {
        /// The folder, named by the snapshot's key.
        to: PathBuf,
        /// What becomes of the machine.
        then: Then,
    },
}

/// What comes of a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// It was done.
    Done,
    /// The console.
    Console(String),
    /// What lies in the snapshot's folder now.
    Frozen {
        /// The chain of each disk.
        disks: Vec<Vec<Layer>>,
        /// Files and their sizes in bytes.
        files: Vec<(String, u64)>,
    },
}

/// How things are with a broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Its process.
    pub pid: u32,
    /// Machines in somebody's hand.
    pub leases: usize,
    /// Forks that wait ready.
    pub warm: usize,
    /// Machines found dead when they were to be handed out.
    pub sick: u64,
}
