//! The shape of the sources: who may use whom, how long a file may be, what must not stand in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this has more than one noun in it.
const LONGEST_FILE: usize = 600;

/// A module uses only its own floor and those below it; see ARCHITECTURE.md.
const BACKENDS: &[(u8, &[&str])] = &[
    (0, &["console", "endpoint", "error", "manifest", "spec", "sys"]),
    (1, &["process", "session"]),
    (2, &["backend", "qemu"]),
];
const VMTEST: &[(u8, &[&str])] = &[
    (3, &["config", "dirs", "image", "role", "store", "sys"]),
    (4, &["pool"]),
    (5, &["broker"]),
    (6, &["vm"]),
    (7, &["outcome", "registry"]),
    (8, &["conformance", "runner"]),
    (9, &["__private", "prelude", "private"]),
];

/// Which crates of ours a crate may depend on.
const BELOW: &[(&str, &[&str])] = &[
    ("vmtest-agent", &[]),
    ("vmtest-macros", &[]),
    ("vmtest-backends", &["vmtest-agent"]),
    ("vmtest", &["vmtest-agent", "vmtest-backends", "vmtest-macros"]),
];

/// The macros' output stands in other people's crates, where an unfulfilled `expect` would warn.
const ALLOWS_IN_OUTPUT: &str = "vmtest-macros/src/expand";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// All files below `folder` that are ours to write, relative to the root, with their text.
fn texts(folder: &str) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    walk(&root().join(folder), &mut texts);
    assert!(!texts.is_empty(), "there is nothing in {folder}");
    texts
}

fn walk(folder: &Path, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let ignored = name == "target" || name == "Cargo.lock" || (name.starts_with('.') && name != ".ci");
        if path.is_dir() && !ignored {
            walk(&path, texts);
        } else if path.is_file() && !ignored {
            // What is no text has no words in it.
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            let short = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            texts.insert(short, text);
        }
    }
}

fn sources() -> BTreeMap<String, String> {
    texts("")
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"))
        .collect()
}

/// Lines of code with their numbers: comments may name what code must not hold.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn none(offenders: &[String], what: &str) {
    assert!(offenders.is_empty(), "{what}:\n  {}", offenders.join("\n  "));
}

#[test]
fn modules_use_only_floors_below() {
    let mut offenders = wrong_uses("vmtest-backends/src", BACKENDS);
    offenders.extend(wrong_uses("vmtest/src", VMTEST));
    none(&offenders, "against the floors");
}

fn wrong_uses(folder: &str, floors: &[(u8, &[&str])]) -> Vec<String> {
    let floor_of = |module: &str| {
        floors
            .iter()
            .find(|(_, modules)| modules.contains(&module))
            .map(|(floor, _)| *floor)
    };
    let mut offenders = Vec::new();
    let mut uses = BTreeMap::<String, BTreeSet<String>>::new();
    for (file, text) in texts(folder) {
        let inside = file.strip_prefix(folder).unwrap().trim_start_matches('/');
        let module = inside.split('/').next().unwrap().trim_end_matches(".rs");
        if module == "lib" || !file.ends_with(".rs") {
            continue;
        }
        let Some(floor) = floor_of(module) else {
            offenders.push(format!("{file}: the module `{module}` has no floor"));
            continue;
        };
        let code = code(&text).map(|(_, line)| line).collect::<Vec<_>>().join("\n");
        for used in used_modules(&code) {
            if floor_of(&used).is_some_and(|other| other > floor) {
                offenders.push(format!(
                    "{file}: `{module}` (floor {floor}) uses `{used}` above it"
                ));
            }
            uses.entry(module.to_owned()).or_default().insert(used);
        }
    }
    offenders.extend(circles(&uses));
    offenders
}

/// Two modules of one floor that use each other are one module.
fn circles(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mutual = |one: &str, other: &str| uses.get(other).is_some_and(|back| back.contains(one));
    let pairs = uses
        .iter()
        .flat_map(|(one, others)| others.iter().map(move |other| (one, other)));
    let circles = pairs.filter(|(one, other)| one < other && mutual(one, other));
    circles
        .map(|(one, other)| format!("`{one}` and `{other}` use each other"))
        .collect()
}

/// The first names after `crate::`, grouped or not.
fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|char| char.is_alphanumeric() || char == '_' || char == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => used.extend(heads_of_group(group)),
            None => used.extend(Some(identifier(rest)).filter(|name| !name.is_empty())),
        }
    }
    used
}

