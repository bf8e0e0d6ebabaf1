//! How much memory there is for machines: the host's, bounded by the control groups this process is in.

use std::fs;
use std::path::Path;

/// Where control groups are mounted.
const MOUNTS: &str = "/sys/fs/cgroup";

/// All the memory there is, in MiB.
pub(super) fn total_mib() -> u64 {
    let groups = own_groups();
    let least = groups.iter().map(|group| group.limit >> 20).min();
    least.unwrap_or(u64::MAX).min(meminfo_mib("MemTotal:"))
}

/// What can be had of it now without anything being swapped out, in MiB.
pub(super) fn available_mib() -> u64 {
    let groups = own_groups();
    let least = groups.iter().map(|group| group.available() >> 20).min();
    least.unwrap_or(u64::MAX).min(meminfo_mib("MemAvailable:"))
}

fn meminfo_mib(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    // In kB, which are 1024 bytes.
    value(&text, field).unwrap_or(0) / 1024
}

/// The number after `field` in a text of lines `FIELD NUMBER ...`.
fn value(text: &str, field: &str) -> Option<u64> {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some(field)).then(|| words.next()?.parse().ok())?
    };
    text.lines().find_map(of_line)
}

/// A control group with a limit, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    limit: u64,
    /// What it uses and the kernel cannot simply drop.
    used: u64,
}

impl Group {
    fn available(self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// The names of a version of control groups.
#[derive(Debug)]
struct Version {
    /// Where its memory controller is mounted, below [`MOUNTS`].
    mount: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// The page cache, in `memory.stat`: dropped when memory is short, as images and snapshots that were read.
    cache: [&'static str; 2],
}

const V1: Version = Version {
    mount: "memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cache: ["total_inactive_file", "total_active_file"],
};

const V2: Version = Version {
    mount: "",
    limit: "memory.max",
    usage: "memory.current",
    cache: ["inactive_file", "active_file"],
};

fn own_groups() -> Vec<Group> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups(&own, Path::new(MOUNTS))
}

/// The groups that bound a process whose `/proc/PID/cgroup` is `own`: its own and all above it. One that
/// cannot be seen from here, as those outside of a container, bounds nothing we could know of.
fn groups(own: &str, mounts: &Path) -> Vec<Group> {
    let Some((version, path)) = membership(own) else {
        return Vec::new();
    };
    let top = mounts.join(version.mount);
    let lowest = top.join(path.trim_start_matches('/'));
    let inside = lowest.ancestors().take_while(|folder| folder.starts_with(&top));
    inside.filter_map(|folder| group(version, folder)).collect()
}

/// Which version has the memory controller, and which group of it the process is in. A line is
/// `HIERARCHY:CONTROLLERS:PATH`; version 2 is hierarchy 0, without a list of controllers.
fn membership(own: &str) -> Option<(&'static Version, &str)> {
    let lines = || {
        own.lines().filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.split_once(':')
        })
    };
    // A controller belongs to one version only; where version 1 has it, version 2 may be mounted besides.
    let first = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let second = || lines().find(|(controllers, _)| controllers.is_empty());
    match first {
        Some((_, path)) => Some((&V1, path)),
        None => second().map(|(_, path)| (&V2, path)),
    }
}

/// The group in this folder; `None` without a limit (version 2 says `max`, version 1 a number no host has).
fn group(version: &Version, folder: &Path) -> Option<Group> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let limit = number(version.limit)?;
    let usage = number(version.usage)?;
    let stat = read("memory.stat").unwrap_or_default();
    let cache: u64 = version.cache.iter().filter_map(|field| value(&stat, field)).sum();
    Some(Group {
        limit,
        used: usage.saturating_sub(cache),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const MIB: u64 = 1 << 20;

    /// A tree of groups, as files.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
            Self(target.join(format!("test-memory-{name}-{}", std::process::id())))
        }

        fn file(&self, path: &str, text: impl ToString) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text.to_string()).unwrap();
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn cache_counts_as_available_and_the_groups_above_count_as_well() {
        let tree = Tree::new("v2");
        tree.file("ci/memory.max", format!("{}\n", 1024 * MIB));
        tree.file("ci/memory.current", 900 * MIB);
        tree.file(
            "ci/memory.stat",
            format!(
                "anon {}\nfile {}\ninactive_file {}\nactive_file {}\n",
                300 * MIB,
                600 * MIB,
                400 * MIB,
                100 * MIB
            ),
        );
        tree.file("ci/job/memory.max", "max\n");
        tree.file("ci/job/memory.current", 5 * MIB);
        tree.file("ci/job/step/memory.max", 2048 * MIB);
        tree.file("ci/job/step/memory.current", 5 * MIB);
        let groups = groups("0::/ci/job/step\n", &tree.0);
        let of = |limit: u64, used: u64| Group {
            limit: limit * MIB,
            used: used * MIB,
        };
        assert_eq!(groups, [of(2048, 5), of(1024, 400)]);
        assert_eq!(groups[1].available(), 624 * MIB);
    }

    #[test]
    fn version_1_is_read_where_it_has_the_controller() {
        let tree = Tree::new("v1");
        // In a container the mount's top is the container's own group, whatever the path says.
        tree.file("memory/memory.limit_in_bytes", 512 * MIB);
        tree.file("memory/memory.usage_in_bytes", 500 * MIB);
        tree.file(
            "memory/memory.stat",
            format!(
                "inactive_file 1\ntotal_inactive_file {}\ntotal_active_file {}\n",
                200 * MIB,
                50 * MIB
            ),
        );
        let own = "12:cpu,cpuacct:/docker/4f\n9:memory:/docker/4f\n0::/system.slice\n";
        let groups = groups(own, &tree.0);
        let only = Group {
            limit: 512 * MIB,
            used: 250 * MIB,
        };
        assert_eq!(groups, [only]);
    }

    #[test]
    fn a_host_without_groups_is_bounded_by_itself() {
        let tree = Tree::new("none");
        assert_eq!(groups("0::/\n", &tree.0), []);
        assert_eq!(groups("", &tree.0), []);
        let (total, available) = (total_mib(), available_mib());
        assert!(0 < available && available <= total, "{available} of {total} MiB");
    }

    #[test]
    fn fields_are_read_by_their_whole_name() {
        let text = "MemTotal:  8000 kB\nMemTotalX: 1 kB\nactive_file 7\n";
        assert_eq!(value(text, "MemTotal:"), Some(8000));
        assert_eq!(value(text, "active_file"), Some(7));
        assert_eq!(value(text, "file"), None);
    }
}
