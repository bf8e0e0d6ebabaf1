//! What was removed, and how much that was.

use crate::quantity::bytes;
use crate::say::say;

/// The bytes and things removed so far.
#[derive(Debug, Default)]
pub(super) struct Removed {
    things: usize,
    bytes: u64,
}

impl Removed {
    /// One thing.
    pub(super) fn note(&mut self, what: &str, size: u64) {
        self.things += 1;
        self.bytes += size;
        match size {
            0 => say(format!("removed {what}")),
            size => say(format!("removed {what}, {}", bytes(size))),
        }
    }

    /// Several things of a kind, or none.
    pub(super) fn note_several(&mut self, count: usize, what: &str, size: u64) {
        if count > 0 {
            self.note(&format!("{count} {what}"), size);
            self.things += count - 1;
        }
    }

    /// The sum.
    pub(super) fn tell(&self) {
        match self.things {
            0 => say("nothing to do"),
            things => say(format!("{things} things removed, {} freed", bytes(self.bytes))),
        }
    }
}
