//! The product, as a test process uses it: leases of the user's broker, and the machine's handle.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use vmtest::broker::{self, Broker, BrokerSettings, Lease};
use vmtest::config::{Accel, Config};
use vmtest::dirs::Dirs;
use vmtest::pool::{EngineChoice, Limits, Origin, Run, Want};
use vmtest::store::Store;
use vmtest::vm::{self, Vm};
use vmtest::{Outcome, vm_test};
use vmtest_backends::backend::{Snapshot, Then, Use};
use vmtest_backends::spec::{Ready, Spec};

use crate::error::Result;
use crate::floor::Template;
use crate::host;

/// How long each step of a machine's making may take.
const LIMIT: Duration = Duration::from_secs(300);

/// How often the broker is asked whether a fork is warm.
const POLL: Duration = Duration::from_millis(5);

/// What the body of the first test found out about its machine.
static SEEN: Mutex<Option<(String, Template)>> = Mutex::new(None);

#[vm_test(image = "tiny", timeout = "5m")]
#[ignore = "run by the bench"]
async fn tiny(vm: Vm) -> Result {
    see(&vm)
}

#[vm_test(image = "debian", timeout = "5m")]
#[ignore = "run by the bench"]
async fn debian(vm: Vm) -> Result {
    see(&vm)
}

fn see(vm: &Vm) -> Result {
    let folder = Dirs::from_env()?.in_cache("machines")?.join(vm.machine());
    let template = Template::of(host::process_in(&folder.canonicalize()?)?)?;
    let mut seen = SEEN.lock().map_err(|_| "a case panicked")?;
    *seen = Some((vm.engine().to_owned(), template));
    Ok(())
}

/// The way to machines of one image.
#[derive(Debug)]
pub(crate) struct Product {
    dirs: Dirs,
    broker: Broker,
    io: Handle,
    choice: EngineChoice,
    pub(crate) engine: String,
    pub(crate) template: Template,
    pub(crate) snapshot: Snapshot,
}

impl Product {
    /// Builds what is missing by running a test on the image, and sees what its machine was started with.
    pub(crate) fn of(image: &'static str, io: &Handle) -> Result<Self> {
        let cases = vmtest::cases();
        let case = cases.iter().find(|case| case.options().image == image);
        let case = case.ok_or_else(|| format!("no case for the image {image}"))?;
        match vmtest::run(case) {
            Outcome::Passed => {}
            other => return Err(format!("the first test on {image}: {other:?}").into()),
        }
        let seen = SEEN.lock().map_err(|_| "a case panicked")?.take();
        let (engine, template) = seen.ok_or("the first test did not run")?;
        let dirs = Dirs::from_env()?;
        let key = template.snapshot()?;
        let key = key
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or("no snapshot")?;
        let snapshot = Store::open(&dirs)?.get(key)?.ok_or("the snapshot is gone")?;
        let config = Config::load()?;
        let settings = config.settings();
        let told = BrokerSettings {
            pool: settings.pool,
            idle: settings.idle,
        };
        let kvm = engine.ends_with("(kvm)");
        Ok(Self {
            broker: Broker::of_user(&dirs, told)?,
            dirs,
            io: io.clone(),
            choice: EngineChoice {
                backend: snapshot.manifest.backend.clone(),
                accel: if kvm { Accel::Kvm } else { Accel::Tcg },
                program: std::env::var_os("VMTEST_QEMU").map(PathBuf::from),
            },
            engine,
            template,
            snapshot,
        })
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.snapshot.manifest.spec
    }

    /// A folder for the floor's machines, on the file system of the product's.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        Ok(self.dirs.in_cache("bench")?.join(name))
    }

    fn want(&self, origin: Origin, purpose: Use, warm: u32) -> Want {
        Want {
            engine: self.choice.clone(),
            origin,
            purpose,
            network: false,
            limits: Limits {
                boot: LIMIT,
                fork: LIMIT,
            },
            lease_limit: LIMIT,
            warm,
            run: Run::current(),
        }
    }

    /// A fork; `warm` is how many more are made ahead of demand.
    pub(crate) fn fork(&self, warm: u32) -> Result<Held> {
        self.lease(self.want(Origin::Fork(Box::new(self.snapshot.clone())), Use::Leaf, warm))
    }

    /// A machine that was booted until it has run its first program.
    pub(crate) fn boot(&self) -> Result<Held> {
        self.lease(self.want(Origin::Boot(Box::new(self.spec().clone())), Use::Parent, 0))
    }

    /// As the runner does it: the lease is served by the I/O thread, the body has a runtime of its own.
    fn lease(&self, want: Want) -> Result<Held> {
        let broker = self.broker.clone();
        let lease = self.io.spawn(async move { broker.lease(want).await });
        let lease = self.io.block_on(lease)??;
        let origin = vm::Origin {
            image: self.spec().image.name.clone(),
            snapshot: None,
            ready: Ready::Agent,
            network: false,
            patience: 3.0,
        };
        let vm = Vm::new(
            Arc::clone(lease.session()) as _,
            lease.link(),
            lease.leased().clone(),
            origin,
            self.io.clone(),
        );
        let body = Builder::new_current_thread().enable_all().build()?;
        let io = self.io.clone();
        Ok(Held {
            vm,
            lease,
            body,
            io,
            machines: self.dirs.in_cache("machines")?,
        })
    }

    /// Waits until a fork is ready ahead of demand, and until no other one is on its way.
    pub(crate) fn await_warm(&self) -> Result {
        let dirs = self.dirs.clone();
        let waiting = async move {
            loop {
                for address in broker::addresses(&dirs)? {
                    if address.status().await?.is_some_and(|status| status.warm > 0) {
                        return Ok(());
                    }
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let waited = self
            .io
            .spawn(async { tokio::time::timeout(LIMIT, waiting).await });
        self.io.block_on(waited)??
    }
}

/// A leased machine.
#[derive(Debug)]
pub(crate) struct Held {
    vm: Vm,
    lease: Lease,
    body: Runtime,
    io: Handle,
    machines: PathBuf,
}

impl Held {
    /// Runs a no-op program to its end.
    pub(crate) fn exec(&self) -> Result {
        let output = self.body.block_on(self.vm.command("true").output())?;
        output.check()?;
        Ok(())
    }

    pub(crate) fn is_warm(&self) -> bool {
        self.vm.is_warm()
    }

    /// How long the steps of its making took, in milliseconds.
    pub(crate) fn phases(&self) -> Vec<(String, f64)> {
        let phases = self.vm.phases().iter();
        phases
            .map(|(name, took)| (name.clone(), took.as_secs_f64() * 1e3))
            .collect()
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        host::process_in(&self.machines.join(self.vm.machine()).canonicalize()?)
    }

    /// Freezes it into the new folder `to` and ends it; returns how long that took, in milliseconds. What it
    /// has not written to its disks yet is written before.
    pub(crate) fn commit(self, to: &Path) -> Result<f64> {
        std::fs::create_dir(to)?;
        let to = to.to_owned();
        let Self { lease, io, .. } = self;
        let work: JoinHandle<vmtest::Result<f64>> = io.spawn(async move {
            lease.session().sync_disks(LIMIT).await?;
            let begin = Instant::now();
            lease.commit(&to, Then::Discard).await?;
            Ok(begin.elapsed().as_secs_f64() * 1e3)
        });
        Ok(io.block_on(work)??)
    }

    /// Ends the lease; returns the milliseconds until its process is gone.
    pub(crate) fn end(self) -> Result<f64> {
        let gone = host::Watched::of(self.pid()?)?;
        let begin = Instant::now();
        drop(self);
        gone.ended()?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }
}
