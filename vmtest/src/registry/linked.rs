//! The only file that knows how registrations are collected at link time.

use super::{Case, SnapshotFn};

pub use inventory::submit;

/// The registration of a test.
#[derive(Debug)]
pub struct CaseEntry(pub &'static Case);

/// The registration of a snapshot function.
#[derive(Debug)]
pub struct SnapshotEntry(pub &'static SnapshotFn);

inventory::collect!(CaseEntry);
inventory::collect!(SnapshotEntry);

/// In the order of the linker, which is nobody's promise.
pub(super) fn cases() -> Vec<&'static Case> {
    inventory::iter::<CaseEntry>().map(|entry| entry.0).collect()
}

/// In the order of the linker, which is nobody's promise.
pub(super) fn snapshots() -> Vec<&'static SnapshotFn> {
    inventory::iter::<SnapshotEntry>().map(|entry| entry.0).collect()
}
