use vmtest::{Vm, vm_test};

const LIMIT: &str = "30s";

#[vm_test(image = "tiny", timeout = "30 parsecs")]
async fn unit(_vm: Vm) {}

#[vm_test(image = "tiny", timeout = 30)]
async fn number(_vm: Vm) {}

#[vm_test(image = "tiny", timeout = "0s")]
async fn zero(_vm: Vm) {}

#[vm_test(image = "tiny", timeout = LIMIT)]
async fn constant(_vm: Vm) {}

fn main() {}
