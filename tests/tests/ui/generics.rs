use vmtest::{Vm, vm_test};

#[vm_test(image = "tiny")]
async fn boots<T: From<Vm>>(_vm: Vm) {}

#[vm_test(image = "tiny")]
async fn forks<'a>(_vm: &'a Vm) {}

fn main() {}
