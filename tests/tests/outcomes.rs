//! Every ending of a test: the same names and outcomes however it is run, and nothing left behind.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::process::Command;
use vmtest_tests::files::{appears, vanishes};
use vmtest_tests::program::{Running, run};
use vmtest_tests::{Ended, Fixture, Lab};

/// How long a run of all endings may take; the slowest one waits for a guest that hangs.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// How long one ending may take, with the boot before it.
const ONE_LIMIT: Duration = Duration::from_secs(60);

/// How long after the end of a run its output may still be held.
const HELD_LIMIT: Duration = Duration::from_millis(500);

/// The endings that leave their process alive: name, outcome, and what the error must say.
static PLAIN: [Ending; 19] = [
    (
        "does_not_panic_as_it_should",
        "failed",
        &["was to panic, and did not"],
    ),
    (
        "engine_is_killed",
        "errored",
        &["machine died", "killed by signal 9"],
    ),
    (
        "engine_is_killed_under_a_client",
        "errored",
        &["machine died", "killed by signal 9", "it panicked"],
    ),
    (
        "fails_an_assertion",
        "failed",
        &["assertion `left == right` failed"],
    ),
    (
        "guest_hangs",
        "errored",
        &["the guest hangs", "did not answer a ping", "| last words"],
    ),
    (
        "guest_hangs_under_a_command",
        "errored",
        &["the guest hangs", "did not answer a ping"],
    ),
    (
        "guest_panics",
        "errored",
        &[
            "machine died",
            "Kernel panic - not syncing: sysrq triggered crash",
            "    | ",
        ],
    ),
    (
        "guest_panics_and_so_does_the_body",
        "errored",
        &["the guest's kernel panicked", "    | "],
    ),
    (
        "needs_what_is_not_there",
        "errored",
        &["unavailable: the test needs kvm"],
    ),
    (
        "never_ends",
        "failed",
        &["the body did not end within 1 s (timeout)"],
    ),
    ("panics_as_it_should", "passed", &[]),
    (
        "panics_otherwise",
        "failed",
        &["the body's panic does not contain \"boom\": bust"],
    ),
    ("passes", "passed", &[]),
    ("returns_an_error", "failed", &["no such table"]),
    (
        "runs_a_command_that_fails",
        "failed",
        &["command failed", "`exit 3` ended with status 3"],
    ),
    ("skips_itself", "skipped", &["nowhere is not here"]),
    ("unwraps_an_error_of_ours", "errored", &["unavailable: ", "ssh"]),
    ("uses_a_blocking_client", "passed", &[]),
    (
        "wants_an_unknown_snapshot",
        "errored",
        &[
            "invalid request: image tiny has no snapshot \"nothing-of-the-kind\"; it has booted, ",
            " parent",
        ],
    ),
];

/// Name, outcome, and what the error must say.
type Ending = (&'static str, &'static str, &'static [&'static str]);

const IGNORED: &str = "cases::plain::is_ignored";

fn name(short: &str) -> String {
    format!("cases::plain::{short}")
}

/// What a harness that knows passed and failed only shows of an outcome.
fn passes(outcome: &str) -> bool {
    matches!(outcome, "passed" | "skipped")
}

/// What the report says of each ending: as expected, and no more of them.
fn reported_as_expected(lab: &Lab, but: &str) {
    let mut outcomes = lab.outcomes();
    outcomes.remove(but);
    for (short, outcome, texts) in PLAIN {
        let (found, error) = outcomes
            .remove(&name(short))
            .unwrap_or_else(|| panic!("{short} did not run"));
        assert_eq!(found, outcome, "{short}: {error}");
        for text in texts {
            assert!(error.contains(text), "{short} does not say {text:?}: {error}");
        }
    }
    assert!(outcomes.is_empty(), "more than expected: {outcomes:?}");
}

fn libtest(lab: &Lab, fixture: &Fixture, words: &[&str]) -> Command {
    let mut command = lab.command(fixture.libtest());
    command.args(words);
    command
}

#[tokio::test]
async fn endings_under_cargo_test() {
    let (lab, fixture) = (Lab::open("libtest"), Fixture::get().await);
    let ran = run(
        libtest(&lab, fixture, &["cases::plain::", "--test-threads=3"]),
        RUN_LIMIT,
    )
    .await;
    assert_eq!(ran.status.code(), Some(101), "{}", ran.output);
    let shown = shown_by_libtest(&ran.output);
    for (short, outcome, _) in PLAIN {
        let word = if passes(outcome) { "ok" } else { "FAILED" };
        assert_eq!(
            shown.get(&name(short)).map(String::as_str),
            Some(word),
            "{short}\n{}",
            ran.output
        );
        let told = section(&ran.output, &name(short));
        assert_eq!(
            told.contains("errored: "),
            outcome == "errored",
            "{short}: {told}"
        );
    }
    assert_eq!(
        shown.get(IGNORED).map(String::as_str),
        Some("ignored, to be seen in lists")
    );
    assert_eq!(shown.len(), PLAIN.len() + 1);
    assert!(
        ran.output
            .contains("SKIPPED cases::plain::skips_itself: nowhere is not here"),
        "{}",
        ran.output
    );
    reported_as_expected(&lab, IGNORED);
    lab.close().await;
}

