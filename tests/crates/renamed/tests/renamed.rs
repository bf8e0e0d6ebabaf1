//! The dependency has another name, which the attributes find in `Cargo.toml` or are told.
#![forbid(unsafe_code)]
#![deny(warnings)]
#![forbid(missing_docs, clippy::pedantic, clippy::allow_attributes)]

use machines::prelude::*;

mod reexported {
    pub(crate) use machines as inner;
}

#[machines::test(image = "tiny")]
async fn found(vm: Vm) -> Result {
    vm.sh("true").await?.check()?;
    Ok(())
}

#[vm_test(image = "tiny", crate = crate::reexported::inner)]
async fn told(vm: &Vm) -> Result {
    vm.sh("true").await?.check()?;
    Ok(())
}

#[vm_snapshot(image = "tiny", name = "unused", from = "nothing")]
async fn unused(_vm: Vm) {}

#[test]
fn all_are_registered() {
    let names: Vec<_> = machines::cases().iter().map(|case| case.name()).collect();
    assert_eq!(names, ["found", "told"]);
    assert_eq!(machines::snapshots().len(), 1);
}
