//! Making images and snapshots, and finding out what has to be made.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use vmtest_backends::backend::{Snapshot, Then, Use};
use vmtest_backends::manifest::{FORMAT, Manifest};
use vmtest_backends::spec::{Image, Spec};
use vmtest_backends::{Error, ErrorKind, Result};

use crate::broker::Lease;
use crate::config::{SnapshotDecl, Step, WaitFor, stretched};
use crate::image;
use crate::outcome::Outcome;
use crate::pool::{Origin, Run, Want};
use crate::runner::io;
use crate::runner::recipe::{self, Recipe};
use crate::runner::setup::{Engine, Setup};
use crate::runner::target::{self, Target};
use crate::vm::{self, Vm};

/// Where progress is told, a line at a time.
pub(super) type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// What is to happen when a snapshot's function blocks its thread.
pub(super) type Blocked<'a> = &'a Arc<dyn Fn(Error) + Send + Sync>;

/// How long after its limit a snapshot's function may still block its thread.
const GRACE: Duration = Duration::from_secs(5);

/// How long the guest may take to write its file systems to disk before a commit.
const SYNC_LIMIT: Duration = Duration::from_secs(60);

/// What somebody wants to have a machine of.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) image: String,
    pub(super) snapshot: Option<String>,
    /// Memory in MiB and virtual CPUs, where they are asked for.
    pub(super) shape: (Option<u32>, Option<u32>),
    pub(super) backend: Option<String>,
    pub(super) run: Run,
    pub(super) run_name: String,
}

/// A wish with everything known: what to boot, on which engine, by which recipes, under which keys.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    wish: Wish,
    pub(super) spec: Spec,
    pub(super) engine: Engine,
    recipes: Vec<Recipe>,
    keys: Vec<String>,
}

/// Finds out what is meant; builds the image if it is missing.
pub(super) async fn resolve(setup: &Setup, wish: Wish, say: Say<'_>) -> Result<Resolved> {
    let recipes = recipe::lineage(&setup.config, &wish.image, wish.snapshot.as_deref())?;
    let (memory_mib, cpus) = recipe::shape(&setup.config, &wish.image, &recipes, wish.shape)?;
    setup.check_engine(wish.backend.as_deref()).await?;
    let image = image(setup, &wish, (memory_mib, cpus), say).await?;
    let engine = setup.engine(wish.backend.as_deref(), &image).await?;
    let spec = Spec {
        image,
        memory_mib,
        cpus,
    };
    let identity = engine.backend.identity(&spec).await?;
    let keys = {
        let (recipes, spec, name) = (recipes.clone(), spec.clone(), engine.backend.name());
        aside(move || recipe::keys(&recipes, &spec, name, &identity)).await?
    };
    Ok(Resolved {
        wish,
        spec,
        engine,
        recipes,
        keys,
    })
}

/// Runs what may read whole files on a thread of its own: the I/O thread serves other tests meanwhile.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let lost = |cause| Err(Error::new(ErrorKind::Store, "a thread that read files was lost").because(cause));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(lost)
}

async fn image(setup: &Setup, wish: &Wish, shape: (u32, u32), say: Say<'_>) -> Result<Image> {
    let (own, name) = (setup.clone(), wish.image.clone());
    let looked = move || {
        let plan = image::plan(&own.config, &own.dirs, &name)?;
        let image = plan.find(&own.dirs)?;
        Ok((plan, image))
    };
    let (plan, image) = aside(looked).await?;
    if let Some(image) = image {
        return Ok(image);
    }
    let target = Target {
        image: wish.image.clone(),
        snapshot: None,
        shape,
        backend: wish.backend.clone(),
        key: plan.digest().to_owned(),
        run: wish.run,
        run_name: wish.run_name.clone(),
    };
    target::obtain(setup, &target, say).await?;
    let vanished = || {
        Error::new(
            ErrorKind::Store,
            format!("{} vanished when it had been made", target.title()),
        )
    };
    plan.find(&setup.dirs)?.ok_or_else(vanished)
}

impl Resolved {
    /// The snapshot that was wished for, made now if it is missing.
    pub(super) async fn snapshot(&self, setup: &Setup, say: Say<'_>) -> Result<Snapshot> {
        self.provide(setup, self.keys.len() - 1, say).await
    }

