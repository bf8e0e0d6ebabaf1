//! Whether a guest really runs on KVM: found by running one.
//!
//! A device file proves nothing: there are hosts whose `/dev/kvm` opens and on which a stock kernel dies or
//! hangs. The verdict is kept, keyed by the host's kernel and QEMU's build.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::{Life, Machine as _, Place, Use};
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::qemu::accelerator::Accelerator;
use crate::qemu::binary::Binary;
use crate::qemu::engine::boot;
use crate::session::{AgentSession, Hello};
use crate::spec::Spec;

/// How long the guest's agent may take to answer; with TCG it takes 2 s.
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Serialize, Deserialize)]
struct Verdict {
    /// The host's kernel and QEMU's build.
    host: String,
    /// Why KVM is not to be used.
    refusal: Option<String>,
}

/// The verdict of an earlier trial on this host, if there is one.
pub(super) fn remembered(binary: &Binary, cache: &Path) -> Option<Option<String>> {
    let text = fs::read(note(cache)).ok()?;
    let verdict: Verdict = serde_json::from_slice(&text).ok()?;
    (verdict.host == host(binary)).then_some(verdict.refusal)
}

/// Boots `spec` on KVM; returns why it is not to be used, if so.
pub(super) async fn run(binary: &Binary, spec: &Spec, cache: &Path) -> Option<String> {
    let refusal = attempt(binary, spec, cache)
        .await
        .err()
        .map(|cause| cause.chain());
    let verdict = Verdict {
        host: host(binary),
        refusal,
    };
    let partial = note(cache).with_extension(format!("partial-{}", std::process::id()));
    // A cache only: whoever cannot read it tries again.
    if let Ok(text) = serde_json::to_vec(&verdict)
        && fs::write(&partial, text).is_ok()
    {
        let _ = fs::rename(&partial, note(cache));
    }
    verdict.refusal
}

async fn attempt(binary: &Binary, spec: &Spec, cache: &Path) -> Result<()> {
    let folder = cache.join(format!("trial-{}", std::process::id()));
    fs::create_dir(&folder).map_err(|cause| super::files::unusable(&folder, "cannot be made", cause))?;
    let place = Place {
        folder,
        purpose: Use::Leaf,
        network: false,
    };
    let mut machine = boot(binary, &Accelerator::kvm(), spec, &place).await?;
    let answered = answer(&mut machine).await;
    machine.kill().await?;
    answered
}

async fn answer(machine: &mut super::machine::QemuMachine) -> Result<()> {
    let mut life = machine.life();
    let Some(Endpoint::Agent(stream)) = machine.endpoint() else {
        return Err(Error::new(ErrorKind::Start, "the trial machine has no agent"));
    };
    let hello = Hello {
        fork_id: [0; 16],
        epoch: 1,
    };
    let died = async { life.wait_for(|life| *life != Life::Running).await.map(|_| ()) };
    tokio::select! {
        greeted = AgentSession::connect(stream, hello, LIMIT) => greeted.map(|_| ()),
        _ = died => {
            Err(machine.error(ErrorKind::Start, "the trial machine died"))
        }
    }
}

fn note(cache: &Path) -> PathBuf {
    cache.join("kvm.json")
}

fn host(binary: &Binary) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // A verdict is for this start of the host: modules and permissions change with it.
    let booted = fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = booted
        .lines()
        .find(|line| line.starts_with("btime"))
        .unwrap_or_default()
        .to_owned();
    format!("{} | {booted} | {}", kernel.trim(), binary.greeting_text())
}
