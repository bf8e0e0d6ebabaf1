//! All that a body may return, and a program that has its cases without `cfg(test)`.
#![forbid(unsafe_code)]
#![deny(warnings)]

use std::error::Error;
use std::fmt::Debug;

use vmtest::{Skip, Vm, vm_snapshot, vm_test};

#[derive(Debug)]
struct Own;

#[vm_test(image = "tiny")]
async fn nothing(_vm: Vm) {}

#[vm_test(image = "tiny")]
async fn ours(_vm: Vm) -> vmtest::Result<()> {
    vmtest::skip!("as {} would", "they")
}

#[vm_test(image = "tiny")]
async fn standard(_vm: Vm) -> Result<(), std::io::Error> {
    Ok(())
}

#[vm_test(image = "tiny")]
async fn boxed(_vm: &Vm) -> Result<(), Box<dyn Error>> {
    vmtest::skip!("by a box")
}

#[vm_test(image = "tiny")]
async fn sent() -> Result<(), Box<dyn Error + Send + Sync>> {
    vmtest::skip!("by a box for threads")
}

#[vm_test(image = "tiny")]
async fn shown() -> Result<(), Own> {
    Err(Own)
}

#[vm_test(image = "tiny")]
async fn skipped() -> Result<(), Skip> {
    vmtest::skip!("by itself")
}

#[vm_test(image = "tiny")]
async fn opaque() -> Result<(), impl Debug> {
    Err::<(), _>("hidden")
}

#[vm_snapshot(image = "tiny", name = "ready", version = "one")]
async fn ready() -> Result<(), Own> {
    Ok(())
}

fn main() {
    assert_eq!(vmtest::cases().len(), 8);
    assert_eq!(vmtest::snapshots().len(), 1);
}
