use vmtest::{Vm, vm_test};

#[vm_test(imgae = "tiny")]
async fn boots(_vm: Vm) {}

fn main() {}
