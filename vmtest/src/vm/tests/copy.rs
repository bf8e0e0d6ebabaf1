//! Files and folders between host and guest.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use vmtest_backends::ErrorKind;

use super::Guest;

/// A file larger than anything that may be held in memory on its way.
const LARGE: usize = 200 * 1024 * 1024;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// Bytes that differ from place to place.
fn make_large(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut block = vec![0_u8; 1024 * 1024];
    for number in 0..LARGE / block.len() {
        for (at, byte) in block.iter_mut().enumerate() {
            *byte = ((at * 31) ^ (at >> 8) ^ number) as u8;
        }
        file.write_all(&block).unwrap();
    }
}

fn assert_same(one: &Path, other: &Path) {
    let (mut one, mut other) = (File::open(one).unwrap(), File::open(other).unwrap());
    let (mut left, mut right) = (vec![0; 1024 * 1024], vec![0; 1024 * 1024]);
    loop {
        let count = one.read(&mut left).unwrap();
        if count == 0 {
            assert_eq!(other.read(&mut right).unwrap(), 0);
            return;
        }
        other.read_exact(&mut right[..count]).unwrap();
        assert!(left[..count] == right[..count]);
    }
}

#[tokio::test]
async fn a_large_file_goes_both_ways() {
    let guest = Guest::start().await;
    let (host, inside, back) = (
        guest.scratch.join("host"),
        guest.scratch.text("deep/in/side"),
        guest.scratch.join("back/x"),
    );
    make_large(&host);
    fs::set_permissions(&host, fs::Permissions::from_mode(0o751)).unwrap();
    guest.copy_in(&host, &inside).await.unwrap();
    assert_same(&host, Path::new(&inside));
    assert_eq!(mode(Path::new(&inside)), 0o751);
    guest.copy_out(&inside, &back).await.unwrap();
    assert_same(&host, &back);
    assert_eq!(mode(&back), 0o751);
    let entries = guest.transcript();
    assert_eq!(
        (entries[0].bytes_in, entries[1].bytes_out),
        (LARGE as u64, LARGE as u64)
    );
}

#[tokio::test]
async fn folders_go_both_ways() {
    let guest = Guest::start().await;
    let from = guest.scratch.join("from");
    fs::create_dir_all(from.join("sub/empty")).unwrap();
    fs::write(from.join("sub/-file"), "content").unwrap();
    fs::set_permissions(from.join("sub/-file"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("sub/-file", from.join("link")).unwrap();
    symlink("../link", from.join("sub/up")).unwrap();
    fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o550)).unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o711)).unwrap();
    let inside = guest.scratch.text("new/inside");
    guest.copy_in(&from, &inside).await.unwrap();
    let back = guest.scratch.join("other/back");
    guest.copy_out(&inside, &back).await.unwrap();
    for copy in [Path::new(&inside), &back] {
        assert_eq!(fs::read_to_string(copy.join("link")).unwrap(), "content");
        assert_eq!(fs::read_link(copy.join("sub/up")).unwrap(), Path::new("../link"));
        assert_eq!(fs::read_dir(copy.join("sub/empty")).unwrap().count(), 0);
        assert_eq!(
            (mode(copy), mode(&copy.join("sub")), mode(&copy.join("sub/-file"))),
            (0o711, 0o550, 0o600)
        );
    }
    // Added to what is there, which keeps its own mode.
    fs::write(back.join("mine"), "mine").unwrap();
    fs::set_permissions(&back, fs::Permissions::from_mode(0o700)).unwrap();
    guest.copy_out(&inside, &back).await.unwrap();
    assert_eq!(fs::read_to_string(back.join("mine")).unwrap(), "mine");
    assert_eq!(mode(&back), 0o700);
}

