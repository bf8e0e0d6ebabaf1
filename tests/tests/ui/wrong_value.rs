use vmtest::{Vm, vm_test};

const COUNT: u64 = 2;

#[vm_test(image = 3)]
async fn image(_vm: Vm) {}

#[vm_test(image = "tiny", memory = "512M", cpus = COUNT)]
async fn memory(_vm: Vm) {}

#[vm_test(image = "tiny", needs = "kvm", network = "yes")]
async fn needs(_vm: Vm) {}

#[vm_test(image = "tiny", memory = -1)]
async fn negative(_vm: Vm) {}

fn main() {}
