//! Files of the guest, read and written.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

use vmtest_backends::ErrorKind;

use super::Guest;

fn mode(path: impl AsRef<std::path::Path>) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn what_is_written_can_be_read() {
    let guest = Guest::start().await;
    let path = guest.scratch.text("a file -n 'with' \"everything\" $x");
    let bytes: Vec<u8> = (0..2_000_000_u32).map(|i| (i * 7 % 256) as u8).collect();
    guest.write(&path, bytes.clone()).await.unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
    assert!(guest.read(&path).await.unwrap() == bytes);
    assert_eq!(mode(&path), 0o644);
    assert_eq!(
        guest.read_to_string(&path).await.unwrap_err().kind(),
        ErrorKind::Exec
    );
    guest.write(&path, "").await.unwrap();
    assert_eq!(guest.read_to_string(&path).await.unwrap(), "");
    let left = fs::read_dir(guest.scratch.path()).unwrap().count();
    assert_eq!(left, 2, "the agent and the file, and nothing left over");
    assert!(guest.exists(&path).await.unwrap());
    assert!(!guest.exists("/no/such/file").await.unwrap());
}

#[tokio::test]
async fn a_file_keeps_its_mode_and_a_link_its_target() {
    let guest = Guest::start().await;
    let (file, link) = (guest.scratch.text("file"), guest.scratch.text("link"));
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("file", &link).unwrap();
    let before = fs::metadata(&file).unwrap().ino();
    // Only root can give files away.
    let owner = if rustix::process::geteuid().is_root() {
        12345
    } else {
        fs::metadata(&file).unwrap().uid()
    };
    chown(&file, Some(owner), None).unwrap();
    guest.write(&link, "new").await.unwrap();
    assert_eq!(fs::metadata(&file).unwrap().uid(), owner);
    assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(mode(&file), 0o640);
    assert_ne!(
        fs::metadata(&file).unwrap().ino(),
        before,
        "it was written to in place"
    );
    guest.write_with_mode(&file, "newer", 0o4711).await.unwrap();
    assert_eq!(mode(&file), 0o4711);
    guest
        .write_with_mode(guest.scratch.text("fresh"), "x", 0o600)
        .await
        .unwrap();
    assert_eq!(mode(guest.scratch.join("fresh")), 0o600);
}

#[tokio::test]
async fn what_cannot_be_replaced_is_written_in_place() {
    let guest = Guest::start().await;
    let pipe = guest.scratch.text("pipe");
    guest.command("mkfifo").arg(&pipe).await.unwrap().check().unwrap();
    let mut reading = guest.command("cat").arg(&pipe).spawn().await.unwrap();
    guest.write(&pipe, "through\n").await.unwrap();
    assert_eq!(reading.lines().next().await.unwrap().unwrap().text, "through");
    guest.write("/dev/null", "gone").await.unwrap();
    // What the kernel says of itself can be written where it was read, but nothing made beside it.
    let said = guest.read("/proc/sys/vm/swappiness").await.unwrap();
    guest.write("/proc/sys/vm/swappiness", said).await.unwrap();
}

#[tokio::test]
async fn errors_tell_path_and_reason() {
    let guest = Guest::start().await;
    let cases = [
        (
            guest.read("/no/such/file").await.map(drop),
            "/no/such/file could not be read: cat: ",
            "No such file",
        ),
        (
            guest.read("/proc").await.map(drop),
            "/proc could not be read: cat: ",
            "Is a directory",
        ),
        (
            guest.write("/no/such/folder/x", "x").await,
            "/no/such/folder/x could not be written",
            "/no/such/folder/x",
        ),
        (
            guest.write("/proc", "x").await,
            "/proc could not be written",
            "is a directory",
        ),
        (
            guest.write("/dev/full", "x").await,
            "/dev/full could not be written",
            "No space left",
        ),
    ];
    for (result, begins, says) in cases {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exec);
        assert!(error.message().contains(begins), "{error}");
        assert!(error.message().contains(says), "{error}");
    }
    for path in ["", "a\0b"] {
        assert_eq!(guest.read(path).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_path_counts_from_the_root() {
    let guest = Guest::start().await;
    let path = guest.scratch.text("relative");
    guest.write(path.trim_start_matches('/'), "x").await.unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "x");
}