#[tokio::test]
async fn a_link_is_followed_where_it_is_what_was_named() {
    let guest = Guest::start().await;
    fs::create_dir(guest.scratch.join("folder")).unwrap();
    fs::write(guest.scratch.join("folder/file"), "content").unwrap();
    symlink("folder", guest.scratch.join("to-folder")).unwrap();
    symlink("folder/file", guest.scratch.join("to-file")).unwrap();
    guest
        .copy_out(guest.scratch.text("to-folder/"), guest.scratch.join("a"))
        .await
        .unwrap();
    guest
        .copy_out(guest.scratch.text("to-file"), guest.scratch.join("b"))
        .await
        .unwrap();
    guest
        .copy_in(guest.scratch.join("to-folder"), guest.scratch.text("c"))
        .await
        .unwrap();
    guest
        .copy_in(guest.scratch.join("to-file"), guest.scratch.text("d"))
        .await
        .unwrap();
    for file in ["a/file", "b", "c/file", "d"] {
        assert_eq!(
            fs::read_to_string(guest.scratch.join(file)).unwrap(),
            "content",
            "{file}"
        );
        assert!(
            fs::symlink_metadata(guest.scratch.join(file)).unwrap().is_file(),
            "{file}"
        );
    }
}

#[tokio::test]
async fn a_guest_s_link_that_leads_outside_ends_the_copy() {
    let guest = Guest::start().await;
    fs::create_dir(guest.scratch.join("tree")).unwrap();
    symlink("/etc/passwd", guest.scratch.join("tree/evil")).unwrap();
    let error = guest
        .copy_out(guest.scratch.text("tree"), guest.scratch.join("to"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exec);
    assert!(
        error
            .chain()
            .contains("entry `./evil`: it is a symbolic link that leads outside"),
        "{error:?}"
    );
    assert!(fs::symlink_metadata(guest.scratch.join("to/evil")).is_err());
}

#[tokio::test]
async fn errors_tell_both_ends_and_the_reason() {
    let guest = Guest::start().await;
    let (here, file) = (guest.scratch.join("here"), guest.scratch.join("file"));
    fs::write(&file, "x").unwrap();
    let below = format!("{}/below", guest.scratch.text("file"));
    let folder = guest.scratch.text("");
    let cases = [
        (
            guest.copy_out("/no/such/file", &here).await,
            "/no/such/file in the guest",
            "No such file",
        ),
        (
            guest.copy_in("/no/such/file", "/x").await,
            "/no/such/file could not be copied to /x",
            "No such file",
        ),
        (
            guest.copy_in(&file, &below).await,
            "could not be copied to",
            "File exists",
        ),
        (
            guest.copy_in(guest.scratch.path(), &below).await,
            "could not be copied to",
            "Not a directory",
        ),
        (
            guest.copy_in(&file, folder.trim_end_matches('/')).await,
            "could not be copied to",
            "is a directory",
        ),
        (
            guest
                .copy_out(guest.scratch.text("file"), guest.scratch.path())
                .await,
            "copied to",
            "is a folder on the host",
        ),
    ];
    for (number, (result, begins, says)) in cases.into_iter().enumerate() {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exec);
        assert!(error.message().contains(begins), "{number}: {error:?}");
        assert!(error.chain().contains(says), "{number}: {error:?}");
    }
    assert!(!here.exists());
}

#[tokio::test]
async fn a_host_s_socket_ends_the_copy() {
    let guest = Guest::start().await;
    fs::create_dir(guest.scratch.join("tree")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(guest.scratch.join("tree/socket")).unwrap();
    let error = guest
        .copy_in(guest.scratch.join("tree"), guest.scratch.text("to"))
        .await
        .unwrap_err();
    assert!(
        error
            .message()
            .contains("tree/socket on the host could not be copied"),
        "{error:?}"
    );
    assert!(
        error
            .chain()
            .contains("neither a file, a folder nor a symbolic link"),
        "{error:?}"
    );
}

#[tokio::test]
async fn no_space_is_told() {
    let guest = Guest::start().await;
    let large = guest.scratch.join("large");
    make_large(&large);
    // As a device, it is written to in place, and is always full.
    let error = guest.copy_in(&large, "/dev/full").await.unwrap_err();
    assert!(error.chain().contains("No space left"), "{error:?}");
}
