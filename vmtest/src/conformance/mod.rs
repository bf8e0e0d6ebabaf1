//! What every engine has to keep, tried on the engine itself: no pool, no broker, no test around it.
//!
//! ```no_run
//! # use std::{path::Path, sync::Arc};
//! # use vmtest_backends::{backend::Backend, spec::Spec};
//! # async fn engine(engine: Arc<dyn Backend>, spec: Spec, folder: &Path) {
//! let report = vmtest::conformance::check(engine, spec, folder).await;
//! assert!(report.holds(), "{report}");
//! # }
//! ```

mod forks;
mod guest;
mod life;
mod marks;
mod site;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use vmtest_backends::Result;
use vmtest_backends::backend::Backend;
use vmtest_backends::spec::Spec;

use site::Site;

/// What became of one promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It was tried, and holds.
    Holds,
    /// It does not hold; the text says how.
    Fails(String),
    /// The engine does not make it, for this reason.
    NotPromised(String),
}

/// What became of all promises, in the order in which they were tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report(Vec<(&'static str, Verdict)>);

impl Report {
    /// Each promise with its verdict.
    pub fn promises(&self) -> &[(&'static str, Verdict)] {
        &self.0
    }

    /// Whether none was broken.
    pub fn holds(&self) -> bool {
        !self
            .0
            .iter()
            .any(|(_, verdict)| matches!(verdict, Verdict::Fails(_)))
    }

    /// Notes how a trial went; `None` when it broke off.
    fn note<T>(&mut self, promise: &'static str, tried: Result<T>) -> Option<T> {
        let (verdict, value) = match tried {
            Ok(value) => (Verdict::Holds, Some(value)),
            Err(error) => (Verdict::Fails(error.chain()), None),
        };
        self.0.push((promise, verdict));
        value
    }

    fn not_promised(&mut self, promise: &'static str, why: &str) {
        self.0.push((promise, Verdict::NotPromised(why.to_owned())));
    }
}

/// A line for each promise.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (promise, verdict) in &self.0 {
            match verdict {
                Verdict::Holds => writeln!(f, "holds         {promise}")?,
                Verdict::Fails(how) => writeln!(f, "FAILS         {promise}: {how}")?,
                Verdict::NotPromised(why) => writeln!(f, "not promised  {promise}: {why}")?,
            }
        }
        Ok(())
    }
}

/// Tries every promise with machines of `spec`, all of whose files are made in the existing, empty `folder`.
///
/// The image must have our agent and a shell. With a disk of its own that nothing is on (16 KiB or more,
/// the first one), the promises about disks are tried too. Must be called on a tokio runtime with I/O and
/// time. Takes a few boots and about ten forks; each step has a limit of its own.
pub async fn check(engine: Arc<dyn Backend>, spec: Spec, folder: &Path) -> Report {
    let mut report = Report::default();
    let site = match Site::prepare(engine, spec, folder) {
        Ok(site) => site,
        Err(error) => {
            report.note::<()>("the folder can be used", Err(error));
            return report;
        }
    };
    if report.note("the probe passes", site.probe().await).is_none() {
        return report;
    }
    life::check(&site, &mut report).await;
    forks::check(&site, &mut report).await;
    let left = site.nothing_left();
    report.note("no machine's folder is left", left);
    report
}
