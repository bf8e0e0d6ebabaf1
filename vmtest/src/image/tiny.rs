//! The image `tiny`: the distribution's kernel and an initial RAM disk with the agent and busybox; no disk.

use std::path::Path;

use vmtest_backends::Result;
use vmtest_backends::spec::{Access, Image, Ready};

use super::Say;
use super::agent;
use super::busybox::{self, Busybox};
use super::host::Host;
use super::initrd::Initrd;
use super::kernel::{self, Kernel};
use super::key::Key;
use super::modules::Modules;
use super::shelf::Shelf;
use crate::config::TinyDecl;
use crate::dirs::Dirs;

/// The kernel's command line, without what the engine adds for its console. The self-tests of its ciphers
/// take half a second of an emulated boot.
pub(super) const CMDLINE: &str = "quiet panic=0 reboot=t tsc=reliable no_timer_check nomodeset 8250.nr_uarts=1 \
                                  net.ifnames=0 cryptomgr.notests";

/// What every machine of ours has; each kernel has them built in or as modules.
pub(super) const MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "virtio_blk", "virtio_net"];

/// What is loaded where the kernel has it.
pub(super) const OPTIONAL_MODULES: [&str; 3] = ["virtio_rng", "vmgenid", "ext4"];

/// The content key of the image.
pub(super) fn digest(host: &Host, decl: &TinyDecl) -> String {
    Key::new("tiny")
        .with("kernel", kernel::key(host))
        .with("busybox", busybox::key(host))
        .with("agent", agent::key())
        .with_all("modules", &decl.modules)
        .with("cmdline", CMDLINE)
        .finish()
}

/// Fills `folder` and returns the image in it.
pub(super) fn build(
    shelf: &Shelf,
    dirs: &Dirs,
    host: &Host,
    decl: &TinyDecl,
    folder: &Path,
    say: Say<'_>,
) -> Result<Image> {
    let kernel = Kernel::get(shelf, dirs, host, say)?;
    let busybox = Busybox::get(shelf, dirs, host, say)?;
    let modules = kernel.modules()?;
    let further: Vec<&str> = decl.modules.iter().map(String::as_str).collect();
    let modules = modules.closure(&wanted(&modules, &further))?;
    say("writing the initial RAM disk");
    let initrd = Initrd::new()
        .with_modules(&modules)
        .with_busybox(&busybox)
        .save(folder)?;
    Ok(Image {
        name: String::new(),
        digest: String::new(),
        kernel: Some(kernel.image()),
        initrd: Some(initrd),
        cmdline: CMDLINE.to_owned(),
        disks: Vec::new(),
        seed: None,
        access: Access::Agent,
        ready: Ready::Agent,
    })
}

/// The modules to load, and `further` ones.
pub(super) fn wanted<'a>(modules: &Modules, further: &[&'a str]) -> Vec<&'a str> {
    let optional = OPTIONAL_MODULES.into_iter().filter(|name| modules.has(name));
    MODULES
        .into_iter()
        .chain(optional)
        .chain(further.iter().copied())
        .collect()
}
