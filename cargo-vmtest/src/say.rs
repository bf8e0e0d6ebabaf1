//! What this program tells its user, on standard output.

use std::fmt;
use std::io::{self, Write as _};

/// One line. A reader that has gone away is no reason to stop half-way.
pub(crate) fn say(line: impl fmt::Display) {
    let mut out = io::stdout().lock();
    let _reader_gone = writeln!(out, "{line}").and_then(|()| out.flush());
}
