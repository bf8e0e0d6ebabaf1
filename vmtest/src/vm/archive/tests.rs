//! Archives as no honest tool writes them, and that honest ones come through whole.

use std::fs;
use std::io::{Cursor, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tar::{EntryType, Header};

use super::{Refusal, pack, unpack};
use crate::vm::tests::Scratch;

/// An archive written by hand: the crate's own writer refuses most of what is wanted here.
#[derive(Default)]
struct Hostile(Vec<u8>);

impl Hostile {
    fn tree() -> Self {
        Self::default().entry(b"./", EntryType::Directory, b"", b"", 0o755)
    }

    fn entry(mut self, name: &[u8], kind: EntryType, link: &[u8], content: &[u8], mode: u32) -> Self {
        self.header(name, kind, link, content.len() as u64, mode);
        self.0.write_all(content).unwrap();
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &[u8]) -> Self {
        self.entry(name, EntryType::Regular, b"", b"evil", 0o644)
    }

    fn symlink(self, name: &[u8], target: &[u8]) -> Self {
        self.entry(name, EntryType::Symlink, target, b"", 0o777)
    }

    fn header(&mut self, name: &[u8], kind: EntryType, link: &[u8], size: u64, mode: u32) {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// Unpacks in a place that has something to lose beside it, and checks that it is all still there, alone.
fn attack(archive: &[u8], prepare: impl FnOnce(&Path)) -> String {
    let scratch = Scratch::new();
    let (to, outside) = (scratch.join("to"), scratch.join("outside"));
    fs::create_dir(&to).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    prepare(&to);
    let refusal = unpack(archive, &to).unwrap_err();
    assert_eq!(
        fs::read_dir(scratch.path()).unwrap().count(),
        2,
        "something was written beside"
    );
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        1,
        "something was written outside"
    );
    let secret = fs::metadata(outside.join("secret")).unwrap();
    assert_eq!((secret.nlink(), secret.len()), (1, 6));
    match refusal {
        Refusal::Refused(error) => error.chain(),
        Refusal::Broken(cause) => format!("broken: {cause}"),
    }
}

fn attack_plainly(archive: Hostile) -> String {
    attack(&archive.end(), |_| {})
}

#[test]
fn names_that_lead_outside_are_refused() {
    for name in [
        &b"../outside/x"[..],
        b"/tmp/x",
        b"a/../../outside/x",
        b"..",
        b"./../outside/secret",
    ] {
        let said = attack_plainly(Hostile::tree().file(name));
        assert!(
            said.contains(&String::from_utf8_lossy(name).into_owned()),
            "{said}"
        );
        assert!(said.contains("the guest's archive is refused: entry"), "{said}");
        attack_plainly(Hostile::tree().entry(name, EntryType::Directory, b"", b"", 0o755));
        attack_plainly(Hostile::tree().symlink(name, b"x"));
    }
}

#[test]
fn links_that_lead_outside_are_refused() {
    for target in [
        &b"/etc/passwd"[..],
        b"..",
        b"../outside",
        b"./..",
        b"a/../..",
        b"a/..",
    ] {
        let said = attack_plainly(Hostile::tree().symlink(b"link", target));
        assert!(said.contains("entry `link`: it is a symbolic link"), "{said}");
    }
    let below = Hostile::tree().entry(b"a/", EntryType::Directory, b"", b"", 0o755);
    let said = attack_plainly(below.symlink(b"a/link", b"../.."));
    assert!(
        said.contains("entry `a/link`: it is a symbolic link that leads outside"),
        "{said}"
    );
}

#[test]
fn nothing_is_written_through_links() {
    let said = attack_plainly(Hostile::tree().symlink(b"a", b"b").file(b"a/x"));
    assert!(said.contains("`a/x`") && said.contains("in its way"), "{said}");
    // A link that the host's user made, and the guest knows of.
    let said = attack(&Hostile::tree().file(b"host/x").end(), |to| {
        symlink("../outside", to.join("host")).unwrap();
    });
    assert!(said.contains("`host/x`") && said.contains("in its way"), "{said}");
    let said = attack(
        &Hostile::tree()
            .entry(b"host", EntryType::Directory, b"", b"", 0o777)
            .end(),
        |to| {
            symlink("../outside", to.join("host")).unwrap();
        },
    );
    assert!(said.contains("in its way"), "{said}");
}

#[test]
fn second_names_stay_inside() {
    for target in [&b"../outside/secret"[..], b"/etc/passwd"] {
        let said = attack_plainly(Hostile::tree().entry(b"x", EntryType::Link, target, b"", 0o644));
        assert!(said.contains("entry `x`: as a second name"), "{said}");
    }
    for target in [&b"host"[..], b"folder/secret"] {
        let archive = Hostile::tree()
            .entry(b"x", EntryType::Link, target, b"", 0o644)
            .end();
        let said = attack(&archive, |to| {
            symlink("../outside/secret", to.join("host")).unwrap();
            symlink("../outside", to.join("folder")).unwrap();
        });
        assert!(said.contains("entry `x`"), "{said}");
    }
}

#[test]
fn devices_pipes_and_unknown_kinds_are_refused() {
    for (kind, word) in [
        (b'3', "a device"),
        (b'4', "a device"),
        (b'6', "a named pipe"),
        (b'S', "of kind 'S'"),
    ] {
        let said = attack_plainly(Hostile::tree().entry(b"node", EntryType::new(kind), b"", b"", 0o666));
        assert!(said.contains(&format!("entry `node`: it is {word}")), "{said}");
    }
}

#[test]
fn lengths_are_not_believed() {
    let mut long = Hostile::tree();
    long.header(b"././@LongLink", EntryType::GNULongName, b"", 1 << 40, 0o644);
    assert!(attack_plainly(long).contains("a name in it has 1099511627776 bytes, 65536 are allowed"));
    let mut pax = Hostile::tree();
    pax.header(b"pax", EntryType::XHeader, b"", 1 << 40, 0o644);
    assert!(attack_plainly(pax).contains("1048576 are allowed"));
    let mut huge = Hostile::tree();
    huge.header(b"huge", EntryType::Regular, b"", 1 << 50, 0o644);
    assert!(attack_plainly(huge).contains("entry `huge`: it would take"));
    let mut short = Hostile::tree();
    short.header(b"short", EntryType::Regular, b"", 1 << 20, 0o644);
    assert!(attack_plainly(short).starts_with("broken: "));
    assert!(attack(b"", |_| {}).contains("the archive is empty"));
    assert!(attack(&[7; 2048], |_| {}).starts_with("broken: "));
}

#[test]
fn names_of_extensions_are_checked_too() {
    let long = Hostile::tree().entry(
        b"././@LongLink",
        EntryType::GNULongName,
        b"",
        b"../outside/x\0",
        0o644,
    );
    assert!(attack_plainly(long.file(b"fine")).contains("entry `../outside/x`"));
    let pax = Hostile::tree().entry(b"pax", EntryType::XHeader, b"", b"22 path=../outside/xy\n", 0o644);
    assert!(attack_plainly(pax.file(b"fine")).contains("entry `../outside/xy`"));
    let pax = Hostile::tree().entry(
        b"pax",
        EntryType::XHeader,
        b"",
        b"22 linkpath=../outside\n",
        0o644,
    );
    attack_plainly(pax.symlink(b"link", b"fine"));
    let pax = Hostile::tree().entry(b"pax", EntryType::XHeader, b"", b"13 size=9999\n", 0o644);
    assert!(attack_plainly(pax.file(b"fine")).contains("the extension `size` is not supported"));
}

#[test]
fn data_without_end_behind_the_end_is_refused() {
    let endless = Hostile::tree().end();
    let scratch = Scratch::new();
    let archive = Cursor::new(endless).chain(std::io::repeat(0));
    let refusal = unpack(archive, &scratch.join("to")).unwrap_err();
    assert!(matches!(refusal, Refusal::Refused(error) if error.message().contains("more behind its end")));
}

#[test]
fn a_single_file_comes_alone() {
    let scratch = Scratch::new();
    let to = scratch.join("new/file");
    let two = Hostile::default().file(b"./a").file(b"./b").end();
    assert!(unpack(&*two, &to).is_err());
    assert_eq!(
        fs::read_dir(scratch.join("new")).unwrap().count(),
        0,
        "a half copy was left"
    );
    let one = Hostile::default()
        .entry(b"../../x", EntryType::Regular, b"", b"evil", 0o644)
        .end();
    assert!(unpack(&*one, &to).is_err());
    let link = Hostile::default().symlink(b"./a", b"/etc/passwd").end();
    assert!(unpack(&*link, &to).is_err());
    let one = Hostile::default()
        .entry(b"./any", EntryType::Regular, b"", b"good", 0o4755)
        .end();
    assert_eq!(unpack(&*one, &to).unwrap(), 4);
    assert_eq!(fs::read(&to).unwrap(), b"good");
    assert_eq!(
        fs::metadata(&to).unwrap().mode() & 0o7777,
        0o755,
        "set-user-ID must not come over"
    );
    assert!(
        matches!(unpack(&*one, scratch.path()), Err(Refusal::Refused(_))),
        "a folder was replaced"
    );
}

#[test]
fn a_link_on_the_host_is_replaced_and_not_written_to() {
    let scratch = Scratch::new();
    fs::write(scratch.join("victim"), "mine").unwrap();
    fs::create_dir(scratch.join("to")).unwrap();
    symlink("../victim", scratch.join("to/file")).unwrap();
    unpack(&*Hostile::tree().file(b"file").end(), &scratch.join("to")).unwrap();
    assert_eq!(fs::read(scratch.join("victim")).unwrap(), b"mine");
    assert!(fs::symlink_metadata(scratch.join("to/file")).unwrap().is_file());
}

#[test]
fn trees_come_through_whole() {
    let scratch = Scratch::new();
    let from = scratch.join("from");
    let long = format!("{0}/{0}/{0}", "long-".repeat(40));
    fs::create_dir_all(from.join(&long)).unwrap();
    fs::write(from.join(&long).join("x".repeat(250)), "deep").unwrap();
    fs::create_dir(from.join("empty")).unwrap();
    fs::create_dir(from.join("closed")).unwrap();
    fs::write(from.join("closed/script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(from.join("closed/script"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(from.join("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::write(from.join("naïve name\n"), vec![7; 300_000]).unwrap();
    symlink("../closed/script", from.join("empty/up")).unwrap();
    symlink("nowhere", from.join("dangling")).unwrap();
    symlink("y/".repeat(200), from.join("far")).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    fs::File::open(from.join("closed/script"))
        .unwrap()
        .set_modified(then)
        .unwrap();

    // The top folder is not in it: its receiver makes it.
    let mut archive = Hostile::tree().0;
    pack(&from, &mut archive).unwrap();
    let to = scratch.join("to");
    assert_eq!(unpack(&*archive, &to).unwrap(), 4 + 10 + 300_000);

    assert_eq!(fs::read(to.join(&long).join("x".repeat(250))).unwrap(), b"deep");
    assert_eq!(fs::read_dir(to.join("empty")).unwrap().count(), 1);
    assert_eq!(fs::metadata(to.join("closed")).unwrap().mode() & 0o7777, 0o555);
    assert_eq!(
        fs::metadata(to.join("closed/script")).unwrap().mode() & 0o7777,
        0o751
    );
    assert_eq!(
        fs::metadata(to.join("closed/script"))
            .unwrap()
            .modified()
            .unwrap(),
        then
    );
    assert_eq!(fs::read(to.join("naïve name\n")).unwrap(), vec![7; 300_000]);
    assert_eq!(
        fs::read_link(to.join("empty/up")).unwrap(),
        Path::new("../closed/script")
    );
    assert_eq!(fs::read_link(to.join("dangling")).unwrap(), Path::new("nowhere"));
    assert_eq!(
        fs::read_link(to.join("far")).unwrap(),
        Path::new(&"y/".repeat(200))
    );
    // Once more over what is there: added to and replaced.
    assert!(unpack(&*archive, &to).is_ok());
}

#[test]
fn what_is_no_file_is_not_packed() {
    let scratch = Scratch::new();
    let _listener = std::os::unix::net::UnixListener::bind(scratch.join("socket")).unwrap();
    let error = pack(scratch.path(), std::io::sink()).unwrap_err();
    assert!(
        error.message().contains("socket on the host could not be copied"),
        "{error}"
    );
}
