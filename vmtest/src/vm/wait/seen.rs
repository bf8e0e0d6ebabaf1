//! What a wait has seen last, for the message when it gives up.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What was seen last; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<Mutex<Option<String>>>);

impl Seen {
    /// The condition is not met: this is seen instead.
    pub(super) fn note(&self, state: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(state.into());
    }

    pub(super) fn met(&self) {
        self.note("as wanted");
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.write_str(
            state
                .as_deref()
                .unwrap_or("nothing yet, the guest had not answered"),
        )
    }
}
