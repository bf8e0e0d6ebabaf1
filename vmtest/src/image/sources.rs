//! Where packages come from: what the host's own apt configuration says, in both of its forms.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vmtest_backends::Result;

use super::host::Host;
use super::shelf::unusable;

/// Some suites of one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Addresses of the same archive.
    pub(super) uris: Vec<String>,
    /// Suites, as configured.
    pub(super) suites: Vec<String>,
    /// Components.
    pub(super) components: Vec<String>,
    /// Further fields in the words of the newer form, such as `Signed-By`; continued lines as they are.
    pub(super) options: Vec<(String, String)>,
}

impl Source {
    /// The key ring file that signs it, where it names one.
    pub(super) fn key_ring(&self) -> Option<&Path> {
        let value = &self.options.iter().find(|(name, _)| name == "Signed-By")?.1;
        value.starts_with('/').then_some(Path::new(value))
    }

    /// As a stanza of the newer form.
    pub(super) fn stanza(&self) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\n",
            self.uris.join(" "),
            self.suites.join(" "),
            self.components.join(" ")
        );
        for (name, value) in &self.options {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text
    }
}

/// Stanzas of the newer form.
pub(super) fn stanzas(sources: &[Source]) -> String {
    sources.iter().map(Source::stanza).collect::<Vec<_>>().join("\n")
}

/// The host's sources that may be those of its release: by suite and component. Whose archive each is, is
/// known only when its release file has been fetched.
pub(super) fn of_release(host: &Host) -> Result<Vec<Source>> {
    let all = configured(Path::new("/etc/apt"))?;
    Ok(all
        .into_iter()
        .filter_map(|source| narrowed(source, host))
        .collect())
}

/// The newer suites of the same mirror as `sources` have the release itself.
pub(super) fn sibling(sources: &[Source], release: &str, suite: &str) -> Option<Source> {
    let own = sources
        .iter()
        .find(|source| source.suites.iter().any(|suite| suite == release))?;
    Some(Source {
        suites: vec![suite.to_owned()],
        components: vec!["main".to_owned()],
        ..own.clone()
    })
}

fn narrowed(mut source: Source, host: &Host) -> Option<Source> {
    let release = host.codename.as_str();
    let own = |suite: &String| {
        let rest = suite.strip_prefix(release);
        rest.is_some_and(|rest| matches!(rest, "" | "-updates" | "-security" | "/updates"))
    };
    source.suites.retain(own);
    source.uris = source.uris.iter().flat_map(|uri| mirrors(uri)).collect();
    let main = source.components.iter().any(|component| component == "main");
    (main && !source.suites.is_empty() && !source.uris.is_empty()).then_some(source)
}

/// The addresses that a URI stands for: cloud images name a file that lists mirrors, which a guest lacks.
fn mirrors(uri: &str) -> Vec<String> {
    if uri.starts_with("cdrom:") {
        return Vec::new();
    }
    let Some(list) = uri.strip_prefix("mirror+file:") else {
        return vec![uri.to_owned()];
    };
    let text = fs::read_to_string(list).unwrap_or_default();
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    text.lines()
        .filter_map(first)
        .filter(|word| !word.starts_with('#'))
        .collect()
}

fn configured(folder: &Path) -> Result<Vec<Source>> {
    let mut files = vec![folder.join("sources.list")];
    files.extend(parts(&folder.join("sources.list.d"))?);
    let mut all = Vec::new();
    for file in files {
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
            Err(cause) => return Err(unusable(&file, "cannot be read", cause)),
        };
        let newer = file.extension().is_some_and(|end| end == "sources");
        all.extend(if newer {
            parse_stanzas(&text)
        } else {
            parse_lines(&text)
        });
    }
    Ok(all)
}

fn parts(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(unusable(folder, "cannot be read", cause)),
    };
    let ours = |path: &PathBuf| {
        path.extension()
            .is_some_and(|end| end == "list" || end == "sources")
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(ours).collect();
    files.sort();
    Ok(files)
}

