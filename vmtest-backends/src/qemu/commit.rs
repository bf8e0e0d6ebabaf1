//! Freezing a machine into a snapshot's folder.

use std::fs::OpenOptions;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use crate::backend::{Freeze, Frozen, Then};
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::Layer;
use crate::qemu::argv::{File, Memory, disk_node};
use crate::qemu::files::{self, RAM, STATE};
use crate::qemu::launch::state_only;
use crate::qemu::machine::QemuMachine;
use crate::qemu::overlay;
use crate::spec::DiskFormat;

/// How long QEMU may take to end once its state is saved.
const QUIT_LIMIT: Duration = Duration::from_secs(20);

#[async_trait]
impl Freeze for QemuMachine {
    async fn commit(&mut self, to: &Path, then: Then) -> Result<Frozen> {
        let Memory::Own(ram) = self.memory.clone() else {
            return Err(Error::new(
                ErrorKind::Commit,
                "a fork that shares its memory cannot be frozen",
            ));
        };
        match then {
            Then::Discard => self.commit_and_end(&ram, to).await,
            Then::Resume => self.commit_and_go_on(&ram, to).await,
        }
    }
}

impl QemuMachine {
    /// The machine ends; its files become the snapshot's.
    async fn commit_and_end(&mut self, ram: &Path, to: &Path) -> Result<Frozen> {
        self.save_state(&to.join(STATE)).await?;
        // An answer may or may not come before the end; the end is waited for.
        let _ = self.qmp.run("quit", json!({})).await;
        let ended = self.child.wait(QUIT_LIMIT).await;
        ended.map_err(|cause| self.error(ErrorKind::Commit, "QEMU did not end").because(cause))?;
        let overlays: Vec<PathBuf> = self
            .chains
            .iter()
            .filter_map(|chain| chain.last())
            .map(|top| top.path.clone())
            .collect();
        let mut files = vec![(RAM.to_owned(), files::settle(ram, &to.join(RAM), self.mode())?)];
        for (index, overlay) in overlays.iter().enumerate() {
            files.push(self.settle_disk(index, overlay, to)?);
        }
        self.frozen(to, files)
    }

    /// The machine goes on, on new overlays; its memory is copied while it stands still.
    async fn commit_and_go_on(&mut self, ram: &Path, to: &Path) -> Result<Frozen> {
        files::check_space(to, 0)?;
        self.qmp.run("stop", json!({})).await?;
        let frozen = self.freeze_standing(ram, to).await;
        let resumed = self.qmp.run("cont", json!({})).await;
        let frozen = frozen?;
        resumed?;
        Ok(frozen)
    }

    async fn freeze_standing(&mut self, ram: &Path, to: &Path) -> Result<Frozen> {
        let mut overlays = Vec::new();
        for index in 0..self.chains.len() {
            overlays.push(self.switch_overlay(index, to).await?);
        }
        self.save_state(&to.join(STATE)).await?;
        let (from, target) = (ram.to_owned(), to.join(RAM));
        let copied = tokio::task::spawn_blocking(move || files::copy_sparse(&from, &target)).await;
        let copied = copied.unwrap_or_else(|cause| Err(std::io::Error::other(cause)));
        copied.map_err(|cause| files::unusable(&to.join(RAM), "cannot be copied", cause))?;
        let mut files = vec![(RAM.to_owned(), files::seal(&to.join(RAM), self.mode())?)];
        for (index, overlay) in overlays.iter().enumerate() {
            files.push(self.settle_disk(index, overlay, to)?);
        }
        self.frozen(to, files)
    }

