//! Compiles the guest agent, which the library embeds: `src/agent/main.rs`, one static executable, by the compiler at hand.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(variable("OUT_DIR")?).join("agent");
    compile(&out)?;
    let key = format!("{:032x}", fnv1a(&fs::read(&out)?));
    fs::write(out.with_extension("key"), key)?;
    Ok(())
}

/// FNV-1a, 128 bit: tells builds apart, not enemies.
fn fnv1a(bytes: &[u8]) -> u128 {
    let start = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let step =
        |hash: u128, byte: &u8| (hash ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
    bytes.iter().fold(start, step)
}

fn compile(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/agent");
    println!("cargo::rerun-if-changed=src/wire");
    let target = variable("TARGET")?;
    if !target.to_string_lossy().contains("-linux-gnu") {
        fs::write(out, b"")?;
        return Ok(());
    }
    let source = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc
        .current_dir(&source)
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "bin",
            "--crate-name",
            "vmtest_agent",
            "--cap-lints",
            "allow",
        ])
        .arg("--target")
        .arg(&target)
        .args([
            "-Ctarget-feature=+crt-static",
            "-Crelocation-model=static",
            "-Copt-level=2",
            "-Cpanic=abort",
            "-Clto=fat",
            "-Ccodegen-units=1",
            "-Cstrip=symbols",
            "-Cmetadata=vmtest-agent",
            "-Clink-arg=-Wl,--build-id=none",
        ])
        .arg("--remap-path-prefix")
        .arg(remap(&source))
        .arg("-o")
        .arg(out)
        .arg("src/agent/main.rs")
        .env("VMTEST_AGENT_VERSION", variable("CARGO_PKG_VERSION")?);
    // What the tests are instrumented or linked with does not belong into the guest.
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "LLVM_PROFILE_FILE",
    ] {
        rustc.env_remove(name);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = OsString::from("-Clinker=");
        option.push(linker);
        rustc.arg(option);
    }
    let output = rustc
        .output()
        .map_err(|cause| format!("{rustc:?} cannot be run: {cause}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "the guest agent does not compile; a C compiler and the static C library (Debian: libc6-dev) are needed\n{rustc:?}\n{said}"
        )
        .into());
    }
    Ok(())
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}

fn remap(source: &Path) -> OsString {
    let mut option = source.as_os_str().to_owned();
    option.push("=vmtest-agent");
    option
}
