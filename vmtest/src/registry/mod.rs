//! What was registered with this program: tests and snapshot functions, wherever they were linked from.

mod case;
mod linked;
mod options;
mod setting;
mod snapshot;

pub use case::{BodyFuture, Case, CaseParts};
pub use linked::{CaseEntry, SnapshotEntry, submit};
pub use options::{Options, SnapshotOptions, Version};
pub use setting::{Setting, set};
pub use snapshot::{SnapshotFn, SnapshotParts};

/// Every test registered with this program, sorted by name, then by crate.
///
/// Those of a library are among them, if the program names that library at all (`use suite as _;`).
pub fn cases() -> Vec<&'static Case> {
    let mut cases = linked::cases();
    cases.sort_by_cached_key(|case| (case.name(), case.crate_name()));
    cases
}

/// Every snapshot function registered with this program, sorted by image, name and place.
///
/// Nothing is said here about duplicates: who builds them refuses two of one image and name.
pub fn snapshots() -> Vec<&'static SnapshotFn> {
    let mut snapshots = linked::snapshots();
    snapshots.sort_by_cached_key(|snapshot| {
        let options = snapshot.options();
        (options.image, options.name, snapshot.file(), snapshot.line())
    });
    snapshots
}
