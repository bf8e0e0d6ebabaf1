//! The process of a user that owns the machines on behalf of all test processes, spoken to over a socket.
//! It knows neither tests nor how snapshots are made.

mod address;
mod client;
mod link;
mod message;
mod server;
pub(crate) mod wire;

use std::ffi::OsString;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use vmtest_backends::process::wait_for_end;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::config::PoolLimits;
use crate::dirs::Dirs;
use crate::pool::{Capacity, Pool, Want};
use crate::role::{self, Role, Service};

pub use address::{Address, addresses};
pub use client::Lease;
pub use link::{Control, Leased, Link};
pub use message::Status;

use client::Refusal;
use message::{Hello, PROTOCOL};

/// The variable a broker finds its settings in.
const SETTINGS: &str = "VMTEST_BROKER_SETTINGS";

/// What a broker may take to answer beyond the limits of what it does.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// How long a broker that was killed may take to be gone, with all it held.
const END_LIMIT: Duration = Duration::from_secs(3);

/// How often another broker is tried when one goes away before it has said anything.
const ATTEMPTS: usize = 5;

/// What a broker is told when it is started; the first client's count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BrokerSettings {
    /// The bounds of its pool.
    pub pool: PoolLimits,
    /// After how long without clients it ends.
    pub idle: Duration,
}

/// The way to the machines: a broker, or a pool in this process. A cheap handle.
#[derive(Debug, Clone)]
pub struct Broker(Way);

#[derive(Debug, Clone)]
enum Way {
    Service(Service, Dirs),
    Here(Pool),
}

impl Broker {
    /// The user's broker; nothing is started yet.
    pub fn of_user(dirs: &Dirs, settings: BrokerSettings) -> Result<Self> {
        Ok(Self(Way::Service(service(dirs, Some(settings))?, dirs.clone())))
    }

    /// A pool in this process, which ends with it.
    pub fn in_process(dirs: &Dirs, settings: BrokerSettings) -> Result<Self> {
        Ok(Self(Way::Here(Pool::open(dirs, settings.pool)?)))
    }

    /// Leases a machine. Must be called on a tokio runtime with I/O and time, which serves the lease.
    pub async fn lease(&self, mut want: Want) -> Result<Lease> {
        if matches!(self.0, Way::Here(_)) {
            // Nobody is left to take a warm fork when this process ends.
            want.warm = 0;
        }
        // The broker's own limits, and some time for itself: a broker that is stuck must not hang a test.
        let limit = want.lease_limit + want.limits.boot + 2 * want.limits.fork + LEASE_MARGIN;
        let hello = Hello::Lease(Box::new(want));
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let asked = tokio::time::timeout(limit, Lease::ask(self.connect().await?, &hello)).await;
            let Ok(asked) = asked else {
                let text = format!("lease: the broker gave no machine within {} s", limit.as_secs());
                return Err(Error::new(ErrorKind::Broker, text));
            };
            match asked {
                Ok(lease) => return Ok(lease),
                Err(Refusal::Error(error)) => return Err(error),
                Err(Refusal::Gone(cause)) => {
                    self.after_loss();
                    last = Some(cause);
                }
            }
        }
        let error = Error::new(
            ErrorKind::Broker,
            format!("no broker stayed for an answer in {ATTEMPTS} attempts"),
        );
        let error = last.map_or(error, |cause| {
            Error::new(ErrorKind::Broker, "no broker stayed for an answer").because(cause)
        });
        Err(error.with_console(self.log_tail()))
    }

    /// Sweeps what a broker that was killed left behind: its clients outlive it.
    pub fn after_loss(&self) {
        if let Way::Service(service, dirs) = &self.0 {
            // Best effort: the next broker sweeps as well, and its errors are told.
            let _ = service.clear_if_dead();
            let _ = Capacity::open(dirs, PoolLimits::default()).and_then(|capacity| capacity.sweep());
        }
    }

    /// Ends a lease. A broker is only told, and a broker that is gone is cleaned up after; a pool in this
    /// process has ended the machine when this returns.
    pub async fn give_back(&self, lease: Lease) -> Result<()> {
        match &self.0 {
            Way::Service(..) if lease.is_lost() => {
                let owner = lease.leased().owner;
                drop(lease);
                // Its connections close before its locks do; one that will not end is left to the next.
                let _ = tokio::time::timeout(END_LIMIT, wait_for_end(owner)).await;
                self.after_loss();
            }
            Way::Service(..) => {}
            Way::Here(_) => lease.release().await?,
        }
        Ok(())
    }

    async fn connect(&self) -> Result<UnixStream> {
        match &self.0 {
            Way::Service(service, _) => {
                // A socket that listens answers at once; only a start takes time.
                if let Some(stream) = service.find() {
                    return Ok(stream);
                }
                let service = service.clone();
                let connected = tokio::task::spawn_blocking(move || service.connect()).await;
                connected.unwrap_or_else(|cause| {
                    Err(Error::new(ErrorKind::Broker, "the connecting thread was lost").because(cause))
                })
            }
            Way::Here(pool) => {
                let pair = UnixStream::pair();
                let (ours, theirs) = pair
                    .map_err(|cause| Error::new(ErrorKind::Broker, "no socket to be had").because(cause))?;
                server::serve_here(theirs, pool.clone());
                Ok(ours)
            }
        }
    }

    fn log_tail(&self) -> String {
        match &self.0 {
            Way::Service(service, _) => role::log_tail(&service.log()),
            Way::Here(_) => String::new(),
        }
    }
}

/// Runs the broker in this process until it is idle or told to stop.
pub fn run(listener: UnixListener) -> Result<()> {
    let dirs = Dirs::from_env()?;
    let settings = std::env::var(SETTINGS).unwrap_or_default();
    let settings: BrokerSettings = serde_json::from_str(&settings).map_err(|cause| {
        Error::new(
            ErrorKind::Broker,
            format!("{SETTINGS} does not hold a broker's settings"),
        )
        .because(cause)
    })?;
    allow_all_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|cause| Error::new(ErrorKind::Broker, "no runtime to be had").because(cause))?;
    runtime.block_on(async {
        let pool = Pool::open(&dirs, settings.pool)?;
        server::serve(listener, pool, &service(&dirs, None)?, settings.idle).await
    })
}

/// The protocol, the engines' features and the build are in the name: who may not understand each other
/// does not meet. What machines may take of the host is one ledger for all.
fn service(dirs: &Dirs, settings: Option<BrokerSettings>) -> Result<Service> {
    let env = match settings {
        Some(settings) => {
            let text = serde_json::to_string(&settings).map_err(|cause| {
                Error::new(ErrorKind::Broker, "settings that cannot be told").because(cause)
            })?;
            vec![(OsString::from(SETTINGS), OsString::from(text))]
        }
        None => Vec::new(),
    };
    let features = crate::pool::names().join("+");
    let build = &env!("VMTEST_SOURCES")[..8];
    let name = format!("{}{PROTOCOL}-{features}-{build}", address::PREFIX);
    Ok(Service::new(dirs, Role::Broker, &name, env))
}

/// A machine takes some six descriptors of the broker's; the usual soft limit of 1024 would bear 170.
fn allow_all_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Where it may not be raised, fewer machines fit: accepting one more then waits.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        );
    }
}
