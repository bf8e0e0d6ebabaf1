//! Installing packages without touching the host's own sources: apt is given a list and a state folder of
//! ours for one run. So a suite that the host does not follow (backports) can be used once, and a host whose
//! `qemu-utils` came from there gets the `qemu-system-x86` that fits it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::child::{End, capture, command, show};
use crate::error::{Error, Result};
use crate::say::say;
use crate::setup::host::{Distribution, Root};
use crate::setup::need::QEMU_PACKAGES;
use crate::setup::sources::{self, Source};
use crate::stop::Stop;

/// One apt command: on a slow line 200 MB have to come.
const APT_LIMIT: Duration = Duration::from_secs(20 * 60);
/// Asking apt and dpkg for what they know.
const ASK_LIMIT: Duration = Duration::from_secs(30);
/// How long apt itself waits for another apt (unattended upgrades) to end; it names the holder.
const LOCK_SECONDS: u32 = 300;

/// Where QEMU's packages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The backports suite of the host's own mirror.
    Backports,
    /// What the host is configured with; installed packages of QEMU are taken down to it where needed.
    Configured,
}

/// What is to be run, as root, in order.
#[derive(Debug)]
pub(crate) struct Plan {
    commands: Vec<Vec<String>>,
    clean: Vec<String>,
}

impl Plan {
    /// One line for a shell, to be pasted by somebody who may become root.
    pub(crate) fn shell_line(&self) -> String {
        let join = |words: &Vec<String>| {
            words
                .iter()
                .map(|word| quoted(word))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let steps = self.commands.iter().map(join).collect::<Vec<_>>().join(" && ");
        format!("{steps}; {}", join(&self.clean))
    }

    pub(crate) async fn run(&self, root: Root, stop: &Stop) -> Result {
        let outcome = self.run_steps(root, stop).await;
        let cleaned = run_one(&self.clean, root, stop).await;
        outcome.and(cleaned)
    }

    async fn run_steps(&self, root: Root, stop: &Stop) -> Result {
        for words in &self.commands {
            run_one(words, root, stop).await?;
        }
        Ok(())
    }
}

async fn run_one(words: &[String], root: Root, stop: &Stop) -> Result {
    let mut words = root
        .prefix()
        .iter()
        .copied()
        .chain(words.iter().map(String::as_str));
    let mut child = command(words.next().unwrap_or_default());
    child.args(words);
    if root == Root::SudoAsks {
        return run_with_terminal(child, stop).await;
    }
    let name = crate::child::name_of(&child);
    match show(child, APT_LIMIT, stop).await? {
        end if end.success() => Ok(()),
        end => Err(Error::new(format!("`{name}` failed: {}", end.reason(APT_LIMIT)))),
    }
}

/// In our own process group: only there may it ask for a password. Ctrl-C reaches it through the terminal.
async fn run_with_terminal(mut child: tokio::process::Command, stop: &Stop) -> Result {
    let name = crate::child::name_of(&child);
    child.stdin(std::process::Stdio::inherit());
    let mut child = child
        .spawn()
        .map_err(Error::at(format!("cannot start `{name}`")))?;
    let status = child
        .wait()
        .await
        .map_err(Error::at(format!("cannot wait for `{name}`")))?;
    stop.check()?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::new(format!(
            "`{name}` failed: {}",
            End::Status(status).reason(APT_LIMIT)
        )))
    }
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
    let lists = lists_of_this_run();
    let list = folder.join("apt.sources");
    let settings = folder.join("apt.conf");
    fs::create_dir_all(folder).map_err(Error::at(format!("cannot make {}", folder.display())))?;
    write(
        &list,
        &sources::render(&configured, &distribution.codename, backports),
    )?;
    write(&settings, &render_settings(&list, &lists))?;
    let downgrade = if backports {
        Vec::new()
    } else {
        installed_qemu_packages(stop).await?
    };
    Ok(assemble(
        packages,
        &distribution.codename,
        backports,
        &settings,
        &lists,
        &downgrade,
    ))
}

/// A folder below apt's own, which apt makes when it is missing; one per run, so that two never meet.
fn lists_of_this_run() -> String {
    format!("/var/lib/apt/vmtest-lists-{}", std::process::id())
}

fn write(file: &Path, text: &str) -> Result {
    fs::write(file, text).map_err(Error::at(format!("cannot write {}", file.display())))
}

