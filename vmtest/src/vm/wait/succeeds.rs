//! Waiting for a command to succeed.

use std::fmt;

use async_trait::async_trait;
use vmtest_backends::Result;

use super::sealed::Look;
use super::{Condition, Seen, Vm, poll};
use crate::vm::output::{ended, excerpt};

/// A script for the guest's `/bin/sh -c` that is run again and again until it ends with status 0.
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
/// vm.wait_for(vmtest::vm::Succeeds("mountpoint -q /data")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Succeeds<S = &'static str>(pub S);

impl<S> Condition for Succeeds<S> where S: AsRef<str> + fmt::Debug + Send + Sync + 'static {}

#[async_trait]
impl<S: AsRef<str> + Send + Sync + 'static> Look for Succeeds<S> {
    async fn met(&self, vm: &Vm, seen: &Seen) -> Result<()> {
        poll(seen, || look(vm, self.0.as_ref())).await
    }
}

async fn look(vm: &Vm, script: &str) -> Result<Option<String>> {
    let output = vm.sh(script).silent().output().await?;
    let state = || {
        format!(
            "it {}{}",
            ended(output.status),
            excerpt(&output.stderr, &output.stdout)
        )
    };
    Ok((!output.success()).then(state))
}

impl<S: AsRef<str>> fmt::Display for Succeeds<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` to succeed", self.0.as_ref())
    }
}
