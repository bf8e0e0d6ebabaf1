//! Names of a guest's archive: checked before anything is done with them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

/// The parts of an entry's name, each a plain file name: none for the top folder itself. An error says what is wrong.
pub(super) fn parts(name: &[u8]) -> Result<Vec<OsString>, &'static str> {
    if name.first() == Some(&b'/') {
        return Err("its name is an absolute path");
    }
    let mut parts = Vec::new();
    for part in split(name)? {
        match part {
            b".." => return Err("its name has a `..`"),
            part => parts.push(OsStr::from_bytes(part).to_owned()),
        }
    }
    Ok(parts)
}

/// Checks that a symbolic link in a folder `depth` levels below the top leads nowhere outside.
///
/// `..` may only stand at the beginning: behind a name, that name could be a link to a folder higher up, and
/// a check of the text alone would not see where the `..` really leads.
pub(super) fn check_link(target: &[u8], depth: usize) -> Result<(), &'static str> {
    const OUTSIDE: &str = "it is a symbolic link that leads outside";
    if target.is_empty() {
        return Err("it is a symbolic link without a target");
    }
    if target[0] == b'/' {
        return Err(OUTSIDE);
    }
    let parts = split(target)?;
    let up = parts.iter().take_while(|part| **part == b"..").count();
    if up > depth {
        return Err(OUTSIDE);
    }
    match parts[up..].contains(&b"..".as_slice()) {
        true => Err("it is a symbolic link with a `..` behind a name"),
        false => Ok(()),
    }
}

fn split(name: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if name.contains(&0) {
        return Err("its name has a zero byte");
    }
    let parts = name.split(|&byte| byte == b'/');
    Ok(parts.filter(|part| !part.is_empty() && *part != b".").collect())
}

/// A name as messages show it: bounded, on one line.
pub(super) fn shown(name: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(&name[..name.len().min(SHOWN)])
        .escape_debug()
        .to_string();
    match name.len() > SHOWN {
        true => format!("`{text}…`"),
        false => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_or_refused() {
        assert_eq!(parts(b"./").unwrap(), Vec::<OsString>::new());
        assert_eq!(parts(b"./a//b/./c/").unwrap(), ["a", "b", "c"]);
        assert_eq!(parts(b"..a/b..").unwrap(), ["..a", "b.."]);
        for bad in [
            &b"/etc/passwd"[..],
            b"..",
            b"../x",
            b"a/../../x",
            b"a/..",
            b"a\0b",
        ] {
            assert!(parts(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn links_may_lead_up_to_the_top_only() {
        for (good, depth) in [("x", 0), ("../x", 1), ("../../a/b", 2), ("..", 1), (".", 0)] {
            assert_eq!(check_link(good.as_bytes(), depth), Ok(()), "{good}");
        }
        for (bad, depth) in [
            ("..", 0),
            ("../x", 0),
            ("../../x", 1),
            ("/x", 5),
            ("a/../b", 3),
            ("", 0),
            ("./../x", 0),
        ] {
            assert!(check_link(bad.as_bytes(), depth).is_err(), "{bad}");
        }
    }

    #[test]
    fn shown_names_are_short_and_on_one_line() {
        assert_eq!(shown(b"a\nb\x1b"), "`a\\nb\\u{1b}`");
        assert!(shown(&[b'x'; 5000]).len() < 220);
    }
}