/// `test NAME ... ok`; what a test in the same process writes may stand before it.
fn shown_by_libtest(output: &str) -> BTreeMap<String, String> {
    let lines = output
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "));
    lines
        .map(|(name, word)| (name.to_owned(), word.to_owned()))
        .collect()
}

/// What libtest shows of a failed test.
fn section<'a>(output: &'a str, name: &str) -> &'a str {
    let Some((_, rest)) = output.split_once(&format!("---- {name} stdout ----")) else {
        return "";
    };
    rest.split("\n---- ").next().unwrap_or_default()
}

#[tokio::test]
async fn endings_under_nextest() {
    let (lab, fixture) = (Lab::open("nextest"), Fixture::get().await);
    let mut command = fixture.nextest(&lab);
    command.args(["--test-threads=3", "-E", "test(/^cases::(plain|blocked)::/)"]);
    let ran = run(command, RUN_LIMIT).await;
    assert_eq!(ran.status.code(), Some(100), "{}", ran.output);
    for (short, outcome, _) in PLAIN {
        let name = name(short);
        let lines: Vec<_> = nextest_lines(&ran.output, &name).collect();
        let word = if passes(outcome) { "PASS" } else { "FAIL" };
        assert!(
            lines.iter().any(|line| line.starts_with(word)),
            "{short} is no {word}\n{}",
            ran.output
        );
        assert!(lines.iter().all(|line| !line.starts_with("LEAK")), "{lines:?}");
        let told = nextest_section(&ran.output, &name);
        assert_eq!(
            told.contains("errored: "),
            outcome == "errored",
            "{short}: {told}"
        );
        assert_eq!(
            told.contains("exit code 70"),
            outcome == "errored",
            "{short}: {told}"
        );
    }
    assert!(!ran.output.contains("LEAK"), "{}", ran.output);
    // The broker is still there, and holds nothing of the run's output.
    assert_eq!(lab.brokers().await.len(), 1);
    assert!(ran.held < HELD_LIMIT, "the output was held for {:?}", ran.held);
    reported_as_expected(&lab, "cases::blocked::for_ever");
    lab.close().await;
}

/// `PASS [   0.123s] ( 1/17) outcomes::fixture_libtest NAME`, without what stands before the word.
fn nextest_lines<'a>(output: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = output.lines().map(str::trim_start);
    lines.filter(move |line| line.ends_with(&format!(" {name}")) && line.contains('['))
}

/// What nextest shows of a failed test, after its summary.
fn nextest_section<'a>(output: &'a str, name: &str) -> &'a str {
    let (_, sections) = output.split_once("Summary [").unwrap_or_default();
    let mut sections = sections.split("        FAIL [").skip(1);
    let wanted = sections.find(|section| section.lines().next().is_some_and(|line| line.ends_with(name)));
    wanted.unwrap_or_default()
}

#[tokio::test]
async fn endings_of_library_calls() {
    let (lab, fixture) = (Lab::open("library"), Fixture::get().await);
    let mut command = lab.command(fixture.library());
    command.arg("cases::plain::");
    let ran = run(command, RUN_LIMIT).await;
    assert!(ran.status.success(), "{}", ran.output);
    let shown: Vec<_> = ran
        .output
        .lines()
        .filter(|line| line.starts_with("cases::plain::"))
        .collect();
    // Who calls wants them run, ignored or not.
    let ignored: Ending = ("is_ignored", "passed", &[]);
    let mut expected: Vec<_> = PLAIN.into_iter().chain([ignored]).collect();
    expected.sort_unstable();
    let expected: Vec<_> = expected
        .iter()
        .map(|(short, outcome, _)| format!("{} {outcome}", name(short)))
        .collect();
    assert_eq!(shown, expected, "{}", ran.output);
    reported_as_expected(&lab, IGNORED);
    lab.close().await;
}

async fn blocks(lab: &Lab, mut command: Command) -> Ended {
    command.args(["cases::blocked::for_ever"]);
    let ran = run(command, ONE_LIMIT).await;
    assert_eq!(ran.status.code(), Some(101), "{}", ran.output);
    for text in ["failed: ", "still blocks its thread", "| last words of the guest"] {
        assert!(
            ran.output.contains(text),
            "it does not say {text:?}: {}",
            ran.output
        );
    }
    assert_eq!(lab.outcomes()["cases::blocked::for_ever"].0, "failed");
    ran
}

#[tokio::test]
async fn a_body_that_blocks_for_ever_ends_its_process() {
    let (lab, fixture) = (Lab::open("blocked"), Fixture::get().await);
    blocks(&lab, libtest(&lab, fixture, &["--exact"])).await;
    // The machine was booted and frozen already: body, limit and grace are left.
    let again = blocks(&lab, lab.command(fixture.library())).await;
    assert!(again.took < Duration::from_secs(12), "it took {:?}", again.took);
    lab.close().await;
}

