//! The shape of `vmtest.toml` as it is written, before its meaning is checked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Error as _, MapAccess, Visitor, value::MapAccessDeserializer};
use toml::Spanned;

use super::quantity;
use super::settings::{Accel, BrokerUse, MemoryLimit, OnMissing, Settings, accel, broker, on_missing};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    #[serde(default)]
    pub(super) settings: RawSettings,
    #[serde(default)]
    pub(super) image: BTreeMap<Spanned<String>, RawImage>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSettings {
    backend: Option<String>,
    accel: Option<Word<Accel>>,
    broker: Option<Word<BrokerUse>>,
    on_missing: Option<Word<OnMissing>>,
    memory: Option<Memory>,
    cpus: Option<Count>,
    timeout: Option<Time>,
    build_timeout: Option<Time>,
    boot_timeout: Option<Time>,
    lease_timeout: Option<Time>,
    timeout_factor: Option<Factor>,
    #[serde(default)]
    pool: RawPool,
    warm: Option<u32>,
    idle: Option<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPool {
    memory: Option<PoolMemory>,
    cpus: Option<Count>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawImage {
    pub(super) base: Option<Spanned<String>>,
    pub(super) packages: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) modules: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) disk_size: Option<Spanned<Size>>,
    pub(super) kernel: Option<Spanned<PathBuf>>,
    pub(super) initrd: Option<Spanned<PathBuf>>,
    pub(super) disk: Option<Spanned<RawDisk>>,
    pub(super) cmdline: Option<Spanned<String>>,
    pub(super) agent: Option<Spanned<bool>>,
    pub(super) cloud_init: Option<Spanned<bool>>,
    pub(super) ready: Option<Spanned<String>>,
    pub(super) memory: Option<Memory>,
    pub(super) cpus: Option<Count>,
    #[serde(default)]
    pub(super) snapshot: BTreeMap<Spanned<String>, RawSnapshot>,
}

#[derive(Debug)]
pub(super) enum RawDisk {
    Path(PathBuf),
    Url(RawUrl),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUrl {
    pub(super) url: Spanned<String>,
    pub(super) sha256: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSnapshot {
    pub(super) from: Option<Spanned<String>>,
    pub(super) memory: Option<Memory>,
    pub(super) cpus: Option<Count>,
    #[serde(default)]
    pub(super) network: bool,
    pub(super) timeout: Option<Time>,
    #[serde(default)]
    pub(super) steps: Vec<Spanned<RawStep>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    pub(super) copy: Option<PathBuf>,
    pub(super) to: Option<String>,
    pub(super) run: Option<String>,
    pub(super) wait: Option<Spanned<RawWait>>,
    pub(super) timeout: Option<Time>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWait {
    pub(super) port: Option<u16>,
    pub(super) unit: Option<String>,
    pub(super) file: Option<String>,
    pub(super) command: Option<String>,
}

impl RawSettings {
    /// Puts what is set over `settings`.
    pub(super) fn over(self, mut settings: Settings) -> Settings {
        settings.backend = self.backend.or(settings.backend);
        put(&mut settings.accel, self.accel.map(|word| word.0));
        put(&mut settings.broker, self.broker.map(|word| word.0));
        put(&mut settings.on_missing, self.on_missing.map(|word| word.0));
        settings.memory_mib = self.memory.map(|memory| memory.0).or(settings.memory_mib);
        settings.cpus = self.cpus.map(|count| count.0).or(settings.cpus);
        put(&mut settings.timeout, self.timeout.map(|time| time.0));
        put(&mut settings.build_timeout, self.build_timeout.map(|time| time.0));
        put(&mut settings.boot_timeout, self.boot_timeout.map(|time| time.0));
        put(&mut settings.lease_timeout, self.lease_timeout.map(|time| time.0));
        put(
            &mut settings.timeout_factor,
            self.timeout_factor.map(|factor| factor.0),
        );
        put(&mut settings.pool.memory, self.pool.memory.map(|memory| memory.0));
        settings.pool.cpus = self.pool.cpus.map(|count| count.0).or(settings.pool.cpus);
        settings.warm = self.warm.or(settings.warm);
        put(&mut settings.idle, self.idle.map(|time| time.0));
        settings
    }
}

fn put<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// A time as it is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Duration);

/// A size in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size(pub(super) u64);

/// Memory in MiB.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory(pub(super) u32);

/// A whole number from 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count(pub(super) u32);

#[derive(Debug, Clone, Copy)]
struct Factor(f64);

#[derive(Debug, Clone, Copy)]
struct PoolMemory(MemoryLimit);

#[derive(Debug, Clone, Copy)]
struct Word<T>(T);

/// What a value may be written as; its error names what was expected.
enum Written {
    Text(String),
    Whole(i64),
    Real(f64),
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Whole(number) => write!(f, "{number}"),
            Self::Real(number) => write!(f, "{number}"),
        }
    }
}

impl Written {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            _ => "",
        }
    }

    /// The number, a negative one as 0, which every quantity refuses.
    fn whole_or_text<T>(
        &self,
        whole: impl Fn(u64) -> Result<T, String>,
        text: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, String> {
        match self {
            Self::Whole(number) => whole(u64::try_from(*number).unwrap_or(0)),
            other => text(other.text()),
        }
    }
}

