//! Promises about snapshots: what forks see, and what they never see.

use std::collections::BTreeSet;

use vmtest_backends::backend::{Snapshot, Then, Use};
use vmtest_backends::{ErrorKind, Result};

use crate::conformance::Report;
use crate::conformance::guest::Guest;
use crate::conformance::life::{broken, expect};
use crate::conformance::marks;
use crate::conformance::site::Site;

/// What only a process of the parent's knows.
const NONCE: &str = "6b1f0c54e2d94a7793fe";

pub(super) async fn check(site: &Site, report: &mut Report) {
    const PROMISE: &str = "a machine that is frozen goes on";
    if site.engine.snapshots().is_none() {
        report.not_promised(PROMISE, "the engine has no snapshots");
        return;
    }
    let disk = !site.spec.image.disks.is_empty();
    let Some((source, snapshot)) = report.note(PROMISE, goes_on(site, disk).await) else {
        return;
    };
    let before = report.note("a snapshot can be read", Site::digest(&snapshot));
    if disk {
        report.note(
            "forks see their parent's memory, processes and disk, and not each other",
            isolated(site, &snapshot, true).await,
        );
    } else {
        report.note(
            "forks see their parent's memory and processes, and not each other",
            isolated(site, &snapshot, false).await,
        );
        report.not_promised("forks have disks of their own", "the machine has no disk");
    }
    report.note("forks have a right clock", clock(site, &snapshot).await);
    report.note(
        "a source's later writes are in its next snapshot only",
        later(site, source, &snapshot, disk).await,
    );
    report.note(
        "a fork can be frozen and forked",
        nested(site, &snapshot, disk).await,
    );
    report.note(
        "a snapshot of another identity is refused",
        refused(site, &snapshot).await,
    );
    if let Some(before) = before {
        let after =
            Site::digest(&snapshot).and_then(|after| expect("the snapshot's digest", &after, &before));
        report.note("a snapshot is never written again", after);
    }
}

async fn goes_on(site: &Site, disk: bool) -> Result<(Guest, Snapshot)> {
    let mut source = site.boot(Use::Parent).await?;
    marks::hide(&source, NONCE).await?;
    marks::leave(&source, "parent", disk).await?;
    marks::turn_back_clock(&source).await?;
    let snapshot = site.commit(&mut source, None, Then::Resume).await?;
    expect(
        "what the source's process knows",
        &marks::hidden(&source).await?,
        NONCE,
    )?;
    marks::leave(&source, "later", disk).await?;
    marks::found(&source, "later", disk).await?;
    Ok((source, snapshot))
}

/// Two at once and a third later.
async fn isolated(site: &Site, snapshot: &Snapshot, disk: bool) -> Result<()> {
    let forks = site.fork(snapshot, &[Use::Leaf, Use::Leaf]).await?;
    let mut random = BTreeSet::new();
    for fork in &forks {
        is_parent(fork, disk).await?;
        random.insert(marks::random(fork).await?);
    }
    for (number, fork) in forks.iter().enumerate() {
        marks::leave(fork, &format!("fork-{number}"), disk).await?;
    }
    let third = site.leaf(snapshot).await?;
    is_parent(&third, disk).await?;
    random.insert(marks::random(&third).await?);
    for (number, fork) in forks.iter().enumerate() {
        marks::found(fork, &format!("fork-{number}"), disk).await?;
    }
    for guest in forks.into_iter().chain([third]) {
        guest.end().await?;
    }
    if random.len() < 3 {
        return Err(broken(&format!("three forks drew {random:?} from /dev/urandom")));
    }
    Ok(())
}

/// The nonce is nowhere but in the memory of a process: a machine that was booted anew has none.
async fn is_parent(fork: &Guest, disk: bool) -> Result<()> {
    marks::found(fork, "parent", disk).await?;
    expect(
        "what the parent's process knows",
        &marks::hidden(fork).await?,
        NONCE,
    )
}

async fn clock(site: &Site, snapshot: &Snapshot) -> Result<()> {
    let fork = site.leaf(snapshot).await?;
    marks::clock_is_right(&fork).await?;
    fork.end().await
}

async fn later(site: &Site, mut source: Guest, first: &Snapshot, disk: bool) -> Result<()> {
    let second = site.commit(&mut source, None, Then::Discard).await?;
    source.end().await?;
    let (of_second, of_first) = (site.leaf(&second).await?, site.leaf(first).await?);
    marks::found(&of_second, "later", disk).await?;
    marks::found(&of_first, "parent", disk).await?;
    of_second.end().await?;
    of_first.end().await
}

async fn nested(site: &Site, snapshot: &Snapshot, disk: bool) -> Result<()> {
    let lost = || broken("the engine gave no answer");
    let mut parent = site
        .fork(snapshot, &[Use::Parent])
        .await?
        .pop()
        .ok_or_else(lost)?;
    is_parent(&parent, disk).await?;
    marks::leave(&parent, "child", disk).await?;
    let child = site.commit(&mut parent, Some(snapshot), Then::Discard).await?;
    parent.end().await?;
    let fork = site.leaf(&child).await?;
    marks::found(&fork, "child", disk).await?;
    expect(
        "what the first parent's process knows",
        &marks::hidden(&fork).await?,
        NONCE,
    )?;
    fork.end().await
}

async fn refused(site: &Site, snapshot: &Snapshot) -> Result<()> {
    let mut other = snapshot.clone();
    other.manifest.identity.push_str(" of another engine");
    match site.leaf(&other).await {
        Err(error) if error.kind() == ErrorKind::Fork => site.clear(),
        Err(error) => Err(broken("it was refused as something else").because(error)),
        Ok(fork) => {
            fork.end().await?;
            Err(broken("it was forked"))
        }
    }
}
