use vmtest::{Vm, vm_snapshot};

#[vm_snapshot(image = "tiny")]
async fn nameless(_vm: Vm) {}

#[vm_snapshot(name = "ready")]
async fn imageless(_vm: Vm) {}

#[vm_snapshot(image = "tiny", name = "ready", form = "base")]
async fn misspelt(_vm: Vm) {}

#[vm_snapshot(image = "tiny", name = "ready", version = 1.5)]
async fn fraction(_vm: Vm) {}

#[vm_snapshot(image = "tiny", name = "ready")]
#[ignore = "later"]
async fn ignored(_vm: Vm) {}

#[vm_snapshot(image = "tiny", name = "ready")]
fn not_async(_vm: Vm) {}

fn main() {}
