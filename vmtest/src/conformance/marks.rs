//! Marks by which a machine's memory, processes and disk are told from another's.

use std::time::SystemTime;

use vmtest_backends::Result;

use crate::conformance::guest::Guest;
use crate::conformance::life::{broken, expect};

/// How far a guest's wall clock may be from the host's, in seconds.
const CLOCK: u64 = 1;

/// Where the disk's mark lies, in blocks of 512 bytes.
const BLOCK: u32 = 8;

/// Starts a process that alone knows `nonce`, and tells it to whoever asks.
pub(super) async fn hide(guest: &Guest, nonce: &str) -> Result<()> {
    guest.sh("mkfifo /run/ask /run/answer").await?;
    let tell = "n=$NONCE; unset NONCE; while :; do read ask < /run/ask; echo $n > /run/answer; done";
    guest.leave_running(tell, ("NONCE", nonce)).await
}

/// What that process knows.
pub(super) async fn hidden(guest: &Guest) -> Result<String> {
    guest.sh("echo > /run/ask; cat /run/answer").await
}

/// Leaves `mark` in memory and, where there is one, on the disk.
pub(super) async fn leave(guest: &Guest, mark: &str, disk: bool) -> Result<()> {
    guest.sh(&format!("echo {mark} > /run/mark")).await?;
    if disk {
        let write =
            format!("echo {mark} | dd of=/dev/vda bs=512 seek={BLOCK} conv=sync,fsync 2>/dev/null; sync");
        guest.sh(&write).await?;
    }
    Ok(())
}

/// Makes sure that `mark` is what is there.
pub(super) async fn found(guest: &Guest, mark: &str, disk: bool) -> Result<()> {
    expect("the mark in memory", &guest.sh("cat /run/mark").await?, mark)?;
    if disk {
        // From the disk itself, not from what memory knows of it.
        let read = format!(
            "echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=512 skip={BLOCK} count=1 2>/dev/null | head -n 1"
        );
        expect("the mark on the disk", &guest.sh(&read).await?, mark)?;
    }
    Ok(())
}

/// Sets the guest's clock an hour back.
pub(super) async fn turn_back_clock(guest: &Guest) -> Result<()> {
    guest.sh("date -s @$(($(date +%s) - 3600))").await.map(drop)
}

/// Makes sure that the guest's clock is right.
pub(super) async fn clock_is_right(guest: &Guest) -> Result<()> {
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let before = now();
    let text = guest.sh("date +%s").await?;
    let seconds: u64 = text
        .parse()
        .map_err(|cause| broken("`date` wrote no number").because(cause))?;
    if (before.saturating_sub(CLOCK)..=now() + CLOCK).contains(&seconds) {
        return Ok(());
    }
    Err(broken(&format!(
        "the guest's clock says {seconds}, the host's {before}"
    )))
}

/// Random bytes of the guest's kernel.
pub(super) async fn random(guest: &Guest) -> Result<String> {
    guest.sh("head -c 16 /dev/urandom | od -A n -t x1").await
}
