//! The command line of a machine of the product, taken from the running process, so that the floor has the
//! very same devices: only paths and descriptors are replaced.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Result;

/// What a fork of the product was started with.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    words: Vec<String>,
}

/// The numbers of the inherited descriptors.
pub(super) struct Numbers {
    pub(super) monitor: i32,
    pub(super) console: i32,
    pub(super) agent: i32,
    pub(super) network: i32,
    /// The state to load; none for a machine that boots.
    pub(super) state: Option<i32>,
}

impl Template {
    /// Of the process `pid`.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let text = fs::read(format!("/proc/{pid}/cmdline"))?;
        let words = text
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned());
        let mut words: Vec<_> = words.collect();
        words.pop();
        Ok(Self { words })
    }

    /// The engine's program.
    pub(crate) fn program(&self) -> &str {
        &self.words[0]
    }

    /// The folder of the snapshot it is a fork of.
    pub(crate) fn snapshot(&self) -> Result<PathBuf> {
        let memory = self.after("-object").ok_or("the machine has no memory backend")?;
        let path = memory.split(',').find_map(|part| part.strip_prefix("mem-path="));
        let path = Path::new(path.ok_or("its memory lies in no file")?);
        Ok(path.parent().ok_or("its memory lies nowhere")?.to_owned())
    }

    fn after(&self, option: &str) -> Option<&String> {
        let at = self.words.iter().position(|word| word == option)?;
        self.words.get(at + 1)
    }

    /// The number of its disks with an overlay, and each one's size in bytes is asked of `qemu-img` later.
    pub(super) fn disks(&self) -> usize {
        let graphs = self.words.windows(2).filter(|pair| pair[0] == "-blockdev");
        graphs
            .filter(|pair| pair[1].contains("\"node-name\":\"disk"))
            .count()
    }

    /// The arguments of a fork with its overlays in `folder`.
    pub(super) fn fork(&self, folder: &Path, numbers: &Numbers) -> Result<Vec<String>> {
        self.rewritten(folder, numbers, false)
    }

    /// The arguments of a machine that boots, with memory and overlays of its own in `folder`.
    pub(super) fn boot(&self, folder: &Path, numbers: &Numbers) -> Result<Vec<String>> {
        self.rewritten(folder, numbers, true)
    }

    fn rewritten(&self, folder: &Path, numbers: &Numbers, boot: bool) -> Result<Vec<String>> {
        let mut args = Vec::new();
        let mut words = self.words.iter().skip(1);
        while let Some(word) = words.next() {
            let Some(rewrite) = rewriting(word) else {
                args.push(word.clone());
                continue;
            };
            let value = words.next().ok_or("an option without its value")?;
            if let Some(value) = rewrite(value, folder, numbers, boot)? {
                args.extend([word.clone(), value]);
            }
        }
        Ok(args)
    }
}

type Rewrite = fn(&str, &Path, &Numbers, bool) -> Result<Option<String>>;

fn rewriting(option: &str) -> Option<Rewrite> {
    Some(match option {
        "-chardev" => chardev,
        "-netdev" => |_, _, numbers, _| {
            Ok(Some(format!(
                "dgram,id=net0,local.type=fd,local.str={}",
                numbers.network
            )))
        },
        "-add-fd" => |_, _, numbers, _| Ok(numbers.state.map(|fd| format!("fd={fd},set=1"))),
        "-incoming" => |value, _, _, boot| Ok((!boot).then(|| value.to_owned())),
        "-object" => memory,
        "-blockdev" => disk,
        _ => return None,
    })
}

fn chardev(value: &str, _: &Path, numbers: &Numbers, _: bool) -> Result<Option<String>> {
    let fd = match value.split(',').nth(1) {
        Some("id=monitor") => numbers.monitor,
        Some("id=console") => numbers.console,
        Some("id=agent") => numbers.agent,
        other => return Err(format!("an unknown channel {other:?}").into()),
    };
    let (before, _) = value.rsplit_once("fd=").ok_or("a channel without descriptor")?;
    Ok(Some(format!("{before}fd={fd}")))
}

fn memory(value: &str, folder: &Path, _: &Numbers, boot: bool) -> Result<Option<String>> {
    if !boot {
        return Ok(Some(value.to_owned()));
    }
    let size = value.split(',').find(|part| part.starts_with("size="));
    let size = size.ok_or("a memory backend without size")?;
    let path = folder.join("ram");
    Ok(Some(format!(
        "memory-backend-file,id=pc.ram,{size},mem-path={},share=on",
        path.display()
    )))
}

fn disk(value: &str, folder: &Path, _: &Numbers, boot: bool) -> Result<Option<String>> {
    let mut graph: Value = serde_json::from_str(value)?;
    let Some(node) = graph["node-name"]
        .as_str()
        .filter(|node| node.starts_with("disk"))
    else {
        return Ok(Some(value.to_owned()));
    };
    let path = folder.join(format!("{node}.qcow2"));
    graph["file"]["filename"] = path.to_string_lossy().into();
    if boot {
        // A machine that boots has only the image's own disk below its overlay.
        let mut bottom = graph["backing"].take();
        while bottom["backing"].is_object() {
            bottom = bottom["backing"].take();
        }
        graph["backing"] = bottom;
    }
    Ok(Some(graph.to_string()))
}
