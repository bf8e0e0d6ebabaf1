//! Waiting for a systemd unit.

use std::fmt;

use async_trait::async_trait;
use vmtest_backends::{Error, ErrorKind, Result};

use super::sealed::Look;
use super::{Condition, Seen, Vm, is_final, poll};
use crate::vm::output::Output;

/// A systemd unit that is active.
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
/// vm.wait_for(vmtest::vm::Unit("ssh.service")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit<S = &'static str>(pub S);

impl<S> Condition for Unit<S> where S: AsRef<str> + fmt::Debug + Send + Sync + 'static {}

#[async_trait]
impl<S: AsRef<str> + Send + Sync + 'static> Look for Unit<S> {
    async fn met(&self, vm: &Vm, seen: &Seen) -> Result<()> {
        poll(seen, || look(vm, self.0.as_ref())).await
    }
}

async fn look(vm: &Vm, unit: &str) -> Result<Option<String>> {
    let show = "--property=LoadState,ActiveState,SubState,Result";
    let command = vm.command("systemctl").args(["show", show, "--", unit]).silent();
    match command.output().await {
        Ok(output) => Ok(state(&output)),
        Err(error) if is_final(&error) => Err(error),
        Err(error) => {
            Err(Error::new(ErrorKind::Exec, "the guest has no systemd to ask for a unit").because(error))
        }
    }
}

/// What the unit is instead of active: `inactive (dead)`, `failed (failed), exit-code`, `not-found`.
fn state(output: &Output) -> Option<String> {
    if !output.success() {
        return Some(format!("systemctl: {}", output.stderr_text()));
    }
    let text = output.text();
    let value = |name: &str| {
        let mut fields = text.lines().filter_map(|line| line.split_once('='));
        fields
            .find(|(key, _)| *key == name)
            .map_or("?", |(_, value)| value)
            .to_owned()
    };
    let (load, active, sub, result) = (
        value("LoadState"),
        value("ActiveState"),
        value("SubState"),
        value("Result"),
    );
    match active.as_str() {
        "active" => None,
        _ if load != "loaded" => Some(load),
        "failed" => Some(format!("{active} ({sub}), {result}")),
        _ => Some(format!("{active} ({sub})")),
    }
}

impl<S: AsRef<str>> fmt::Display for Unit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unit {}", self.0.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vmtest_backends::session::Exit;

    use super::*;

    fn seen(stdout: &str) -> Option<String> {
        state(&Output {
            status: Exit::Code(0),
            stdout: stdout.into(),
            stderr: Vec::new(),
            took: Duration::ZERO,
            command: String::new(),
        })
    }

    #[test]
    fn states_are_told_in_systemd_s_words() {
        assert_eq!(
            seen("LoadState=loaded\nActiveState=active\nSubState=running\nResult=success"),
            None
        );
        let inactive = seen("Result=success\nLoadState=loaded\nActiveState=inactive\nSubState=dead\n");
        assert_eq!(inactive.unwrap(), "inactive (dead)");
        let failed = seen("Result=exit-code\nLoadState=loaded\nActiveState=failed\nSubState=failed\n");
        assert_eq!(failed.unwrap(), "failed (failed), exit-code");
        let missing = seen("LoadState=not-found\nActiveState=inactive\nSubState=dead\n");
        assert_eq!(missing.unwrap(), "not-found");
        assert_eq!(seen("").unwrap(), "?");
    }
}