/// The newer form: stanzas of fields, continued by indented lines.
fn parse_stanzas(text: &str) -> Vec<Source> {
    let mut all = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            all.extend(from_fields(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    all
}

fn from_fields(fields: &[(String, String)]) -> Option<Source> {
    let field = |wanted: &str| {
        let found = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.as_str())
    };
    let words = |name: &str| {
        field(name)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let types: Vec<String> = words("Types");
    if !types.iter().any(|kind| kind == "deb") || field("Enabled").is_some_and(|value| value == "no") {
        return None;
    }
    let kept = KEPT_OPTIONS
        .iter()
        .filter_map(|(_, name)| Some(((*name).to_owned(), field(name)?.to_owned())));
    let options = kept.collect();
    Some(Source {
        uris: words("URIs"),
        suites: words("Suites"),
        components: words("Components"),
        options,
    })
}

/// The options that are kept, in the words of both forms.
const KEPT_OPTIONS: [(&str, &str); 5] = [
    ("signed-by", "Signed-By"),
    ("trusted", "Trusted"),
    ("check-valid-until", "Check-Valid-Until"),
    ("allow-insecure", "Allow-Insecure"),
    ("by-hash", "By-Hash"),
];

/// The older form: `deb [options] uri suite components...`.
fn parse_lines(text: &str) -> Vec<Source> {
    let uncommented = |line: &'_ str| line.split('#').next().unwrap_or_default().trim().to_owned();
    text.lines()
        .map(uncommented)
        .filter_map(|line| from_line(&line))
        .collect()
}

fn from_line(line: &str) -> Option<Source> {
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next()?, words.next()?);
    let options = options.split_whitespace().filter_map(|option| {
        let (name, value) = option.split_once('=')?;
        let (_, name) = KEPT_OPTIONS.iter().find(|(older, _)| *older == name)?;
        Some(((*name).to_owned(), value.replace(',', " ")))
    });
    let options = options.collect();
    Some(Source {
        uris: vec![uri],
        suites: vec![suite],
        components: words.collect(),
        options,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bookworm() -> Host {
        Host {
            id: "debian".into(),
            codename: "bookworm".into(),
            architecture: "amd64",
        }
    }

    fn source(uri: &str, suites: &[&str], options: &[(&str, &str)]) -> Source {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Source {
            uris: vec![uri.to_owned()],
            suites: owned(suites),
            components: owned(&["main"]),
            options,
        }
    }

    #[test]
    fn both_forms_say_the_same() {
        let newer = "# a comment\nTypes: deb deb-src\nURIs: http://mirror.example/debian\n\
                     Suites: bookworm bookworm-updates bookworm-backports\nComponents: main\n\
                     Signed-By: /k.gpg\n\nTypes: deb-src\nURIs: http://x\nSuites: bookworm\nComponents: main\n\n\
                     Enabled: no\nTypes: deb\nURIs: http://y\nSuites: bookworm\nComponents: main\n";
        let older = "# deb http://x bookworm main\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian \
                     bookworm main # end\ndeb-src http://mirror.example/debian bookworm main\n\
                     deb http://third.example nodistro main\ndeb cdrom:[x]/ bookworm main\n";
        let release = |all: Vec<Source>| -> Vec<Source> {
            all.into_iter()
                .filter_map(|source| narrowed(source, &bookworm()))
                .collect()
        };
        let options = [("Signed-By", "/k.gpg")];
        let uri = "http://mirror.example/debian";
        let both = [source(uri, &["bookworm", "bookworm-updates"], &options)];
        assert_eq!(release(parse_stanzas(newer)), both);
        assert_eq!(
            release(parse_lines(older)),
            [source(uri, &["bookworm"], &options)]
        );
        assert_eq!(parse_stanzas(&stanzas(&both)), both);
        assert_eq!(both[0].key_ring(), Some(Path::new("/k.gpg")));
    }

    #[test]
    fn an_inline_key_is_kept() {
        let text = "Types: deb\nURIs: http://x\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n";
        let all = parse_stanzas(text);
        assert_eq!(all[0].options[0].1, "\n -----BEGIN\n .\n abc");
        assert_eq!(all[0].key_ring(), None);
        assert_eq!(parse_stanzas(&all[0].stanza()), all);
    }
}