#[tokio::test]
async fn a_killed_broker_takes_its_machines_along() {
    let (lab, fixture) = (Lab::open("broker"), Fixture::get().await);
    let ran = run(
        libtest(&lab, fixture, &["--exact", "cases::alone::broker_is_killed"]),
        ONE_LIMIT,
    )
    .await;
    assert_eq!(ran.status.code(), Some(101), "{}", ran.output);
    let (outcome, error) = &lab.outcomes()["cases::alone::broker_is_killed"];
    assert_eq!(outcome, "errored", "{error}");
    assert!(
        error.contains("the broker, which owned the machine, is gone"),
        "{error}"
    );
    // Nobody is told to tidy up: the machine went with its broker, and its folder with the lease.
    lab.nothing_left(Duration::from_secs(5)).await;
    // And the next test has a broker again.
    let next = run(
        libtest(&lab, fixture, &["--exact", "cases::plain::passes"]),
        ONE_LIMIT,
    )
    .await;
    assert!(next.status.success(), "{}", next.output);
    lab.close().await;
}

#[tokio::test]
async fn a_killed_test_gives_its_machine_back() {
    let (lab, fixture) = (Lab::open("killed"), Fixture::get().await);
    let file = lab.project().join("there");
    let mut command = libtest(&lab, fixture, &["--exact", "cases::alone::waits"]);
    command.env("FIXTURE_FILE", &file);
    let test = Running::start(command);
    let machine = appears(&file, ONE_LIMIT).await;
    let folder = lab.folder().join("cache/machines").join(machine);
    assert!(folder.is_dir(), "the machine lives in its folder");
    rustix::process::kill_process(test.pid().expect("it runs"), rustix::process::Signal::KILL)
        .expect("it runs");
    test.ended(ONE_LIMIT).await;
    vanishes(&folder, Duration::from_secs(5)).await;
    lab.close().await;
}

#[tokio::test]
async fn without_an_engine_nothing_passes() {
    let (lab, fixture) = (Lab::empty("engine"), Fixture::get().await);
    let command = |words: &[&str]| {
        let mut command = libtest(&lab, fixture, words);
        command.env("VMTEST_QEMU", "/nonexistent/qemu");
        command
    };
    let ran = run(command(&["cases::engine::pa"]), ONE_LIMIT).await;
    assert_eq!(ran.status.code(), Some(101), "{}", ran.output);
    for name in ["cases::engine::passes", "cases::engine::panics"] {
        assert_eq!(shown_by_libtest(&ran.output)[name], "FAILED");
        let told = section(&ran.output, name);
        assert!(
            told.contains("errored: ") && told.contains("/nonexistent/qemu"),
            "{told}"
        );
    }

    let mut nextest = fixture.nextest(&lab);
    nextest
        .env("VMTEST_QEMU", "/nonexistent/qemu")
        .args(["-E", "test(/^cases::engine::pa/)"]);
    let ran = run(nextest, ONE_LIMIT).await;
    assert_eq!(ran.status.code(), Some(100), "{}", ran.output);
    assert!(ran.output.contains("2 failed"), "{}", ran.output);

    // Who asks for it gets skips, each told.
    let mut skipping = command(&["cases::engine::pa"]);
    skipping.env("VMTEST_ON_MISSING", "skip");
    let ran = run(skipping, ONE_LIMIT).await;
    assert!(ran.status.success(), "{}", ran.output);
    for name in ["cases::engine::passes", "cases::engine::panics"] {
        assert!(
            ran.output.contains(&format!("SKIPPED {name}: unavailable")),
            "{}",
            ran.output
        );
    }
    lab.close().await;
}

#[tokio::test]
async fn listing_starts_nothing() {
    let (lab, fixture) = (Lab::empty("listing"), Fixture::get().await);
    for words in [
        ["--list", "--format=terse"].as_slice(),
        &["--list", "--format=terse", "--ignored"],
    ] {
        let ran = run(libtest(&lab, fixture, words), ONE_LIMIT).await;
        assert!(ran.status.success(), "{}", ran.output);
        assert!(ran.output.contains(&format!("{IGNORED}: test")), "{}", ran.output);
        assert!(
            ran.output.lines().all(|line| line.ends_with(": test")),
            "{}",
            ran.output
        );
    }
    let mut nextest = fixture.nextest(&lab);
    nextest.args(["-E", "none()", "--no-tests=pass"]);
    let ran = run(nextest, ONE_LIMIT).await;
    assert!(ran.status.success(), "{}", ran.output);
    let made = std::fs::read_dir(lab.dirs().runtime())
        .expect("the lab made it")
        .count();
    assert_eq!(made, 0, "listing left something in the runtime directory");
    lab.nothing_left(Duration::ZERO).await;
    lab.close().await;
}
