//! Installing packages without touching the host's own sources: apt is given a list and a state folder of
//! ours for one run. So a suite that the host does not follow (backports) can be used once, and a host whose
//! `qemu-utils` came from there gets the `qemu-system-x86` that fits it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::child::{capture, command};
use crate::error::{Error, Result};
use crate::say::say;
use crate::setup::host::Distribution;
use crate::setup::plan::{self, Plan};
use crate::setup::sources::{self, Source};
use crate::stop::Stop;

/// Asking apt and dpkg for what they know.
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// Where QEMU's packages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The backports suite of the host's own mirror.
    Backports,
    /// What the host is configured with; installed packages of QEMU are taken down to it where needed.
    Configured,
}

/// Makes the plan that installs `packages`; writes our list of sources into `folder`.
pub(crate) async fn plan(
    packages: &[&str],
    distribution: &Distribution,
    origin: Origin,
    folder: &Path,
    stop: &Stop,
) -> Result<Plan> {
    let backports = origin == Origin::Backports;
    let configured = configured_sources(stop).await?;
    if configured.is_empty() {
        return Err(Error::new(
            "apt is configured with no package source at all (/etc/apt/sources.list.d is where they stand)",
        ));
    }
    let lists = plan::lists_of_this_run();
    let list = folder.join("apt.sources");
    let settings = folder.join("apt.conf");
    fs::create_dir_all(folder).map_err(Error::at(format!("cannot make {}", folder.display())))?;
    write(
        &list,
        &sources::render(&configured, &distribution.codename, backports),
    )?;
    write(&settings, &plan::render_settings(&list, &lists))?;
    let downgrade = if backports {
        Vec::new()
    } else {
        installed_qemu_packages(stop).await?
    };
    Ok(plan::assemble(
        packages,
        &distribution.codename,
        backports,
        &settings,
        &lists,
        &downgrade,
    ))
}

fn write(file: &Path, text: &str) -> Result {
    fs::write(file, text).map_err(Error::at(format!("cannot write {}", file.display())))
}

/// Sources of the host, from wherever its apt is told to look.
async fn configured_sources(stop: &Stop) -> Result<Vec<Source>> {
    let mut ask = command("apt-config");
    ask.args([
        "shell",
        "LIST",
        "Dir::Etc::sourcelist/f",
        "PARTS",
        "Dir::Etc::sourceparts/d",
    ]);
    let told = capture(ask, ASK_LIMIT, stop).await?;
    let place = |name: &str| {
        let value = told
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        PathBuf::from(value.unwrap_or_default().trim_matches('\''))
    };
    let mut files = vec![place("LIST")];
    let parts = fs::read_dir(place("PARTS")).into_iter().flatten().flatten();
    let mut parts = parts.map(|entry| entry.path()).collect::<Vec<_>>();
    parts.sort();
    files.append(&mut parts);
    Ok(files.iter().flat_map(|file| sources_in(file)).collect())
}

fn sources_in(file: &Path) -> Vec<Source> {
    let parse: fn(&str) -> Vec<Source> = match file.extension().and_then(|ending| ending.to_str()) {
        Some("list") => sources::parse_one_line,
        Some("sources") => sources::parse_stanzas,
        _ => return Vec::new(),
    };
    match fs::read_to_string(file) {
        Ok(text) => parse(&text),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(cause) => {
            say(format!("set-up: {} is left out: {cause}", file.display()));
            Vec::new()
        }
    }
}

/// The installed packages made from QEMU's source, whatever their version.
async fn installed_qemu_packages(stop: &Stop) -> Result<Vec<String>> {
    let told = dpkg_query("${db:Status-Status} ${source:Package} ${Package}\n", &[], stop).await?;
    Ok(told
        .lines()
        .filter_map(|line| line.strip_prefix("installed qemu ").map(String::from))
        .collect())
}

/// Whether one of QEMU's packages is there from a backports suite.
pub(crate) async fn has_backported_qemu(stop: &Stop) -> Result<bool> {
    let told = dpkg_query("${db:Status-Status} ${source:Package} ${Version}\n", &[], stop).await?;
    Ok(told
        .lines()
        .any(|line| line.starts_with("installed qemu ") && line.contains("~bpo")))
}

async fn dpkg_query(format: &str, packages: &[&str], stop: &Stop) -> Result<String> {
    let mut ask = command("dpkg-query");
    ask.args(["-W", "-f", format]).args(packages);
    capture(ask, ASK_LIMIT, stop).await
}
