//! Waiting for a TCP port.

use std::fmt;

use async_trait::async_trait;
use vmtest_backends::Result;
use vmtest_backends::session::Target;

use super::sealed::Look;
use super::{Condition, Seen, Vm, is_final, poll, reason};

/// A TCP port on the guest's loopback that accepts connections.
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
/// vm.wait_for(vmtest::vm::Port(5432)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub u16);

impl Condition for Port {}

#[async_trait]
impl Look for Port {
    async fn met(&self, vm: &Vm, seen: &Seen) -> Result<()> {
        poll(seen, || self.look(vm)).await
    }
}

impl Port {
    async fn look(&self, vm: &Vm) -> Result<Option<String>> {
        match vm.0.session.open(Target::Tcp(self.0)).await {
            Ok(_closed_at_once) => Ok(None),
            Err(error) if is_final(&error) => Err(error),
            Err(error) => Ok(Some(reason(&error))),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}", self.0)
    }
}
