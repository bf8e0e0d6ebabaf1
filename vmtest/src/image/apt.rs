//! The host's package archive, used as an ordinary user: with lists and caches of our own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmtest_backends::{Error, ErrorKind, Result};

use super::Say;
use super::host::Host;
use super::shelf::{Lock, unusable};
use super::sources::{self, Source};
use super::tool::{Ran, Tool};
use crate::dirs::Dirs;

/// The limit of fetching the lists of packages.
const UPDATE_LIMIT: Duration = Duration::from_secs(300);

/// The limit of fetching one package.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// The limit of a question to the lists.
const QUERY_LIMIT: Duration = Duration::from_secs(60);

/// The limit of unpacking a package.
const UNPACK_LIMIT: Duration = Duration::from_secs(120);

/// The host's package archive. One process uses the lists at a time; dropping it lets others.
pub(super) struct Apt {
    host: Host,
    folder: PathBuf,
    sources: Vec<Source>,
    extra_suite: Option<String>,
    _lock: Lock,
}

impl Apt {
    /// Fetches the lists of the host's own release, and of `extra`, a suite of the same mirror, if it has it.
    pub(super) fn open(dirs: &Dirs, host: &Host, extra: Option<&str>, say: Say<'_>) -> Result<Self> {
        let folder = dirs.in_cache("apt")?;
        let lock = Lock::take(folder.join("lock"), "package lists", say)?;
        let sources = sources::of_release(host)?;
        let mut apt = Self {
            host: host.clone(),
            folder,
            sources,
            extra_suite: None,
            _lock: lock,
        };
        if !apt
            .sources
            .iter()
            .any(|source| source.suites.contains(&host.codename))
        {
            return Err(apt.no_source());
        }
        apt.prepare()?;
        apt.update(extra, say)?;
        Ok(apt)
    }

    /// The sources whose lists were fetched and that are the distribution's own; without the extra suite.
    pub(super) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The extra suite that was asked for, if the mirror has it.
    pub(super) fn extra_suite(&self) -> Option<&str> {
        self.extra_suite.as_deref()
    }

    /// The host's settings for reaching the archive (proxies and the like), as lines of an apt configuration.
    pub(super) fn transport(&self) -> Result<String> {
        fs::read_to_string(self.folder.join("transport.conf"))
            .map_err(|cause| unusable(&self.folder, "cannot be read", cause))
    }

    /// The packages that the newest `package` needs, without versions; from `suite` if given.
    pub(super) fn needs(&self, package: &str, suite: Option<&str>) -> Result<Vec<String>> {
        let text = self
            .tool("apt-cache", QUERY_LIMIT)?
            .args(["show", "--no-all-versions"]);
        let text = release(text, suite).arg(package).output()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let lists = text.lines().filter_map(|line| line.strip_prefix("Depends:"));
        let first = |word: &str| word.split_whitespace().next().map(str::to_owned);
        Ok(lists.flat_map(|list| list.split(',')).filter_map(first).collect())
    }

    /// Fetches the newest version of `package`, from `suite` if given, into `folder`; its file there.
    pub(super) fn download(&self, package: &str, suite: Option<&str>, folder: &Path) -> Result<PathBuf> {
        let own = folder.join(format!("fetched-{package}"));
        fs::create_dir(&own).map_err(|cause| unusable(&own, "cannot be made", cause))?;
        let tool = release(self.tool("apt-get", DOWNLOAD_LIMIT)?, suite).args(["download", package]);
        tool.in_folder(&own).output().map_err(|cause| {
            let text = format!("the package {package} could not be fetched");
            Error::new(ErrorKind::Image, text).because(cause)
        })?;
        let mut files = fs::read_dir(&own).map_err(|cause| unusable(&own, "cannot be read", cause))?;
        let file = files.find_map(|entry| {
            Some(entry.ok()?.path()).filter(|path| path.extension().is_some_and(|end| end == "deb"))
        });
        file.ok_or_else(|| {
            Error::new(
                ErrorKind::Image,
                format!("apt-get fetched no file for the package {package}"),
            )
        })
    }

    /// Fetches `package` and unpacks it into `to`, a new or existing folder.
    pub(super) fn unpack(&self, package: &str, suite: Option<&str>, scratch: &Path, to: &Path) -> Result<()> {
        let file = self.download(package, suite, scratch)?;
        Tool::new("dpkg-deb", "dpkg", UNPACK_LIMIT)?
            .arg("--extract")
            .arg(&file)
            .arg(to)
            .output()?;
        fs::remove_file(&file).map_err(|cause| unusable(&file, "cannot be removed", cause))
    }

