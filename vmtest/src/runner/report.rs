//! What is told of a test: on the terminal, as a line of `report.jsonl`, and after a failure as a folder.

use std::collections::VecDeque;
use std::env;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{self, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use vmtest_backends::console;

use crate::outcome::Outcome;
use crate::registry::Case;
use crate::runner::machine::Machine;
use crate::vm::Vm;

/// How many lines of the console are shown with a failure.
const TAIL: usize = 30;

/// How long the console of a failed machine may take to be fetched.
const CONSOLE_LIMIT: Duration = Duration::from_secs(2);

/// What is noted of a test, besides its outcome.
#[derive(Debug, Default, Serialize)]
pub(super) struct Record {
    test: String,
    outcome: &'static str,
    image: String,
    snapshot: Option<String>,
    engine: Option<String>,
    machine: Option<String>,
    warm: bool,
    /// Milliseconds.
    phases: Vec<(String, f64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip)]
    transcript: String,
    #[serde(skip)]
    console: String,
}

impl Record {
    pub(super) fn of(case: &Case) -> Self {
        let options = case.options();
        Self {
            test: format!("{}::{}", case.crate_name(), case.name()),
            image: options.image,
            snapshot: options.snapshot,
            ..Self::default()
        }
    }

    pub(super) fn phase(&mut self, name: &str, took: Duration) {
        self.phases
            .push((name.to_owned(), (took.as_secs_f64() * 1e6).round() / 1e3));
    }

    /// Notes the machine and how it came to be.
    pub(super) fn machine(&mut self, machine: &Machine) {
        let leased = machine.lease.leased();
        self.engine = Some(leased.engine.clone());
        self.machine = Some(leased.machine.clone());
        self.warm = leased.warm;
        self.snapshot = machine.vm.snapshot().map(str::to_owned);
        for (name, took) in &machine.phases {
            self.phase(name, *took);
        }
        // A warm fork's making is nobody's wait.
        if !leased.warm {
            for (name, took) in &leased.phases {
                self.phase(&format!("lease: {name}"), *took);
            }
        }
    }

    /// Keeps what only the live machine can tell.
    pub(super) async fn evidence(&mut self, vm: &Vm) {
        let console = tokio::time::timeout(CONSOLE_LIMIT, vm.console()).await;
        self.console = console.ok().and_then(Result::ok).unwrap_or_default();
        for entry in vm.transcript() {
            // Writing to a string cannot fail.
            let _ = writeln!(self.transcript, "{entry}");
        }
    }

    /// Writes the line, and the folder for a test that did not pass; returns where that is.
    pub(super) fn write(mut self, outcome: &Outcome) -> Option<PathBuf> {
        let (word, error) = match outcome {
            Outcome::Passed => ("passed", None),
            Outcome::Failed(text) => ("failed", Some(text.clone())),
            Outcome::Errored(error) => ("errored", Some(error.chain())),
            Outcome::Skipped(reason) => ("skipped", Some(reason.clone())),
        };
        self.outcome = word;
        self.error = error;
        let file = file()?;
        let folder = file.parent()?;
        fs::create_dir_all(folder).ok()?;
        // A report that cannot be written must not change an outcome.
        let _ = append(&file, &self);
        match outcome {
            Outcome::Failed(_) | Outcome::Errored(_) => self.bundle(folder).ok(),
            _ => None,
        }
    }

    fn bundle(&self, folder: &Path) -> io::Result<PathBuf> {
        let bundle = folder.join("failed").join(self.test.replace(['/', ':'], "_"));
        // An older bundle of the same test is not to be taken for this one's.
        let _ = fs::remove_dir_all(&bundle);
        fs::create_dir_all(&bundle)?;
        fs::write(
            bundle.join("error.txt"),
            self.error.as_deref().unwrap_or_default(),
        )?;
        fs::write(bundle.join("console.log"), &self.console)?;
        fs::write(bundle.join("transcript.txt"), &self.transcript)?;
        fs::write(bundle.join("record.json"), serde_json::to_vec_pretty(self)?)?;
        Ok(bundle)
    }
}

/// Notes a test whose process is being ended.
pub(super) fn note_blocked(case: &Case, text: &str) {
    Record::of(case).write(&Outcome::Failed(text.to_owned()));
}

fn append(path: &Path, record: &Record) -> io::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    // One write in append mode: lines of processes that run at once do not mix.
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)?
        .write_all(&line)
}

/// `VMTEST_REPORT` names the file, else it is `report.jsonl` in `target/vmtest`, found from where this program
/// lies. Folders of failed tests lie beside it.
fn file() -> Option<PathBuf> {
    if let Some(named) = env::var_os("VMTEST_REPORT").filter(|path| !path.is_empty()) {
        return path::absolute(named).ok();
    }
    let program = env::current_exe().ok()?;
    let tagged = program
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file());
    Some(tagged?.join("vmtest/report.jsonl"))
}

/// The end of a console, as it stands below an outcome.
pub(super) fn console_tail(console: &str) -> String {
    let tail = console::tail(console, TAIL);
    if tail.is_empty() {
        return String::new();
    }
    let mut text = String::from("  the console's last lines:\n");
    for line in tail.lines() {
        let _ = writeln!(text, "    | {line}");
    }
    text
}

/// Writes to standard error past the test harness's capture: progress that would otherwise be seen at the end.
pub(super) fn raw(text: &str) {
    let mut text = text.to_owned();
    text.push('\n');
    // Nobody may be there to read.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// How many lines of progress are remembered, so that tests that wait for the same thing do not repeat them.
const LINES_KEPT: usize = 64;

/// Tells how the building of images and snapshots goes: on standard error, and under nextest, which keeps
/// that for the end, on the terminal. Each line once, however many tests of this process wait.
pub(super) fn progress(line: &str) {
    static TOLD: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());
    {
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        if told.iter().any(|known| known == line) {
            return;
        }
        told.push_back(line.to_owned());
        let excess = told.len().saturating_sub(LINES_KEPT);
        told.drain(..excess);
    }
    let text = format!("vmtest: {line}\n");
    let terminal = env::var_os("NEXTEST").and_then(|_| OpenOptions::new().write(true).open("/dev/tty").ok());
    match terminal {
        // A terminal that is gone is no reason to be silent.
        Some(terminal) if (&terminal).write_all(text.as_bytes()).is_ok() => {}
        _ => raw(text.trim_end()),
    }
}
