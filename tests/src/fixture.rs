//! The fixtures as built programs.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::lab::{Lab, clean};
use crate::program;

/// How long the fixtures may take to be compiled, with everything below them.
const BUILD_LIMIT: Duration = Duration::from_secs(600);

/// The names of their targets: the same cases under the compiler's harness and under a `main` of their own.
const TARGETS: [&str; 2] = ["fixture_libtest", "fixture_library"];

/// The package `outcomes`, built.
#[derive(Debug, Clone)]
pub struct Fixture {
    libtest: PathBuf,
    library: PathBuf,
}

impl Fixture {
    /// Built at most once by a process; cargo knows when there is nothing to do.
    ///
    /// # Panics
    ///
    /// When it cannot be built.
    pub async fn get() -> &'static Self {
        static BUILT: OnceCell<Fixture> = OnceCell::const_new();
        BUILT.get_or_init(Self::build).await
    }

    async fn build() -> Self {
        let mut command = cargo();
        command
            .args(["test", "--no-run", "--message-format=json"])
            .args(selection());
        let built = program::run(command, BUILD_LIMIT).await;
        assert!(
            built.status.success(),
            "the fixtures cannot be built:\n{}",
            built.output
        );
        let messages = built
            .output
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut programs = [None, None];
        for message in messages {
            let index = TARGETS.iter().position(|name| message["target"]["name"] == *name);
            if let (Some(index), Some(path)) = (index, message["executable"].as_str()) {
                programs[index] = Some(PathBuf::from(path));
            }
        }
        let [Some(libtest), Some(library)] = programs else {
            panic!("cargo named no programs:\n{}", built.output);
        };
        Self { libtest, library }
    }

    /// The cases under the compiler's harness.
    #[must_use]
    pub fn libtest(&self) -> &Path {
        &self.libtest
    }

    /// The cases under a `main` of their own, which takes the beginnings of names.
    #[must_use]
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// `cargo nextest run` of the first of them, in `lab`.
    #[must_use]
    pub fn nextest(&self, lab: &Lab) -> Command {
        let mut command = lab.command(program_of_cargo());
        command.current_dir(root()).env("NEXTEST_NO_INPUT_HANDLER", "1");
        command
            .args([
                "nextest",
                "run",
                "--workspace",
                "--test",
                TARGETS[0],
                "--color=never",
            ])
            .args(["--no-fail-fast", "--failure-output=final"])
            .args(place())
            .arg("--config-file")
            .arg(root().join("tests/fixtures/outcomes/nextest.toml"));
        command
    }
}

/// Cargo as it was called for this run of tests.
fn cargo() -> Command {
    let mut command = clean(program_of_cargo());
    command.current_dir(root());
    command
}

fn program_of_cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// What belongs to the whole workspace has the features of the whole workspace: nothing is built twice.
fn selection() -> Vec<PathBuf> {
    let mut words: Vec<PathBuf> = vec!["--workspace".into()];
    words.extend(
        TARGETS
            .iter()
            .flat_map(|name| ["--test".into(), PathBuf::from(name)]),
    );
    words.extend(place());
    words
}

/// The target folder that this program lies in.
fn place() -> Vec<PathBuf> {
    let program = env::current_exe().expect("this program has a path");
    let target = program
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file());
    target.map_or_else(Vec::new, |target| vec!["--target-dir".into(), target.to_owned()])
}

/// The workspace's folder.
#[must_use]
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}