    /// The snapshot at `index` of the lineage.
    async fn provide(&self, setup: &Setup, index: usize, say: Say<'_>) -> Result<Snapshot> {
        let target = self.target(index);
        match setup.store.get(&target.key) {
            Ok(Some(snapshot)) => return Ok(snapshot),
            Ok(None) => {}
            Err(damage) => say(&format!("{} is damaged and made again: {damage}", target.title())),
        }
        target::obtain(setup, &target, say).await?;
        let vanished = || {
            Error::new(
                ErrorKind::Store,
                format!("{} vanished when it had been made", target.title()),
            )
        };
        setup.store.get(&target.key)?.ok_or_else(vanished)
    }

    fn target(&self, index: usize) -> Target {
        Target {
            image: self.wish.image.clone(),
            snapshot: Some(self.recipes[index].name()),
            shape: (self.spec.memory_mib, self.spec.cpus),
            backend: self.wish.backend.clone(),
            key: self.keys[index].clone(),
            run: self.wish.run,
            run_name: self.wish.run_name.clone(),
        }
    }

    /// A machine of that origin.
    pub(super) fn want(&self, setup: &Setup, origin: Origin, purpose: Use, network: bool) -> Want {
        let settings = setup.config.settings();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Want {
            engine: self.engine.choice.clone(),
            origin,
            purpose,
            network,
            limits: self.engine.limits(setup),
            lease_limit: settings.lease_timeout,
            warm: settings.warm.unwrap_or(u32::try_from(cores).unwrap_or(1)),
            run: self.wish.run,
        }
    }

    /// The handle of a leased machine.
    pub(super) fn vm(&self, lease: &Lease, snapshot: Option<String>, network: bool) -> Result<Vm> {
        let origin = vm::Origin {
            image: self.wish.image.clone(),
            snapshot,
            ready: self.spec.image.ready.clone(),
            network,
            patience: self.engine.patience,
        };
        let session = Arc::clone(lease.session());
        Ok(Vm::new(
            session,
            lease.link(),
            lease.leased().clone(),
            origin,
            io::handle()?,
        ))
    }
}

/// Makes the target, which is missing, in this process.
///
/// `blocked` is called from another thread when a snapshot's function blocks this one beyond its limit.
pub(super) async fn make(setup: &Setup, target: &Target, say: Say<'_>, blocked: Blocked<'_>) -> Result<()> {
    if target.snapshot.is_some() {
        return make_snapshot(setup, target, say, blocked).await;
    }
    let plan = image::plan(&setup.config, &setup.dirs, &target.image)?;
    let dirs = setup.dirs.clone();
    let (tell, mut lines) = tokio::sync::mpsc::unbounded_channel::<String>();
    // Whoever no longer listens needs no progress.
    let work = move || plan.build(&dirs, &|line| drop(tell.send(line.to_owned())));
    let mut work = tokio::task::spawn_blocking(work);
    loop {
        tokio::select! {
            Some(line) = lines.recv() => say(&line),
            done = &mut work => {
                let lost = |cause| Err(Error::new(ErrorKind::Image, "the building thread was lost").because(cause));
                return done.unwrap_or_else(lost).map(|_| ());
            }
        }
    }
}

async fn make_snapshot(setup: &Setup, target: &Target, say: Say<'_>, blocked: Blocked<'_>) -> Result<()> {
    let (memory, cpus) = target.shape;
    let wish = Wish {
        image: target.image.clone(),
        snapshot: target.snapshot.clone(),
        shape: (Some(memory), Some(cpus)),
        backend: target.backend.clone(),
        run: target.run,
        run_name: target.run_name.clone(),
    };
    let title = target.title();
    let failed = |cause: Error| {
        let console = cause.console().map(str::to_owned).unwrap_or_default();
        Error::new(ErrorKind::Build, format!("{title} could not be made"))
            .because(cause)
            .with_console(console)
    };
    let resolved = resolve(setup, wish, say).await?;
    let index = resolved.keys.len() - 1;
    if resolved.keys[index] != target.key {
        let text = format!(
            "{title}: what goes into it changed while it was asked for, or depends on an undeclared variable"
        );
        return Err(Error::new(ErrorKind::Build, text));
    }
    let parent = match index.checked_sub(1) {
        Some(parent) => Some(Box::pin(resolved.provide(setup, parent, say)).await?),
        None => None,
    };
    let store = setup.store.clone();
    let key = target.key.clone();
    let lock = tokio::task::spawn_blocking(move || store.lock(&key)).await;
    let _lock =
        lock.map_err(|cause| Error::new(ErrorKind::Store, "a lock could not be waited for").because(cause))??;
    if let Ok(Some(_)) = setup.store.get(&target.key) {
        return Ok(());
    }
    Making {
        setup,
        resolved: &resolved,
        target,
        parent,
        blocked,
    }
    .run(say)
    .await
    .map_err(failed)
}

