use vmtest::{Vm, vm_test};

// An error in the body is reported there, once, and one in the attribute does not hide it.
#[vm_test(image = "tiny")]
async fn boots(vm: Vm) {
    vm.no_such_method();
}

#[vm_test(image = "tiny", cpu = 2)]
async fn forks(_vm: Vm) {
    let _: u32 = "text";
}

fn main() {}
