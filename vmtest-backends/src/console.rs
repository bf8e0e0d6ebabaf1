//! What a machine writes to its console: bounded, shared, watched for panics.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// How much of a console is kept, in bytes: the end.
pub const KEPT: usize = 256 * 1024;

/// The end of a machine's console; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Console(Arc<Mutex<VecDeque<u8>>>);

impl Console {
    /// Appends what the machine wrote; the oldest bytes beyond [`KEPT`] go.
    pub fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let excess = (kept.len() + bytes.len()).saturating_sub(KEPT);
        kept.drain(..excess);
        kept.extend(bytes);
    }

    /// All that is kept, with bytes that are no UTF-8 replaced.
    pub fn text(&self) -> String {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(kept.make_contiguous()).into_owned()
    }

    /// The last `lines` lines.
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.text(), lines)
    }
}

/// The last `lines` lines of a console or a log, without the newline at its end.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_whole_lines_and_at_most_all() {
        assert_eq!(tail("one\r\ntwo\nthree\n", 2), "two\nthree");
        assert_eq!(tail("one\n", 30), "one");
        assert_eq!(tail("", 30), "");
    }

    #[test]
    fn keeps_the_end() {
        let console = Console::default();
        console.push(&vec![b'a'; KEPT]);
        console.push(b"end\nlast");
        assert_eq!(console.text().len(), KEPT);
        assert_eq!(console.tail(1), "last");
        console.push(&vec![b'b'; 2 * KEPT]);
        assert_eq!(console.text().len(), KEPT);
        assert!(console.text().starts_with('b'));
    }
}
