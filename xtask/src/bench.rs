//! `cargo xtask bench`: builds and runs the measurements, which use the library in their own process.

use std::time::Duration;

use crate::child::{cargo, show};
use crate::error::{Error, Result};
use crate::stop::Stop;

/// All figures on both images, images built: minutes; the first build of an image is within it.
const LIMIT: Duration = Duration::from_secs(45 * 60);

pub(crate) async fn run(options: &[&str], stop: &Stop) -> Result {
    let mut bench = cargo();
    // The profile that tests are built in: what is measured is what a user runs.
    bench
        .args(["run", "--quiet", "--package", "vmtest-bench", "--"])
        .args(options);
    let end = show(bench, LIMIT, stop).await?;
    if end.success() {
        Ok(())
    } else {
        Err(Error::new(format!("the measurements: {}", end.reason(LIMIT))))
    }
}
