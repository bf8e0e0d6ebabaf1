//! `cargo xtask test`: everything that has to hold, each suite timed and bounded, all failures collected.

mod counts;
mod leaks;
mod suite;

use std::time::{Duration, Instant};

use crate::child::{name_of, tee};
use crate::error::{Error, Result};
use crate::say::{say, span};
use crate::setup;
use crate::stop::Stop;
use crate::test::counts::Counts;
use crate::test::suite::{Count, LEAKS, Suite};
use crate::workspace::Workspace;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    full: bool,
    only: Vec<String>,
}

impl Options {
    pub(crate) fn parse(mut words: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        loop {
            words = match words {
                [] => return Ok(options),
                ["--full", rest @ ..] => {
                    options.full = true;
                    rest
                }
                ["--only", name, rest @ ..] if suite::names().contains(name) => {
                    options.only.push((*name).to_owned());
                    rest
                }
                ["--only", ..] => {
                    return Err(Error::new(format!(
                        "--only takes one of: {}",
                        suite::names().join(", ")
                    )));
                }
                [other, ..] => {
                    return Err(Error::new(format!(
                        "`{other}` is no option of `cargo xtask test`"
                    )));
                }
            };
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// What is known of a suite that has run.
#[derive(Debug)]
struct Ran {
    name: &'static str,
    took: Duration,
    counts: Counts,
    wrong: Option<String>,
}

pub(crate) async fn run(workspace: &Workspace, options: &Options, stop: &Stop) -> Result {
    let began = Instant::now();
    setup::run(&workspace.setup_dir(), stop).await?;
    setup::for_tests(stop).await?;
    say(format!("set-up took {}", span(began.elapsed())));

    let mut ran = Vec::new();
    for suite in suite::all(workspace, options.full)
        .into_iter()
        .filter(|suite| options.wants(suite.name))
    {
        ran.push(told(run_suite(suite, stop).await?));
    }
    if options.wants(LEAKS) {
        ran.push(told(run_leak_check(workspace, stop).await?));
    }
    summarise(&ran, began.elapsed())
}

fn told(ran: Ran) -> Ran {
    say(line(&ran));
    ran
}

async fn run_suite(mut suite: Suite, stop: &Stop) -> Result<Ran> {
    let began = Instant::now();
    let mut counts = Counts::default();
    let Some(command) = suite.command.take() else {
        return Ok(judged(
            &suite,
            began,
            counts,
            Some("there is no such test in the workspace".into()),
        ));
    };
    say(format!("\n== {}: {}", suite.name, name_of(&command)));
    let end = tee(command, suite.limit, stop, |line| counts.read(line)).await?;
    let wrong = (!end.success()).then(|| end.reason(suite.limit));
    Ok(judged(&suite, began, counts, wrong))
}

fn judged(suite: &Suite, began: Instant, told: Counts, wrong: Option<String>) -> Ran {
    let none_ran = suite.count == Count::Tests && told == Counts::default();
    let wrong = wrong.or_else(|| none_ran.then(|| "it ran no test".into()));
    let mut counts = match suite.count {
        Count::Tests => told,
        Count::Whole => Counts {
            passed: u64::from(wrong.is_none()),
            failed: 0,
        },
    };
    if wrong.is_some() && counts.failed == 0 {
        // It did not compile, hung, or died: no test told of it.
        counts.failed = 1;
    }
    let wrong =
        wrong.or_else(|| (counts.failed > 0).then(|| format!("{} left something behind", counts.failed)));
    Ran {
        name: suite.name,
        took: began.elapsed(),
        counts,
        wrong,
    }
}

async fn run_leak_check(workspace: &Workspace, stop: &Stop) -> Result<Ran> {
    let began = Instant::now();
    say(format!(
        "\n== {LEAKS}: ending the broker; then nothing may be left"
    ));
    let found = leaks::check(workspace, stop).await?;
    for leak in &found {
        say(format!("left behind: {leak}"));
    }
    let counts = Counts {
        passed: u64::from(found.is_empty()),
        failed: found.len() as u64,
    };
    let wrong = (!found.is_empty()).then(|| "see above".into());
    let ran = Ran {
        name: LEAKS,
        took: began.elapsed(),
        counts,
        wrong,
    };
    say(line(&ran));
    Ok(ran)
}

fn line(
    Ran {
        name,
        took,
        counts,
        wrong,
    }: &Ran,
) -> String {
    let verdict = wrong
        .as_deref()
        .map_or_else(|| "ok".into(), |why| format!("FAILED ({why})"));
    format!(
        "{name:<12} {:>12}  {:>4} passed {:>4} failed  {verdict}",
        span(*took),
        counts.passed,
        counts.failed
    )
}

/// The last line is for machines to read, alone on its line.
fn summarise(ran: &[Ran], took: Duration) -> Result {
    let mut total = Counts::default();
    say("\n== summary");
    for suite in ran {
        say(line(suite));
        total += suite.counts;
    }
    say(format!("in all {}", span(took)));
    say(format!("{} passed, {} failed", total.passed, total.failed));
    let wrong = ran
        .iter()
        .filter(|suite| suite.wrong.is_some())
        .map(|suite| suite.name)
        .collect::<Vec<_>>();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Error::new(format!("failed: {}", wrong.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(count: Count) -> Suite {
        Suite {
            name: "unit",
            count,
            limit: Duration::from_secs(1),
            command: None,
        }
    }

    #[test]
    fn options_are_read_or_refused() {
        let options = Options::parse(&["--full", "--only", "fmt", "--only", "leaks"]).unwrap();
        assert!(options.full && options.wants("fmt") && options.wants(LEAKS) && !options.wants("vm"));
        assert!(Options::parse(&["--only", "nothing"]).is_err());
        assert!(Options::parse(&["--only"]).is_err());
        assert!(Options::parse(&["--fast"]).is_err());
    }

    #[test]
    fn a_failure_without_a_count_is_counted() {
        let told = Counts { passed: 3, failed: 0 };
        let ran = judged(
            &suite(Count::Tests),
            Instant::now(),
            told,
            Some("exit status: 101".into()),
        );
        assert_eq!(ran.counts, Counts { passed: 3, failed: 1 });
        let ran = judged(
            &suite(Count::Whole),
            Instant::now(),
            Counts::default(),
            Some("exit status: 1".into()),
        );
        assert_eq!(ran.counts, Counts { passed: 0, failed: 1 });
    }

    #[test]
    fn tests_that_did_not_run_have_not_passed() {
        let ran = judged(&suite(Count::Tests), Instant::now(), Counts::default(), None);
        assert_eq!(ran.counts.failed, 1);
        assert!(ran.wrong.is_some());
    }

    #[test]
    fn a_leaky_test_fails_a_green_runner() {
        let told = Counts { passed: 3, failed: 1 };
        assert!(
            judged(&suite(Count::Tests), Instant::now(), told, None)
                .wrong
                .is_some()
        );
    }
}
