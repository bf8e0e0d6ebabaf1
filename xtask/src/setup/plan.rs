//! The commands that install packages, as root, in order: to be run, or to be shown to somebody who may.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::child::{End, command, name_of, show};
use crate::error::{Error, Result};
use crate::setup::host::Root;
use crate::setup::need::QEMU_PACKAGES;
use crate::stop::Stop;

/// One command of apt: on a slow line 200 MB have to come.
const APT_LIMIT: Duration = Duration::from_secs(20 * 60);
/// How long apt itself waits for another apt (unattended upgrades) to end; it names the holder.
const LOCK_SECONDS: u32 = 300;

const SIMULATE: &str = "--simulate";

/// Each a program and its arguments.
type Words = Vec<String>;

#[derive(Debug)]
pub(crate) struct Plan {
    /// Fetches the package lists and looks whether the packages can be had; changes nothing.
    look: Vec<Words>,
    install: Vec<Words>,
    clean: Words,
}

impl Plan {
    /// One line for a shell, to be pasted by somebody who may become root.
    pub(crate) fn shell_line(&self) -> String {
        let join = |words: &Words| {
            words
                .iter()
                .map(|word| quoted(word))
                .collect::<Vec<_>>()
                .join(" ")
        };
        // Looking whether it can be had is the first step of installing it, too.
        let steps = self.look.iter().take(1).chain(&self.install);
        let steps = steps.map(join).collect::<Vec<_>>().join(" && ");
        format!("{steps}; {}", join(&self.clean))
    }

    /// Fails, and cleans up, when the packages cannot be had from these sources.
    pub(crate) async fn look(&self, root: Root, stop: &Stop) -> Result {
        let looked = run_all(&self.look, root, stop).await;
        if looked.is_err() {
            self.clean(root).await?;
        }
        looked
    }

    /// Only after [`Plan::look`] has succeeded.
    pub(crate) async fn install(&self, root: Root, stop: &Stop) -> Result {
        let installed = run_all(&self.install, root, stop).await;
        installed.and(self.clean(root).await)
    }

    /// Also after Ctrl-C.
    async fn clean(&self, root: Root) -> Result {
        run(&self.clean, root, &Stop::never()).await
    }
}

async fn run_all(commands: &[Words], root: Root, stop: &Stop) -> Result {
    for words in commands {
        stop.check()?;
        run(words, root, stop).await?;
    }
    Ok(())
}

async fn run(words: &[String], root: Root, stop: &Stop) -> Result {
    let limit = APT_LIMIT.as_secs().to_string();
    let mut all = root.prefix().to_vec();
    if !all.is_empty() {
        all.extend(["timeout", "--foreground", &limit]);
    }
    all.extend(words.iter().map(String::as_str));
    let mut child = command(all[0]);
    child.args(&all[1..]);
    if words.iter().any(|word| word == SIMULATE) {
        // One line per package that would come; the real command tells them again.
        child.stdout(Stdio::null());
    }
    let name = name_of(&child);
    let end = match root {
        Root::Already => show(child, APT_LIMIT, stop).await?,
        Root::Sudo | Root::SudoAsks => End::Status(run_with_sudo(child).await?),
    };
    if end.success() {
        Ok(())
    } else {
        Err(Error::new(format!("`{name}` failed: {}", end.reason(APT_LIMIT))))
    }
}

/// What runs under sudo is not ours to end: it has its own limit, and stays in our process group, where it may
/// ask for a password and the terminal's Ctrl-C reaches it.
async fn run_with_sudo(mut child: Command) -> Result<std::process::ExitStatus> {
    let name = name_of(&child);
    child.stdin(Stdio::inherit());
    let mut child = child
        .spawn()
        .map_err(Error::at(format!("cannot start `{name}`")))?;
    child
        .wait()
        .await
        .map_err(Error::at(format!("cannot wait for `{name}`")))
}

/// A folder below apt's own, which apt makes when it is missing; one per run, so that two never meet.
pub(crate) fn lists_of_this_run() -> String {
    format!("/var/lib/apt/vmtest-lists-{}", std::process::id())
}

pub(crate) fn assemble(
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
    let mut install_all = Vec::new();
    if !qemu.is_empty() && backports {
        // Both: the one that is there must have the version of the one that comes.
        let target = format!("{codename}-backports");
        install_all.push(apt(&[&install[..], &["-t", &target], &QEMU_PACKAGES].concat()));
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
        install_all.push(apt(&[&install[..], downgrade, &fresh, &pinned].concat()));
    }
    if !others.is_empty() {
        install_all.push(apt(&[&install[..], &others].concat()));
    }
    let look = [
        vec![apt(&["update"])],
        install_all.iter().map(simulated).collect(),
    ]
    .concat();
    Plan {
        look,
        install: install_all,
        clean: vec!["rm".into(), "-rf".into(), lists.into()],
    }
}

/// The same command, which only looks whether it could be done.
fn simulated(install: &Words) -> Words {
    [install.as_slice(), &[SIMULATE.to_owned(), "-qq".to_owned()]].concat()
}

/// apt's settings for this run, on top of the host's own.
pub(crate) fn render_settings(list: &Path, lists: &str) -> String {
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
        plan.install.iter().map(tail).collect()
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
            lines(&plan)[0],
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
