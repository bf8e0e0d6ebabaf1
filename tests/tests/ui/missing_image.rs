use vmtest::{Vm, vm_test};

#[vm_test]
async fn boots(_vm: Vm) {}

#[vm_test(snapshot = "ready")]
async fn forks(_vm: Vm) {}

fn main() {}
