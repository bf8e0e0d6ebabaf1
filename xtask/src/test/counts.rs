//! How many tests passed and failed, read from what the runners say at the end.

use std::ops::AddAssign;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl Counts {
    /// Adds what `line` tells, if it is a summary of libtest or nextest.
    pub(crate) fn read(&mut self, line: &str) {
        let line = without_colour(line);
        if let Some(summary) = line.strip_prefix("test result: ") {
            *self += libtest(summary);
        } else if let Some(summary) = line.trim_start().strip_prefix("Summary [") {
            *self += nextest(summary);
        }
    }
}

/// `ok. 3 passed; 0 failed; 1 ignored; ...`
fn libtest(summary: &str) -> Counts {
    let told = summary.split_once(". ").map_or(summary, |(_, told)| told);
    let parts = told.split(';').filter_map(number_and_word).collect::<Vec<_>>();
    Counts {
        passed: sum(&parts, &["passed"]),
        failed: sum(&parts, &["failed"]),
    }
}

/// `   0.003s] 5 tests run: 3 passed (1 slow, 1 leaky), 1 failed, 1 timed out, 2 skipped`
fn nextest(summary: &str) -> Counts {
    let told = summary.split_once(" run: ").map_or("", |(_, told)| told);
    let parts = told
        .split([',', '(', ')'])
        .filter_map(number_and_word)
        .collect::<Vec<_>>();
    // What left something behind has not passed here.
    let leaky = sum(&parts, &["leaky"]);
    let failed = sum(&parts, &["failed", "timed out", "exec failed"]);
    Counts {
        passed: sum(&parts, &["passed"]).saturating_sub(leaky),
        failed: failed + leaky,
    }
}

fn number_and_word(part: &str) -> Option<(u64, &str)> {
    let (number, word) = part.trim().split_once(' ')?;
    Some((number.parse().ok()?, word))
}

fn sum(parts: &[(u64, &str)], words: &[&str]) -> u64 {
    parts
        .iter()
        .filter(|(_, word)| words.contains(word))
        .map(|(number, _)| number)
        .sum()
}

fn without_colour(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line.chars();
    while let Some(char) = rest.next() {
        match char {
            '\u{1b}' => {
                rest.by_ref().find(char::is_ascii_alphabetic);
            }
            _ => plain.push(char),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (u64, u64) {
        let mut counts = Counts::default();
        counts.read(line);
        (counts.passed, counts.failed)
    }

    #[test]
    fn libtest_summaries_are_read() {
        assert_eq!(
            read("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out"),
            (3, 0)
        );
        assert_eq!(
            read("test result: \u{1b}[31mFAILED\u{1b}(B\u{1b}[m. 2 passed; 4 failed; 0 ignored"),
            (2, 4)
        );
        assert_eq!(read("the test result: ok. 3 passed; 0 failed"), (0, 0));
    }

    #[test]
    fn nextest_summaries_are_read() {
        assert_eq!(
            read("     Summary [   0.003s] 3 tests run: 3 passed, 0 skipped"),
            (3, 0)
        );
        let mixed = "Summary [ 1.2s] 9 tests run: 5 passed (1 slow, 2 leaky), 2 failed, 1 timed out, 1 exec failed, 3 skipped";
        assert_eq!(read(mixed), (3, 6));
        assert_eq!(
            read("Summary [ 1.2s] 2/9 tests run: 1 passed, 1 failed, 0 skipped"),
            (1, 1)
        );
    }
}
