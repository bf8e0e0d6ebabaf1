//! The measurements on one image: product and floor in turns, so that what else the host does falls on both.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use vmtest_backends::spec::Ready;

use crate::error::Result;
use crate::figure::{Figure, percentile};
use crate::floor::{self, Machine};
use crate::product::Product;

/// How long a fork has been waiting, at least, when it counts as warm: its guest has caught up with the time it slept.
const IDLE: Duration = Duration::from_millis(100);

/// How often each thing is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) boots: usize,
    pub(crate) forks: usize,
    pub(crate) execs: usize,
    /// How many idle forks share their memory when it is measured.
    pub(crate) idle: usize,
}

/// What was measured on an image.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) engine: String,
    pub(crate) program: String,
    pub(crate) figures: Vec<Figure>,
    /// Milliseconds of each step of a cold fork: of the product one after the other, of the floor since the
    /// request.
    pub(crate) phases: Vec<String>,
}

/// The bench on one image.
pub(crate) struct Bench {
    image: &'static str,
    counts: Counts,
    product: Product,
    folder: PathBuf,
    empty: Vec<PathBuf>,
    made: usize,
    phases: Phases,
}

#[derive(Default)]
struct Phases {
    ours: Vec<(String, Vec<f64>)>,
    floor: Vec<(String, Vec<f64>)>,
}

impl Bench {
    /// Builds what is missing.
    pub(crate) fn prepare(image: &'static str, counts: Counts, io: &Handle) -> Result<Self> {
        let product = Product::of(image, io)?;
        let folder = product.folder(&format!("{image}-{}", std::process::id()))?;
        fs::create_dir(&folder)?;
        let sizes: Vec<u64> = product.spec().image.disks.iter().map(|disk| disk.size).collect();
        let empty = floor::empty_overlays(&product.template, &folder, &sizes)?;
        Ok(Self {
            image,
            counts,
            product,
            folder,
            empty,
            made: 0,
            phases: Phases::default(),
        })
    }

    /// Measures everything but the suites.
    pub(crate) fn run(mut self) -> Result<Measured> {
        let measured = self.measure();
        // A machine that was not ended ends with this process.
        let _ = fs::remove_dir_all(&self.folder);
        let figures = measured?;
        Ok(Measured {
            engine: self.product.engine.clone(),
            program: self.product.template.program().to_owned(),
            figures,
            phases: vec![
                format!("ours: {}", steps(&self.phases.ours)),
                format!("floor, since the request: {}", steps(&self.phases.floor)),
            ],
        })
    }

    fn measure(&mut self) -> Result<Vec<Figure>> {
        let mut figures = self.boots()?;
        figures.extend(self.cold_forks()?);
        figures.push(self.warm_leases()?);
        figures.push(self.execs()?);
        figures.push(self.memory()?);
        Ok(figures)
    }

    fn figure(&self, name: &'static str, unit: &'static str) -> Figure {
        Figure::new(name, self.image, unit)
    }

    fn path(&mut self, what: &str) -> PathBuf {
        self.made += 1;
        self.folder.join(format!("{what}{}", self.made))
    }

    fn floor(&mut self) -> Result<Machine> {
        let folder = self.path("fork");
        Machine::fork(&self.product.template, &self.empty, &folder)
    }

    fn boots(&mut self) -> Result<Vec<Figure>> {
        let (mut boot, mut commit) = (self.figure("boot", "ms"), self.figure("commit", "ms"));
        let ready = match &self.product.spec().image.ready {
            Ready::Agent => Vec::new(),
            Ready::Command(words) => words.clone(),
        };
        for _ in 0..self.counts.boots {
            let begin = Instant::now();
            let ours = self.product.boot()?;
            boot.ours.push(since(begin));
            let to = self.path("commit");
            commit.ours.push(ours.commit(&to)?);
            remove(&to)?;

            let folder = self.path("boot");
            let begin = Instant::now();
            let mut floor = Machine::boot(&self.product.template, &self.empty, &folder, &ready)?;
            boot.floor.push(since(begin));
            floor.agent.sync()?;
            let to = self.path("commit");
            let begin = Instant::now();
            floor.commit(&to)?;
            commit.floor.push(since(begin));
            remove(&to)?;
        }
        Ok(vec![boot, commit])
    }

    fn cold_forks(&mut self) -> Result<Vec<Figure>> {
        let (mut fork, mut teardown) = (self.figure("cold_fork", "ms"), self.figure("teardown", "ms"));
        for turn in 0..self.counts.forks {
            // Each goes first as often as the other: what one leaves behind for the host to do falls on both.
            for ours in [turn % 2 == 0, turn % 2 != 0] {
                if ours {
                    self.cold_fork(&mut fork, &mut teardown)?;
                } else {
                    self.cold_floor(&mut fork, &mut teardown)?;
                }
            }
        }
        Ok(vec![fork, teardown])
    }

