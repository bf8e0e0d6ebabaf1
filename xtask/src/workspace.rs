//! What cargo knows of this workspace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::child::{capture, cargo};
use crate::error::{Error, Result};
use crate::stop::Stop;

const METADATA_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
    /// Names of the integration tests of all members, sorted, each once.
    tests: Vec<String>,
}

impl Workspace {
    pub(crate) async fn find(stop: &Stop) -> Result<Self> {
        let mut ask = cargo();
        ask.args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(source_root());
        let text = capture(ask, METADATA_LIMIT, stop).await?;
        let metadata = serde_json::from_str::<Value>(&text)
            .map_err(|why| Error::new(format!("`cargo metadata` wrote what cannot be read: {why}")))?;
        let mut workspace = Self::parse(&metadata)
            .ok_or_else(|| Error::new("`cargo metadata` names no workspace root or target folder"))?;
        // The kernel tells paths without symbolic links, and the leak check compares with them.
        if let Ok(target) = workspace.target.canonicalize() {
            workspace.target = target;
        }
        Ok(workspace)
    }

    fn parse(metadata: &Value) -> Option<Self> {
        let path = |field: &str| metadata[field].as_str().map(PathBuf::from);
        let packages = metadata["packages"].as_array()?;
        let targets = packages
            .iter()
            .filter_map(|package| package["targets"].as_array())
            .flatten();
        // Fixtures are no tests of their own: others run them.
        let tests = targets.filter(|target| {
            let kinds = target["kind"].as_array();
            kinds.is_some_and(|kinds| kinds.contains(&"test".into())) && target["test"] == true
        });
        let mut tests = tests
            .filter_map(|target| target["name"].as_str().map(String::from))
            .collect::<Vec<_>>();
        tests.sort();
        tests.dedup();
        Some(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
            tests,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn tests(&self) -> &[String] {
        &self.tests
    }

    /// Where the set-up writes its list of package sources.
    pub(crate) fn setup_dir(&self) -> PathBuf {
        self.target.join("vmtest-setup")
    }

    /// The state of `cargo xtask test`: kept between runs for its images, apart from the user's own.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.target.join("vmtest-state")
    }

    /// One line per test of the demo.
    pub(crate) fn report(&self) -> PathBuf {
        self.target.join("vmtest").join("report.jsonl")
    }
}

/// Where this program was built from.
fn source_root() -> PathBuf {
    let member = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let member = member.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    member.parent().map(Path::to_path_buf).unwrap_or(member)
}
