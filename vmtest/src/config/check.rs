//! From what is written to what is meant: every refusal names its place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use vmtest_backends::{Error, ErrorKind, Result};

use super::decl::{
    DEFAULT_DISK_SIZE, DebianDecl, DiskDecl, FilesDecl, ImageDecl, Origin, SnapshotDecl, Source, Step,
    TinyDecl, WaitFor,
};
use super::raw::{RawDisk, RawFile, RawImage, RawSnapshot, RawStep, RawUrl, RawWait};
use super::settings::Settings;

/// A `vmtest.toml` while it is read.
pub(super) struct Document<'a> {
    file: &'a Path,
    text: &'a str,
}

type Images = BTreeMap<String, ImageDecl>;

impl<'a> Document<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text }
    }

    /// The settings over `settings`, and the images.
    pub(super) fn read(&self, settings: Settings) -> Result<(Settings, Images)> {
        let table: toml::Table = toml::from_str(self.text).map_err(|cause| self.toml_error(&cause))?;
        if table.contains_key("target") {
            return Err(self.foreign());
        }
        let raw: RawFile = toml::from_str(self.text).map_err(|cause| self.toml_error(&cause))?;
        let mut images = Images::new();
        for (name, image) in raw.image {
            let image = self.image(&name, image)?;
            images.insert(image.name.clone(), image);
        }
        Ok((raw.settings.over(settings), images))
    }

    fn image(&self, name: &Spanned<String>, mut raw: RawImage) -> Result<ImageDecl> {
        self.check_name("image", name)?;
        let snapshots = self.snapshots(name.get_ref(), std::mem::take(&mut raw.snapshot))?;
        Ok(ImageDecl {
            name: name.get_ref().clone(),
            origin: Some(self.origin(name.span())),
            memory_mib: raw.memory.map(|memory| memory.0),
            cpus: raw.cpus.map(|count| count.0),
            source: self.source(name, raw)?,
            snapshots,
        })
    }

    fn source(&self, name: &Spanned<String>, raw: RawImage) -> Result<Source> {
        let own_files = raw.kernel.is_some() || raw.disk.is_some();
        let base = match &raw.base {
            Some(base) => Some((base.get_ref().clone(), base.span())),
            None if own_files => None,
            None => Some((name.get_ref().clone(), name.span())),
        };
        match base {
            None => self.files(raw).map(Source::Files),
            Some((base, _)) if base == "tiny" => self.tiny(raw).map(Source::Tiny),
            Some((base, _)) if base == "debian" => self.debian(raw).map(Source::Debian),
            Some((base, span)) if raw.base.is_some() => {
                Err(self.wrong(span, format!("expected the base \"debian\" or \"tiny\", found {base:?}")))
            }
            Some((name, span)) => Err(self.wrong(
                span,
                format!("the image {name:?} has neither a `base` (\"debian\" or \"tiny\") nor a `kernel` or `disk`"),
            )),
        }
    }

    fn tiny(&self, raw: RawImage) -> Result<TinyDecl> {
        self.only("tiny", "packages", raw.packages.as_ref())?;
        self.only("tiny", "disk_size", raw.disk_size.as_ref())?;
        self.no_files("tiny", &raw)?;
        Ok(TinyDecl {
            modules: self.words("kernel module", raw.modules)?,
        })
    }

    fn debian(&self, raw: RawImage) -> Result<DebianDecl> {
        self.only("debian", "modules", raw.modules.as_ref())?;
        self.no_files("debian", &raw)?;
        let mut packages = self.words("package", raw.packages)?;
        packages.sort();
        packages.dedup();
        let disk_size = raw
            .disk_size
            .map_or(Ok(DEFAULT_DISK_SIZE), |size| self.disk_size(&size))?;
        Ok(DebianDecl { packages, disk_size })
    }

    fn disk_size(&self, size: &Spanned<super::raw::Size>) -> Result<u64> {
        match size.get_ref().0 {
            bytes if bytes < DEFAULT_DISK_SIZE / 2 => {
                Err(self.wrong(size.span(), "a Debian disk needs at least 1G".to_owned()))
            }
            bytes => Ok(bytes),
        }
    }

    fn no_files(&self, base: &str, raw: &RawImage) -> Result<()> {
        self.only(base, "kernel", raw.kernel.as_ref())?;
        self.only(base, "initrd", raw.initrd.as_ref())?;
        self.only(base, "disk", raw.disk.as_ref())?;
        self.only(base, "cmdline", raw.cmdline.as_ref())?;
        self.only(base, "agent", raw.agent.as_ref())?;
        self.only(base, "cloud_init", raw.cloud_init.as_ref())?;
        self.only(base, "ready", raw.ready.as_ref())
    }

    fn only<T>(&self, base: &str, key: &str, value: Option<&Spanned<T>>) -> Result<()> {
        match value {
            None => Ok(()),
            Some(value) => Err(self.wrong(
                value.span(),
                format!("`{key}` has no meaning with the base {base:?}"),
            )),
        }
    }

    fn files(&self, raw: RawImage) -> Result<FilesDecl> {
        let packages = raw.packages.as_ref().map(Spanned::span);
        let needs_base = [
            ("packages", packages),
            ("modules", raw.modules.as_ref().map(Spanned::span)),
            ("disk_size", raw.disk_size.as_ref().map(Spanned::span)),
        ];
        for (key, span) in needs_base {
            if let Some(span) = span {
                return Err(self.wrong(span, format!("`{key}` needs a `base`, not files of one's own")));
            }
        }
        if let (Some(initrd), None) = (&raw.initrd, &raw.kernel) {
            return Err(self.wrong(initrd.span(), "an `initrd` needs a `kernel`".to_owned()));
        }
        if let (Some(cmdline), None) = (&raw.cmdline, &raw.kernel) {
            return Err(self.wrong(cmdline.span(), "a `cmdline` needs a `kernel`".to_owned()));
        }
        let cloud_init = raw.cloud_init.as_ref().is_some_and(|value| *value.get_ref());
        if let (true, Some(value), None) = (cloud_init, &raw.cloud_init, &raw.disk) {
            return Err(self.wrong(value.span(), "`cloud_init` needs a `disk`".to_owned()));
        }
        Ok(FilesDecl {
            kernel: raw.kernel.map(|path| self.path(path.get_ref())),
            initrd: raw.initrd.map(|path| self.path(path.get_ref())),
            disk: raw.disk.map(|disk| self.disk(disk.into_inner())).transpose()?,
            cmdline: raw.cmdline.map(Spanned::into_inner),
            agent: raw.agent.is_none_or(Spanned::into_inner),
            cloud_init,
            ready: raw.ready.map(Spanned::into_inner),
        })
    }

    fn disk(&self, raw: RawDisk) -> Result<DiskDecl> {
        match raw {
            RawDisk::Path(path) => Ok(DiskDecl::Path(self.path(&path))),
            RawDisk::Url(RawUrl { url, sha256 }) => {
                let known = ["https://", "http://", "file:///"];
                if !known.iter().any(|scheme| url.get_ref().starts_with(scheme)) {
                    return Err(self.wrong(
                        url.span(),
                        format!("expected a url that starts with {}", known.join(", ")),
                    ));
                }
                let sum = sha256.get_ref().to_ascii_lowercase();
                if sum.len() != 64 || !sum.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return Err(self.wrong(
                        sha256.span(),
                        "expected a SHA-256: 64 hexadecimal digits".to_owned(),
                    ));
                }
                Ok(DiskDecl::Url {
                    url: url.into_inner(),
                    sha256: sum,
                })
            }
        }
    }

    fn snapshots(
        &self,
        image: &str,
        raw: BTreeMap<Spanned<String>, RawSnapshot>,
    ) -> Result<BTreeMap<String, SnapshotDecl>> {
        let froms: BTreeMap<&str, &Spanned<String>> = raw
            .iter()
            .filter_map(|(name, snapshot)| Some((name.get_ref().as_str(), snapshot.from.as_ref()?)))
            .collect();
        let known: Vec<&str> = raw.keys().map(|name| name.get_ref().as_str()).collect();
        for name in &known {
            self.check_chain(image, name, &froms, &known)?;
        }
        let mut all = BTreeMap::new();
        for (name, snapshot) in raw {
            self.check_name("snapshot", &name)?;
            let snapshot = self.snapshot(name, snapshot)?;
            all.insert(snapshot.name.clone(), snapshot);
        }
        Ok(all)
    }

    fn check_chain(
        &self,
        image: &str,
        name: &str,
        froms: &BTreeMap<&str, &Spanned<String>>,
        known: &[&str],
    ) -> Result<()> {
        let mut chain = vec![name];
        while let Some(from) = froms.get(chain[chain.len() - 1]) {
            let parent = from.get_ref().as_str();
            let seen = chain.contains(&parent);
            chain.push(parent);
            let written = || format!("image {image:?}: {}", chain.join(" from "));
            if seen {
                return Err(self.wrong(from.span(), format!("a cycle of snapshots in the {}", written())));
            }
            if !known.contains(&parent) {
                let known = known.join(", ");
                let text = format!(
                    "no snapshot is called {parent:?} in the {}; known are {known}",
                    written()
                );
                return Err(self.wrong(from.span(), text));
            }
        }
        Ok(())
    }

    fn snapshot(&self, name: Spanned<String>, raw: RawSnapshot) -> Result<SnapshotDecl> {
        let steps: Result<Vec<Step>> = raw.steps.into_iter().map(|step| self.step(step)).collect();
        Ok(SnapshotDecl {
            origin: self.origin(name.span()),
            name: name.into_inner(),
            from: raw.from.map(Spanned::into_inner),
            memory_mib: raw.memory.map(|memory| memory.0),
            cpus: raw.cpus.map(|count| count.0),
            network: raw.network,
            timeout: raw.timeout.map(|time| time.0),
            steps: steps?,
        })
    }

    fn step(&self, raw: Spanned<RawStep>) -> Result<Step> {
        let span = raw.span();
        let wrong = |text: &str| Err(self.wrong(span.clone(), text.to_owned()));
        let RawStep {
            copy,
            to,
            run,
            wait,
            timeout,
        } = raw.into_inner();
        let limit = timeout.map(|time| time.0);
        match (copy, to, run, wait) {
            (Some(_), Some(to), None, None) if !to.starts_with('/') => {
                wrong("`to` is a path in the guest and starts with `/`")
            }
            (Some(_), Some(_), None, None) if limit.is_some() => {
                wrong("a copy has no `timeout` of its own, only the snapshot has")
            }
            (Some(from), Some(to), None, None) => Ok(Step::Copy {
                from: self.path(&from),
                to,
            }),
            (Some(_), None, None, None) => wrong("a copy also needs `to`, a path in the guest"),
            (None, None, Some(text), None) => Ok(Step::Run { text, timeout: limit }),
            (None, None, None, Some(wait)) => Ok(Step::Wait {
                what: self.wait(wait)?,
                timeout: limit,
            }),
            _ => wrong("a step has exactly one of `copy` (with `to`), `run` or `wait`"),
        }
    }

    fn wait(&self, raw: Spanned<RawWait>) -> Result<WaitFor> {
        let span = raw.span();
        let RawWait {
            port,
            unit,
            file,
            command,
        } = raw.into_inner();
        match (port, unit, file, command) {
            (Some(0), None, None, None) => Err(self.wrong(span, "port 0 cannot be waited for".to_owned())),
            (Some(port), None, None, None) => Ok(WaitFor::Port(port)),
            (None, Some(unit), None, None) => Ok(WaitFor::Unit(unit)),
            (None, None, Some(file), None) => Ok(WaitFor::File(file)),
            (None, None, None, Some(command)) => Ok(WaitFor::Command(command)),
            _ => {
                let text = "a wait has exactly one of `port`, `unit`, `file` or `command`";
                Err(self.wrong(span, text.to_owned()))
            }
        }
    }

    /// Names become parts of folder names and of printed keys.
    fn check_name(&self, what: &str, name: &Spanned<String>) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let text = name.get_ref();
        if !text.is_empty() && text.len() <= 64 && text.chars().all(plain) && !text.starts_with(['.', '-']) {
            return Ok(());
        }
        let rule = "up to 64 letters, digits, `_`, `-` or `.`, not beginning with `.` or `-`";
        Err(self.wrong(
            name.span(),
            format!("the name {text:?} of this {what} is refused: {rule}"),
        ))
    }

    /// Names that are passed to programs of the package system.
    fn words(&self, what: &str, raw: Option<Spanned<Vec<Spanned<String>>>>) -> Result<Vec<String>> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "+-.:=~_".contains(c);
        let mut words = Vec::new();
        for word in raw.map(Spanned::into_inner).unwrap_or_default() {
            let text = word.get_ref();
            if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(plain) {
                return Err(self.wrong(word.span(), format!("{text:?} cannot be the name of a {what}")));
            }
            words.push(word.into_inner());
        }
        Ok(words)
    }

    /// Paths are relative to the file's folder.
    fn path(&self, path: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("/")).join(path)
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or_default();
        let start_of_line = before.rfind('\n').map_or(0, |at| at + 1);
        Origin {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[start_of_line..].chars().count() + 1,
        }
    }

    fn wrong(&self, span: Range<usize>, text: String) -> Error {
        Error::new(ErrorKind::Invalid, format!("{}: {text}", self.origin(span)))
    }

    fn toml_error(&self, cause: &toml::de::Error) -> Error {
        self.wrong(cause.span().unwrap_or(0..0), cause.message().replace('\n', ", "))
    }

    fn foreign(&self) -> Error {
        let at = self
            .text
            .find("[[target]]")
            .or_else(|| self.text.find("target"))
            .unwrap_or(0);
        let text = "`target` is of another project whose file has the same name; \
                    move one of the two, or name ours with the variable VMTEST_CONFIG";
        self.wrong(at..at, text.to_owned())
    }
}
