//! Whether a guest really runs on KVM: found by running one.
//!
//! A device file proves nothing: there are hosts whose `/dev/kvm` opens and on which a stock kernel dies or
//! hangs. The verdict is kept, keyed by the host's kernel and QEMU's build.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::backend::{Life, Machine as _, Place, Use};
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::qemu::accelerator::Accelerator;
use crate::qemu::binary::Binary;
use crate::qemu::engine::boot_launch;
use crate::qemu::files::unusable;
use crate::session::{AgentSession, Hello};
use crate::spec::Spec;

/// How long the guest's agent may take to answer; with TCG it takes 2 s.
const LIMIT: Duration = Duration::from_secs(20);

/// How long another process's trial is waited for: longer than one takes.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// What the name of a trial machine's folder begins with.
const FOLDER: &str = "trial-";

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

/// Boots `spec`; returns why the accelerator is not to be used, if so. One trial runs at a time: whoever waited
/// for another's finds its verdict. An error of ours, such as a full disk, is no verdict.
pub(super) async fn run(
    binary: &Binary,
    accelerator: &Accelerator,
    spec: &Spec,
    cache: &Path,
) -> Result<Option<String>> {
    let _lock = lock(cache).await?;
    if let Some(verdict) = remembered(binary, cache) {
        return Ok(verdict);
    }
    sweep(cache)?;
    let tried = attempt(binary, accelerator, spec, cache).await;
    if tried.is_err() {
        // The error counts; what cannot be removed now is swept by the next trial.
        let _ = sweep(cache);
    }
    let refusal = tried?;
    remember(binary, cache, refusal.clone());
    Ok(refusal)
}

/// A cache only: whoever cannot read it tries again.
fn remember(binary: &Binary, cache: &Path, refusal: Option<String>) {
    let verdict = Verdict {
        host: host(binary),
        refusal,
    };
    let partial = note(cache).with_extension(format!("partial-{}", std::process::id()));
    if let Ok(text) = serde_json::to_vec(&verdict)
        && fs::write(&partial, text).is_ok()
    {
        let _ = fs::rename(&partial, note(cache));
    }
}

/// The right to try; given back by the kernel with the file.
async fn lock(cache: &Path) -> Result<File> {
    let path = cache.join("trial.lock");
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let file = open.map_err(|cause| unusable(&path, "cannot be opened", cause))?;
    let (tell, told) = oneshot::channel();
    // A thread of its own: one of the runtime's would keep that from ending when the limit is reached.
    std::thread::spawn(move || {
        let locked = file.lock().map(|()| file);
        // Whoever no longer waits gives the lock back by that.
        let _ = tell.send(locked);
    });
    match tokio::time::timeout(LOCK_LIMIT, told).await {
        Ok(Ok(Ok(file))) => Ok(file),
        Ok(Ok(Err(cause))) => Err(unusable(&path, "cannot be locked", cause)),
        Ok(Err(lost)) => {
            Err(Error::new(ErrorKind::Start, "the trial's lock was not waited for").because(lost))
        }
        Err(_) => {
            let text = format!(
                "another process has tried KVM for more than {} s ({})",
                LOCK_LIMIT.as_secs(),
                path.display()
            );
            Err(Error::new(ErrorKind::TimedOut, text))
        }
    }
}

