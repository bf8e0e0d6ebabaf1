//! `gc`: removes what nobody uses.
//!
//! First what dead processes have left, then snapshots, children before parents, then what no snapshot
//! that stays stands on. Everything is removed under the lock its maker takes, and looked at again there.

mod keep;
mod removed;

use std::time::{Duration, SystemTime};

use vmtest::Result;
use vmtest::config::PoolLimits;
use vmtest::dirs::Dirs;
use vmtest::image::{self, Condition, Shelved};
use vmtest::pool::Capacity;
use vmtest::role::Service;
use vmtest::store::{Entry, State, Store};

use crate::command::Choice;
use crate::ls::short;
use crate::quantity::taken;

use keep::Keep;
use removed::Removed;

/// How long downloads stay untouched before they go.
const FETCHED_KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Removes, and tells what and how much.
pub(crate) fn run(choice: &Choice) -> Result<()> {
    let dirs = Dirs::from_env()?;
    let store = Store::open(&dirs)?;
    let mut removed = Removed::default();
    services(&dirs, &mut removed)?;
    let capacity = Capacity::open(&dirs, PoolLimits::default())?;
    for id in capacity.sweep()? {
        removed.note(&format!("machine {} of a process that is gone", short(&id)), 0);
    }
    let sweep = Sweep {
        dirs: &dirs,
        store: &store,
        capacity: &capacity,
        choice,
    };
    sweep.snapshots(&mut removed)?;
    sweep.images(&mut removed)?;
    sweep.fetched(&mut removed)?;
    let notes = store.forget_the_gone()?;
    removed.note_several(notes, "notes of snapshots that are gone", 0);
    removed.tell();
    Ok(())
}

fn services(dirs: &Dirs, removed: &mut Removed) -> Result<()> {
    let mut files = 0;
    for service in Service::all(dirs)? {
        files += service.forget_if_dead()?.unwrap_or(0);
    }
    removed.note_several(
        files,
        "sockets, logs and locks of brokers and builders that are gone",
        0,
    );
    Ok(())
}

struct Sweep<'a> {
    dirs: &'a Dirs,
    store: &'a Store,
    capacity: &'a Capacity,
    choice: &'a Choice,
}

impl Sweep<'_> {
    fn snapshots(&self, removed: &mut Removed) -> Result<()> {
        let entries = self.store.entries()?;
        let in_use = self
            .capacity
            .machines()?
            .into_iter()
            .filter_map(|machine| machine.origin);
        let mut keep = Keep::of_snapshots(&entries, in_use);
        // The youngest first: what stands on a snapshot goes before it.
        for entry in entries.iter().rev() {
            match self.why_not_keep(entry)? {
                Some(_) if keep.holds(&entry.key) => {}
                Some(why) if self.remove_snapshot(entry, &why, removed)? => {}
                // Wanted, or in its maker's hand: what it stands on stays.
                _ => keep.with_all_below(&entry.key, &entries),
            }
        }
        Ok(())
    }

    /// Why a snapshot is not to be kept, if it is not.
    fn why_not_keep(&self, entry: &Entry) -> Result<Option<String>> {
        let snapshot = match &entry.state {
            State::Unfinished => return Ok(Some("its builder is gone".to_owned())),
            State::Damaged(why) => return Ok(Some(format!("damaged: {}", why.message()))),
            State::Whole(snapshot) => snapshot,
        };
        let lost =
            |layer: &&vmtest_backends::manifest::Layer| !self.store.folder().join(&layer.file).is_file();
        if !image::is_there(self.dirs, &snapshot.manifest.spec.image.digest)? {
            return Ok(Some("its image is gone".to_owned()));
        }
        if snapshot.manifest.disks.iter().flatten().any(|layer| lost(&layer)) {
            return Ok(Some("a snapshot it stands on is gone".to_owned()));
        }
        Ok(self.choice_against(self.store.last_used(snapshot)))
    }

    /// What the user asked for that a thing last used then falls under.
    fn choice_against(&self, used: SystemTime) -> Option<String> {
        let age = used.elapsed().unwrap_or_default();
        match self.choice.older_than {
            _ if self.choice.all => Some("not in use".to_owned()),
            Some(limit) if age >= limit => Some("not used lately".to_owned()),
            _ => None,
        }
    }

    fn remove_snapshot(&self, entry: &Entry, why: &str, removed: &mut Removed) -> Result<bool> {
        let Some(_lock) = self.store.try_lock(&entry.key)? else {
            return Ok(false);
        };
        // A builder may have been quicker than this look at it.
        let now = self.store.get(&entry.key);
        let finished = !matches!(entry.state, State::Whole(_)) && matches!(now, Ok(Some(_)));
        let machines = self.capacity.machines()?;
        let in_use = machines
            .iter()
            .any(|machine| machine.origin.as_ref() == Some(&entry.key));
        if finished || in_use {
            return Ok(false);
        }
        let size = taken(&self.store.folder().join(&entry.key));
        self.store.remove(&entry.key)?;
        let name = match &entry.state {
            State::Whole(snapshot) => snapshot.manifest.name.as_str(),
            State::Unfinished | State::Damaged(_) => "unknown",
        };
        removed.note(&format!("snapshot {name} ({}): {why}", short(&entry.key)), size);
        Ok(true)
    }

    fn images(&self, removed: &mut Removed) -> Result<()> {
        let shelved = image::shelved(self.dirs)?;
        let mut keep = Keep::of_images(&shelved);
        let machines = self
            .capacity
            .machines()?
            .into_iter()
            .filter_map(|machine| machine.origin);
        let below = self
            .store
            .all()?
            .into_iter()
            .map(|snapshot| snapshot.manifest.spec.image.digest);
        for key in machines.chain(below) {
            keep.image(&key, &shelved);
        }
        // What images are made of is younger or older than they are: images first.
        let (images, parts): (Vec<_>, Vec<_>) = shelved.iter().partition(|thing| !thing.uses.is_empty());
        for thing in images.into_iter().chain(parts) {
            match self.why_not_keep_image(thing) {
                Some(_) if keep.holds(&thing.key) => {}
                Some(why) => {
                    let size = taken(&thing.folder);
                    if thing.remove(self.dirs)? {
                        let what = match &thing.condition {
                            Condition::Whole(what) => what.as_str(),
                            Condition::Damaged | Condition::Partial => "an image",
                        };
                        removed.note(&format!("{what} ({}): {why}", short(&thing.key)), size);
                    } else {
                        keep.image(&thing.key, &shelved);
                    }
                }
                None => keep.image(&thing.key, &shelved),
            }
        }
        Ok(())
    }

    fn why_not_keep_image(&self, thing: &Shelved) -> Option<String> {
        match thing.condition {
            Condition::Partial => Some("its builder is gone".to_owned()),
            Condition::Damaged => Some("damaged".to_owned()),
            Condition::Whole(_) => self.choice_against(thing.made),
        }
    }

    fn fetched(&self, removed: &mut Removed) -> Result<()> {
        let age = match self.choice {
            Choice { all: true, .. } => Duration::ZERO,
            Choice { older_than, .. } => older_than.map_or(FETCHED_KEPT, |age| age.min(FETCHED_KEPT)),
        };
        let fetched = image::remove_fetched(self.dirs, age)?;
        let size = fetched.iter().map(|(_, size)| size).sum();
        removed.note_several(fetched.len(), "downloaded files", size);
        Ok(())
    }
}
