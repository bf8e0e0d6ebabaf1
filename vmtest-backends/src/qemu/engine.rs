//! The engine itself: which QEMU, executing how.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::backend::{Backend, Capabilities, Machine, Place, Snapshots};
use crate::error::{Error, ErrorKind, Result};
use crate::qemu::accelerator::{Accelerator, Preference, kvm_excluded};
use crate::qemu::argv::{self, File, Memory};
use crate::qemu::binary::Binary;
use crate::qemu::files::{self, RAM};
use crate::qemu::launch::Launch;
use crate::qemu::{trial, uplink};
use crate::spec::Spec;

/// Why KVM is not used where nothing speaks against it, but no guest was at hand to try it with.
pub const UNTRIED: &str = "no guest has been tried on it yet";

/// How QEMU is to be used.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The program; the first `qemu-system-x86_64` in `PATH` otherwise.
    pub program: Option<PathBuf>,
    /// How guests are to be executed.
    pub accelerator: Preference,
    /// An existing folder for what is found out about program and host.
    pub cache: PathBuf,
}

/// The QEMU engine; a cheap handle.
#[derive(Debug, Clone)]
pub struct Qemu(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    binary: OnceCell<Binary>,
    chosen: OnceCell<Chosen>,
}

#[derive(Debug, Clone)]
struct Chosen {
    accelerator: Accelerator,
    /// Why a better one is not used.
    fallback: Option<String>,
}

impl Qemu {
    /// QEMU with these settings; nothing is started yet.
    pub fn new(settings: Settings) -> Self {
        let (binary, chosen) = (OnceCell::new(), OnceCell::new());
        Self(Arc::new(Inner {
            settings,
            binary,
            chosen,
        }))
    }

    async fn binary(&self) -> Result<&Binary> {
        let Settings { program, cache, .. } = &self.0.settings;
        self.0
            .binary
            .get_or_try_init(|| Binary::find(program.as_deref(), cache))
            .await
    }

    async fn chosen(&self, trial: Option<&Spec>) -> Result<&Chosen> {
        self.0.chosen.get_or_try_init(|| self.choose(trial)).await
    }

    pub(super) async fn engine(&self) -> Result<(Binary, Accelerator)> {
        let chosen = self.chosen(None).await?;
        Ok((self.binary().await?.clone(), chosen.accelerator.clone()))
    }

    async fn choose(&self, trial: Option<&Spec>) -> Result<Chosen> {
        let tcg = |fallback| {
            Ok(Chosen {
                accelerator: Accelerator::Tcg,
                fallback,
            })
        };
        let preference = self.0.settings.accelerator;
        if preference == Preference::Tcg {
            return tcg(None);
        }
        match self.kvm_refusal(trial).await? {
            None => Ok(Chosen {
                accelerator: Accelerator::kvm(),
                fallback: None,
            }),
            Some(why) if preference == Preference::Auto => tcg(Some(why)),
            Some(why) => {
                let error = Error::new(ErrorKind::Unavailable, "VMTEST_ACCEL=kvm, but KVM cannot be used");
                Err(error.because(why))
            }
        }
    }

    /// Why KVM is not to be used; `None` when a guest ran on it.
    async fn kvm_refusal(&self, spec: Option<&Spec>) -> Result<Option<String>> {
        if let Some(why) = kvm_excluded() {
            return Ok(Some(why));
        }
        let binary = self.binary().await?;
        let cache = &self.0.settings.cache;
        match (trial::remembered(binary, cache), spec) {
            (Some(verdict), _) => Ok(verdict),
            (None, Some(spec)) => trial::run(binary, &Accelerator::kvm(), spec, cache).await,
            // Somebody else tried before and asks for it by name.
            (None, None) if self.0.settings.accelerator == Preference::Kvm => Ok(None),
            (None, None) => Ok(Some(UNTRIED.into())),
        }
    }
}

#[async_trait]
impl Backend for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn probe(&self, trial: Option<&Spec>) -> Result<Capabilities> {
        let binary = self.binary().await?;
        let chosen = self.chosen(trial).await?;
        Ok(Capabilities {
            engine: format!("QEMU {}", binary.number()),
            accelerator: chosen.accelerator.name().to_owned(),
            fallback: chosen.fallback.clone(),
            memory_fork: true,
            network: uplink::available(),
        })
    }

    async fn identity(&self, spec: &Spec) -> Result<String> {
        let (binary, accelerator) = self.engine().await?;
        Ok(argv::identity(&binary, &accelerator, spec))
    }

    async fn start(&self, spec: &Spec, place: &Place) -> Result<Box<dyn Machine>> {
        let (binary, accelerator) = self.engine().await?;
        Ok(Box::new(boot(&binary, &accelerator, spec, place).await?))
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }
}

/// Boots a machine with memory in a file of its own.
async fn boot(
    binary: &Binary,
    accelerator: &Accelerator,
    spec: &Spec,
    place: &Place,
) -> Result<super::machine::QemuMachine> {
    boot_launch(binary, accelerator, spec, place)?
        .run(ErrorKind::Start)
        .await
}

/// A machine about to boot, of an image that is there and with room for its memory.
pub(super) fn boot_launch<'a>(
    binary: &'a Binary,
    accelerator: &'a Accelerator,
    spec: &'a Spec,
    place: &'a Place,
) -> Result<Launch<'a>> {
    let image = &spec.image;
    for path in image
        .kernel
        .iter()
        .chain(&image.initrd)
        .chain(image.disks.iter().map(|disk| &disk.path))
    {
        std::fs::metadata(path).map_err(|cause| files::unusable(path, "cannot be booted from", cause))?;
    }
    files::check_space(&place.folder, spec.memory_mib)?;
    let bottom = |disk: &crate::spec::Disk| {
        vec![File {
            path: disk.path.clone(),
            format: disk.format,
        }]
    };
    Ok(Launch {
        binary,
        accelerator,
        spec,
        place,
        memory: Memory::Own(place.folder.join(RAM)),
        below: image.disks.iter().map(bottom).collect(),
        incoming: None,
    })
}
