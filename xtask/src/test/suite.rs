//! The suites of `cargo xtask test`, in the order in which they run.

use std::time::Duration;

use tokio::process::Command;

use crate::child::cargo;
use crate::workspace::Workspace;

/// How a suite's result is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// It is one thing that is right or wrong.
    Whole,
    /// By the summaries of its runner.
    Tests,
}

#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) count: Count,
    pub(crate) limit: Duration,
    /// Nothing where it has nothing to run, which is a failure.
    pub(crate) command: Option<Command>,
}

/// The name of the last suite, which is no command.
pub(crate) const LEAKS: &str = "leaks";

const NAMES: [&str; 10] = [
    "fmt",
    "clippy",
    "doc",
    "tidy",
    "unit",
    "doctest",
    "macro-ui",
    "vm",
    "vm-nextest",
    LEAKS,
];

/// Integration tests with a suite of their own; all others need machines.
const TIDY: &str = "tidy";
const MACRO_UI: [&str; 2] = ["macro_ui", "ui"];

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

pub(crate) fn names() -> &'static [&'static str] {
    &NAMES
}

/// All suites but the leak check, which comes after them.
pub(crate) fn all(workspace: &Workspace, full: bool) -> Vec<Suite> {
    let suites = NAMES
        .iter()
        .filter(|name| **name != LEAKS)
        .map(|name| suite(name, workspace, full));
    suites.collect()
}

fn suite(name: &'static str, workspace: &Workspace, full: bool) -> Suite {
    let (count, limit, command) = match name {
        "fmt" => (Count::Whole, minutes(2), Some(step(&["fmt", "--all", "--check"]))),
        "clippy" => {
            let words = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
            (Count::Whole, minutes(10), Some(step(&words)))
        }
        "doc" => {
            let mut doc = step(&["doc", "--workspace", "--no-deps"]);
            doc.env("RUSTDOCFLAGS", "-D warnings");
            (Count::Whole, minutes(10), Some(doc))
        }
        "tidy" => (
            Count::Tests,
            minutes(5),
            tests(workspace, full, |test| test == TIDY),
        ),
        "unit" => (
            Count::Tests,
            minutes(15),
            Some(step(&[
                "test",
                "--workspace",
                "--no-fail-fast",
                "--lib",
                "--bins",
            ])),
        ),
        "doctest" => (
            Count::Tests,
            minutes(10),
            Some(step(&["test", "--workspace", "--no-fail-fast", "--doc"])),
        ),
        "macro-ui" => (
            Count::Tests,
            minutes(10),
            tests(workspace, full, |test| MACRO_UI.contains(&test)),
        ),
        "vm" => (
            Count::Tests,
            minutes(if full { 60 } else { 20 }),
            tests(workspace, full, needs_machines),
        ),
        _ => (
            Count::Tests,
            minutes(if full { 60 } else { 15 }),
            nextest(workspace, full),
        ),
    };
    let command = command.map(|mut command| {
        set_place(&mut command, workspace);
        command
    });
    Suite {
        name,
        count,
        limit,
        command,
    }
}

/// The state directory of its own, and the short idle times of CI; no setting of the user's may turn what is
/// missing into a success.
pub(crate) fn set_place(command: &mut Command, workspace: &Workspace) {
    command.current_dir(workspace.root());
    command
        .env("VMTEST_DIR", workspace.state_dir())
        .env("CI", "true")
        .env_remove("VMTEST_ON_MISSING");
}

fn needs_machines(test: &str) -> bool {
    test != TIDY && !MACRO_UI.contains(&test)
}

fn tests(workspace: &Workspace, full: bool, wanted: impl Fn(&str) -> bool) -> Option<Command> {
    let mut command = step(&["test", "--workspace", "--no-fail-fast"]);
    select(&mut command, workspace, wanted)?;
    if full {
        command.args(["--", "--include-ignored"]);
    }
    Some(command)
}

fn nextest(workspace: &Workspace, full: bool) -> Option<Command> {
    let mut command = step(&["nextest", "run", "--workspace", "--no-fail-fast"]);
    if full {
        command.args(["--run-ignored", "all"]);
    }
    select(&mut command, workspace, needs_machines)?;
    Some(command)
}

fn select(command: &mut Command, workspace: &Workspace, wanted: impl Fn(&str) -> bool) -> Option<()> {
    let wanted = workspace
        .tests()
        .iter()
        .filter(|test| wanted(test))
        .collect::<Vec<_>>();
    for test in &wanted {
        command.args(["--test", test]);
    }
    (!wanted.is_empty()).then_some(())
}

fn step(words: &[&str]) -> Command {
    let mut command = cargo();
    command.args(words);
    command
}
