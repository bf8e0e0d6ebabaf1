//! The one thread that starts processes.
//!
//! A parent-death signal is delivered when the spawning *thread* ends. This thread is as old as the first
//! machine and never ends, so a machine dies with the process and not before.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::sys;

struct Order {
    command: Command,
    keep: Vec<OwnedFd>,
    done: oneshot::Sender<io::Result<Child>>,
}

/// Starts `command` so that it dies with this process; `keep` are the descriptors it inherits, under the
/// same numbers.
pub(crate) async fn spawn(command: Command, keep: Vec<OwnedFd>) -> io::Result<Child> {
    let (done, started) = oneshot::channel();
    let gone = || io::Error::other("the spawning thread is gone");
    orders()?
        .send(Order { command, keep, done })
        .map_err(|_| gone())?;
    started.await.map_err(|_| gone())?
}

fn orders() -> io::Result<mpsc::Sender<Order>> {
    static ORDERS: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    static FIRST: Mutex<()> = Mutex::new(());
    let _one_at_a_time = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
    if ORDERS.get().is_none() {
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new()
            .name("vmtest-spawn".into())
            .spawn(move || serve(&receiver))?;
        // Cannot be set already: FIRST is held.
        let _ = ORDERS.set(Mutex::new(sender));
    }
    let orders = ORDERS
        .get()
        .ok_or_else(|| io::Error::other("the spawning thread did not start"))?;
    Ok(orders.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

fn serve(orders: &mpsc::Receiver<Order>) {
    for Order {
        mut command,
        keep,
        done,
    } in orders
    {
        sys::bind_to_this_thread(&mut command, keep.iter().map(|fd| fd.as_raw_fd()).collect());
        let result = command.spawn();
        drop(keep);
        if let Err(Ok(mut unwanted)) = done.send(result) {
            // Whoever asked has gone away meanwhile.
            let _ = unwanted.kill();
            let _ = unwanted.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_outlives_the_thread_that_asked_for_it() {
        let asked = thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut command = Command::new("sleep");
            command.arg("60");
            runtime.block_on(spawn(command, Vec::new())).unwrap()
        });
        let mut child = asked.join().unwrap();
        assert!(
            child.try_wait().unwrap().is_none(),
            "killed with the thread that asked"
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
