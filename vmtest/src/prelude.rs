//! What nearly every test file needs: `use vmtest::prelude::*;`.

pub use crate::Vm;
pub use crate::{vm_snapshot, vm_test};

/// What a body returns by default: `Result<()>`, with an error of ours.
pub type Result<T = (), E = crate::Error> = std::result::Result<T, E>;
