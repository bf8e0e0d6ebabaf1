//! Machines of many tests at once: kept apart, owned by one broker, and gone when nobody wants them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::process::Command;
use vmtest::broker::Status;
use vmtest_tests::files::{until, vanishes};
use vmtest_tests::program::{Running, run};
use vmtest_tests::{Ended, Fixture, Lab, residue};

/// How long a run may take, with the boot before it.
const LIMIT: Duration = Duration::from_secs(90);

/// How long warm forks outlive their run (2 s), and some time to see it.
const WARM_LIMIT: Duration = Duration::from_secs(4);

/// How long a broker stays in CI without anybody (10 s), and 5 s for its end.
const IDLE: Duration = Duration::from_secs(10);
const IDLE_LIMIT: Duration = Duration::from_secs(15);

fn libtest(lab: &Lab, fixture: &Fixture, words: &[&str]) -> Command {
    let mut command = lab.command(fixture.libtest());
    command.args(words).env("FIXTURE_FILE", found(lab));
    command
}

/// The file that has a line for each fork: its test, its id, its random bytes, its parent's number.
fn found(lab: &Lab) -> PathBuf {
    lab.project().join("found")
}

/// Eight forks ran well, and nothing of them was the same but their parent.
fn eight_forks_of_one_parent(lab: &Lab, ran: &Ended) {
    assert!(ran.status.success(), "{}", ran.output);
    let text = fs::read_to_string(found(lab)).expect("forks have written");
    fs::remove_file(found(lab)).expect("it is there");
    let column = |index: usize| -> BTreeSet<&str> {
        text.lines()
            .filter_map(|line| line.split_whitespace().nth(index))
            .collect()
    };
    assert_eq!(text.lines().count(), 8, "{text}");
    for (index, what) in [(0, "tests"), (1, "fork ids"), (2, "random bytes")] {
        assert_eq!(column(index).len(), 8, "{what}: {text}");
    }
    assert_eq!(column(3).len(), 1, "one parent: {text}");
}

#[tokio::test]
async fn forks_are_kept_apart_however_they_run() {
    let (lab, fixture) = (Lab::open("forks"), Fixture::get().await);
    let threads = run(
        libtest(&lab, fixture, &["cases::forks::", "--test-threads=2"]),
        LIMIT,
    )
    .await;
    eight_forks_of_one_parent(&lab, &threads);

    let mut nextest = fixture.nextest(&lab);
    nextest.env("FIXTURE_FILE", found(&lab));
    nextest.args(["--test-threads=2", "-E", "test(/^cases::forks::/)"]);
    let processes = run(nextest, LIMIT).await;
    eight_forks_of_one_parent(&lab, &processes);
    assert!(!processes.output.contains("LEAK"), "{}", processes.output);

    let mut alone = libtest(&lab, fixture, &["cases::forks::", "--test-threads=2"]);
    alone.env("VMTEST_BROKER", "off");
    lab.stop().await;
    let alone = run(alone, LIMIT).await;
    eight_forks_of_one_parent(&lab, &alone);
    assert!(
        lab.brokers().await.is_empty(),
        "a broker was started although it is off"
    );
    // Nobody is there to tidy up but the process that has ended.
    lab.nothing_left(Duration::from_secs(5)).await;
    lab.close().await;
}

#[tokio::test]
async fn warm_forks_go_with_their_run_and_the_broker_when_idle() {
    let (lab, fixture) = (Lab::open("idle"), Fixture::get().await);
    // A run of its own: the tests' parent, who ends with it.
    let mut parent = lab.command("sh");
    parent
        .args(["-c", "\"$0\" \"$@\"; exit $?"])
        .arg(fixture.libtest());
    parent.args(["cases::forks::", "--test-threads=2"]);
    parent.env("FIXTURE_FILE", found(&lab)).env("VMTEST_WARM", "2");
    let ran = run(parent, LIMIT).await;
    let end = Instant::now();
    eight_forks_of_one_parent(&lab, &ran);
    let broker = with_warm_forks(&lab).await;
    let machines = lab
        .dirs()
        .in_cache("machines")
        .expect("there is a folder of machines");
    let none = || {
        let entries = fs::read_dir(&machines).into_iter().flatten().flatten();
        let mut left = entries.filter(|entry| entry.file_name() != "ledger");
        left.next().is_none().then_some(())
    };
    until(WARM_LIMIT, "the warm forks to go", none).await;
    assert!(
        end.elapsed() >= Duration::from_millis(1500),
        "they went after {:?}",
        end.elapsed()
    );
    let process = PathBuf::from(format!("/proc/{}", broker.pid));
    assert!(process.exists(), "the broker went with its last machine");
    vanishes(&process, IDLE_LIMIT).await;
    assert!(end.elapsed() >= IDLE, "the broker went after {:?}", end.elapsed());
    lab.nothing_left(Duration::from_secs(1)).await;
    lab.close().await;
}

