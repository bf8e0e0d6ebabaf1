//! The package sources that this host is configured with, read so that a list of our own can be made of
//! them: the same mirrors, keys and options, plus the backports suite where it is wanted.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One source in apt's own field names (`URIs`, `Suites`, `Signed-By`, ...), in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source(BTreeMap<String, String>);

impl Source {
    fn words(&self, field: &str) -> impl Iterator<Item = &str> {
        self.0
            .get(field)
            .map(String::as_str)
            .unwrap_or_default()
            .split_whitespace()
    }

    fn is_binary(&self) -> bool {
        let disabled = self
            .words("enabled")
            .any(|word| word.eq_ignore_ascii_case("no") || word == "false");
        !disabled && self.words("types").any(|word| word == "deb") && !self.words("uris").any(is_disc)
    }

    fn render(&self) -> String {
        let mut text = String::new();
        for (field, value) in &self.0 {
            // Values keep their line breaks: keys are written in place over many lines.
            let _infallible = writeln!(text, "{field}: {value}");
        }
        text
    }
}

fn is_disc(uri: &str) -> bool {
    uri.starts_with("cdrom:")
}

/// `*.list`: `deb [option=value ...] URI SUITE COMPONENT...`, one to a line.
pub(crate) fn parse_one_line(text: &str) -> Vec<Source> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter_map(parse_line).filter(Source::is_binary).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let rest = line.strip_prefix("deb")?;
    let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracket) => bracket.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let mut fields = BTreeMap::from([("types".to_owned(), "deb".to_owned())]);
    fields.insert("uris".into(), words.next()?.into());
    fields.insert("suites".into(), words.next()?.into());
    let components = words.collect::<Vec<_>>().join(" ");
    if !components.is_empty() {
        fields.insert("components".into(), components);
    }
    for (name, value) in options
        .split_whitespace()
        .filter_map(|option| option.split_once('='))
    {
        fields.insert(field_of_option(name), value.replace(',', " "));
    }
    Some(Source(fields))
}

fn field_of_option(name: &str) -> String {
    match name {
        "arch" => "architectures".into(),
        "lang" => "languages".into(),
        "target" => "targets".into(),
        same => same.to_ascii_lowercase(),
    }
}

/// `*.sources`: stanzas of `Field: value`, continued on indented lines.
pub(crate) fn parse_stanzas(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields = BTreeMap::<String, String>::new();
    let mut last = String::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(
                Some(std::mem::take(&mut fields))
                    .filter(|fields| !fields.is_empty())
                    .map(Source),
            );
        } else if line.starts_with([' ', '\t']) {
            if let Some(value) = fields.get_mut(&last) {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((field, value)) = line.split_once(':') {
            last = field.trim().to_ascii_lowercase();
            fields.insert(last.clone(), value.trim().into());
        }
    }
    sources.retain(Source::is_binary);
    sources
}

/// A list of our own: of `all` only what belongs to the distribution (another vendor's broken source must
/// not stand in the way), and, where asked for, its backports from the same mirror.
pub(crate) fn render(all: &[Source], codename: &str, backports: bool) -> String {
    let own = all
        .iter()
        .filter(|source| source.words("suites").any(|suite| belongs(suite, codename)));
    let own = own.cloned().collect::<Vec<_>>();
    // Named by alias (`stable`): then all are kept.
    let mut kept = if own.is_empty() { all.to_vec() } else { own };
    let suite = format!("{codename}-backports");
    let known = kept
        .iter()
        .any(|source| source.words("suites").any(|each| each == suite));
    if backports && !known {
        kept.extend(main_of(&kept, codename).map(|main| with_suite(main, &suite)));
    }
    kept.iter().map(Source::render).collect::<Vec<_>>().join("\n")
}

fn belongs(suite: &str, codename: &str) -> bool {
    suite
        .strip_prefix(codename)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '/']))
}

fn main_of<'a>(sources: &'a [Source], codename: &str) -> Option<&'a Source> {
    let aliases = [codename, "stable", "oldstable"];
    sources
        .iter()
        .find(|source| source.words("suites").any(|suite| aliases.contains(&suite)))
}

fn with_suite(source: &Source, suite: &str) -> Source {
    let mut fields = source.0.clone();
    fields.insert("suites".into(), suite.into());
    Source(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# comment\ndeb [arch=amd64,i386 signed-by=/k.gpg] http://m/d bookworm main contrib # x\n\
        deb-src http://m/d bookworm main\ndeb cdrom:[x]/ bookworm main\ndeb http://other/ nodistro main\n";
    const STANZAS: &str = "Types: deb deb-src\n# why\nURIs: http://m/d\nSuites: bookworm bookworm-updates\n\
        Components: main\nSigned-By:\n -----BEGIN\n .\n abc\n\n\nTypes: deb\nEnabled: no\nURIs: http://off/\nSuites: bookworm\n";

    #[test]
    fn one_line_sources_become_stanzas() {
        let text = render(&parse_one_line(LIST), "bookworm", false);
        assert_eq!(
            text,
            "architectures: amd64 i386\ncomponents: main contrib\nsigned-by: /k.gpg\nsuites: bookworm\n\
             types: deb\nuris: http://m/d\n"
        );
    }

    #[test]
    fn stanzas_keep_keys_and_drop_what_is_switched_off() {
        let sources = parse_stanzas(STANZAS);
        assert_eq!(sources.len(), 1);
        assert!(
            sources[0]
                .render()
                .contains("signed-by: \n -----BEGIN\n .\n abc\n"),
            "{}",
            sources[0].render()
        );
    }

    #[test]
    fn backports_come_from_the_same_mirror_once() {
        let text = render(&parse_one_line(LIST), "bookworm", true);
        assert_eq!(text.matches("uris: http://m/d\n").count(), 2, "{text}");
        assert_eq!(text.matches("suites: bookworm-backports\n").count(), 1, "{text}");
        let again = render(&parse_stanzas(&text), "bookworm", true);
        assert_eq!(again, text);
    }

    #[test]
    fn sources_by_alias_are_all_kept() {
        let text = render(&parse_one_line("deb http://m/d stable main\n"), "bookworm", true);
        assert!(
            text.contains("suites: stable\n") && text.contains("suites: bookworm-backports\n"),
            "{text}"
        );
    }
}
