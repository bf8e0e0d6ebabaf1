use vmtest::{Vm, vm_test};

#[vm_test(image = "tiny", snapshto = 3, memory = 512)]
async fn boots(_vm: Vm) {}

fn main() {}
