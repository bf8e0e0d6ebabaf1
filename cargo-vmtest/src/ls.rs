//! `ls`: what there is.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use vmtest::Result;
use vmtest::broker;
use vmtest::config::{Config, PoolLimits};
use vmtest::dirs::Dirs;
use vmtest::image::{self, Condition};
use vmtest::pool::Capacity;
use vmtest::store::{Entry, State, Store};

use crate::quantity::{bytes, since, taken};
use crate::say::say;

/// How much of a key is shown: enough to find its folder.
pub(crate) const SHOWN_KEY: usize = 8;

/// Lists everything.
pub(crate) async fn run() -> Result<()> {
    let dirs = Dirs::from_env()?;
    say(format!("{}", dirs.cache().display()));
    images(&dirs)?;
    snapshots(&dirs)?;
    machines(&dirs)?;
    brokers(&dirs).await
}

/// The names that the project's configuration has for keys; none where it cannot be read.
fn names(dirs: &Dirs) -> BTreeMap<String, String> {
    let Ok(config) = Config::load() else {
        return BTreeMap::new();
    };
    let named = config.images().filter_map(|decl| {
        let plan = image::plan(&config, dirs, &decl.name).ok()?;
        Some((plan.digest().to_owned(), decl.name.clone()))
    });
    named.collect()
}

fn images(dirs: &Dirs) -> Result<()> {
    let shelved = image::shelved(dirs)?;
    say(format!("\nimages: {}", count(shelved.len())));
    let names = names(dirs);
    for thing in shelved {
        let what = match &thing.condition {
            Condition::Whole(what) => what.clone(),
            Condition::Damaged => "damaged".to_owned(),
            Condition::Partial => "being made, or left half-made".to_owned(),
        };
        let current = match names.get(&thing.key) {
            Some(name) => format!(", now `{name}`"),
            None => String::new(),
        };
        say(format!(
            "  {}  {:>9}  {:>6}  {what}{current}",
            short(&thing.key),
            bytes(taken(&thing.folder)),
            since(thing.made)
        ));
    }
    Ok(())
}

fn snapshots(dirs: &Dirs) -> Result<()> {
    let store = Store::open(dirs)?;
    let entries = store.entries()?;
    say(format!("\nsnapshots: {}", count(entries.len())));
    let is_root = |entry: &&Entry| match parent(entry) {
        None => true,
        Some(parent) => !entries.iter().any(|other| other.key == parent),
    };
    for root in entries.iter().filter(is_root) {
        branch(&store, &entries, root, 0);
    }
    Ok(())
}

/// A snapshot and those made from it, below it. Its key is part of theirs: there are no circles.
fn branch(store: &Store, entries: &[Entry], entry: &Entry, depth: usize) {
    let size = bytes(taken(&store.folder().join(&entry.key)));
    let (age, text) = match &entry.state {
        State::Whole(snapshot) => {
            let manifest = &snapshot.manifest;
            let made = SystemTime::UNIX_EPOCH + Duration::from_secs(manifest.created);
            let used = since(store.last_used(snapshot));
            let memory = match store.high_water(&entry.key) {
                Some(most) => format!("a fork took {} at most, the last ended {used} ago", bytes(most)),
                None => "no fork yet".to_owned(),
            };
            (since(made), format!("{}  ({memory})", manifest.name))
        }
        State::Unfinished => ("-".to_owned(), "being made, or left half-made".to_owned()),
        State::Damaged(why) => ("-".to_owned(), format!("damaged: {why}")),
    };
    say(format!(
        "  {}  {size:>9}  {age:>6}  {:indent$}{text}",
        short(&entry.key),
        "",
        indent = depth * 2
    ));
    for child in entries.iter().filter(|child| parent(child) == Some(&entry.key)) {
        branch(store, entries, child, depth + 1);
    }
}

fn parent(entry: &Entry) -> Option<&str> {
    match &entry.state {
        State::Whole(snapshot) => snapshot.manifest.parent.as_deref(),
        State::Unfinished | State::Damaged(_) => None,
    }
}

fn machines(dirs: &Dirs) -> Result<()> {
    let machines = Capacity::open(dirs, PoolLimits::default())?.machines()?;
    say(format!("\nmachines: {}", count(machines.len())));
    for machine in machines {
        let origin = machine.origin.as_deref().map_or("?", short);
        say(format!(
            "  {}  {:>5} MiB  {:>2} CPUs  of {origin}",
            short(&machine.id),
            machine.cost.memory_mib,
            machine.cost.cpus
        ));
    }
    Ok(())
}

async fn brokers(dirs: &Dirs) -> Result<()> {
    let mut running = false;
    for address in broker::addresses(dirs)? {
        let Some(status) = address.status().await? else {
            continue;
        };
        running = true;
        let sick = match status.sick {
            0 => String::new(),
            sick => format!(", {sick} found dead"),
        };
        say(format!(
            "\nbroker: {}, process {}: {} leased, {} warm{sick}",
            address.name(),
            status.pid,
            status.leases,
            status.warm
        ));
    }
    if !running {
        say("\nbroker: none runs");
    }
    Ok(())
}

/// The shown part of a key.
pub(crate) fn short(key: &str) -> &str {
    key.get(..SHOWN_KEY).unwrap_or(key)
}

fn count(number: usize) -> String {
    match number {
        0 => "none".to_owned(),
        number => number.to_string(),
    }
}
