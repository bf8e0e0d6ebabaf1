//! A harness of one's own: the compiler leaves out all `#[test]`s, and the cases are still there.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, clippy::pedantic)]

use vmtest::{Vm, vm_snapshot, vm_test};

#[vm_snapshot(image = "tiny", name = "unused")]
async fn unused(_vm: Vm) {}

#[vm_test(image = "tiny")]
async fn listed(_vm: Vm) {}

mod nested {
    use vmtest::{Vm, vm_test};

    #[vm_test(image = "tiny")]
    async fn r#match(_vm: Vm) {}
}

fn main() {
    let names: Vec<_> = vmtest::cases().iter().map(|case| case.name()).collect();
    assert_eq!(names, ["listed", "nested::r#match"]);
    assert_eq!(vmtest::snapshots().len(), 1);
}
