//! How tests are run on this host: from the `[settings]` table, each overridden by its variable.

use std::env;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmtest_backends::{Error, ErrorKind, Result};

use super::quantity;

/// How tests are run on this host. Each field can be set in `[settings]` of `vmtest.toml` by its own name
/// and, where a variable is given, by the environment, which wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The engine to use (`VMTEST_BACKEND`); otherwise the first whose probe passes.
    pub backend: Option<String>,
    /// How guest code is executed (`VMTEST_ACCEL`: `auto`, `kvm` or `tcg`).
    pub accel: Accel,
    /// Who owns the machines (`VMTEST_BROKER`: `auto` or `off`).
    pub broker: BrokerUse,
    /// What becomes of a test whose needs cannot be met here (`VMTEST_ON_MISSING`: `fail` or `skip`).
    pub on_missing: OnMissing,
    /// Memory of a machine whose test does not say, in MiB (`VMTEST_MEMORY`); otherwise the image's own.
    pub memory_mib: Option<u32>,
    /// Virtual CPUs of a machine whose test does not say (`VMTEST_CPUS`); otherwise the image's own.
    pub cpus: Option<u32>,
    /// The limit of a test's body (`VMTEST_TIMEOUT`); 60 s.
    pub timeout: Duration,
    /// The limit of building an image or a snapshot (`VMTEST_BUILD_TIMEOUT`); 20 min. A snapshot's own `timeout`
    /// comes on top.
    pub build_timeout: Duration,
    /// The limit of a boot until the image counts as ready (`VMTEST_BOOT_TIMEOUT`); 120 s.
    pub boot_timeout: Duration,
    /// The limit of waiting for a place in the pool (`VMTEST_LEASE_TIMEOUT`); 10 min.
    pub lease_timeout: Duration,
    /// What every limit is multiplied by (`VMTEST_TIMEOUT_FACTOR`); 1.
    pub timeout_factor: f64,
    /// The bounds of all machines together.
    pub pool: PoolLimits,
    /// How many forks of a snapshot wait ready ahead of demand, at most (`VMTEST_WARM`); otherwise by the
    /// number of CPUs.
    pub warm: Option<u32>,
    /// How long the broker stays without a client (`VMTEST_IDLE`); 10 s where `CI` is set, else 10 min.
    pub idle: Duration,
}

/// How guest code is executed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// By the processor where that truly works, else by emulation.
    #[default]
    Auto,
    /// By the processor only.
    Kvm,
    /// By emulation only.
    Tcg,
}

/// Who owns the machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerUse {
    /// A process of its own, started when needed.
    #[default]
    Auto,
    /// The test process itself.
    Off,
}

/// What becomes of a test whose needs cannot be met here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnMissing {
    /// It fails.
    #[default]
    Fail,
    /// It is skipped, with the reason.
    Skip,
}

/// The bounds of all machines of a user together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolLimits {
    /// Memory of all machines (`VMTEST_POOL_MEMORY`: `50%` or a size such as `8G`); 75 %.
    pub memory: MemoryLimit,
    /// Virtual CPUs of all machines (`VMTEST_POOL_CPUS`); otherwise by the number of CPUs here.
    pub cpus: Option<u32>,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            memory: MemoryLimit::Percent(75),
            cpus: None,
        }
    }
}

/// A bound on memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryLimit {
    /// A share of what is available here, 1 to 100.
    Percent(u8),
    /// In MiB.
    Mib(u32),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backend: None,
            accel: Accel::default(),
            broker: BrokerUse::default(),
            on_missing: OnMissing::default(),
            memory_mib: None,
            cpus: None,
            timeout: Duration::from_secs(60),
            build_timeout: Duration::from_secs(20 * 60),
            boot_timeout: Duration::from_secs(120),
            lease_timeout: Duration::from_secs(10 * 60),
            timeout_factor: 1.0,
            pool: PoolLimits::default(),
            warm: None,
            idle: Duration::from_secs(10 * 60),
        }
    }
}

