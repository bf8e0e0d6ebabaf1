//! The end of a body that never ends.
//!
//! A body that waits is simply dropped at its limit. One that blocks its own thread cannot be: the I/O thread
//! tells its outcome and ends the process.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::registry::Case;
use crate::runner::report;
use crate::sys;
use crate::vm::Vm;

/// How long after its limit a body may still block its thread.
const GRACE: Duration = Duration::from_secs(5);

/// The status of a process that was ended because a test in it failed; libtest's own.
const FAILED: i32 = 101;

/// Ends the process when a body blocks; dropped when the body has ended.
#[derive(Debug)]
pub(super) struct Deadline(AbortHandle);

impl Deadline {
    pub(super) fn watch(io: &Handle, case: &'static Case, limit: Duration, vm: Vm) -> Self {
        let watch = io.spawn(async move {
            tokio::time::sleep(limit.saturating_add(GRACE)).await;
            let console = tokio::time::timeout(Duration::from_secs(2), vm.console()).await;
            let console = console.ok().and_then(Result::ok).unwrap_or_default();
            let text = format!(
                "failed: {} still blocks its thread {} s after its limit of {} s (timeout); the process is \
                 ended, and with it every other test in it\n{}",
                case.name(),
                GRACE.as_secs(),
                limit.as_secs_f32(),
                report::console_tail(&console),
            );
            report::raw(&text);
            report::note_blocked(case, &text);
            sys::end_at_once(FAILED);
        });
        Self(watch.abort_handle())
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.abort();
    }
}