/// Removes what trials of processes that were killed left behind; the lock must be held.
fn sweep(cache: &Path) -> Result<()> {
    let failed = |cause| unusable(cache, "cannot be swept of old trials", cause);
    for entry in fs::read_dir(cache).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let old = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(FOLDER.as_bytes());
        if old && entry.file_type().map_err(failed)?.is_dir() {
            fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Boots the guest; tells how it died or that it did not answer.
async fn attempt(
    binary: &Binary,
    accelerator: &Accelerator,
    spec: &Spec,
    cache: &Path,
) -> Result<Option<String>> {
    let folder = cache.join(format!("{FOLDER}{}", std::process::id()));
    fs::create_dir(&folder).map_err(|cause| unusable(&folder, "cannot be made", cause))?;
    let place = Place {
        folder,
        purpose: Use::Leaf,
        network: false,
    };
    let launch = boot_launch(binary, accelerator, spec, &place)?;
    let (mut machine, incoming) = launch.spawn(ErrorKind::Start).await?;
    let answered = match machine.greet(incoming, ErrorKind::Start).await {
        Ok(()) => answer(&mut machine).await,
        Err(refusal) => Ok(Some(refusal.chain())),
    };
    machine.kill().await?;
    answered
}

async fn answer(machine: &mut super::machine::QemuMachine) -> Result<Option<String>> {
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
        greeted = AgentSession::connect(stream, hello, LIMIT) => match greeted {
            Ok(_) => Ok(None),
            Err(cause) if matches!(cause.kind(), ErrorKind::TimedOut | ErrorKind::Disconnected) => {
                Ok(Some(machine.error(cause.kind(), cause.message()).chain()))
            }
            Err(cause) => Err(cause),
        },
        _ = died => Ok(Some(machine.error(ErrorKind::Start, "the trial machine died").chain())),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Access, Image, Ready};

    /// A cache folder with a kernel that is none.
    struct Cache(PathBuf);

    impl Cache {
        fn new(name: &str) -> Self {
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
            let folder = target.join(format!("test-trial-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("kernel"), "no kernel at all").unwrap();
            Self(folder)
        }

        fn spec(&self, memory_mib: u32) -> Spec {
            Spec {
                image: Image {
                    name: "none".into(),
                    digest: String::new(),
                    kernel: Some(self.0.join("kernel")),
                    initrd: None,
                    cmdline: String::new(),
                    disks: Vec::new(),
                    seed: None,
                    access: Access::Agent,
                    ready: Ready::Agent,
                },
                memory_mib,
                cpus: 1,
            }
        }

        async fn tried(&self, memory_mib: u32) -> Result<Option<String>> {
            let binary = Binary::find(None, &self.0).await.unwrap();
            // The trial is the same on every accelerator, and this one is everywhere.
            run(&binary, &Accelerator::Tcg, &self.spec(memory_mib), &self.0).await
        }

        fn has_note(&self) -> bool {
            note(&self.0).exists()
        }

        fn trials(&self) -> usize {
            let names = fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            names
                .filter(|name| name.to_string_lossy().starts_with(FOLDER))
                .count()
        }
    }

    impl Drop for Cache {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn a_guest_that_dies_is_a_verdict_and_it_is_kept() {
        let cache = Cache::new("dies");
        // As one left by a process that was killed, with the pid of this one.
        fs::create_dir(cache.0.join(format!("{FOLDER}{}", std::process::id()))).unwrap();
        let refusal = cache.tried(64).await.unwrap().expect("no such guest runs");
        assert!(refusal.contains("QEMU"), "{refusal}");
        assert_eq!(cache.trials(), 0);
        let binary = Binary::find(None, &cache.0).await.unwrap();
        assert_eq!(remembered(&binary, &cache.0), Some(Some(refusal)));
    }

    #[tokio::test]
    async fn an_error_of_ours_is_no_verdict() {
        let cache = Cache::new("ours");
        let no_space = cache.tried(u32::MAX).await.expect_err("4 PiB are nowhere free");
        assert_eq!(no_space.kind(), ErrorKind::Store, "{no_space:?}");
        fs::remove_file(cache.0.join("kernel")).unwrap();
        let no_kernel = cache.tried(64).await.expect_err("the kernel is gone");
        assert_eq!(no_kernel.kind(), ErrorKind::Store, "{no_kernel:?}");
        assert!(!cache.has_note());
        assert_eq!(cache.trials(), 0);
    }

    #[tokio::test]
    async fn whoever_waits_finds_the_verdict_of_the_other() {
        let cache = Cache::new("waits");
        let held = lock(&cache.0).await.unwrap();
        // Its own trial would be an error.
        let waiting = cache.tried(u32::MAX);
        tokio::pin!(waiting);
        assert!(soon(&mut waiting).await.is_none(), "it did not wait");
        let binary = Binary::find(None, &cache.0).await.unwrap();
        remember(&binary, &cache.0, Some("the other's".into()));
        drop(held);
        assert_eq!(waiting.await.unwrap().as_deref(), Some("the other's"));
    }

    /// What the future has come to after a while that is long for a trial that does not wait.
    async fn soon<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::time::timeout(Duration::from_secs(1), future).await.ok()
    }
}