fn assemble(
    packages: &[&str],
    codename: &str,
    backports: bool,
    settings: &Path,
    lists: &str,
    installed: &[String],
) -> Plan {
    let settings = settings.display().to_string();
    let apt = |words: &[&str]| {
        let start = [
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-c",
            &settings,
        ];
        start
            .iter()
            .chain(words)
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let (qemu, others): (Vec<&str>, Vec<&str>) = packages
        .iter()
        .partition(|package| QEMU_PACKAGES.contains(package));
    let install = ["install", "-y", "--no-install-recommends"];
    let mut commands = vec![apt(&["update"])];
    if !qemu.is_empty() && backports {
        // Both: the one that is there must have the version of the one that comes.
        let target = format!("{codename}-backports");
        commands.push(apt(&[&install[..], &["-t", &target], &QEMU_PACKAGES].concat()));
    } else if !qemu.is_empty() {
        let pinned = installed
            .iter()
            .map(|package| format!("{package}/{codename}"))
            .collect::<Vec<_>>();
        let pinned = pinned.iter().map(String::as_str).collect::<Vec<_>>();
        let fresh = qemu
            .iter()
            .copied()
            .filter(|each| !installed.iter().any(|have| have == each));
        let fresh = fresh.collect::<Vec<_>>();
        let downgrade: &[&str] = if pinned.is_empty() {
            &[]
        } else {
            &["--allow-downgrades"]
        };
        commands.push(apt(&[&install[..], downgrade, &fresh, &pinned].concat()));
    }
    if !others.is_empty() {
        commands.push(apt(&[&install[..], &others].concat()));
    }
    Plan {
        commands,
        clean: vec!["rm".into(), "-rf".into(), lists.into()],
    }
}

/// apt's settings for this run, on top of the host's own.
fn render_settings(list: &Path, lists: &str) -> String {
    let settings = [
        ("Dir::Etc::sourcelist", list.display().to_string()),
        ("Dir::Etc::sourceparts", "/dev/null".into()),
        ("Dir::State::lists", lists.into()),
        // The host's own caches describe the host's own lists.
        ("Dir::Cache::pkgcache", String::new()),
        ("Dir::Cache::srcpkgcache", String::new()),
        // Only packages, no translations.
        ("Acquire::Languages", "none".into()),
        ("Acquire::Retries", "2".into()),
        // A source that cannot be fetched is an error, not a warning.
        ("APT::Update::Error-Mode", "any".into()),
        ("DPkg::Lock::Timeout", LOCK_SECONDS.to_string()),
    ];
    settings
        .map(|(name, value)| format!("{name} \"{value}\";\n"))
        .concat()
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

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+~,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(plan: &Plan) -> Vec<String> {
        let tail = |words: &Vec<String>| {
            let verb = words
                .iter()
                .position(|word| word == "update" || word == "install")
                .unwrap();
            words[verb..].join(" ")
        };
        plan.commands.iter().map(tail).collect()
    }

    #[test]
    fn backports_serve_qemu_alone() {
        let plan = assemble(
            &["qemu-system-x86", "passt"],
            "bookworm",
            true,
            Path::new("/c"),
            "/l",
            &[],
        );
        let install = "install -y --no-install-recommends";
        assert_eq!(
            lines(&plan),
            [
                "update".into(),
                format!("{install} -t bookworm-backports qemu-system-x86 qemu-utils"),
                format!("{install} passt"),
            ]
        );
    }

    #[test]
    fn without_backports_what_is_installed_is_taken_down() {
        let installed = ["qemu-utils".to_owned(), "qemu-block-extra".to_owned()];
        let plan = assemble(
            &["qemu-system-x86", "qemu-utils"],
            "bookworm",
            false,
            Path::new("/c"),
            "/l",
            &installed,
        );
        assert_eq!(
            lines(&plan)[1],
            "install -y --no-install-recommends --allow-downgrades qemu-system-x86 qemu-utils/bookworm \
             qemu-block-extra/bookworm"
        );
    }

    #[test]
    fn the_line_for_a_shell_is_quoted() {
        let plan = assemble(&["passt"], "bookworm", false, Path::new("/a folder/c"), "/l", &[]);
        let line = plan.shell_line();
        assert!(line.contains("apt-get -c '/a folder/c' update && "), "{line}");
        assert!(line.ends_with("; rm -rf /l"), "{line}");
    }
}
