use vmtest::{Vm, vm_test};

#[vm_test(image = "tiny")]
async fn boots(_vm: Vm, _other: Vm, _port: u16) {}

fn main() {}
