//! Tests in an ordinary library: they are registered without `cfg(test)`.
#![forbid(clippy::pedantic)]
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, clippy::pedantic)]

use vmtest::{Vm, vm_snapshot, vm_test};

/// The machine that the tests fork.
#[vm_snapshot(image = "tiny", name = "suite")]
async fn prepared(vm: Vm) -> vmtest::Result<()> {
    vm.sh(format!("echo {} > /run/answer", answer())).await?.check()?;
    Ok(())
}

#[vm_test(image = "tiny", snapshot = "suite")]
async fn answers(vm: Vm) {
    assert_eq!(vm.sh("cat /run/answer").await.unwrap().text(), answer());
}

fn answer() -> &'static str {
    "42"
}
