//! `cargo xtask bench`: its place. The measurements are not written yet, and it says so.

use crate::error::{Error, Result};
use crate::stop::Stop;

pub(crate) async fn run(_options: &[&str], _stop: &Stop) -> Result {
    Err(Error::new("there are no measurements yet"))
}
