use vmtest::{Vm, vm_test};

#[vm_test(image = "tiny")]
async unsafe fn trusted(_vm: Vm) {}

#[vm_test(image = "tiny")]
async extern "C" fn foreign(_vm: Vm) {}

#[vm_test(image = "tiny")]
const fn constant(_vm: Vm) {}

fn main() {}
