use vmtest::{Vm, vm_test};

#[vm_test(image = "tiny", cpus = 1, image = "debian", cpus = 2)]
async fn boots(_vm: Vm) {}

fn main() {}
