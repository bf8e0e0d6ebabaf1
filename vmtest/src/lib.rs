//! Tests that each get a real virtual machine to themselves: already running, services up, in the exact state
//! they asked for, forked copy-on-write from a snapshot of memory and disk, thrown away when the test ends.
//!
//! ```no_run
//! use vmtest::prelude::*;
//!
//! #[vm_snapshot(image = "debian", name = "ready")] // built once, shared by all test processes
//! async fn ready(vm: Vm) -> Result {
//!     vm.sh("systemctl start ssh").await?.check()?;
//!     vm.wait_for(Port(22)).await
//! }
//!
//! #[vm_test(image = "debian", snapshot = "ready")] // a fork of it, gone when the test ends
//! async fn greets(vm: Vm) -> Result {
//!     let ssh = vm.forward(22).await?; // a port on the host's loopback
//!     let stream = std::net::TcpStream::connect(ssh.addr()).unwrap();
//!     let mut banner = String::new();
//!     std::io::BufRead::read_line(&mut std::io::BufReader::new(stream), &mut banner).unwrap();
//!     assert!(banner.starts_with("SSH-2.0"));
//!     Ok(())
//! }
//! # fn main() {}
//! ```
//!
//! `cargo test` and `cargo nextest run` run it like any other test. What is missing is made on first use: the
//! image from the distribution's packages, the snapshot from the image; both are kept, keyed by all that went
//! into them. Without a `snapshot` a test gets a fork of the image as it booted.
//!
//! # How a test ends
//!
//! *Passed*, *failed* (an assertion, the body's error, its `timeout`), *errored* (ours: no machine could be had,
//! or it died), *skipped* (by [`skip!`], or for want of something where `VMTEST_ON_MISSING=skip`). An error says
//! `errored:` and, where a process holds one test, as under nextest, ends it with status [`ERRORED`]. It never
//! satisfies `#[should_panic]`. Evidence of what did not pass is kept in `target/vmtest/failed`.
//!
//! # What is isolated
//!
//! Each test has its own memory, processes, disks and clock; no network, unless it says `network = true`; no
//! folder of the host. Forks of one snapshot share what the snapshot held: machine-id, SSH host keys, the state
//! of random generators that programs had already seeded. The kernel's generator, the wall clock and
//! [`Vm::fork_id`] are made anew for each. Tests are isolated from each other; this is no jail for hostile code.
//!
//! # Settings
//!
//! `vmtest.toml`, found from the crate's folder upwards, declares images and snapshots and holds settings; each
//! setting has a variable (`VMTEST_BACKEND`, `VMTEST_ACCEL`, `VMTEST_BROKER=off`, `VMTEST_ON_MISSING`, ...), see
//! [`config::Settings`]. `cargo vmtest doctor` tells what this host can run, and why not.

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
pub mod broker;
pub mod config;
pub mod conformance;
pub mod dirs;
pub mod image;
pub mod outcome;
pub mod pool;
pub mod prelude;
pub mod registry;
pub mod role;
mod runner;
pub mod store;
mod sys;
pub mod vm;

pub use outcome::{Outcome, Skip};
pub use registry::{Case, cases, snapshots};
pub use runner::{ERRORED, init, run};
pub use vm::Vm;
pub use vmtest_backends::{Error, ErrorKind, Result};
pub use vmtest_macros::{test, vm_snapshot, vm_test};
