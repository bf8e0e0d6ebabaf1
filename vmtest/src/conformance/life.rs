//! Promises about one machine: it boots, runs programs, can be held still, and its end is seen.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use vmtest_backends::backend::{Life, Use};
use vmtest_backends::{Error, ErrorKind, Result};

use crate::conformance::Report;
use crate::conformance::guest::Guest;
use crate::conformance::site::Site;

/// How long a machine that is held still has to keep silent.
const SILENCE: Duration = Duration::from_millis(500);

/// How long one that goes on may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn check(site: &Site, report: &mut Report) {
    let Some(guest) = report.note("a machine boots and runs programs", runs_programs(site).await) else {
        return;
    };
    if guest.machine.controls().is_some() {
        report.note("a paused machine stands still and goes on", pauses(&guest).await);
    } else {
        report.not_promised("a paused machine stands still and goes on", "no controls");
    }
    report.note("a panic of the guest's kernel is seen", panics(&guest).await);
    report.note(
        "a killed machine leaves no process and no folder",
        leaves_nothing(guest).await,
    );
    report.note("the death of its process is seen", dies(site).await);
}

async fn runs_programs(site: &Site) -> Result<Guest> {
    let guest = site.boot(Use::Leaf).await?;
    expect(
        "a program's output",
        &guest.sh("echo one; echo two >&2").await?,
        "one",
    )?;
    if guest.sh("exit 3").await.is_ok() {
        return Err(broken("a program that ended with 3 was said to end well"));
    }
    Ok(guest)
}

async fn pauses(guest: &Guest) -> Result<()> {
    let cannot = || broken("the controls are gone");
    guest.machine.controls().ok_or_else(cannot)?.pause().await?;
    if guest.session.ping(SILENCE).await.is_ok() {
        return Err(broken("the paused guest answered"));
    }
    guest.machine.controls().ok_or_else(cannot)?.resume().await?;
    guest.session.ping(ANSWER_LIMIT).await
}

async fn panics(guest: &Guest) -> Result<()> {
    // It never ends, and must not be waited for.
    guest
        .leave_running("sleep 1; echo c > /proc/sysrq-trigger", ("NONE", ""))
        .await?;
    match guest.ceases().await? {
        Life::Panicked(text) if text.contains("sysrq triggered crash") => {}
        other => return Err(broken(&format!("it is said to be {other:?}"))),
    }
    let console = guest.machine.console().text();
    if !console.contains("Kernel panic - not syncing") {
        return Err(broken(&format!("the console holds only {console:?}")));
    }
    Ok(())
}

async fn leaves_nothing(mut guest: Guest) -> Result<()> {
    let pid = guest.machine.pid();
    guest.machine.kill().await?;
    gone(pid, &guest.folder)?;
    // Again: nothing happens.
    guest.machine.kill().await
}

fn gone(pid: Option<u32>, folder: &Path) -> Result<()> {
    if let Some(pid) = pid.filter(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
        return Err(broken(&format!("process {pid} is still there")));
    }
    if folder.exists() {
        return Err(broken(&format!("{} is still there", folder.display())));
    }
    Ok(())
}

async fn dies(site: &Site) -> Result<()> {
    let guest = site.boot(Use::Leaf).await?;
    let pid = guest
        .machine
        .pid()
        .and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let Some(pid) = pid else {
        // An engine elsewhere: there is no process of its machine here.
        return guest.end().await;
    };
    kill_process(pid, Signal::KILL).map_err(|cause| broken("its process cannot be killed").because(cause))?;
    let life = guest.ceases().await?;
    guest.end().await?;
    match life {
        Life::Exited(_) => Ok(()),
        other => Err(broken(&format!("it is said to be {other:?}"))),
    }
}

pub(super) fn broken(how: &str) -> Error {
    Error::new(ErrorKind::Invalid, how)
}

pub(super) fn expect(what: &str, found: &str, expected: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(broken(&format!("{what} is {found:?} instead of {expected:?}")))
}