/// The only broker; it has warm forks, or nothing would be proven by their end.
async fn with_warm_forks(lab: &Lab) -> Status {
    // The last ones may still be on their way.
    let warm = async {
        loop {
            let brokers = lab.brokers().await;
            let [broker] = brokers.as_slice() else {
                panic!("not one broker: {brokers:?}");
            };
            if broker.warm > 0 {
                return broker.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let warm = tokio::time::timeout(Duration::from_millis(1500), warm).await;
    warm.expect("something is kept warm")
}

#[tokio::test]
async fn twenty_processes_at_once_have_one_broker() {
    let (lab, fixture) = (Lab::open("twenty"), Fixture::get().await);
    // With the snapshot at hand all of them go for the broker itself, which otherwise its builder starts.
    let first = run(
        libtest(&lab, fixture, &["--exact", "cases::plain::passes"]),
        LIMIT,
    )
    .await;
    assert!(first.status.success(), "{}", first.output);
    lab.stop().await;
    let start = |_| Running::start(libtest(&lab, fixture, &["--exact", "cases::plain::passes"]));
    // Held until all of them have found no broker: the race is on, and not left to chance.
    let lock = File::open(lock_of_broker(&lab)).expect("the first broker's lock is there");
    lock.lock().expect("nobody holds it");
    let tests: Vec<_> = (0..20).map(start).collect();
    until(LIMIT, "twenty to wait", || {
        (waiting_for(&lock) == 20).then_some(())
    })
    .await;
    let (folder, early) = (lab.folder().to_owned(), brokers_of(lab.folder()));
    assert!(early.is_empty(), "started past the lock: {early:?}");
    drop(lock);
    let mut brokers = BTreeSet::new();
    let ended = tokio::spawn(all_ended(tests));
    while !ended.is_finished() {
        let now: Vec<_> = brokers_of(&folder);
        assert!(now.len() <= 1, "two at once: {now:?}");
        brokers.extend(now);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for ran in ended.await.expect("nothing panicked") {
        assert!(ran.status.success(), "{}", ran.output);
    }
    assert_eq!(brokers.len(), 1, "{brokers:?}");
    lab.close().await;
}

async fn all_ended(tests: Vec<Running>) -> Vec<Ended> {
    let mut ended = Vec::new();
    for test in tests {
        ended.push(test.ended(LIMIT).await);
    }
    ended
}

fn brokers_of(folder: &std::path::Path) -> Vec<String> {
    let processes = residue::processes(folder).expect("/proc can be read");
    processes
        .into_iter()
        .filter(|line| line.contains("(vmtest-broker "))
        .collect()
}

fn lock_of_broker(lab: &Lab) -> PathBuf {
    let entries = fs::read_dir(lab.dirs().runtime()).expect("there is a runtime directory");
    let mut paths = entries.flatten().map(|entry| entry.path());
    let lock = paths.find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("broker-") && name.ends_with(".lock")
    });
    lock.expect("a broker has run")
}

/// How many wait for the lock: `1: -> FLOCK  ADVISORY  WRITE 708 08:01:12345 0 EOF`.
fn waiting_for(lock: &File) -> usize {
    let inode = format!(":{} ", lock.metadata().expect("it is open").ino());
    let table = fs::read_to_string("/proc/locks").expect("/proc can be read");
    let waiting = table
        .lines()
        .filter(|line| line.contains("->") && line.contains(&inode));
    waiting.count()
}
