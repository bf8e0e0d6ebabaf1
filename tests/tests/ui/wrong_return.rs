use vmtest::{Vm, vm_test};

struct Silent;

#[vm_test(image = "tiny")]
async fn number(_vm: Vm) -> u32 {
    42
}

#[vm_test(image = "tiny")]
async fn value(_vm: Vm) -> Result<u32, String> {
    Ok(42)
}

#[vm_test(image = "tiny")]
async fn silent(_vm: Vm) -> Result<(), Silent> {
    Ok(())
}

fn main() {}
