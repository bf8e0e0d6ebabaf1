//! The one thread that does I/O for this process: forwards, guests' output, leases, deadlines. It never runs
//! code of a test, so a body that blocks its own thread holds up nothing.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use tokio::runtime::{Builder, Handle};
use vmtest_backends::{Error, ErrorKind, Result};

/// The thread's runtime; started when it is first needed, never while tests are listed.
pub(super) fn handle() -> Result<Handle> {
    static HANDLE: OnceLock<Handle> = OnceLock::new();
    static FIRST: Mutex<()> = Mutex::new(());
    let _one_at_a_time = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let failed = |cause| Error::new(ErrorKind::Broker, "the I/O thread could not be started").because(cause);
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let handle = runtime.handle().clone();
    let serve = move || runtime.block_on(std::future::pending::<()>());
    thread::Builder::new()
        .name("vmtest-io".into())
        .spawn(serve)
        .map_err(failed)?;
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Runs `work` on the I/O thread; its loss is an error like any other.
pub(super) async fn on<T: Send + 'static>(
    io: &Handle,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let lost = |cause| Err(Error::new(ErrorKind::Broker, "work on the I/O thread was lost").because(cause));
    io.spawn(work).await.unwrap_or_else(lost)
}
