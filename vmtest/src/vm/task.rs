//! Work on the I/O runtime that somebody awaits elsewhere.

use std::panic;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;
use vmtest_backends::{Error, ErrorKind, Result};

/// Work that goes on while nobody polls it, and ends when nobody waits for it any more.
#[derive(Debug)]
#[must_use = "dropping it ends the work"]
pub(crate) struct Task<T>(JoinHandle<Result<T>>);

impl<T> Task<T> {
    pub(crate) fn new(handle: JoinHandle<Result<T>>) -> Self {
        Self(handle)
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|ended| match ended {
            Ok(result) => result,
            Err(cause) if cause.is_panic() => panic::resume_unwind(cause.into_panic()),
            Err(cause) => Err(Error::new(ErrorKind::Disconnected, "the I/O thread has ended").because(cause)),
        })
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
