//! Building what tests need: once for all processes, and with one clear message when it cannot be done.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tokio::process::Command;
use vmtest_tests::files::until;
use vmtest_tests::program::{Running, run};
use vmtest_tests::{Ended, Fixture, Lab};

/// How long one run may take, with the boot before it.
const LIMIT: Duration = Duration::from_secs(90);

/// How long a process waits for a builder that has nobody left to build for; then it ends.
const ALONE_LIMIT: Duration = Duration::from_secs(30);

fn libtest(lab: &Lab, fixture: &Fixture, words: &[&str]) -> Command {
    let mut command = lab.command(fixture.libtest());
    command
        .args(words)
        .env("FIXTURE_FILE", made(lab))
        .env("FIXTURE_SECONDS", "6");
    command
}

/// The file that has a line for each building.
fn made(lab: &Lab) -> std::path::PathBuf {
    lab.project().join("made")
}

fn count(lab: &Lab, what: &str) -> usize {
    let text = fs::read_to_string(made(lab)).unwrap_or_default();
    text.lines().filter(|line| *line == what).count()
}

#[tokio::test]
async fn ten_impatient_processes_get_one_build() {
    let (lab, fixture) = (Lab::open("impatient"), Fixture::get().await);
    let mut command = fixture.nextest(&lab);
    command
        .env("FIXTURE_FILE", made(&lab))
        .env("FIXTURE_SECONDS", "6");
    command.args([
        "--profile=impatient",
        "--test-threads=10",
        "-E",
        "test(/^cases::builds::slow_/)",
    ]);
    let ran = run(command, LIMIT).await;
    assert!(ran.status.success(), "{}", ran.output);
    assert!(ran.output.contains("10 passed"), "{}", ran.output);
    // Otherwise nothing was proven: no test waited for longer than its limit.
    assert!(
        ran.output.contains("TRY 1 TMT") && ran.output.contains("flaky"),
        "{}",
        ran.output
    );
    assert_eq!(count(&lab, "slow"), 1, "{}", ran.output);
    lab.close().await;
}

#[tokio::test]
async fn a_build_that_fails_is_tried_once_and_told_to_all() {
    let (lab, fixture) = (Lab::open("broken"), Fixture::get().await);
    // Three wait for it together, others come when it has failed, one of them through a snapshot on top of it.
    let mut command = fixture.nextest(&lab);
    command.env("FIXTURE_FILE", made(&lab)).args([
        "--test-threads=3",
        "-E",
        "test(/^cases::builds::broken_/)",
    ]);
    let ran = run(command, LIMIT).await;
    assert_eq!(ran.status.code(), Some(100), "{}", ran.output);
    assert_eq!(count(&lab, "broken"), 1, "{}", ran.output);
    let outcomes = lab.outcomes();
    assert_eq!(outcomes.len(), 7);
    let remembered = "(tried earlier in this run, not tried again)";
    let said = outcomes.values().filter(|(_, error)| error.contains(remembered));
    assert!((1..=6).contains(&said.count()), "{}", ran.output);
    for (name, (outcome, error)) in outcomes {
        assert_eq!(outcome, "errored", "{name}: {error}");
        for text in [
            "snapshot build: snapshot tiny/broken could not be made",
            "ended with status 9",
            "the database is missing",
        ] {
            assert!(error.contains(text), "{name} does not say {text:?}: {error}");
        }
    }
    // Another run tries again.
    let again = run(libtest(&lab, fixture, &["cases::builds::broken_0"]), LIMIT).await;
    assert_eq!(again.status.code(), Some(101), "{}", again.output);
    assert_eq!(count(&lab, "broken"), 2, "{}", again.output);
    lab.close().await;
}

#[tokio::test]
async fn a_function_that_blocks_is_ended_and_told() {
    let (lab, fixture) = (Lab::open("blocking"), Fixture::get().await);
    let ran = run(libtest(&lab, fixture, &["cases::builds::blocked"]), LIMIT).await;
    let (outcome, error) = &lab.outcomes()["cases::builds::blocked"];
    assert_eq!(outcome, "errored", "{}", ran.output);
    assert!(
        error.contains("still blocks its thread after its limit of 0.5 s"),
        "{error}"
    );
    lab.close().await;
}

