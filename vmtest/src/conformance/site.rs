//! Where machines are started and snapshots lie while an engine is tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use vmtest_backends::backend::{Backend, Place, Snapshot, Then, Use};
use vmtest_backends::manifest::{FORMAT, Manifest};
use vmtest_backends::spec::Spec;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::conformance::guest::{FORK_LIMIT, Guest};

/// From power-on to the agent's answer, without hardware virtualisation.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// How long a guest may take to write its disks.
const SYNC_LIMIT: Duration = Duration::from_secs(60);

/// One engine, one kind of machine, one folder.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) engine: Arc<dyn Backend>,
    pub(super) spec: Spec,
    machines: PathBuf,
    store: PathBuf,
    count: AtomicU32,
}

impl Site {
    pub(super) fn prepare(engine: Arc<dyn Backend>, spec: Spec, folder: &Path) -> Result<Self> {
        let (machines, store) = (folder.join("machines"), folder.join("snapshots"));
        for made in [&machines, &store] {
            crate::dirs::make(made)?;
        }
        let count = AtomicU32::new(0);
        Ok(Self {
            engine,
            spec,
            machines,
            store,
            count,
        })
    }

    pub(super) async fn probe(&self) -> Result<()> {
        self.engine.probe(Some(&self.spec)).await.map(drop)
    }

    fn next(&self) -> u32 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    fn place(&self, purpose: Use) -> Result<Place> {
        let folder = self.machines.join(format!("machine-{}", self.next()));
        crate::dirs::make(&folder)?;
        Ok(Place {
            folder,
            purpose,
            network: false,
        })
    }

    pub(super) async fn boot(&self, purpose: Use) -> Result<Guest> {
        let place = self.place(purpose)?;
        let machine = self.engine.start(&self.spec, &place).await?;
        Guest::greet(machine, place.folder, BOOT_LIMIT).await
    }

    /// As many forks as there are purposes, made at once.
    pub(super) async fn fork(&self, snapshot: &Snapshot, purposes: &[Use]) -> Result<Vec<Guest>> {
        let cannot = || Error::new(ErrorKind::Unavailable, "the engine has no snapshots");
        let snapshots = self.engine.snapshots().ok_or_else(cannot)?;
        let places: Result<Vec<_>> = purposes.iter().map(|purpose| self.place(*purpose)).collect();
        let places = places?;
        let mut guests = Vec::new();
        for (fork, place) in snapshots.fork(snapshot, &places).await.into_iter().zip(places) {
            guests.push(Guest::greet(fork?, place.folder, FORK_LIMIT).await?);
        }
        Ok(guests)
    }

    /// A fork that is thrown away.
    pub(super) async fn leaf(&self, snapshot: &Snapshot) -> Result<Guest> {
        let lost = || Error::new(ErrorKind::Fork, "the engine gave no answer");
        self.fork(snapshot, &[Use::Leaf]).await?.pop().ok_or_else(lost)
    }

    /// Freezes a machine and publishes the snapshot.
    pub(super) async fn commit(
        &self,
        guest: &mut Guest,
        parent: Option<&Snapshot>,
        then: Then,
    ) -> Result<Snapshot> {
        guest.session.sync_disks(SYNC_LIMIT).await?;
        let key = format!("{:032x}", self.next());
        let folder = self.store.join(&key);
        crate::dirs::make(&folder)?;
        let cannot = || Error::new(ErrorKind::Commit, "a machine made as a parent cannot be frozen");
        let frozen = guest
            .machine
            .freezer()
            .ok_or_else(cannot)?
            .commit(&folder, then)
            .await?;
        let manifest = Manifest {
            format: FORMAT,
            name: format!("conformance/{key}"),
            key,
            parent: parent.map(|parent| parent.manifest.key.clone()),
            spec: self.spec.clone(),
            backend: self.engine.name().to_owned(),
            identity: self.engine.identity(&self.spec).await?,
            disks: frozen.disks,
            files: frozen.files,
            created: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
            took_ms: 0,
        };
        manifest.save(&folder)?;
        Ok(Snapshot {
            store: self.store.clone(),
            manifest,
        })
    }

    /// A digest of all files of a snapshot.
    pub(super) fn digest(snapshot: &Snapshot) -> Result<String> {
        let folder = snapshot.folder();
        let failed = |cause| crate::store::unusable(&folder, "cannot be read", cause);
        let entries: std::io::Result<Vec<_>> = fs::read_dir(&folder).map_err(failed)?.collect();
        let mut paths: Vec<_> = entries.map_err(failed)?.iter().map(fs::DirEntry::path).collect();
        paths.sort();
        let mut hasher = blake3::Hasher::new();
        for path in paths {
            hasher.update(path.as_os_str().as_encoded_bytes());
            hasher
                .update_reader(fs::File::open(&path).map_err(failed)?)
                .map_err(failed)?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Removes the empty folders of machines that were refused: the engine has not taken them over.
    pub(super) fn clear(&self) -> Result<()> {
        let failed = |cause| crate::store::unusable(&self.machines, "cannot be read", cause);
        for entry in fs::read_dir(&self.machines).map_err(failed)?.flatten() {
            // One that is not empty stays, and is told of.
            let _ = fs::remove_dir(entry.path());
        }
        Ok(())
    }

    pub(super) fn nothing_left(&self) -> Result<()> {
        let failed = |cause| crate::store::unusable(&self.machines, "cannot be read", cause);
        let left: std::io::Result<Vec<_>> = fs::read_dir(&self.machines).map_err(failed)?.collect();
        let left: Vec<_> = left
            .map_err(failed)?
            .iter()
            .map(fs::DirEntry::file_name)
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Teardown,
            format!("there are still {left:?}"),
        ))
    }
}
