//! Disk files of the user's: their format by the first bytes, their size, and what is refused.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use vmtest_backends::spec::DiskFormat;
use vmtest_backends::{Error, ErrorKind, Result};

use super::shelf::unusable;

/// Enough of a file to know its format.
const HEAD: u64 = 512;

/// The sector of every disk, in bytes.
const SECTOR: u64 = 512;

/// What other formats begin with, and what they are called.
const FOREIGN: [(&[u8], &str); 8] = [
    (b"\xfd7zXZ\0", "xz: unpack it first"),
    (b"\x1f\x8b", "gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd: unpack it first"),
    (b"BZh", "bzip2: unpack it first"),
    (b"PK\x03\x04", "zip: unpack it first"),
    (b"KDMV", "VMDK: convert it with `qemu-img convert -O qcow2`"),
    (b"vhdxfile", "VHDX: convert it with `qemu-img convert -O qcow2`"),
    (b"<<< ", "VDI: convert it with `qemu-img convert -O qcow2`"),
];

/// The format and the size in bytes as the guest sees it.
pub(super) fn examine(path: &Path) -> Result<(DiskFormat, u64)> {
    let failed = |cause: io::Error| unusable(path, "cannot be read", cause);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut head = Vec::new();
    file.by_ref().take(HEAD).read_to_end(&mut head).map_err(failed)?;
    let refused = |why: String| {
        Error::new(
            ErrorKind::Invalid,
            format!("the disk {} is refused: {why}", path.display()),
        )
    };
    if head.starts_with(b"QFI\xfb") {
        return qcow2_size(&head)
            .map(|size| (DiskFormat::Qcow2, size))
            .map_err(refused);
    }
    if let Some((_, name)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(refused(format!("its format is {name}")));
    }
    match length {
        0 => Err(refused("it is empty".to_owned())),
        length => Ok((DiskFormat::Raw, length.next_multiple_of(SECTOR))),
    }
}

/// The size that the header of a qcow2 file gives; its errors say why the file is refused.
fn qcow2_size(head: &[u8]) -> Result<u64, String> {
    let word = |at: usize| {
        head.get(at..at + 4)
            .map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let long = |at: usize| Some(u64::from(word(at)?) << 32 | u64::from(word(at + 4)?));
    let short = || "its qcow2 header is cut off".to_owned();
    let version = word(4).ok_or_else(short)?;
    if !(2..=3).contains(&version) {
        return Err(format!("its qcow2 version is {version}, known are 2 and 3"));
    }
    // A base lies alone: what it refers to could change under the snapshots, or be any file of this host.
    let alone = "bases must be whole: make one with `qemu-img convert -O qcow2`";
    if long(8).ok_or_else(short)? != 0 {
        return Err(format!("it has a backing file; {alone}"));
    }
    if word(32).ok_or_else(short)? != 0 {
        return Err(format!("it is encrypted; {alone}"));
    }
    let incompatible = if version == 3 {
        long(72).ok_or_else(short)?
    } else {
        0
    };
    if incompatible & EXTERNAL_DATA != 0 {
        return Err(format!("its data lies in another file; {alone}"));
    }
    match long(24).ok_or_else(short)? {
        size if size > 0 && size.is_multiple_of(SECTOR) => Ok(size),
        size => Err(format!("its size of {size} bytes is not a multiple of {SECTOR}")),
    }
}

/// The bit of a qcow2 file whose data lies elsewhere.
const EXTERNAL_DATA: u64 = 1 << 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn qcow2() -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        head[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
        head
    }

    #[test]
    fn the_size_of_a_qcow2_is_read() {
        assert_eq!(qcow2_size(&qcow2()), Ok(1 << 30));
    }

    #[test]
    fn what_refers_to_other_files_is_refused() {
        let with = |at: usize, byte: u8| {
            let mut head = qcow2();
            head[at] = byte;
            qcow2_size(&head).expect_err("this must be refused")
        };
        assert!(with(15, 9).contains("backing file"));
        assert!(with(79, 4).contains("another file"));
        assert!(with(35, 1).contains("encrypted"));
        assert!(with(7, 9).contains("version is 9"));
        assert!(with(31, 1).contains("multiple of 512"));
        assert!(
            qcow2_size(&qcow2()[..30])
                .expect_err("cut off")
                .contains("cut off")
        );
    }
}
