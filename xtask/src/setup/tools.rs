//! The tools of Rust that the tests need, and which QEMU is there.

use std::time::Duration;

use crate::child::{capture, cargo, command, show};
use crate::error::{Error, Result};
use crate::say::{say, span};
use crate::setup::need::find;
use crate::stop::Stop;

/// The oldest QEMU that can fork a machine.
const OLDEST_QEMU: (u32, u32) = (7, 2);
/// A program that tells its version.
const VERSION_LIMIT: Duration = Duration::from_secs(60);
/// rustup fetches two small archives.
const COMPONENT_LIMIT: Duration = Duration::from_secs(10 * 60);
/// Hundreds of crates, compiled with optimisation, on two cores.
const NEXTEST_LIMIT: Duration = Duration::from_secs(45 * 60);

/// `10.0.2`; an error when it is too old.
pub(crate) async fn qemu_version(program: &str, stop: &Stop) -> Result<String> {
    let mut ask = command(program);
    ask.arg("--version");
    let told = capture(ask, VERSION_LIMIT, stop).await?;
    let version = told
        .split_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1)
        .unwrap_or_default();
    match numbers(version) {
        Some(found) if found >= OLDEST_QEMU => Ok(version.into()),
        Some(_) => {
            let (major, minor) = OLDEST_QEMU;
            Err(Error::new(format!(
                "{program} is version {version}; {major}.{minor} or newer is needed"
            )))
        }
        None => Err(Error::new(format!("{program} --version told no version: {told}"))),
    }
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// rustfmt, clippy, nextest.
pub(crate) async fn for_tests(stop: &Stop) -> Result {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !answers(subcommand, stop).await? {
            add_component(component, stop).await?;
        }
    }
    if answers("nextest", stop).await? {
        Ok(())
    } else {
        install_nextest(stop).await
    }
}

async fn answers(subcommand: &str, stop: &Stop) -> Result<bool> {
    let mut ask = cargo();
    ask.args([subcommand, "--version"]);
    match capture(ask, VERSION_LIMIT, stop).await {
        Ok(_) => Ok(true),
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(_) => Ok(false),
    }
}

async fn add_component(component: &str, stop: &Stop) -> Result {
    if find("rustup").is_none() {
        let how = format!(
            "install the {component} that belongs to this Rust (Debian's package: {})",
            debian(component)
        );
        return Err(Error::new(format!(
            "`cargo xtask test` needs {component}, and there is no rustup: {how}"
        )));
    }
    say(format!("set-up: adding {component} to the Rust toolchain"));
    let mut add = command("rustup");
    add.args(["component", "add", component]);
    match show(add, COMPONENT_LIMIT, stop).await? {
        end if end.success() => Ok(()),
        end => Err(Error::new(format!(
            "`rustup component add {component}` failed: {}",
            end.reason(COMPONENT_LIMIT)
        ))),
    }
}

fn debian(component: &str) -> &str {
    if component == "clippy" {
        "rust-clippy"
    } else {
        component
    }
}

async fn install_nextest(stop: &Stop) -> Result {
    say(format!(
        "set-up: cargo-nextest is missing: building it from source, once. It is some 330 crates, compiled with \
         optimisation: some 8 minutes on two idle cores (limit {}). A cargo-nextest in PATH saves this.",
        span(NEXTEST_LIMIT)
    ));
    let mut install = cargo();
    install
        .args(["install", "--locked", "cargo-nextest"])
        .env_remove("CARGO_TARGET_DIR");
    match show(install, NEXTEST_LIMIT, stop).await? {
        end if end.success() => Ok(()),
        end => Err(Error::new(format!(
            "`cargo install --locked cargo-nextest` failed: {}; it needs the network and a C compiler",
            end.reason(NEXTEST_LIMIT)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(numbers("10.0.2"), Some((10, 0)));
        assert!(numbers("10.0.2").unwrap() > OLDEST_QEMU);
        assert!(numbers("7.1.0").unwrap() < OLDEST_QEMU);
        assert_eq!(numbers("unknown"), None);
    }
}
