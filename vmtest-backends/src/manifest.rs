//! The description of a snapshot: the last file written into its folder, and what decides.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::spec::{DiskFormat, Spec};

/// The format of manifests and snapshot folders; other numbers are refused.
pub const FORMAT: u32 = 2;

/// The name of the manifest inside a snapshot's folder.
pub const FILE: &str = "manifest.json";

/// A frozen machine on disk; immutable once its manifest is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// The key of everything that went into it; hexadecimal, also the folder's name.
    pub key: String,
    /// The name people use, such as `debian/ready`.
    pub name: String,
    /// The key of the snapshot it was made from.
    pub parent: Option<String>,
    /// The machine it was taken of.
    pub spec: Spec,
    /// The engine that took it.
    pub backend: String,
    /// What must match for it to load: engine build, CPU, normalised arguments.
    pub identity: String,
    /// The chain of each disk, in the order of `spec.image.disks`.
    pub disks: Vec<Vec<Layer>>,
    /// The engine's own files in the folder, with their sizes in bytes.
    pub files: Vec<(String, u64)>,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
    /// How long the machine took to become what it is, in milliseconds: boot for a root, steps for others.
    pub took_ms: u64,
}

/// A layer of a disk, bottom first in its chain. Paths are relative to the store's snapshot folder, so
/// that a store can be moved; the image's own disk, below them all, is not listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// `KEY/FILE`.
    pub file: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written, in nanoseconds since 1970: a parent that was made again has the same key and
    /// other blocks, which must not go under this snapshot.
    pub modified: i128,
}

impl Layer {
    /// The layer `file` of the store `store`, as it lies there now.
    pub fn look(store: &Path, file: &Path, format: DiskFormat) -> std::io::Result<Self> {
        let meta = fs::metadata(store.join(file))?;
        Ok(Self {
            file: file.to_owned(),
            format,
            size: meta.len(),
            modified: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        })
    }
}

impl Manifest {
    /// Reads the manifest of the snapshot in `folder`. `Ok(None)` when there is none; an error when it is
    /// damaged, of another format, or names files that are missing or of another size.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(unusable(&path, "cannot be read").because(cause)),
        };
        let damaged = |cause| unusable(&path, "is damaged").because(cause);
        // First, for another format may have other fields.
        let Format { format } = serde_json::from_slice(&text).map_err(damaged)?;
        if format != FORMAT {
            let text = format!("has format {format}, this version reads {FORMAT}");
            return Err(unusable(&path, &text));
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(damaged)?;
        for (name, size) in &manifest.files {
            let found = fs::metadata(folder.join(name)).map(|meta| meta.len());
            match found {
                Ok(found) if found == *size => {}
                Ok(found) => {
                    return Err(unusable(
                        &path,
                        &format!("{name} has {found} bytes instead of {size}"),
                    ));
                }
                Err(cause) => return Err(unusable(&path, &format!("{name} is missing")).because(cause)),
            }
        }
        manifest.check_layers(&path, folder.parent().unwrap_or(folder))?;
        Ok(Some(manifest))
    }

    fn check_layers(&self, path: &Path, store: &Path) -> Result<()> {
        let image = &self.spec.image;
        let disks = image.disks.iter().map(|disk| &disk.path);
        for file in image.kernel.iter().chain(&image.initrd).chain(disks) {
            // A cache that was moved, or an image that was removed.
            fs::metadata(file).map_err(|cause| {
                unusable(path, &format!("stands on {}, which is missing", file.display())).because(cause)
            })?;
        }
        for layer in self.disks.iter().flatten() {
            let name = layer.file.display();
            match Layer::look(store, &layer.file, layer.format) {
                Ok(found) if found == *layer => {}
                Ok(_) => return Err(unusable(path, &format!("stands on {name}, which was made again"))),
                Err(cause) => {
                    return Err(unusable(path, &format!("stands on {name}, which is missing")).because(cause));
                }
            }
        }
        Ok(())
    }

    /// Writes the manifest into `folder`, whole or not at all.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let failed = |cause: std::io::Error| unusable(&path, "cannot be written").because(cause);
        let text = serde_json::to_vec_pretty(self).map_err(|cause| failed(cause.into()))?;
        // A manifest vouches for its files: after a power loss there is none, or all they say is there.
        for (name, _) in &self.files {
            File::open(folder.join(name))
                .and_then(|file| file.sync_all())
                .map_err(failed)?;
        }
        let partial = folder.join("manifest.partial");
        let mut file = File::create(&partial).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&partial, &path).map_err(failed)?;
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)
    }
}

/// What a manifest of any format has.
#[derive(Debug, Deserialize)]
struct Format {
    format: u32,
}

fn unusable(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Store, format!("{} {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_format_is_named_whatever_its_fields_are() {
        // Beside this program: a folder that is the build's own.
        let program = std::env::current_exe().expect("this program has a path");
        let folder = program.with_file_name(format!("manifest-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder can be written");
        let refusal = |text: &str| {
            fs::write(folder.join(FILE), text).expect("the folder can be written");
            Manifest::load(&folder).expect_err("it is refused").to_string()
        };

        let other = refusal(r#"{"format": 1, "disks": ["whatever"]}"#);
        let broken = refusal(&format!(r#"{{"format": {FORMAT}}}"#));
        fs::remove_dir_all(&folder).expect("it can be removed");

        assert!(
            other.contains(&format!("has format 1, this version reads {FORMAT}")),
            "{other}"
        );
        assert!(broken.contains("is damaged"), "{broken}");
    }

    #[test]
    fn an_image_that_is_gone_is_named() {
        let program = std::env::current_exe().expect("this program has a path");
        let folder = program.with_file_name(format!("manifest-image-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder can be written");
        let kernel = folder.join("vmlinuz");
        fs::write(&kernel, "kernel").expect("the folder can be written");
        let image = crate::spec::Image {
            name: "tiny".into(),
            digest: "d".into(),
            kernel: Some(kernel.clone()),
            initrd: None,
            cmdline: String::new(),
            disks: Vec::new(),
            seed: None,
            access: crate::spec::Access::Agent,
            ready: crate::spec::Ready::Agent,
        };
        let manifest = Manifest {
            format: FORMAT,
            key: "k".into(),
            name: "tiny/booted".into(),
            parent: None,
            spec: Spec {
                image,
                memory_mib: 64,
                cpus: 1,
            },
            backend: "qemu".into(),
            identity: String::new(),
            disks: Vec::new(),
            files: Vec::new(),
            created: 0,
            took_ms: 0,
        };
        manifest.save(&folder).expect("it can be written");
        let whole = Manifest::load(&folder);
        fs::remove_file(&kernel).expect("it can be removed");
        let gone = Manifest::load(&folder);
        fs::remove_dir_all(&folder).expect("it can be removed");

        assert_eq!(whole.expect("it is whole"), Some(manifest));
        let gone = gone.expect_err("its kernel is gone").to_string();
        assert!(gone.contains("vmlinuz, which is missing"), "{gone}");
    }
}
