//! What this program itself tells its user, on standard output.

use std::fmt;
use std::io::{self, Write as _};
use std::time::Duration;

/// One line. A reader that has gone away is no reason to stop testing.
pub(crate) fn say(line: impl fmt::Display) {
    let mut out = io::stdout().lock();
    let _reader_gone = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// `840 ms`, `2.31 s`, `3 min 12 s`.
pub(crate) fn span(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match time.as_secs() {
        0 if ms < 10.0 => format!("{ms:.1} ms"),
        0 => format!("{ms:.0} ms"),
        1..60 => format!("{:.2} s", time.as_secs_f64()),
        secs => format!("{} min {} s", secs / 60, secs % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_keep_two_or_three_digits() {
        assert_eq!(span(Duration::from_micros(1_240)), "1.2 ms");
        assert_eq!(span(Duration::from_millis(840)), "840 ms");
        assert_eq!(span(Duration::from_millis(2_310)), "2.31 s");
        assert_eq!(span(Duration::from_secs(192)), "3 min 12 s");
    }
}
