//! The way out of a machine that asked for a network: passt on the NIC's stream socket.
//!
//! Its state stays out of the snapshot, it needs no privileges, and it ends with its socket. The host's
//! loopback is never mapped into the guest.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, ErrorKind, Result};
use crate::process::Child;
use crate::qemu::binary::in_path;
use crate::qemu::files::log_file;

/// The guest's address, its gateway's, and the one name queries go to; a /24.
const GUEST: &str = "10.0.2.15";
const GATEWAY: &str = "10.0.2.2";
const NAMES: &str = "10.0.2.3";

/// Why there can be no uplink here, if so.
pub(super) fn available() -> std::result::Result<(), String> {
    match in_path("passt") {
        Some(_) => Ok(()),
        None => Err("passt is not in PATH; on Debian or Ubuntu: sudo apt-get install passt".into()),
    }
}

/// Starts an uplink; returns the socket for QEMU's NIC.
pub(super) async fn start(folder: &Path) -> Result<(Child, OwnedFd)> {
    let failed = |what: &str| Error::new(ErrorKind::Start, format!("the network uplink (passt) {what}"));
    let program = in_path("passt").ok_or_else(|| {
        let why = available().err().unwrap_or_default();
        Error::new(ErrorKind::Unavailable, format!("a network uplink: {why}"))
    })?;
    let (nic, theirs) = UnixStream::pair().map_err(|cause| failed("got no socket").because(cause))?;
    let theirs = OwnedFd::from(theirs);
    let mut command = Command::new(program);
    command
        .args(["--foreground", "--quiet", "--ipv4-only", "--no-map-gw"])
        .args([
            "--address",
            GUEST,
            "--netmask",
            "24",
            "--gateway",
            GATEWAY,
            "--dns-forward",
            NAMES,
        ])
        .args(["--fd", &theirs.as_raw_fd().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file(&folder.join("passt.log"))?);
    let child = Child::start(command, vec![theirs])
        .await
        .map_err(|cause| failed("did not start").because(cause))?;
    Ok((child, nic.into()))
}
