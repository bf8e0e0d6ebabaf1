use vmtest::{Vm, vm_test};

#[vm_test(image = "tiny")]
async fn number(_vm: u32) {}

#[vm_test(image = "tiny")]
async fn mutable(_vm: &mut Vm) {}

#[vm_test(image = "tiny")]
async fn optional(_vm: Option<Vm>) {}

fn main() {}
