//! A state directory for the tool, and things planted in it.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vmtest_backends::manifest::{FORMAT, Manifest};
use vmtest_backends::spec::{Access, Image, Ready, Spec};

/// A state directory of its own, removed in the end.
pub(crate) struct Home(PathBuf);

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the tool said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Home {
    pub(crate) fn new(name: &str) -> Self {
        let home = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        let _ = fs::remove_dir_all(&home.0);
        home.folder("");
        home.folder("cache");
        for folder in [
            "images",
            "snapshots",
            "machines",
            "locks",
            "usage",
            "apt",
            "downloads",
        ] {
            home.folder(&format!("cache/{folder}"));
        }
        home.folder("run");
        home
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// A folder as the tool itself would make it.
    pub(crate) fn folder(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        path
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// The tool in this state directory, as cargo calls it; it reads no configuration but the built-in one.
    pub(crate) fn tool(&self) -> Command {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_cargo-vmtest"));
        tool.arg("vmtest").env("VMTEST_DIR", &self.0).current_dir("/");
        tool.env_remove("CARGO_MANIFEST_DIR").env_remove("VMTEST_CONFIG");
        tool
    }

    pub(crate) fn run(&self, words: &[&str]) -> Said {
        said(self.tool().args(words).output().unwrap())
    }

    /// A file that is locked until what is returned is dropped.
    pub(crate) fn locked(&self, path: &str, text: &str) -> File {
        fs::write(self.path(path), text).unwrap();
        let file = File::open(self.path(path)).unwrap();
        file.lock().unwrap();
        file
    }

    /// A whole image as its builder leaves it.
    pub(crate) fn image(&self, key: &str) {
        let folder = self.folder(&format!("cache/images/{key}"));
        let kernel = format!("{key}/vmlinuz");
        fs::write(folder.join("vmlinuz"), "kernel").unwrap();
        let image = Image {
            kernel: Some(kernel.clone().into()),
            ..image(key)
        };
        let built = serde_json::json!({ "image": image, "files": [[kernel, 6]] });
        fs::write(folder.join("image.json"), built.to_string()).unwrap();
        let list = serde_json::json!({ "what": format!("the image {key}"), "files": [["vmlinuz", 6]] });
        fs::write(folder.join("files.json"), list.to_string()).unwrap();
    }

    /// A whole snapshot as its builder leaves it, taken in the second `created` of 1970.
    pub(crate) fn snapshot(&self, key: &str, parent: Option<&str>, image_key: &str, created: u64) {
        let folder = self.folder(&format!("cache/snapshots/{key}"));
        fs::write(folder.join("ram"), vec![1; 1 << 20]).unwrap();
        let manifest = Manifest {
            format: FORMAT,
            key: key.to_owned(),
            name: format!("tiny/{key}"),
            parent: parent.map(str::to_owned),
            spec: Spec {
                image: image(image_key),
                memory_mib: 64,
                cpus: 1,
            },
            backend: "qemu".to_owned(),
            identity: String::new(),
            disks: Vec::new(),
            files: vec![("ram".to_owned(), 1 << 20)],
            created,
            took_ms: 1,
        };
        manifest.save(&folder).unwrap();
    }

    /// A machine that lives as long as what is returned.
    pub(crate) fn machine(&self, id: &str, origin: &str) -> File {
        self.folder(&format!("cache/machines/{id}"));
        let line = serde_json::json!({ "memory_mib": 128, "cpus": 1, "origin": origin });
        self.locked(&format!("cache/machines/{id}.lock"), &line.to_string())
    }
}

pub(crate) fn said(output: Output) -> Said {
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn image(digest: &str) -> Image {
    Image {
        name: digest.to_owned(),
        digest: digest.to_owned(),
        kernel: None,
        initrd: None,
        cmdline: String::new(),
        disks: Vec::new(),
        seed: None,
        access: Access::Agent,
        ready: Ready::Agent,
    }
}
