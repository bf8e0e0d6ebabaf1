//! Something that has to be made before a test can run, and the waiting for whoever makes it.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmtest_backends::error::Report;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::broker::wire;
use crate::pool::Run;
use crate::role::{self, Role, Service};
use crate::runner::recipe::{self, Recipe};
use crate::runner::setup::Setup;

/// The variable a builder finds its target in.
pub(super) const TARGET: &str = "VMTEST_BUILD_TARGET";

/// How often a builder that vanished is replaced, before that counts as an error.
const ATTEMPTS: usize = 3;

/// An image or a snapshot, by the key of everything that goes into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    /// The image.
    pub(super) image: String,
    /// The snapshot; without one the image itself is meant.
    pub(super) snapshot: Option<String>,
    /// Memory in MiB and virtual CPUs of the machine.
    pub(super) shape: (u32, u32),
    /// The engine asked for.
    pub(super) backend: Option<String>,
    /// Its key: who makes it must come to the same.
    pub(super) key: String,
    /// The run of tests that began the building.
    pub(super) run: Run,
    /// Its name, by which failures are remembered. Builders pass on what they were told.
    pub(super) run_name: String,
}

impl Target {
    /// `image debian`, `snapshot debian/ready`.
    pub(super) fn title(&self) -> String {
        match &self.snapshot {
            Some(snapshot) => format!("snapshot {}/{snapshot}", self.image),
            None => format!("image {}", self.image),
        }
    }
}

/// What a waiter says first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wait {
    /// The run of tests it belongs to.
    pub(super) run: String,
}

/// What a builder says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum News {
    /// How it goes.
    Progress(String),
    /// It is there.
    Built,
    /// It could not be made.
    Failed(Report),
}

/// Waits until the target has been made, by a process of its own that goes on when this one is killed.
pub(super) async fn obtain(setup: &Setup, target: &Target, say: &(dyn Fn(&str) + Send + Sync)) -> Result<()> {
    let limit = limit(setup, target)?;
    match tokio::time::timeout(limit.all(), wait_for_builder(setup, target, say)).await {
        Ok(result) => result,
        Err(_) => {
            let text = format!("{} was not there within {limit}", target.title());
            Err(Error::new(ErrorKind::TimedOut, text))
        }
    }
}

/// How long the making of a target may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    /// For all that has no limit of its own.
    build: Duration,
    /// Those that snapshots set for themselves, together.
    own: Duration,
}

impl Limit {
    fn of(build: Duration, lineage: &[Recipe]) -> Self {
        let own = lineage.iter().filter_map(Recipe::timeout);
        let own = own.fold(Duration::ZERO, Duration::saturating_add);
        Self { build, own }
    }

    /// Added up: a snapshot's own limit must take effect before its waiter gives up, and is one of its steps
    /// alone, after a boot and whatever lies below it.
    fn all(self) -> Duration {
        self.build.saturating_add(self.own)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s (build_timeout", self.all().as_secs())?;
        if !self.own.is_zero() {
            write!(f, " and {} s of the snapshots' own timeouts", self.own.as_secs())?;
        }
        f.write_str(")")
    }
}

fn limit(setup: &Setup, target: &Target) -> Result<Limit> {
    let lineage = match &target.snapshot {
        Some(snapshot) => recipe::lineage(&setup.config, &target.image, Some(snapshot))?,
        None => Vec::new(),
    };
    Ok(Limit::of(setup.config.settings().build_timeout, &lineage))
}

async fn wait_for_builder(setup: &Setup, target: &Target, say: &(dyn Fn(&str) + Send + Sync)) -> Result<()> {
    let run = &target.run_name;
    let service = service(setup, target)?;
    for _ in 0..ATTEMPTS {
        if let Some(report) = Failures::of(setup, &target.key)?.told_to(run) {
            return Err(Error::from(report));
        }
        let (starting, name) = (service.clone(), target.title());
        let stream = tokio::task::spawn_blocking(move || starting.connect()).await;
        let stream = stream
            .map_err(|cause| Error::new(ErrorKind::Build, format!("{name}: no builder")).because(cause))??;
        let heard = listen(stream, run, say).await;
        if let Ok(Some(result)) = heard {
            return result;
        }
        let cleared = service.clone();
        // A socket nobody listens on is replaced by the next start as well.
        let _ = tokio::task::spawn_blocking(move || cleared.clear_if_dead()).await;
    }
    let text = format!("{}: its builder vanished {ATTEMPTS} times", target.title());
    Err(Error::new(ErrorKind::Build, text).because(role::log_tail(&service.log())))
}

/// What the builder told in the end; `None` when it vanished.
async fn listen(
    stream: std::os::unix::net::UnixStream,
    run: &str,
    say: &(dyn Fn(&str) + Send + Sync),
) -> std::io::Result<Option<Result<()>>> {
    let (mut reader, mut writer) = wire::split(stream)?;
    writer.send(&Wait { run: run.to_owned() }, None).await?;
    while let Some(news) = reader.next::<News>().await? {
        match news {
            News::Progress(line) => say(&line),
            News::Built => return Ok(Some(Ok(()))),
            News::Failed(report) => return Ok(Some(Err(report.into()))),
        }
    }
    Ok(None)
}

/// The builder of a target. It is told everything that may go into the key besides files: our own
/// variables, and those that snapshot functions name.
pub(super) fn service(setup: &Setup, target: &Target) -> Result<Service> {
    let text = serde_json::to_string(target)
        .map_err(|cause| Error::new(ErrorKind::Build, "a target that cannot be told").because(cause))?;
    let mut vars: Vec<(OsString, OsString)> = vec![(TARGET.into(), text.into())];
    let named: Vec<String> = crate::registry::snapshots()
        .into_iter()
        .flat_map(|function| function.options().env)
        .collect();
    for (name, value) in env::vars_os() {
        let text = name.to_string_lossy();
        let ours = text.starts_with("VMTEST_") && text != TARGET && text != "VMTEST_ROLE";
        if ours || text == "CARGO_MANIFEST_DIR" || text == "CI" || named.iter().any(|known| *known == text) {
            vars.push((name, value));
        }
    }
    let name = format!("build-{}", &target.key[..target.key.len().min(16)]);
    Ok(Service::new(&setup.dirs, Role::Build, &name, vars))
}

/// The name of the run this process belongs to, the same in all its processes.
pub(super) fn run_name() -> String {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| name_by(&|variable| env::var(variable).ok()))
        .clone()
}