/// `a, b::{c, d}, e}` has the heads a, b and e.
fn heads_of_group(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(identifier(group[start..at].trim_start()));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(identifier(group[start..at].trim_start()));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads.into_iter().filter(|head| !head.is_empty()).collect()
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|char| char.is_alphanumeric() || *char == '_')
        .collect()
}

#[test]
fn used_modules_are_read_from_all_forms() {
    let code =
        "use crate::a::b;\nuse crate::{c, d::{e, f},\n g::H};\nlet x = crate::i::j(); $crate::k; xcrate::l;";
    let read = used_modules(code);
    assert_eq!(
        read.iter().map(String::as_str).collect::<Vec<_>>(),
        ["a", "c", "d", "g", "i"]
    );
}

#[test]
fn crates_depend_only_on_those_below() {
    let ours =
        BELOW
            .iter()
            .map(|(name, _)| *name)
            .chain(["cargo-vmtest", "quickstart", "vmtest-tests", "xtask"]);
    let ours = ours.collect::<Vec<_>>();
    let mut offenders = Vec::new();
    for (name, below) in BELOW {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let key = line.split(['.', '=', ' ']).next().unwrap();
            let depends = section == "[dependencies]" || section == "[build-dependencies]";
            if depends && ours.contains(&key) && !below.contains(&key) {
                offenders.push(format!("{name} depends on {key}"));
            }
        }
    }
    none(&offenders, "against the order of the crates");
}

#[test]
fn files_are_short() {
    let long = sources()
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()));
    let long = long.filter(|(_, lines)| *lines > LONGEST_FILE);
    let long = long
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect::<Vec<_>>();
    none(&long, &format!("longer than {LONGEST_FILE} lines"));
}

#[test]
fn nothing_is_waved_through_or_left_to_do() {
    // Written in parts: this file is read, too.
    let words = [
        concat!("#[", "allow("),
        concat!("#![", "allow("),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
    ];
    let notes = [concat!("FIX", "ME"), concat!("TO", "DO")];
    let mut offenders = Vec::new();
    for (file, text) in sources() {
        let waved = code(&text).filter(|(_, line)| words.iter().any(|word| line.contains(word)));
        let waved =
            waved.filter(|(_, line)| !(file.starts_with(ALLOWS_IN_OUTPUT) && line.contains(words[0])));
        let noted = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let noted = noted.filter(|(_, line)| notes.iter().any(|note| line.contains(note)));
        offenders.extend(
            waved
                .chain(noted)
                .map(|(number, line)| format!("{file}:{number}: {}", line.trim())),
        );
    }
    none(&offenders, "must not stand in the sources");
}

/// Mirrors and registries are the user's own choice: theirs are read from the host's configuration.
#[test]
fn no_registry_is_named() {
    let hosts = [
        concat!("deb.deb", "ian.org"),
        concat!("security.deb", "ian.org"),
        concat!("ftp.deb", "ian.org"),
        concat!("snapshot.deb", "ian.org"),
        concat!("archive.ubu", "ntu.com"),
        concat!("security.ubu", "ntu.com"),
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("npmjs", ".org"),
        concat!("rubygems", ".org"),
        concat!("docker", ".io"),
    ];
    let mut offenders = Vec::new();
    for (file, text) in texts("") {
        for (index, line) in text.lines().enumerate() {
            let named = hosts.iter().filter(|host| line.contains(*host));
            offenders.extend(named.map(|host| format!("{file}:{}: {host}", index + 1)));
        }
    }
    none(&offenders, "registries are named");
}

/// Code spans with a slash in them are paths of this repository.
#[test]
fn paths_in_the_architecture_exist() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let spans = text.split('`').skip(1).step_by(2);
    let paths = spans.filter(|span| is_path(span)).collect::<BTreeSet<_>>();
    assert!(!paths.is_empty(), "ARCHITECTURE.md names no path at all");
    let lost = paths
        .into_iter()
        .filter(|path| !root().join(path.trim_end_matches('/')).exists());
    none(
        &lost.map(String::from).collect::<Vec<_>>(),
        "ARCHITECTURE.md names what does not exist",
    );
}

/// Neither a place on a user's machine (`/...`, `~/...`, `$...`, `target/...`) nor a pattern, nor a media type.
fn is_path(span: &str) -> bool {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_./".contains(char);
    span.contains('/') && !span.starts_with('/') && !span.starts_with("target/") && span.chars().all(plain)
}
