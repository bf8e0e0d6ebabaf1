//! Sizes and times as people read and write them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A time: a whole number and `m`, `h`, `d` or `w`.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected an age such as 90m, 36h, 7d or 2w, found {text:?}");
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        "w" => 7 * 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let seconds = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

/// `3 min`, `5 h`, `12 d`.
pub(crate) fn since(time: SystemTime) -> String {
    let seconds = time.elapsed().unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `0 B`, `12.5 KiB`, `340 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        match value {
            _ if unit == "B" && value < 1024.0 => return format!("{count} B"),
            0.0..99.95 if unit != "B" => return format!("{value:.1} {unit}"),
            0.0..1024.0 if unit != "B" => return format!("{value:.0} {unit}"),
            _ => value /= 1024.0,
        }
    }
    format!("{value:.1} TiB")
}

/// The bytes that the blocks of all files below `path` take. What cannot be read counts as nothing.
pub(crate) fn taken(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    let own = meta.blocks() * 512;
    let entries = meta.is_dir().then(|| fs::read_dir(path).ok()).flatten();
    let inner = entries.into_iter().flatten().flatten();
    own + inner.map(|entry| taken(&entry.path())).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_two_or_three_digits() {
        let shown = [0, 1023, 12_800, 356_515_840, 5 << 30].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "12.5 KiB", "340 MiB", "5.0 GiB"]);
    }

    #[test]
    fn ages_need_a_unit() {
        assert_eq!(age("36h"), Ok(Duration::from_secs(36 * 3600)));
        for wrong in ["", "7", "d", "7y", "-1d", "99999999999999999999w"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }
}
