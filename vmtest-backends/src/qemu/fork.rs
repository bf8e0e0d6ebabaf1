//! New machines from a snapshot.

use std::fs;

use async_trait::async_trait;

use crate::backend::{Machine, Place, Snapshot, Snapshots, Use};
use crate::error::{Error, ErrorKind, Result};
use crate::qemu::argv::{self, File, Memory};
use crate::qemu::engine::Qemu;
use crate::qemu::files::{self, RAM, STATE};
use crate::qemu::launch::Launch;

#[async_trait]
impl Snapshots for Qemu {
    async fn fork(&self, snapshot: &Snapshot, places: &[Place]) -> Vec<Result<Box<dyn Machine>>> {
        let mut forks = tokio::task::JoinSet::new();
        for (index, place) in places.iter().enumerate() {
            let (qemu, snapshot, place) = (self.clone(), snapshot.clone(), place.clone());
            forks.spawn(async move { (index, qemu.fork_one(&snapshot, &place).await) });
        }
        let mut results: Vec<_> = places.iter().map(|_| None).collect();
        while let Some(joined) = forks.join_next().await {
            if let Ok((index, result)) = joined {
                results[index] = Some(result);
            }
        }
        let lost = || Err(Error::new(ErrorKind::Fork, "the task that forked was lost"));
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(lost))
            .collect()
    }
}

impl Qemu {
    async fn fork_one(&self, snapshot: &Snapshot, place: &Place) -> Result<Box<dyn Machine>> {
        let manifest = &snapshot.manifest;
        let (binary, accelerator) = self.engine().await?;
        let identity = argv::identity(&binary, &accelerator, &manifest.spec);
        if manifest.identity != identity {
            let text = format!(
                "snapshot {} was taken by another engine and is refused",
                manifest.name
            );
            let cause = format!("it has `{}`, this is `{identity}`", manifest.identity);
            return Err(Error::new(ErrorKind::Fork, text).because(cause));
        }
        let memory = memory(snapshot, place).await?;
        let state = snapshot.folder().join(STATE);
        let incoming =
            fs::File::open(&state).map_err(|cause| files::unusable(&state, "cannot be read", cause))?;
        let launch = Launch {
            binary: &binary,
            accelerator: &accelerator,
            spec: &manifest.spec,
            place,
            memory,
            below: chains(snapshot),
            incoming: Some(incoming),
        };
        Ok(Box::new(launch.run(ErrorKind::Fork).await?))
    }
}

/// A leaf maps the snapshot's memory copy-on-write; a parent needs a file of its own, for what is mapped
/// privately cannot be kept.
async fn memory(snapshot: &Snapshot, place: &Place) -> Result<Memory> {
    let frozen = snapshot.folder().join(RAM);
    if place.purpose == Use::Leaf {
        return Ok(Memory::CopyOnWrite(frozen));
    }
    files::check_space(&place.folder, snapshot.manifest.spec.memory_mib)?;
    let own = place.folder.join(RAM);
    let target = own.clone();
    let copied = tokio::task::spawn_blocking(move || files::copy_sparse(&frozen, &target)).await;
    let copied = copied.unwrap_or_else(|cause| Err(std::io::Error::other(cause)));
    copied.map_err(|cause| files::unusable(&own, "cannot be copied from the snapshot", cause))?;
    Ok(Memory::Own(own))
}

fn chains(snapshot: &Snapshot) -> Vec<Vec<File>> {
    let manifest = &snapshot.manifest;
    let disks = manifest.spec.image.disks.iter().zip(&manifest.disks);
    let chain = disks.map(|(disk, layers)| {
        let bottom = File {
            path: disk.path.clone(),
            format: disk.format,
        };
        let above = layers.iter().map(|layer| File {
            path: snapshot.store.join(&layer.file),
            format: layer.format,
        });
        std::iter::once(bottom).chain(above).collect()
    });
    chain.collect()
}
