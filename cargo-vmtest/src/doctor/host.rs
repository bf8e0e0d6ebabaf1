//! What this host offers.

use std::env;
use std::path::PathBuf;

use vmtest::config::{Config, PoolLimits};
use vmtest::dirs::Dirs;
use vmtest::image;
use vmtest::pool::{self, Capacity, Cost, ENGINE_MIB, EngineChoice};
use vmtest_backends::backend::Capabilities;
use vmtest_backends::qemu::UNTRIED;
use vmtest_backends::spec::Spec;

use super::{Finding, one_line};

/// What KVM is tried with, in MiB.
const TRIAL_MIB: u32 = 256;

/// Each engine: which version, executing how, with what besides.
pub(super) async fn engine(config: &Config, dirs: &Dirs) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in pool::names() {
        let choice = EngineChoice {
            backend: (*name).to_owned(),
            accel: config.settings().accel,
            program: env::var_os("VMTEST_QEMU")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        };
        let probed = match pool::engine(&choice, dirs) {
            Ok(engine) => engine.probe(trial(config, dirs).as_ref()).await,
            Err(error) => Err(error),
        };
        let found = match probed {
            Ok(found) => found,
            Err(error) => {
                findings.push(Finding::error("engine", &error));
                continue;
            }
        };
        findings.push(Finding::good("engine", &found.engine));
        findings.push(accelerator(&found));
        findings.push(match found.network {
            Ok(()) => Finding::good("network", "passt is there, for tests with `network = true`"),
            Err(why) => Finding::lacking(
                "network",
                format!("tests with `network = true` do not run: {why}"),
            ),
        });
    }
    findings
}

fn accelerator(found: &Capabilities) -> Finding {
    let what = "accelerator";
    match &found.fallback {
        None => Finding::good(what, &found.accelerator),
        Some(why) if why == UNTRIED => Finding::good(
            what,
            "/dev/kvm is there and not tried yet: the first test does, and says so if it cannot be used",
        ),
        Some(why) => {
            let text = format!("{}, which is slower: {why}{}", found.accelerator, kvm_cure(why));
            Finding::lacking(what, text)
        }
    }
}

/// A guest to try KVM with, if one is built already.
fn trial(config: &Config, dirs: &Dirs) -> Option<Spec> {
    let image = image::plan(config, dirs, "tiny").ok()?.find(dirs).ok()??;
    Some(Spec {
        image,
        memory_mib: TRIAL_MIB,
        cpus: 1,
    })
}

fn kvm_cure(why: &str) -> &'static str {
    match why {
        _ if why.contains("ermission denied") => "; `usermod -aG kvm USER` as root, then log in again",
        _ if why.contains("No such file") => {
            "; on a physical machine load kvm_intel or kvm_amd, in a virtual one ask its host for nested \
             virtualisation"
        }
        _ => "",
    }
}

/// What making images needs. Missing tools count only while no image is there.
pub(super) fn image_tools(config: &Config, dirs: &Dirs) -> Vec<Finding> {
    let what = "image tools";
    let has_image = config.images().any(|image| {
        image::plan(config, dirs, &image.name)
            .and_then(|plan| plan.find(dirs))
            .is_ok_and(|found| found.is_some())
    });
    let needed = |text: String| match has_image {
        true => Finding::lacking(what, text),
        false => Finding::missing(what, text),
    };
    let needs = image::needs();
    let mut findings: Vec<Finding> = needs
        .iter()
        .filter(|need| need.found.is_none())
        .map(|need| {
            let text = format!(
                "{} ({}) is not here; `apt-get install {}`",
                need.program, need.purpose, need.package
            );
            match need.optional {
                true => Finding::lacking(what, text),
                false => needed(text),
            }
        })
        .collect();
    if let Err(error) = image::can_make_trees() {
        // `tiny` can be made all the same.
        let text = format!(
            "no image of packages, such as debian, can be made: {}",
            one_line(&error)
        );
        findings.push(Finding::lacking(what, text));
    }
    if findings.is_empty() {
        let names: Vec<&str> = needs.iter().map(|need| need.program).collect();
        findings.push(Finding::good(what, names.join(", ")));
    }
    findings
}

/// The client of `Vm::ssh()`.
pub(super) fn ssh() -> Finding {
    let path = env::var_os("PATH").unwrap_or_default();
    match env::split_paths(&path)
        .map(|folder| folder.join("ssh"))
        .find(|file| file.is_file())
    {
        Some(program) => Finding::good("ssh", program.display().to_string()),
        None => Finding::lacking("ssh", "Vm::ssh() needs it; `apt-get install openssh-client`"),
    }
}

/// How many machines fit.
pub(super) fn room(config: &Config, dirs: &Dirs) -> Finding {
    let what = "room";
    let limits: PoolLimits = config.settings().pool;
    let room = match Capacity::open(dirs, limits).and_then(|capacity| capacity.room()) {
        Ok(room) => room,
        Err(error) => return Finding::error(what, &error),
    };
    let mut most = 0;
    let counts: Vec<String> = ["tiny", "debian"]
        .iter()
        .filter_map(|name| config.image(name).ok())
        .map(|image| {
            let memory_mib = u64::from(image.default_memory_mib()) + ENGINE_MIB;
            let fits = room.fits(Cost {
                memory_mib,
                cpus: image.cpus.unwrap_or(1),
            });
            most = most.max(fits);
            format!("{fits} of {}", image.name)
        })
        .collect();
    let text = format!(
        "{} MiB available, {} MiB of {} MiB for machines in use; at full size {} fit",
        room.available_mib,
        room.used.memory_mib,
        room.budget.memory_mib,
        counts.join(" or ")
    );
    match most {
        0 if room.used.memory_mib == 0 => Finding::missing(
            what,
            format!("{text}; free memory, or raise `pool.memory` in vmtest.toml"),
        ),
        _ => Finding::good(what, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn an_accelerator_that_was_not_tried_is_not_called_slow() {
        let found = |fallback: Option<&str>| {
            accelerator(&Capabilities {
                engine: "QEMU 10.0.2".into(),
                accelerator: "tcg".into(),
                fallback: fallback.map(str::to_owned),
                memory_fork: true,
                network: Ok(()),
            })
        };
        let untried = found(Some(UNTRIED));
        assert_eq!(untried.verdict, Verdict::Good);
        assert!(untried.text.contains("not tried yet"), "{}", untried.text);
        let refused = found(Some("/dev/kvm cannot be opened (Permission denied)"));
        assert_eq!(refused.verdict, Verdict::Lacking);
        assert!(refused.text.contains("slower") && refused.text.contains("usermod"));
    }
}