fn name_by(variable: &dyn Fn(&str) -> Option<String>) -> String {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let run = match (set("NEXTEST_RUN_ID"), set("CARGO")) {
        (Some(id), _) => return id,
        (None, Some(_)) => Run::current(),
        // Started by hand: the parent is a shell, whose life is no run.
        (None, None) => Run::own(),
    };
    format!("{}-{}", run.pid, run.started)
}

/// A failure that was told to some runs already: it is not tried again for them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Failures {
    runs: Vec<String>,
    report: Option<Report>,
    #[serde(skip)]
    path: PathBuf,
}

/// How many runs are remembered with a failure.
const RUNS_KEPT: usize = 64;

/// How long a failure is remembered, should a run last longer.
const FAILURE_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

impl Failures {
    pub(super) fn of(setup: &Setup, key: &str) -> Result<Self> {
        let path = setup.dirs.in_cache("failures")?.join(format!("{key}.json"));
        let fresh = fs::metadata(&path)
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < FAILURE_KEPT));
        // A note that cannot be read only costs another attempt.
        let known = fs::read(&path).ok().filter(|_| fresh);
        let known = known.and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        Ok(Self {
            path,
            ..known.unwrap_or_default()
        })
    }

    fn told_to(&self, run: &str) -> Option<Report> {
        let mut report = self
            .report
            .clone()
            .filter(|_| self.runs.iter().any(|known| known == run))?;
        report
            .message
            .push_str(" (tried earlier in this run, not tried again)");
        Some(report)
    }

    /// Remembers a failure for these runs.
    pub(super) fn remember(
        mut self,
        runs: impl IntoIterator<Item = String>,
        report: &Report,
    ) -> std::io::Result<()> {
        self.runs.extend(runs);
        let excess = self.runs.len().saturating_sub(RUNS_KEPT);
        self.runs.drain(..excess);
        self.report = Some(report.clone());
        let partial = self
            .path
            .with_extension(format!("partial-{}", std::process::id()));
        fs::write(&partial, serde_json::to_vec(&self)?)?;
        fs::rename(&partial, &self.path)
    }

    /// Forgets it: the thing was made after all.
    pub(super) fn forget(&self) {
        // Usually there is none.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_nextests_or_cargos_or_a_process_of_its_own() {
        let named = |set: &[(&str, &str)]| {
            name_by(&|name| {
                let (_, value) = set.iter().find(|(known, _)| *known == name)?;
                Some((*value).to_owned())
            })
        };
        let of = |run: Run| format!("{}-{}", run.pid, run.started);
        assert_ne!(of(Run::own()), of(Run::current()));
        assert_eq!(named(&[("NEXTEST_RUN_ID", "4f"), ("CARGO", "cargo")]), "4f");
        assert_eq!(
            named(&[("NEXTEST_RUN_ID", ""), ("CARGO", "cargo")]),
            of(Run::current())
        );
        assert_eq!(named(&[]), of(Run::own()));
    }

    #[test]
    fn a_waiter_outlasts_the_own_limits_of_all_snapshots_below() {
        let (build, hour) = (Duration::from_secs(1200), Duration::from_secs(3600));
        let steps = |timeout| {
            let origin = crate::config::Origin {
                file: "vmtest.toml".into(),
                line: 1,
                column: 1,
            };
            Recipe::Steps(crate::config::SnapshotDecl {
                name: "ready".into(),
                origin,
                from: None,
                memory_mib: None,
                cpus: None,
                network: false,
                timeout,
                steps: Vec::new(),
            })
        };
        let usual = Limit::of(build, &[Recipe::Boot, steps(None)]);
        assert_eq!(usual.all(), build);
        assert_eq!(usual.to_string(), "1200 s (build_timeout)");
        let long = Limit::of(
            build,
            &[Recipe::Boot, steps(Some(hour)), steps(None), steps(Some(hour))],
        );
        assert_eq!(long.all(), build + 2 * hour);
        assert_eq!(
            long.to_string(),
            "8400 s (build_timeout and 7200 s of the snapshots' own timeouts)"
        );
    }

    #[test]
    fn a_failure_is_told_to_the_runs_it_was_tried_for_and_says_so() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("test-failure-{}.json", std::process::id()));
        let failed = Error::new(ErrorKind::Build, "step 2 failed").report();
        let failures = Failures {
            path: path.clone(),
            ..Failures::default()
        };
        failures.remember(["one".to_owned()], &failed).unwrap();
        let read: Failures = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        let told = read.told_to("one").unwrap();
        assert_eq!(
            told.message,
            "step 2 failed (tried earlier in this run, not tried again)"
        );
        assert_eq!(read.told_to("another"), None);
    }
}
