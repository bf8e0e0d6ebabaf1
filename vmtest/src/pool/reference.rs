//! A snapshot as one process names it to another: by its folder. Whoever is told reads the manifest itself, and
//! once: a lease is asked for in every test, and carrying manifests along would cost it half a millisecond.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vmtest_backends::backend::Snapshot;
use vmtest_backends::manifest::{FILE, Manifest};

/// How many manifests are kept read.
const KEPT: usize = 64;

#[derive(Serialize, Deserialize)]
struct Reference {
    store: PathBuf,
    key: String,
}

pub(super) fn serialize<S: Serializer>(snapshot: &Snapshot, serializer: S) -> Result<S::Ok, S::Error> {
    let store = snapshot.store.clone();
    let key = snapshot.manifest.key.clone();
    Reference { store, key }.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<Snapshot>, D::Error> {
    static READ: Mutex<Option<HashMap<PathBuf, (SystemTime, Snapshot)>>> = Mutex::new(None);
    let Reference { store, key } = Reference::deserialize(deserializer)?;
    let folder = store.join(&key);
    let written = std::fs::metadata(folder.join(FILE)).and_then(|meta| meta.modified());
    let written =
        written.map_err(|cause| D::Error::custom(format!("the snapshot {key} is not there: {cause}")))?;
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let read = read.get_or_insert_default();
    if let Some((_, snapshot)) = read.get(&folder).filter(|(known, _)| *known == written) {
        return Ok(Box::new(snapshot.clone()));
    }
    let manifest = Manifest::load(&folder).map_err(|error| D::Error::custom(error.chain()))?;
    let manifest = manifest.ok_or_else(|| D::Error::custom(format!("the snapshot {key} is not there")))?;
    let snapshot = Snapshot { store, manifest };
    if read.len() >= KEPT {
        read.clear();
    }
    read.insert(folder, (written, snapshot.clone()));
    Ok(Box::new(snapshot))
}
