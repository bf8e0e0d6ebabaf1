//! `cargo xtask setup`: a bare machine gets the programs that vmtest calls. Nothing to do takes no time.

mod apt;
mod host;
mod need;
mod plan;
mod sources;
mod tools;

use std::path::Path;

use crate::error::{Error, Result};
use crate::say::say;
use crate::setup::apt::Origin;
use crate::setup::host::{Distribution, Root};
use crate::setup::need::{Need, QEMU};
use crate::setup::plan::Plan;
use crate::stop::Stop;

pub(crate) use tools::for_tests;

/// Installs what is missing. `folder` is where our list of package sources is written.
pub(crate) async fn run(folder: &Path, stop: &Stop) -> Result {
    let missing = need::missing();
    if !missing.is_empty() {
        tell_missing(&missing);
        install(&need::packages(&missing), folder, stop).await?;
        check_nothing_missing()?;
    }
    let version = tools::qemu_version(QEMU, stop).await?;
    say(format!("set-up: everything is there (QEMU {version})"));
    Ok(())
}

fn tell_missing(missing: &[&Need]) {
    say("set-up: these programs are missing:");
    for Need {
        program,
        package,
        why,
    } in missing
    {
        say(format!("  {program:<20} (package {package}) {why}"));
    }
}

fn check_nothing_missing() -> Result {
    let missing = need::missing();
    let names = missing
        .iter()
        .map(|need| need.program)
        .collect::<Vec<_>>()
        .join(", ");
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::new(format!("installed, but still not found: {names}")))
    }
}

async fn install(packages: &[&str], folder: &Path, stop: &Stop) -> Result {
    let distribution = Distribution::detect()?;
    let origin = preferred_origin(&distribution, stop).await?;
    let plan = apt::plan(packages, &distribution, origin, folder, stop).await?;
    let root = Root::find(stop)
        .await
        .ok_or_else(|| needs_root(packages, &plan))?;
    let from = if origin == Origin::Backports {
        ", QEMU from the backports of the same mirror"
    } else {
        ""
    };
    say(format!(
        "set-up: installing {} on {}{from}",
        packages.join(" "),
        distribution.name
    ));
    let looked = plan.look(root, stop).await;
    let plan = match looked {
        Err(Error::Failed { .. }) if origin == Origin::Backports => {
            say("set-up: not to be had from backports; trying without (an older QEMU)");
            let plan = apt::plan(packages, &distribution, Origin::Configured, folder, stop).await?;
            plan.look(root, stop).await.map_err(|why| explained(why, &plan))?;
            plan
        }
        looked => {
            looked.map_err(|why| explained(why, &plan))?;
            plan
        }
    };
    plan.install(root, stop)
        .await
        .map_err(|why| explained(why, &plan))
}

/// Debian 12 itself has QEMU 7.2; read-only RAM files and `file:` migration need 8.2. A QEMU package that is
/// already there from backports decides too: its siblings must have its version.
async fn preferred_origin(distribution: &Distribution, stop: &Stop) -> Result<Origin> {
    let old = distribution.debian && distribution.codename == "bookworm";
    let backported = distribution.debian && apt::has_backported_qemu(stop).await?;
    Ok(if old || backported {
        Origin::Backports
    } else {
        Origin::Configured
    })
}

fn needs_root(packages: &[&str], plan: &Plan) -> Error {
    Error::new(format!(
        "installing {} needs root: this user is not root, and `sudo` is missing or wants a password that \
         cannot be asked for here. Run this as root, then try again:\n\n  {}\n",
        packages.join(" "),
        plan.shell_line()
    ))
}

fn explained(why: Error, plan: &Plan) -> Error {
    if matches!(why, Error::Interrupted) {
        return why;
    }
    Error::new(format!(
        "{why}\nIf the mirror could not be reached, see to the network; if apt was busy, let it end. Then try \
         again, or run this as root:\n\n  {}\n",
        plan.shell_line()
    ))
}
