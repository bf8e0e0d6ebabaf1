//! The machine of one case: what it needs is matched, made and leased before its body runs.

use std::time::{Duration, Instant};

use vmtest_backends::backend::Use;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::broker::Lease;
use crate::pool::{Origin, Run};
use crate::registry::Options;
use crate::runner::build::{self, Resolved, Say, Wish};
use crate::runner::setup::{Engine, Setup};
use crate::runner::target;
use crate::vm::Vm;

/// A leased machine, and how it came to be.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) vm: Vm,
    pub(super) lease: Lease,
    pub(super) resolved: Resolved,
    pub(super) phases: Vec<(String, Duration)>,
}

impl Machine {
    /// The machine a case asks for. Must run on the I/O thread, which serves the lease.
    pub(super) async fn lease(setup: &Setup, options: &Options, say: Say<'_>) -> Result<Self> {
        let mut phases = Vec::new();
        let begin = Instant::now();
        let network = options.network.unwrap_or(false);
        let wish = Wish {
            image: options.image.clone(),
            snapshot: options.snapshot.clone(),
            shape: (options.memory, options.cpus),
            backend: options.backend.clone(),
            run: Run::current(),
            run_name: target::run_name(),
        };
        let resolved = build::resolve(setup, wish, say).await?;
        check_needs(&resolved.engine, options, network)?;
        phases.push(("resolve".to_owned(), begin.elapsed()));
        let begin = Instant::now();
        let snapshot = resolved.snapshot(setup, say).await?;
        phases.push(("snapshot".to_owned(), begin.elapsed()));
        let begin = Instant::now();
        let name = snapshot.manifest.name.clone();
        let want = resolved.want(setup, Origin::Fork(Box::new(snapshot)), Use::Leaf, network);
        let lease = setup.broker.lease(want).await?;
        phases.push(("lease".to_owned(), begin.elapsed()));
        let vm = resolved.vm(&lease, Some(name), network)?;
        if network {
            let begin = Instant::now();
            vm.network_up().await?;
            phases.push(("network".to_owned(), begin.elapsed()));
        }
        Ok(Self {
            vm,
            lease,
            resolved,
            phases,
        })
    }
}

/// Matches what a case needs against what is there.
fn check_needs(engine: &Engine, options: &Options, network: bool) -> Result<()> {
    let unmet = |need: &str, why: &str| {
        let text = format!("the test needs {need}: {why} ({})", engine.title());
        Err(Error::new(ErrorKind::Unavailable, text))
    };
    for need in options
        .needs
        .iter()
        .map(String::as_str)
        .chain(network.then_some("network"))
    {
        let capabilities = &engine.capabilities;
        match need {
            "kvm" if capabilities.accelerator != "kvm" => {
                return unmet(
                    need,
                    capabilities
                        .fallback
                        .as_deref()
                        .unwrap_or("guests are executed by translation"),
                );
            }
            "memory-fork" if !capabilities.memory_fork => return unmet(need, "this engine forks disks only"),
            "network" => {
                if let Err(why) = &capabilities.network {
                    return unmet(need, why);
                }
            }
            "kvm" | "memory-fork" => {}
            other => {
                let text = format!("needs = [{other:?}] is not known; known are kvm, memory-fork, network");
                return Err(Error::new(ErrorKind::Invalid, text));
            }
        }
    }
    Ok(())
}
