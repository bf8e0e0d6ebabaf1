//! The modules of a kernel: which files, in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lzma_rust2::XzReader;
use vmtest_backends::{Error, ErrorKind, Result};

use super::elf;
use super::tool::Tool;

/// The limit of unpacking a module by a program.
const UNPACK_LIMIT: Duration = Duration::from_secs(30);

/// A module, unpacked.
#[derive(Debug, Clone)]
pub(super) struct Module {
    /// Its name, with `_` for `-`.
    pub(super) name: String,
    /// The object file.
    pub(super) bytes: Vec<u8>,
}

/// The modules of one kernel: a folder `lib/modules/VERSION`.
#[derive(Debug)]
pub(super) struct Modules {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Modules {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let failed = |cause: io::Error| {
            Error::new(
                ErrorKind::Image,
                format!("the kernel modules in {} cannot be read", folder.display()),
            )
            .because(cause)
        };
        let builtin = fs::read_to_string(folder.join("modules.builtin")).map_err(failed)?;
        let mut files = BTreeMap::new();
        walk(&folder.join("kernel"), &mut files).map_err(failed)?;
        Ok(Self {
            files,
            builtin: builtin
                .lines()
                .filter_map(|line| name_of(Path::new(line)))
                .collect(),
        })
    }

    /// The modules of `wanted`, each after those it needs; what is built in is left out. An unknown one is an
    /// error.
    pub(super) fn closure(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut all = Vec::new();
        for name in wanted {
            self.add(&plain(name), &mut all, 0)?;
        }
        Ok(all)
    }

    /// Whether it is built in or there as a file.
    pub(super) fn has(&self, name: &str) -> bool {
        let name = plain(name);
        self.builtin.contains(&name) || self.files.contains_key(&name)
    }

    fn add(&self, name: &str, all: &mut Vec<Module>, depth: usize) -> Result<()> {
        if self.builtin.contains(name) || all.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let wrong = |what: &str| Error::new(ErrorKind::Image, format!("the kernel module {name} {what}"));
        if depth > self.files.len() {
            return Err(wrong("needs itself"));
        }
        let path = self
            .files
            .get(name)
            .ok_or_else(|| wrong("is not in this kernel"))?;
        let bytes = unpacked(path).map_err(|cause| wrong("cannot be read").because(cause))?;
        let info = elf::section(&bytes, ".modinfo").ok_or_else(|| wrong("is no module"))?;
        for needed in needs(info) {
            self.add(&needed, all, depth + 1)?;
        }
        all.push(Module {
            name: name.to_owned(),
            bytes,
        });
        Ok(())
    }
}

/// What a `.modinfo` section says the module needs.
fn needs(info: &[u8]) -> Vec<String> {
    let fields = info
        .split(|byte| *byte == 0)
        .filter_map(|field| std::str::from_utf8(field).ok());
    let lists = fields.filter_map(|field| field.strip_prefix("depends="));
    lists
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(plain)
        .collect()
}

fn unpacked(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = io::BufReader::new(File::open(path)?);
    match path.extension().and_then(|end| end.to_str()) {
        Some("ko") => file.read_to_end(&mut bytes)?,
        Some("zst") => return unpacked_by_zstd(path),
        Some("xz") => XzReader::new(file, true).read_to_end(&mut bytes)?,
        _ => {
            return Err(io::Error::other(format!(
                "{} is packed in an unknown way",
                path.display()
            )));
        }
    };
    Ok(bytes)
}

/// Ubuntu's packing; its program is part of every Ubuntu.
fn unpacked_by_zstd(path: &Path) -> io::Result<Vec<u8>> {
    let tool = Tool::new("zstd", "zstd", UNPACK_LIMIT).map_err(io::Error::other)?;
    tool.args(["--decompress", "--stdout", "--quiet", "--"])
        .arg(path)
        .output()
        .map_err(io::Error::other)
}

fn walk(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            walk(&path, files)?;
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, end) = file.split_once(".ko")?;
    (end.is_empty() || end.starts_with('.')).then(|| plain(name))
}

fn plain(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_read_from_its_section() {
        let info = b"license=GPL\0depends=net_failover,virtio-ring\0name=virtio_net\0softdep=pre: x\0";
        assert_eq!(needs(info), ["net_failover", "virtio_ring"]);
        assert!(needs(b"depends=\0").is_empty());
    }

    #[test]
    fn names_are_what_the_kernel_calls_them() {
        assert_eq!(
            name_of(Path::new("kernel/a/virtio-rng.ko.xz")).as_deref(),
            Some("virtio_rng")
        );
        assert_eq!(name_of(Path::new("x.ko")).as_deref(), Some("x"));
        assert_eq!(name_of(Path::new("modules.order")), None);
    }

    #[test]
    fn a_broken_object_has_no_section() {
        let this = fs::read(std::env::current_exe().expect("a test is a file")).expect("it can be read");
        assert!(elf::section(&this, ".text").is_some_and(|text| text.len() > 1000));
        assert_eq!(elf::section(&this, ".modinfo"), None);
        for length in [0, 5, 20, 63, 64, 200] {
            assert_eq!(elf::section(&this[..length], ".text"), None);
        }
    }
}
