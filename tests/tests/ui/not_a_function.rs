use vmtest::{Vm, vm_test};

#[vm_test(image = "tiny")]
struct Boots {
    vm: Vm,
}

#[vm_test(image = "tiny")]
const BOOTS: Option<Vm> = None;

fn main() {}
