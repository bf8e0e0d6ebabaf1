//! Waiting for a file.

use std::fmt;

use async_trait::async_trait;
use vmtest_backends::Result;

use super::sealed::Look;
use super::{Condition, Seen, Vm, poll};
use crate::vm::file::absolute;

/// Something at this path in the guest: a file, a folder, a socket; a symbolic link counts if it leads to something.
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
/// vm.wait_for(vmtest::vm::File("/run/nginx.pid")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File<S = &'static str>(pub S);

impl<S> Condition for File<S> where S: AsRef<str> + fmt::Debug + Send + Sync + 'static {}

#[async_trait]
impl<S: AsRef<str> + Send + Sync + 'static> Look for File<S> {
    async fn met(&self, vm: &Vm, seen: &Seen) -> Result<()> {
        let path = absolute(self.0.as_ref())?;
        poll(seen, || look(vm, &path)).await
    }
}

async fn look(vm: &Vm, path: &str) -> Result<Option<String>> {
    let found = vm.script(r#"[ -e "$1" ]"#, [path]).silent().output().await?;
    Ok((!found.success()).then(|| "no such file".to_owned()))
}

impl<S: AsRef<str>> fmt::Display for File<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {}", self.0.as_ref())
    }
}