/// `limit` multiplied by `factor`, at most a week: a factor that is absurd is no reason to panic.
pub fn stretched(limit: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(limit.as_secs_f64() * factor).map_or(LONGEST, |long| long.min(LONGEST))
}

/// The longest time a limit can grow to by its factor.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl Settings {
    /// `limit` multiplied by [`timeout_factor`](Self::timeout_factor), at most a week.
    pub fn scaled(&self, limit: Duration) -> Duration {
        stretched(limit, self.timeout_factor)
    }

    /// The same settings with what the environment says.
    pub(super) fn overridden(self) -> Result<Self> {
        self.overridden_by(&|name| env::var(name).ok().filter(|text| !text.is_empty()))
    }

    pub(super) fn overridden_by(mut self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let set = Variables { variable };
        set.put("VMTEST_BACKEND", &mut self.backend, |text| {
            Ok(Some(text.to_owned()))
        })?;
        set.put("VMTEST_ACCEL", &mut self.accel, accel)?;
        set.put("VMTEST_BROKER", &mut self.broker, broker)?;
        set.put("VMTEST_ON_MISSING", &mut self.on_missing, on_missing)?;
        set.put("VMTEST_MEMORY", &mut self.memory_mib, |text| {
            quantity::memory_mib(text).map(Some)
        })?;
        set.put("VMTEST_CPUS", &mut self.cpus, |text| {
            quantity::count(text).map(Some)
        })?;
        set.put("VMTEST_TIMEOUT", &mut self.timeout, quantity::duration)?;
        set.put(
            "VMTEST_BUILD_TIMEOUT",
            &mut self.build_timeout,
            quantity::duration,
        )?;
        set.put("VMTEST_BOOT_TIMEOUT", &mut self.boot_timeout, quantity::duration)?;
        set.put(
            "VMTEST_LEASE_TIMEOUT",
            &mut self.lease_timeout,
            quantity::duration,
        )?;
        set.put(
            "VMTEST_TIMEOUT_FACTOR",
            &mut self.timeout_factor,
            quantity::factor,
        )?;
        set.put(
            "VMTEST_POOL_MEMORY",
            &mut self.pool.memory,
            quantity::memory_limit,
        )?;
        set.put("VMTEST_POOL_CPUS", &mut self.pool.cpus, |text| {
            quantity::count(text).map(Some)
        })?;
        set.put("VMTEST_WARM", &mut self.warm, |text| {
            quantity::whole(text).map(Some)
        })?;
        set.put("VMTEST_IDLE", &mut self.idle, quantity::duration)?;
        Ok(self)
    }
}

/// How long the broker stays without a client where nothing says.
pub(super) fn default_idle() -> Duration {
    match env::var_os("CI") {
        Some(value) if !value.is_empty() && value != "false" && value != "0" => Duration::from_secs(10),
        _ => Settings::default().idle,
    }
}

struct Variables<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Variables<'_> {
    fn put<T>(&self, name: &str, field: &mut T, parse: impl Fn(&str) -> Result<T, String>) -> Result<()> {
        if let Some(text) = (self.variable)(name) {
            *field = parse(&text).map_err(|why| {
                Error::new(
                    ErrorKind::Invalid,
                    format!("the variable {name} is {text:?}: {why}"),
                )
            })?;
        }
        Ok(())
    }
}

pub(super) fn accel(text: &str) -> Result<Accel, String> {
    quantity::choice(
        text,
        &[("auto", Accel::Auto), ("kvm", Accel::Kvm), ("tcg", Accel::Tcg)],
    )
}

pub(super) fn broker(text: &str) -> Result<BrokerUse, String> {
    quantity::choice(text, &[("auto", BrokerUse::Auto), ("off", BrokerUse::Off)])
}

pub(super) fn on_missing(text: &str) -> Result<OnMissing, String> {
    quantity::choice(text, &[("fail", OnMissing::Fail), ("skip", OnMissing::Skip)])
}
