use vmtest::{Vm, vm_test};

#[vm_test("tiny")]
async fn no_key(_vm: Vm) {}

#[vm_test(image)]
async fn no_value(_vm: Vm) {}

#[vm_test(image = "tiny", ignore)]
async fn attribute(_vm: Vm) {}

#[vm_test(image = "tiny" cpus = 1)]
async fn no_comma(_vm: Vm) {}

#[vm_test(image = "tiny", crate = "machines")]
async fn root(_vm: Vm) {}

fn main() {}
