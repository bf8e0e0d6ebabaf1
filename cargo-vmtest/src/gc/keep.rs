//! What has to stay because something that stays stands on it.

use std::collections::BTreeSet;

use vmtest::image::{Condition, Shelved};
use vmtest::store::{Entry, State};

/// Keys of what has to stay.
#[derive(Debug, Default)]
pub(super) struct Keep(BTreeSet<String>);

impl Keep {
    /// The snapshots that live machines are forks of, and those below them.
    pub(super) fn of_snapshots(entries: &[Entry], in_use: impl Iterator<Item = String>) -> Self {
        let mut keep = Self::default();
        for key in in_use {
            keep.with_all_below(&key, entries);
        }
        keep
    }

    /// While anything is being made, whatever it may be made of stays.
    pub(super) fn of_images(shelved: &[Shelved]) -> Self {
        let mut keep = Self::default();
        let whole = |thing: &&Shelved| matches!(thing.condition, Condition::Whole(_));
        let is_made = shelved
            .iter()
            .any(|thing| thing.condition == Condition::Partial && thing.is_being_made());
        if is_made {
            keep.0
                .extend(shelved.iter().filter(whole).map(|thing| thing.key.clone()));
        }
        keep
    }

    pub(super) fn holds(&self, key: &str) -> bool {
        self.0.contains(key)
    }

    /// A snapshot, its ancestors, and those whose files are layers of its disks.
    pub(super) fn with_all_below(&mut self, key: &str, entries: &[Entry]) {
        if !self.0.insert(key.to_owned()) {
            return;
        }
        let found = entries.iter().find(|entry| entry.key == key);
        let Some(State::Whole(snapshot)) = found.map(|entry| &entry.state) else {
            return;
        };
        let layers = snapshot.manifest.disks.iter().flatten();
        let folders = layers.filter_map(|layer| layer.file.components().next()?.as_os_str().to_str());
        for below in folders.chain(snapshot.manifest.parent.as_deref()) {
            self.with_all_below(below, entries);
        }
    }

    /// An image and what it is made of.
    pub(super) fn image(&mut self, key: &str, shelved: &[Shelved]) {
        if !self.0.insert(key.to_owned()) {
            return;
        }
        let found = shelved.iter().find(|thing| thing.key == key);
        for used in found.into_iter().flat_map(|thing| &thing.uses) {
            self.image(used, shelved);
        }
    }
}