    fn prepare(&self) -> Result<()> {
        let failed = |cause| unusable(&self.folder, "cannot be written", cause);
        for folder in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(self.folder.join(folder)).map_err(failed)?;
        }
        fs::write(self.folder.join("status"), "").map_err(failed)?;
        fs::write(self.folder.join("transport.conf"), host_transport()?).map_err(failed)?;
        fs::write(self.folder.join("apt.conf"), self.configuration()).map_err(failed)
    }

    fn configuration(&self) -> String {
        let folder = self.folder.display();
        // The host's own hooks and preferences stay out: they are for the host's packages.
        format!(
            "#include \"{folder}/transport.conf\";\n\
             Dir::Etc::main \"/dev/null\";\n\
             Dir::Etc::parts \"{folder}/parts\";\n\
             Dir::Etc::sourcelist \"{folder}/release.sources\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::State \"{folder}\";\n\
             Dir::State::lists \"{folder}/lists\";\n\
             Dir::State::status \"{folder}/status\";\n\
             Dir::Cache \"{folder}/cache\";\n\
             APT::Architecture \"{}\";\n\
             APT::Architectures {{ \"{}\"; }};\n\
             APT::Sandbox::User \"\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"2\";\n",
            self.host.architecture, self.host.architecture
        )
    }

    /// Fetches the lists, then keeps only sources that came and are the distribution's own.
    fn update(&mut self, extra: Option<&str>, say: Say<'_>) -> Result<()> {
        let sibling = extra.and_then(|suite| sources::sibling(&self.sources, &self.host.codename, suite));
        self.configure(sibling.as_ref())?;
        let ran = self
            .tool("apt-get", UPDATE_LIMIT)?
            .arg("update")
            .run(&mut |_| ())?;
        let there = self.fetched()?;
        let came = |source: &Source| {
            let mut source = source.clone();
            source.suites.retain(|suite| there.contains(suite));
            (!source.suites.is_empty()).then_some(source)
        };
        let wanted: BTreeSet<String> = self
            .sources
            .iter()
            .flat_map(|source| source.suites.clone())
            .collect();
        self.sources = self.sources.iter().filter_map(came).collect();
        for suite in wanted.difference(&there) {
            if *suite == self.host.codename {
                return Err(self.no_lists(&ran));
            }
            say(&format!("the suite {suite} could not be fetched and is left out"));
        }
        self.extra_suite = extra.filter(|suite| there.contains(*suite)).map(str::to_owned);
        self.configure(sibling.filter(|_| self.extra_suite.is_some()).as_ref())
    }

    fn configure(&self, extra: Option<&Source>) -> Result<()> {
        let all: Vec<Source> = self.sources.iter().chain(extra).cloned().collect();
        let path = self.folder.join("release.sources");
        fs::write(&path, sources::stanzas(&all)).map_err(|cause| unusable(&path, "cannot be written", cause))
    }

    /// The suites whose lists are here and bear the distribution's own name: third parties use its suite
    /// names too.
    fn fetched(&self) -> Result<BTreeSet<String>> {
        let format = "$(RELEASE) $(ORIGIN)";
        let tool = self.tool("apt-get", QUERY_LIMIT)?.args([
            "indextargets",
            "--format",
            format,
            "Created-By: Packages",
        ]);
        let text = tool.output()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let own = |line: &str| {
            let (suite, origin) = line.split_once(' ')?;
            self.host.is_origin(origin.trim()).then(|| suite.to_owned())
        };
        Ok(text.lines().filter_map(own).collect())
    }

    fn tool(&self, name: &str, limit: Duration) -> Result<Tool> {
        Ok(Tool::new(name, "apt", limit)?.env("APT_CONFIG", self.folder.join("apt.conf")))
    }

    fn no_source(&self) -> Error {
        let text = format!(
            "no source in /etc/apt has the suite {} with the component main; packages cannot be fetched",
            self.host.codename
        );
        Error::new(ErrorKind::Image, text)
    }

    fn no_lists(&self, ran: &Ran) -> Error {
        let text = format!(
            "the package lists of {} could not be fetched; is there a network?",
            self.host.codename
        );
        Error::new(ErrorKind::Image, text).because(ran.last_lines())
    }
}

impl Drop for Apt {
    fn drop(&mut self) {
        // What apt makes again from the lists, some 80 MiB: what cannot be removed harms nobody.
        let _ = fs::remove_dir_all(self.folder.join("cache"));
    }
}

fn release(tool: Tool, suite: Option<&str>) -> Tool {
    match suite {
        Some(suite) => tool.args(["--target-release", suite]),
        None => tool,
    }
}

/// What the host has set for reaching archives; not its hooks, and no further lists.
fn host_transport() -> Result<String> {
    let dump = Tool::new("apt-config", "apt", QUERY_LIMIT)?
        .args(["dump", "Acquire"])
        .output()?;
    let dump = String::from_utf8_lossy(&dump).into_owned();
    let kept = [
        "Acquire::http",
        "Acquire::https",
        "Acquire::ftp",
        "Acquire::Check-",
        "Acquire::Max-",
        "Acquire::ForceIPv",
    ];
    let ours = |line: &&str| kept.iter().any(|start| line.starts_with(start)) && !line.ends_with(" \"\";");
    Ok(dump
        .lines()
        .filter(ours)
        .map(|line| format!("{line}\n"))
        .collect())
}
