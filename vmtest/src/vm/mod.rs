//! The machine as a test sees it.

/// The machine as a test sees it: a cheap handle; dropping it ends nothing.
#[derive(Debug, Clone)]
pub struct Vm {}
