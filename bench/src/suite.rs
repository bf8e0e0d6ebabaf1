//! A hundred trivial tests under nextest.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::error::Result;

/// Builds the suites, so that their building is not measured.
pub(crate) fn build() -> Result {
    let built = nextest("tiny")
        .args(["--test", "suite_debian", "--no-run"])
        .status()?;
    if built.success() {
        Ok(())
    } else {
        Err(format!("the suites could not be built: {built}").into())
    }
}

/// Runs the suite of `image`; returns seconds, cargo and nextest included.
pub(crate) fn run(image: &str) -> Result<f64> {
    let mut command = nextest(image);
    command.args(["--run-ignored", "only", "--no-fail-fast"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let begin = Instant::now();
    let output = command.output()?;
    let took = begin.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !said.contains("100 passed") {
        return Err(format!("the suite on {image} did not pass:\n{said}").into());
    }
    Ok(took)
}

fn nextest(image: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["nextest", "run", "--package", "vmtest-bench", "--test"]);
    command.arg(format!("suite_{image}"));
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.stdin(Stdio::null());
    command
}