    /// Puts a new overlay on disk `index`; returns the file that is frozen now.
    async fn switch_overlay(&mut self, index: usize, to: &Path) -> Result<PathBuf> {
        // The snapshot's key tells this overlay from earlier ones of the same machine.
        let key: String = to
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .chars()
            .take(12)
            .collect();
        let path = self.folder.join(format!("disk{index}-{key}.qcow2"));
        let node = format!("{}-{key}", disk_node(index));
        let size = self.disk_size(index).await?;
        overlay::create(&path, size).map_err(|cause| files::unusable(&path, "cannot be created", cause))?;
        let added = json!({
            "driver": "qcow2", "node-name": node, "backing": null, "discard": "unmap",
            "cache": {"direct": false, "no-flush": true},
            "file": {"driver": "file", "filename": path.to_string_lossy()},
        });
        self.qmp.run("blockdev-add", added).await?;
        self.qmp
            .run(
                "blockdev-snapshot",
                json!({"node": self.nodes[index], "overlay": node}),
            )
            .await?;
        self.nodes[index] = node;
        let frozen = self.chains[index]
            .last()
            .map(|top| top.path.clone())
            .unwrap_or_default();
        self.chains[index].push(File {
            path,
            format: DiskFormat::Qcow2,
        });
        Ok(frozen)
    }

    async fn disk_size(&self, index: usize) -> Result<u64> {
        let nodes = self
            .qmp
            .run("query-named-block-nodes", json!({"flat": true}))
            .await?;
        let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
        let node = nodes
            .iter()
            .find(|node| node["node-name"] == self.nodes[index].as_str());
        node.and_then(|node| node["image"]["virtual-size"].as_u64())
            .ok_or_else(|| self.error(ErrorKind::Commit, "QEMU does not know its own disk"))
    }

    /// Writes CPU and device state; the machine stands still afterwards.
    async fn save_state(&self, path: &Path) -> Result<()> {
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let file = opened.map_err(|cause| files::unusable(path, "cannot be created", cause))?;
        let uri = if self.version.has_file_migration() {
            let set = json!({"fdset-id": 2});
            self.qmp.run_with("add-fd", set, Some(file.as_fd())).await?;
            "file:/dev/fdset/2"
        } else {
            self.qmp
                .run_with("getfd", json!({"fdname": "state"}), Some(file.as_fd()))
                .await?;
            "fd:state"
        };
        self.qmp.run("migrate-set-capabilities", state_only()).await?;
        // The default limit of 128 MiB/s holds for files too.
        self.qmp
            .run("migrate-set-parameters", json!({"max-bandwidth": 0}))
            .await?;
        self.qmp.run("migrate", json!({"uri": uri})).await?;
        self.migrated(ErrorKind::Commit).await?;
        if self.version.has_file_migration() {
            self.qmp.run("remove-fd", json!({"fdset-id": 2})).await?;
        }
        Ok(())
    }

    fn settle_disk(&mut self, index: usize, overlay: &Path, to: &Path) -> Result<(String, u64)> {
        let name = format!("disk{index}.qcow2");
        let target = to.join(&name);
        let size = files::settle(overlay, &target, 0o400)?;
        for file in &mut self.chains[index] {
            if file.path == overlay {
                file.path.clone_from(&target);
            }
        }
        Ok((name, size))
    }

    /// What the manifest has to say: every layer above the image's own disk, relative to the store.
    fn frozen(&self, to: &Path, mut files: Vec<(String, u64)>) -> Result<Frozen> {
        files.push((STATE.to_owned(), files::seal(&to.join(STATE), 0o400)?));
        let store = to.parent().unwrap_or(to);
        let mut disks = Vec::new();
        for chain in &self.chains {
            let mut layers = Vec::new();
            for file in chain
                .iter()
                .skip(1)
                .filter(|file| !file.path.starts_with(&self.folder))
            {
                let relative = file.path.strip_prefix(store).map_err(|cause| {
                    let text = format!("{} lies outside the store", file.path.display());
                    Error::new(ErrorKind::Commit, text).because(cause)
                })?;
                let layer = Layer::look(store, relative, file.format);
                layers
                    .push(layer.map_err(|cause| files::unusable(&file.path, "cannot be looked at", cause))?);
            }
            disks.push(layers);
        }
        Ok(Frozen { disks, files })
    }

    /// Before QEMU 8.2 even a private mapping opens the file for writing.
    fn mode(&self) -> u32 {
        if self.version.has_rom_option() {
            0o400
        } else {
            0o600
        }
    }
}