/// One snapshot being made, its lock held.
struct Making<'a> {
    setup: &'a Setup,
    resolved: &'a Resolved,
    target: &'a Target,
    parent: Option<Snapshot>,
    blocked: Blocked<'a>,
}

impl Making<'_> {
    async fn run(&self, say: Say<'_>) -> Result<()> {
        let begin = Instant::now();
        let title = self.target.title();
        let recipe = &self.resolved.recipes[self.resolved.recipes.len() - 1];
        let network = recipe.network();
        let origin = match &self.parent {
            Some(parent) => Origin::Fork(Box::new(parent.clone())),
            None => Origin::Boot(Box::new(self.resolved.spec.clone())),
        };
        say(&format!(
            "{title}: {} on {}",
            recipe.verb(),
            self.resolved.engine.title()
        ));
        let want = self.resolved.want(self.setup, origin, Use::Parent, network);
        let (broker, io) = (self.setup.broker.clone(), io::handle()?);
        let lease = io::on(&io, async move { broker.lease(want).await }).await?;
        let vm = self.resolved.vm(
            &lease,
            self.parent.as_ref().map(|parent| parent.manifest.name.clone()),
            network,
        )?;
        if network {
            vm.network_up().await?;
        }
        self.follow(recipe, &vm, say).await?;
        lease
            .session()
            .sync_disks(stretched(SYNC_LIMIT, self.resolved.engine.patience))
            .await?;
        let folder = self.setup.store.begin(&self.target.key)?;
        if let Err(cause) = self.freeze(&lease, &folder, begin).await {
            // Half of a snapshot only takes space; the first error is the one to tell.
            let _ = self.setup.store.remove(&self.target.key);
            return Err(cause);
        }
        say(&format!(
            "{title}: made in {:.1} s",
            begin.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    async fn freeze(&self, lease: &Lease, folder: &Path, begin: Instant) -> Result<()> {
        let frozen = lease.commit(folder, Then::Discard).await?;
        self.publish(folder, frozen, begin.elapsed()).await
    }

    /// Follows the recipe within its limit.
    async fn follow(&self, recipe: &Recipe, vm: &Vm, say: Say<'_>) -> Result<()> {
        let settings = self.setup.config.settings();
        let limit = stretched(
            recipe.timeout().unwrap_or(settings.build_timeout),
            settings.timeout_factor,
        );
        let _watch = Watch::over(&io::handle()?, limit, Arc::clone(self.blocked));
        let steps = async {
            match recipe {
                Recipe::Boot => Ok(()),
                Recipe::Function(function) => {
                    let _current = vm::enter(vm.clone());
                    match function.body(vm.clone()).await {
                        Outcome::Passed => Ok(()),
                        Outcome::Errored(error) => Err(error),
                        Outcome::Failed(text) | Outcome::Skipped(text) => {
                            let place = format!("{}:{}", function.file(), function.line());
                            Err(
                                Error::new(ErrorKind::Build, format!("the function at {place} failed"))
                                    .because(text),
                            )
                        }
                    }
                }
                Recipe::Steps(decl) => follow_steps(decl, vm, say).await,
            }
        };
        let in_time = tokio::time::timeout(limit, catch_panic(steps)).await;
        in_time.unwrap_or_else(|_| {
            let text = format!("the steps were not done within {} s", limit.as_secs_f32());
            Err(Error::new(ErrorKind::TimedOut, text))
        })
    }

    async fn publish(
        &self,
        folder: &Path,
        frozen: vmtest_backends::backend::Frozen,
        took: Duration,
    ) -> Result<()> {
        let identity = self.resolved.engine.backend.identity(&self.resolved.spec).await?;
        let name = self.target.snapshot.as_deref().unwrap_or_default();
        let manifest = Manifest {
            format: FORMAT,
            key: self.target.key.clone(),
            name: format!("{}/{name}", self.target.image),
            parent: self.parent.as_ref().map(|parent| parent.manifest.key.clone()),
            spec: self.resolved.spec.clone(),
            backend: self.resolved.engine.backend.name().to_owned(),
            identity,
            disks: frozen.disks,
            files: frozen.files,
            created: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        };
        manifest.save(folder)
    }
}

impl Recipe {
    fn verb(&self) -> &'static str {
        match self {
            Self::Boot => "booting",
            Self::Function(_) | Self::Steps(_) => "running its steps",
        }
    }
}

impl Engine {
    /// `QEMU 10.0.2 (tcg)`.
    pub(super) fn title(&self) -> String {
        format!("{} ({})", self.capabilities.engine, self.capabilities.accelerator)
    }
}

/// Watches, from the I/O thread, a function that may block its own; dropped when it has ended.
struct Watch(tokio::task::AbortHandle);

impl Watch {
    fn over(io: &tokio::runtime::Handle, limit: Duration, blocked: Arc<dyn Fn(Error) + Send + Sync>) -> Self {
        let watch = io.spawn(async move {
            tokio::time::sleep(limit.saturating_add(GRACE)).await;
            let text = format!(
                "the snapshot's function still blocks its thread after its limit of {} s",
                limit.as_secs_f32()
            );
            blocked(Error::new(ErrorKind::TimedOut, text));
        });
        Self(watch.abort_handle())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A panic of the function is its failure, and is told to all who wait.
async fn catch_panic(steps: impl Future<Output = Result<()>>) -> Result<()> {
    let mut steps = Box::pin(steps);
    let guarded = std::future::poll_fn(|task| {
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| steps.as_mut().poll(task)));
        polled.unwrap_or_else(|payload| {
            let text = crate::outcome::panic_text(&*payload);
            std::task::Poll::Ready(Err(
                Error::new(ErrorKind::Build, "the function panicked").because(text)
            ))
        })
    });
    guarded.await
}

async fn follow_steps(decl: &SnapshotDecl, vm: &Vm, say: Say<'_>) -> Result<()> {
    for (index, step) in decl.steps.iter().enumerate() {
        let number = index + 1;
        say(&format!("step {number} of {}: {}", decl.steps.len(), title(step)));
        follow_step(step, vm).await.map_err(|cause| {
            let text = format!(
                "step {number} ({}) of the snapshot at {} failed",
                title(step),
                decl.origin
            );
            Error::new(cause.kind(), text).because(cause)
        })?;
    }
    Ok(())
}

fn title(step: &Step) -> String {
    match step {
        Step::Copy { from, to } => format!("copy {} to {to}", from.display()),
        Step::Run { text, .. } => format!("run `{}`", text.lines().next().unwrap_or_default()),
        Step::Wait { what, .. } => format!("wait for {what:?}"),
    }
}

async fn follow_step(step: &Step, vm: &Vm) -> Result<()> {
    match step {
        Step::Copy { from, to } => vm.copy_in(from, to).await,
        Step::Run { text, timeout } => {
            let mut command = vm.sh(text);
            if let Some(limit) = timeout {
                command = command.timeout(*limit);
            }
            command.await?.check().map(|_| ())
        }
        Step::Wait { what, timeout } => {
            let mut wait = match what {
                WaitFor::Port(port) => vm.wait_for(vm::Port(*port)),
                WaitFor::Unit(unit) => vm.wait_for(vm::Unit(unit.clone())),
                WaitFor::File(path) => vm.wait_for(vm::File(path.clone())),
                WaitFor::Command(text) => vm.wait_for(vm::Succeeds(text.clone())),
            };
            if let Some(limit) = timeout {
                wait = wait.timeout(*limit);
            }
            wait.await
        }
    }
}
