use vmtest::{Vm, vm_test};

#[vm_test(image = "tiny")]
#[should_panic(expect = "boom")]
async fn boots(_vm: Vm) {}

fn main() {}