    fn cold_fork(&mut self, fork: &mut Figure, teardown: &mut Figure) -> Result {
        let begin = Instant::now();
        let ours = self.product.fork(0)?;
        let leased = since(begin);
        ours.exec()?;
        let whole = since(begin);
        fork.ours.push(whole);
        self.note_ours(&ours.phases(), leased, whole);
        teardown.ours.push(ours.end()?);
        Ok(())
    }

    fn cold_floor(&mut self, fork: &mut Figure, teardown: &mut Figure) -> Result {
        let begin = Instant::now();
        let floor = self.floor()?;
        fork.floor.push(since(begin));
        for (name, at) in &floor.phases {
            note(&mut self.phases.floor, name, *at);
        }
        let begin = Instant::now();
        floor.kill()?;
        teardown.floor.push(since(begin));
        Ok(())
    }

    fn note_ours(&mut self, phases: &[(String, f64)], leased: f64, whole: f64) {
        let mut inside = 0.0;
        for (name, took) in phases {
            note(&mut self.phases.ours, name, *took);
            inside += took;
        }
        note(&mut self.phases.ours, "lease besides", leased - inside);
        note(&mut self.phases.ours, "first exec of the test", whole - leased);
    }

    /// From the lease's request on a fork that waits ready; the floor is an exec on a fork that waits ready.
    fn warm_leases(&mut self) -> Result<Figure> {
        let mut figure = self.figure("warm_lease", "ms");
        self.product.fork(1)?.end()?;
        for _ in 0..self.counts.forks {
            self.product.await_warm()?;
            std::thread::park_timeout(IDLE);
            let begin = Instant::now();
            let ours = self.product.fork(1)?;
            ours.exec()?;
            figure.ours.push(since(begin));
            if !ours.is_warm() {
                return Err("a lease was not warm though a fork waited".into());
            }
            // The next one is made meanwhile; the floor is not to compete with that.
            self.product.await_warm()?;
            ours.end()?;

            let mut floor = self.floor()?;
            floor.settle()?;
            std::thread::park_timeout(IDLE);
            let begin = Instant::now();
            floor.agent.exec("true", &[])?;
            figure.floor.push(since(begin));
            floor.kill()?;
        }
        Ok(figure)
    }

    fn execs(&mut self) -> Result<Figure> {
        let mut figure = self.figure("exec", "ms");
        let ours = self.product.fork(0)?;
        let mut floor = self.floor()?;
        // The first ones translate code.
        for _ in 0..10 {
            ours.exec()?;
            floor.agent.exec("true", &[])?;
        }
        for _ in 0..self.counts.execs {
            let begin = Instant::now();
            ours.exec()?;
            figure.ours.push(since(begin));
            let begin = Instant::now();
            floor.agent.exec("true", &[])?;
            figure.floor.push(since(begin));
        }
        ours.end()?;
        floor.kill()?;
        Ok(figure)
    }

    fn memory(&mut self) -> Result<Figure> {
        let mut figure = self.figure("pss", "MiB");
        let mut ours = Vec::new();
        for _ in 0..self.counts.idle {
            ours.push(self.product.fork(0)?);
        }
        for fork in &ours {
            figure.ours.push(crate::host::pss(fork.pid()?)?);
        }
        for fork in ours {
            fork.end()?;
        }
        let mut floor = Vec::new();
        for _ in 0..self.counts.idle {
            floor.push(self.floor()?);
        }
        for fork in &floor {
            figure.floor.push(crate::host::pss(fork.pid())?);
        }
        for fork in floor {
            fork.kill()?;
        }
        Ok(figure)
    }

    /// A hundred forks, each with one exec, made by hand, as many at once as there are cores; in seconds.
    pub(crate) fn hundred_by_hand(&self) -> Result<f64> {
        let at_once = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..at_once)
                .map(|worker| scope.spawn(move || self.share(worker, at_once)))
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().map_err(|_| "a worker panicked")?)
        })?;
        Ok(begin.elapsed().as_secs_f64())
    }

    fn share(&self, worker: usize, of: usize) -> Result {
        for number in (worker..100).step_by(of) {
            let folder = self.folder.join(format!("hundred{number}"));
            Machine::fork(&self.product.template, &self.empty, &folder)?.kill()?;
        }
        Ok(())
    }
}

fn since(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

fn note(phases: &mut Vec<(String, Vec<f64>)>, name: &str, took: f64) {
    match phases.iter_mut().find(|(known, _)| known == name) {
        Some((_, all)) => all.push(took),
        None => phases.push((name.to_owned(), vec![took])),
    }
}

fn steps(phases: &[(String, Vec<f64>)]) -> String {
    let steps = phases
        .iter()
        .map(|(name, all)| format!("{name} {:.1}", percentile(all, 50)));
    steps.collect::<Vec<_>>().join(", ")
}

fn remove(folder: &Path) -> Result {
    Ok(fs::remove_dir_all(folder)?)
}
