//! `doctor`: what tests in machines need here, and how to get what is missing.

mod host;
mod place;
mod project;

use std::process::ExitCode;

use vmtest::config::Config;
use vmtest::dirs::Dirs;
use vmtest::{Error, Result};

use crate::say::say;

/// What was found out about one need.
#[derive(Debug)]
pub(crate) struct Finding {
    what: &'static str,
    verdict: Verdict,
    text: String,
}

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Good,
    /// Tests run without it.
    Lacking,
    /// Tests do not run without it.
    Missing,
}

impl Finding {
    fn new(what: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { what, verdict, text }
    }

    pub(crate) fn good(what: &'static str, text: impl Into<String>) -> Self {
        Self::new(what, Verdict::Good, text)
    }

    pub(crate) fn lacking(what: &'static str, text: impl Into<String>) -> Self {
        Self::new(what, Verdict::Lacking, text)
    }

    pub(crate) fn missing(what: &'static str, text: impl Into<String>) -> Self {
        Self::new(what, Verdict::Missing, text)
    }

    /// An error's whole chain on one line.
    pub(crate) fn error(what: &'static str, error: &Error) -> Self {
        Self::missing(what, one_line(error))
    }

    fn tell(&self) {
        let mark = match self.verdict {
            Verdict::Good => "ok     ",
            Verdict::Lacking => "lacking",
            Verdict::Missing => "MISSING",
        };
        say(format!("{mark}  {:<12} {}", self.what, self.text));
    }
}

/// Message and causes of an error on one line.
pub(crate) fn one_line(error: &Error) -> String {
    let report = error.report();
    let mut parts = vec![report.message];
    parts.extend(report.causes);
    parts.join(": ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Tells everything; status 1 when something that must be there is not.
pub(crate) async fn run() -> Result<ExitCode> {
    let mut findings = Vec::new();
    let config = Config::load();
    let dirs = Dirs::from_env();
    findings.push(project::file(&config));
    findings.extend(place::directories(&dirs));
    if let (Ok(config), Ok(dirs)) = (&config, &dirs) {
        findings.extend(host::engine(config, dirs).await);
        findings.extend(host::image_tools(config, dirs));
        findings.push(host::ssh());
        findings.push(host::room(config, dirs));
        findings.extend(project::images(config, dirs));
        findings.push(project::broker(dirs).await);
    }
    findings.iter().for_each(Finding::tell);
    let missing = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Missing);
    Ok(match missing.count() {
        0 => ExitCode::SUCCESS,
        count => {
            say(format!("{count} missing: tests in machines do not run here yet"));
            ExitCode::FAILURE
        }
    })
}
