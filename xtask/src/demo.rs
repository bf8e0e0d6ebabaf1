//! `cargo xtask demo`: the quickstart's tests, each in a machine of its own, and what happened.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use crate::child::{cargo, show};
use crate::error::{Error, Result};
use crate::report;
use crate::say::{say, span};
use crate::setup;
use crate::stop::Stop;
use crate::workspace::Workspace;

/// Compiling, fetching packages, building two images and the snapshots, without hardware virtualisation.
const DEMO_LIMIT: Duration = Duration::from_secs(40 * 60);

pub(crate) async fn run(workspace: &Workspace, stop: &Stop) -> Result {
    let began = Instant::now();
    setup::run(&workspace.setup_dir(), stop).await?;
    let set_up = began.elapsed();

    say("demo: running the quickstart's tests (the first run builds its images: some minutes)");
    let began = Instant::now();
    let end = run_quickstart(workspace, stop).await?;
    let tested = began.elapsed();

    let failed = || Error::new(format!("the demo failed: {}", end.reason(DEMO_LIMIT)));
    let report = workspace.report();
    let lines = match fs::read_to_string(&report) {
        Ok(lines) => lines,
        // Then no test came so far as to be reported.
        Err(_) if !end.success() => return Err(failed()),
        Err(cause) => {
            return Err(Error::at(format!(
                "the tests left no report in {}",
                report.display()
            ))(cause));
        }
    };
    say("");
    for line in report::table(&lines) {
        say(line);
    }
    say(format!(
        "\nset-up {}, compiling and testing {}",
        span(set_up),
        span(tested)
    ));
    if end.success() { Ok(()) } else { Err(failed()) }
}

async fn run_quickstart(workspace: &Workspace, stop: &Stop) -> Result<crate::child::End> {
    let report = workspace.report();
    match fs::remove_file(&report) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            return Err(Error::at(format!(
                "cannot remove the last run's {}",
                report.display()
            ))(cause));
        }
        _ => {}
    }
    if let Some(folder) = report.parent() {
        fs::create_dir_all(folder).map_err(Error::at(format!("cannot make {}", folder.display())))?;
    }
    let mut test = cargo();
    test.args([
        "test",
        "--package",
        "quickstart",
        "--no-fail-fast",
        "--",
        "--nocapture",
    ]);
    test.current_dir(workspace.root()).env("VMTEST_REPORT", &report);
    show(test, DEMO_LIMIT, stop).await
}
