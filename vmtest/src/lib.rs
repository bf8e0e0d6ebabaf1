//! Tests that each get a real virtual machine to themselves.

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
pub mod broker;
pub mod config;
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