struct WrittenVisitor;

impl Visitor<'_> for WrittenVisitor {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a number")
    }

    fn visit_str<E>(self, text: &str) -> Result<Written, E> {
        Ok(Written::Text(text.to_owned()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Written, E> {
        Ok(Written::Whole(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Written, E> {
        Ok(Written::Real(number))
    }
}

fn written<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: impl Fn(&Written) -> Result<T, String>,
) -> Result<T, D::Error> {
    let value = from.deserialize_any(WrittenVisitor)?;
    parse(&value).map_err(|why| D::Error::custom(format!("{why}, found {value}")))
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        written(from, |value| quantity::duration(value.text()).map(Self))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        written(from, |value| quantity::size(value.text()).map(Self))
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        written(from, |value| {
            value
                .whole_or_text(quantity::checked_mib, quantity::memory_mib)
                .map(Self)
        })
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        written(from, |value| {
            value
                .whole_or_text(
                    |number| quantity::count(&number.to_string()),
                    quantity::count_only,
                )
                .map(Self)
        })
    }
}

impl<'de> Deserialize<'de> for Factor {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        written(from, |value| match value {
            Written::Real(number) => quantity::checked_factor(*number).map(Self),
            other => quantity::factor(&other.to_string()).map(Self),
        })
    }
}

impl<'de> Deserialize<'de> for PoolMemory {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        written(from, |value| {
            let mib = |number| quantity::checked_mib(number).map(MemoryLimit::Mib);
            value.whole_or_text(mib, quantity::memory_limit).map(Self)
        })
    }
}

/// A setting that is one of a few words.
trait Words: Sized {
    fn parse(text: &str) -> Result<Self, String>;
}

impl Words for Accel {
    fn parse(text: &str) -> Result<Self, String> {
        accel(text)
    }
}

impl Words for BrokerUse {
    fn parse(text: &str) -> Result<Self, String> {
        broker(text)
    }
}

impl Words for OnMissing {
    fn parse(text: &str) -> Result<Self, String> {
        on_missing(text)
    }
}

impl<'de, T: Words> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        written(from, |value| T::parse(value.text()).map(Self))
    }
}

impl<'de> Deserialize<'de> for RawDisk {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(DiskVisitor)
    }
}

struct DiskVisitor;

impl<'de> Visitor<'de> for DiskVisitor {
    type Value = RawDisk;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path, or { url = \"...\", sha256 = \"...\" }")
    }

    fn visit_str<E: de::Error>(self, path: &str) -> Result<RawDisk, E> {
        Ok(RawDisk::Path(path.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawDisk, A::Error> {
        RawUrl::deserialize(MapAccessDeserializer::new(map)).map(RawDisk::Url)
    }
}
