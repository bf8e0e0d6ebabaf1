use vmtest::{Vm, vm_test};

#[vm_test(image = "tiny")]
fn boots(_vm: Vm) {}

fn main() {}
