//! A state directory of a test's own, with the images of the common one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use vmtest::broker::Status;
use vmtest::config::Config;
use vmtest::dirs::Dirs;
use vmtest::{broker, image};

use crate::residue;

/// How long everything of a broker that was stopped may still be seen.
pub const GONE_LIMIT: Duration = Duration::from_secs(5);

/// A state directory of a test's own, which is removed when all went well.
#[derive(Debug)]
pub struct Lab {
    folder: PathBuf,
    dirs: Dirs,
}

impl Lab {
    /// The lab `name`, which must be unique among the tests, with the image `tiny` in it.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn open(name: &str) -> Self {
        let common = Dirs::from_env().expect("there is a state directory");
        let config = Config::load().expect("the configuration can be read");
        let plan = image::plan(&config, &common, "tiny").expect("the image tiny is known");
        if plan.find(&common).expect("images can be looked for").is_none() {
            plan.build(&common, &|line| eprintln!("{line}"))
                .expect("the image tiny can be built");
        }
        let lab = Self::bare(&common, name);
        let images = common.in_cache("images").expect("there are images");
        let own = lab.dirs.in_cache("images").expect("a folder can be made");
        link_tree(&images, &own).expect("images can be linked to");
        lab
    }

    /// Without any image.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn empty(name: &str) -> Self {
        Self::bare(&Dirs::from_env().expect("there is a state directory"), name)
    }

    fn bare(common: &Dirs, name: &str) -> Self {
        let labs = common.in_cache("lab").expect("a folder can be made");
        // Nobody else has this name; what an earlier run left is of no use.
        let folder = labs.join(name);
        let _ = fs::remove_dir_all(&folder);
        let dirs = Dirs::under(&folder).expect("a folder can be made");
        fs::create_dir_all(folder.join("project")).expect("a folder can be made");
        Self { folder, dirs }
    }

    /// Its folder: `VMTEST_DIR` of whatever runs in it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its directories.
    #[must_use]
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// The folder that what runs in it takes for its package: the place of a `vmtest.toml`.
    #[must_use]
    pub fn project(&self) -> PathBuf {
        self.folder.join("project")
    }

    /// A program to run in it: in CI, by emulation, with half the time for everything.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = clean(program);
        command
            .env("VMTEST_DIR", &self.folder)
            .env("VMTEST_REPORT", self.folder.join("report/report.jsonl"))
            .env("VMTEST_ACCEL", "tcg")
            .env("VMTEST_TIMEOUT_FACTOR", "0.5")
            .env("CARGO_MANIFEST_DIR", self.project())
            .env("CI", "true")
            .env("RUST_BACKTRACE", "0")
            .current_dir(self.project());
        command
    }

    /// How each test ended that was run in it, by its name without its crate: the outcome and the error.
    ///
    /// # Panics
    ///
    /// When there is no report that can be read.
    #[must_use]
    pub fn outcomes(&self) -> BTreeMap<String, (String, String)> {
        let text = fs::read_to_string(self.folder.join("report/report.jsonl")).expect("there is a report");
        let records = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
        let told = |record: &Value, field: &str| record[field].as_str().unwrap_or_default().to_owned();
        records
            .map(|record| {
                let test = told(&record, "test");
                let name = test
                    .split_once("::")
                    .map_or(test.as_str(), |(_, name)| name)
                    .to_owned();
                (name, (told(&record, "outcome"), told(&record, "error")))
            })
            .collect()
    }

    /// The brokers that run.
    ///
    /// # Panics
    ///
    /// When they cannot be asked.
    pub async fn brokers(&self) -> Vec<Status> {
        let mut running = Vec::new();
        for address in broker::addresses(&self.dirs).expect("brokers can be looked for") {
            running.extend(address.status().await.expect("the broker answers"));
        }
        running
    }

    /// Ends the broker.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub async fn stop(&self) {
        for address in broker::addresses(&self.dirs).expect("brokers can be looked for") {
            address.stop().await.expect("the broker can be stopped");
        }
    }

    /// Ends the broker and makes sure that nothing is left; removes the lab.
    ///
    /// # Panics
    ///
    /// When something is left after [`GONE_LIMIT`].
    pub async fn close(self) {
        self.stop().await;
        self.nothing_left(GONE_LIMIT).await;
        fs::remove_dir_all(&self.folder).expect("the lab can be removed");
    }

    /// Makes sure that no process, socket, machine or lock is left in it.
    ///
    /// # Panics
    ///
    /// When something is left after `limit`.
    pub async fn nothing_left(&self, limit: Duration) {
        let left = residue::after(&self.folder, limit).await;
        assert!(
            left.is_empty(),
            "left behind after {limit:?}:\n  {}",
            left.join("\n  ")
        );
    }
}

/// A program that is told nothing of the run of tests that starts it.
#[must_use]
pub fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let engine = text == "VMTEST_QEMU";
        let told = [
            "NEXTEST",
            "VMTEST_",
            "RUST_TEST_",
            "CARGO_PKG_",
            "CARGO_BIN_",
            "CARGO_MANIFEST_",
        ];
        if !engine && told.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// The same files under other names: images are never written to.
fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        // What is being made belongs to whoever makes it.
        if name.to_string_lossy().starts_with('.') || name.to_string_lossy().ends_with(".lock") {
            continue;
        }
        let (path, target) = (entry.path(), to.join(&name));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir_all(&target)?;
            link_tree(&path, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&path)?, &target)?;
        } else {
            fs::hard_link(&path, &target)?;
        }
    }
    Ok(())
}
