//! `gc` and `ls`: what goes, and what must stay.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime};

use super::home::Home;

#[test]
fn what_dead_processes_have_left_goes_and_nothing_is_left_to_do() {
    let home = Home::new("left");
    home.folder("cache/images/.partial-aaaa");
    home.folder("cache/images/bbbb");
    home.folder("cache/snapshots/cccc");
    let damaged = home.folder("cache/snapshots/dddd");
    fs::write(damaged.join("manifest.json"), "{").unwrap();
    home.folder("cache/machines/eeee");
    drop(home.machine("ffff", "gggg"));
    drop(UnixListener::bind(home.path("run/build-aa.sock")).unwrap());
    fs::write(home.path("run/build-aa.log"), "gone").unwrap();
    fs::write(home.path("cache/usage/hhhh"), "1").unwrap();
    fs::write(home.path("cache/locks/snapshot-hhhh"), "").unwrap();

    let first = home.run(&["gc"]);

    assert_eq!(first.code, Some(0), "{first:?}");
    for folder in [
        "cache/images",
        "cache/snapshots",
        "cache/usage",
        "cache/locks",
        "run",
    ] {
        let left: Vec<_> = fs::read_dir(home.path(folder)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{folder} still has {left:?}: {first:?}");
    }
    assert!(
        !home.has("cache/machines/eeee") && !home.has("cache/machines/ffff"),
        "{first:?}"
    );
    assert!(!home.has("cache/machines/ffff.lock"), "{first:?}");
    let second = home.run(&["gc"]);
    assert_eq!(second.out, "nothing to do\n", "{second:?}");
}

#[test]
fn what_a_living_process_holds_stays() {
    let home = Home::new("held");
    home.folder("cache/images/.partial-aaaa");
    let image = home.locked("cache/images/aaaa.lock", "");
    home.folder("cache/snapshots/cccc");
    let snapshot = home.locked("cache/locks/snapshot-cccc", "");
    let machine = home.machine("eeee", "gggg");
    let service = UnixListener::bind(home.path("run/build-aa.sock")).unwrap();
    fs::write(home.path("run/build-aa.log"), "busy").unwrap();

    let busy = home.run(&["gc", "--all"]);

    assert_eq!(
        (busy.code, busy.out.as_str()),
        (Some(0), "nothing to do\n"),
        "{busy:?}"
    );
    for path in [
        "cache/images/.partial-aaaa",
        "cache/images/aaaa.lock",
        "cache/snapshots/cccc",
        "cache/locks/snapshot-cccc",
        "cache/machines/eeee",
        "run/build-aa.sock",
        "run/build-aa.log",
    ] {
        assert!(home.has(path), "{path} is gone: {busy:?}");
    }
    drop((image, snapshot, machine, service));
    home.run(&["gc", "--all"]);
    assert!(!home.has("cache/images/.partial-aaaa") && !home.has("cache/snapshots/cccc"));
    assert!(!home.has("cache/machines/eeee") && !home.has("run/build-aa.sock"));
}

#[test]
fn all_spares_what_a_machine_stands_on() {
    let home = Home::new("all");
    home.image("i1");
    home.image("i2");
    home.snapshot("root", None, "i1", 1);
    home.snapshot("child", Some("root"), "i1", 2);
    home.snapshot("grandchild", Some("child"), "i1", 3);
    home.snapshot("other", None, "i2", 4);
    let machine = home.machine("m", "child");

    let tree = home.run(&["ls"]);
    assert!(tree.out.contains("snapshots: 4"), "{tree:?}");
    assert!(
        tree.out.contains("      tiny/grandchild"),
        "the tree is not indented: {}",
        tree.out
    );
    let kept = home.run(&["gc"]);
    assert_eq!(
        kept.out, "nothing to do\n",
        "what is whole stays unless asked for: {kept:?}"
    );

    let all = home.run(&["gc", "--all"]);

    let there = |key: &str| home.has(&format!("cache/snapshots/{key}"));
    assert!(
        there("root") && there("child"),
        "a machine's snapshots are gone: {all:?}"
    );
    assert!(!there("grandchild") && !there("other"), "{all:?}");
    assert!(
        home.has("cache/images/i1") && !home.has("cache/images/i2"),
        "{all:?}"
    );
    assert!(
        all.out
            .contains("snapshot tiny/grandchild (grandchi): not in use, 1.0 MiB"),
        "{all:?}"
    );
    drop(machine);
    home.run(&["gc", "--all"]);
    assert!(!there("root") && !there("child") && !home.has("cache/images/i1"));
}

#[test]
fn a_snapshot_goes_with_its_image() {
    let home = Home::new("image");
    home.image("i1");
    home.snapshot("kept", None, "i1", 1);
    home.snapshot("lost", None, "i2", 2);

    let swept = home.run(&["gc"]);

    assert!(
        swept.out.contains("snapshot tiny/lost (lost): its image is gone"),
        "{swept:?}"
    );
    assert!(
        home.has("cache/snapshots/kept") && !home.has("cache/snapshots/lost"),
        "{swept:?}"
    );
}

#[test]
fn age_counts_from_the_last_use_and_parents_stay() {
    let home = Home::new("age");
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let old = now - 10 * 86_400;
    home.image("i1");
    home.snapshot("root", None, "i1", old);
    home.snapshot("young", Some("root"), "i1", now);
    home.snapshot("used", None, "i1", old);
    home.snapshot("idle", None, "i1", old);
    for (key, days) in [("used", 1), ("idle", 9)] {
        let note = File::create(home.path(&format!("cache/usage/{key}"))).unwrap();
        let then = SystemTime::now() - Duration::from_secs(days * 86_400);
        note.set_modified(then).unwrap();
    }
    File::create(home.path("cache/downloads/beef")).unwrap();

    let swept = home.run(&["gc", "--older-than", "7d"]);

    let there = |key: &str| home.has(&format!("cache/snapshots/{key}"));
    assert!(there("root") && there("young") && there("used"), "{swept:?}");
    assert!(!there("idle"), "{swept:?}");
    assert!(
        home.has("cache/images/i1") && home.has("cache/downloads/beef"),
        "{swept:?}"
    );
}