#[tokio::test]
async fn a_builder_killed_half_way_leaves_nothing_that_counts() {
    let (lab, fixture) = (Lab::open("halfway"), Fixture::get().await);
    let test = Running::start(libtest(&lab, fixture, &["--exact", "cases::builds::slow_0"]));
    until(LIMIT, "the build to begin", || {
        (count(&lab, "slow") == 1).then_some(())
    })
    .await;
    let builder = builder_of(lab.folder()).expect("somebody builds");
    kill_process(builder, Signal::KILL).expect("it builds");
    // The one who waits starts another builder, which begins anew.
    let ran = test.ended(LIMIT).await;
    assert!(ran.status.success(), "{}", ran.output);
    assert_eq!(count(&lab, "slow"), 2, "{}", ran.output);
    lab.close().await;
}

#[tokio::test]
async fn a_build_that_nobody_waits_for_ends() {
    let (lab, fixture) = (Lab::open("nobody"), Fixture::get().await);
    let mut command = libtest(&lab, fixture, &["--exact", "cases::builds::slow_0"]);
    command.env("FIXTURE_SECONDS", "3600");
    let test = Running::start(command);
    until(LIMIT, "the build to begin", || {
        (count(&lab, "slow") == 1).then_some(())
    })
    .await;
    drop(test);
    let folder = lab.folder().to_owned();
    until(ALONE_LIMIT, "the builder to end", || {
        builder_of(&folder).is_none().then_some(())
    })
    .await;
    lab.close().await;
}

/// The process that builds a snapshot in `folder`.
fn builder_of(folder: &Path) -> Option<rustix::process::Pid> {
    let processes = vmtest_tests::residue::processes(folder).expect("/proc can be read");
    let line = processes.iter().find(|line| line.contains("(vmtest-build "))?;
    let pid = line.split_whitespace().nth(1)?.parse().ok()?;
    rustix::process::Pid::from_raw(pid)
}

#[tokio::test]
async fn a_changed_step_builds_itself_and_what_stands_on_it() {
    let (lab, fixture) = (Lab::open("steps"), Fixture::get().await);
    let declare = |top: &str| {
        let text = format!(
            "[image.tiny.snapshot.base]\nsteps = [{{ run = \"echo made > /run/made\" }}]\n\n\
             [image.tiny.snapshot.top]\nfrom = \"base\"\nsteps = [{{ run = \"{top}\" }}]\n"
        );
        fs::write(lab.project().join("vmtest.toml"), text).expect("a file can be written");
    };
    let built = |ran: &Ended| -> Vec<String> {
        let lines = ran
            .output
            .lines()
            .filter_map(|line| line.strip_prefix("vmtest: snapshot tiny/"));
        lines
            .filter_map(|line| Some(line.split_once(": made in")?.0.to_owned()))
            .collect()
    };
    let run_it = || {
        run(
            libtest(
                &lab,
                fixture,
                &["--exact", "cases::builds::of_steps", "--nocapture"],
            ),
            LIMIT,
        )
    };

    declare("true");
    let first = run_it().await;
    assert!(first.status.success(), "{}", first.output);
    assert_eq!(manifests(&lab), ["tiny/base", "tiny/booted", "tiny/top"]);
    let second = run_it().await;
    assert!(
        second.status.success() && built(&second).is_empty(),
        "{}",
        second.output
    );
    declare("true; true");
    let third = run_it().await;
    assert!(third.status.success(), "{}", third.output);
    assert_eq!(
        manifests(&lab),
        ["tiny/base", "tiny/booted", "tiny/top", "tiny/top"]
    );
    lab.close().await;
}

/// The names of the snapshots in the store, sorted.
fn manifests(lab: &Lab) -> Vec<String> {
    let store = vmtest::store::Store::open(lab.dirs()).expect("there is a store");
    let all = store.all().expect("it can be listed");
    let mut names: Vec<_> = all.into_iter().map(|snapshot| snapshot.manifest.name).collect();
    names.sort();
    names
}
