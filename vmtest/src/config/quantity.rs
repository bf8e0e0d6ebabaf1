//! Times and sizes as people write them. Errors say what was expected.

use std::time::Duration;

use super::settings::MemoryLimit;

/// A time: a whole number and `ms`, `s`, `m` or `h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a time such as \"500ms\", \"30s\", \"2m\" or \"1h\"".to_owned();
    let (number, unit) = split(text).ok_or_else(expected)?;
    let thousandths = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return Err(expected()),
    };
    match number.checked_mul(thousandths) {
        None => Err("this time is too long".to_owned()),
        Some(0) => Err("a time of 0 is no limit that could be kept".to_owned()),
        Some(all) => Ok(Duration::from_millis(all)),
    }
}

/// A size in bytes: a whole number and `K`, `M`, `G` or `T`, powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let expected = || "expected a size such as \"512M\" or \"4G\" (K, M, G, T are powers of 1024)".to_owned();
    let (number, unit) = split(text).ok_or_else(expected)?;
    let shift = match unit.strip_suffix("iB").unwrap_or(unit) {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(expected()),
    };
    match number.checked_mul(1 << shift) {
        None => Err("this size is too big".to_owned()),
        Some(0) => Err("a size of 0 is of no use".to_owned()),
        Some(bytes) => Ok(bytes),
    }
}

/// The least memory a machine can be asked to have, in MiB.
const LEAST_MEMORY_MIB: u64 = 64;

/// Memory in MiB: a size, or a bare number of MiB.
pub(super) fn memory_mib(text: &str) -> Result<u32, String> {
    match text.parse::<u64>() {
        Ok(mib) => checked_mib(mib),
        Err(_) => checked_mib(size(text)? >> 20),
    }
}

pub(super) fn checked_mib(mib: u64) -> Result<u32, String> {
    u32::try_from(mib)
        .ok()
        .filter(|mib| u64::from(*mib) >= LEAST_MEMORY_MIB)
        .ok_or_else(|| {
            format!("expected at least {LEAST_MEMORY_MIB} MiB of memory and less than 4096 T, got {mib} MiB")
        })
}

/// A share such as `50%`, or memory.
pub(super) fn memory_limit(text: &str) -> Result<MemoryLimit, String> {
    let Some(share) = text.strip_suffix('%') else {
        return memory_mib(text)
            .map(MemoryLimit::Mib)
            .map_err(|why| format!("{why}, or a share such as \"50%\""));
    };
    match share.trim().parse::<u8>() {
        Ok(share @ 1..=100) => Ok(MemoryLimit::Percent(share)),
        _ => Err("expected a share of memory from \"1%\" to \"100%\"".to_owned()),
    }
}

/// A whole number from 1.
pub(super) fn count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number from 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// What a count says that is not written as a number.
pub(super) fn count_only(_text: &str) -> Result<u32, String> {
    count("")
}

/// A whole number from 0.
pub(super) fn whole(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| "expected a whole number from 0".to_owned())
}

/// A factor above 0.
pub(super) fn factor(text: &str) -> Result<f64, String> {
    text.parse()
        .map_err(|_| expected_factor())
        .and_then(checked_factor)
}

pub(super) fn checked_factor(factor: f64) -> Result<f64, String> {
    if factor.is_finite() && factor > 0.0 {
        Ok(factor)
    } else {
        Err(expected_factor())
    }
}

fn expected_factor() -> String {
    "expected a number above 0, such as 2.5".to_owned()
}

/// One of a few words.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            format!("expected one of {}", words.join(", "))
        })
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}
