//! What nearly every test file needs.
//!
//! ```no_run
//! use vmtest::prelude::*;
//!
//! #[vm_snapshot(image = "debian", name = "ready")]
//! async fn ready(vm: Vm) -> Result {
//!     vm.sh("useradd --create-home ada").await?.check()?;
//!     Ok(())
//! }
//!
//! #[vm_test(image = "debian", snapshot = "ready", timeout = "30s")]
//! async fn removes_a_user(vm: Vm) -> Result {
//!     vm.sh("userdel --remove ada").await?.check()?;
//!     Ok(())
//! }
//!
//! #[vm_test(image = "tiny")]
//! #[should_panic(expected = "no such file")]
//! async fn judges_the_panic_of_the_body(vm: &Vm) {
//!     assert!(vm.sh("test -e /nowhere").await.unwrap().success(), "no such file");
//! }
//! # fn main() {}
//! ```

pub use crate::vm::{Exit, File, Http, LogLine, Port, Succeeds, Unit};
pub use crate::{Vm, vm_snapshot, vm_test};

/// What a body returns by default: `Result`, with an error of ours.
pub type Result<T = (), E = crate::Error> = std::result::Result<T, E>;
