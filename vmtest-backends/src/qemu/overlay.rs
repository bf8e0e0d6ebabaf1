//! An empty qcow2 overlay, written directly.
//!
//! Five small writes into a sparse file instead of a `qemu-img` process, which would cost a tenth of a
//! fork. The header names no backing file: the block graph is given to QEMU explicitly, so a path in an
//! image file never decides anything. Layout as in QEMU's `docs/interop/qcow2.txt`, version 3.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_BITS: u32 = 16;
/// Entries of eight bytes in a cluster.
const ENTRIES: u64 = CLUSTER / 8;
/// Refcounts are 16 bits wide.
const REFCOUNT_ORDER: u32 = 4;
const HEADER_LENGTH: u32 = 104;

/// Creates the overlay `path` for a disk of `size` bytes; fails when the file exists.
pub(super) fn create(path: &Path, size: u64) -> io::Result<()> {
    let l1_entries = size.div_ceil(CLUSTER * ENTRIES).max(1);
    let l1_clusters = l1_entries.div_ceil(ENTRIES);
    // Header, refcount table, one refcount block, then the L1 table.
    let clusters = 3 + l1_clusters;
    let mut header = Vec::with_capacity(HEADER_LENGTH as usize + 8);
    header.extend(b"QFI\xfb");
    header.extend(3_u32.to_be_bytes());
    header.extend(0_u64.to_be_bytes()); // backing file name: none
    header.extend(0_u32.to_be_bytes());
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(size.to_be_bytes());
    header.extend(0_u32.to_be_bytes()); // not encrypted
    header.extend(u32::try_from(l1_entries).map_err(io::Error::other)?.to_be_bytes());
    header.extend((3 * CLUSTER).to_be_bytes()); // L1 table
    header.extend(CLUSTER.to_be_bytes()); // refcount table
    header.extend(1_u32.to_be_bytes()); // of one cluster
    header.extend(0_u32.to_be_bytes()); // no internal snapshots
    header.extend(0_u64.to_be_bytes());
    header.extend([0; 24]); // no feature bits
    header.extend(REFCOUNT_ORDER.to_be_bytes());
    header.extend(HEADER_LENGTH.to_be_bytes());
    header.extend([0; 8]); // end of the header extensions

    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all_at(&header, 0)?;
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
    let counts: Vec<u8> = (0..clusters).flat_map(|_| 1_u16.to_be_bytes()).collect();
    file.write_all_at(&counts, 2 * CLUSTER)?;
    file.set_len(clusters * CLUSTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn qemu_img_finds_no_fault_in_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-overlays");
        std::fs::create_dir_all(&folder).unwrap();
        for size in [512, 1 << 20, 2 << 30, 3 << 40] {
            let path = folder.join(format!("overlay-{}-{size}.qcow2", std::process::id()));
            create(&path, size).unwrap();
            let check = Command::new("qemu-img")
                .args(["check", "--output=json"])
                .arg(&path)
                .output()
                .unwrap();
            let info = Command::new("qemu-img")
                .args(["info", "--output=json"])
                .arg(&path)
                .output()
                .unwrap();
            std::fs::remove_file(&path).unwrap();
            assert!(
                check.status.success(),
                "{size}: {}",
                String::from_utf8_lossy(&check.stdout)
            );
            let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
            assert_eq!(info["virtual-size"], size);
            assert!(info.get("backing-filename").is_none());
        }
    }
}
