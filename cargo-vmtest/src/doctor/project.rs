//! What the project asks for, and what is there of it.

use vmtest::Result;
use vmtest::broker;
use vmtest::config::{Config, FILE};
use vmtest::dirs::Dirs;
use vmtest::image;

use super::{Finding, one_line};

/// The configuration.
pub(super) fn file(config: &Result<Config>) -> Finding {
    let config = match config {
        Ok(config) => config,
        Err(error) => return Finding::error("config", error),
    };
    let declared: Vec<String> = config
        .images()
        .map(|image| match image.snapshots.len() {
            0 => image.name.clone(),
            _ => {
                let snapshots: Vec<&str> = image.snapshots.keys().map(String::as_str).collect();
                format!("{} ({})", image.name, snapshots.join(", "))
            }
        })
        .collect();
    let file = match config.file() {
        Some(file) => file.display().to_string(),
        None => format!("no {FILE}, which need not be"),
    };
    Finding::good("config", format!("{file}; images: {}", declared.join(", ")))
}

/// Each image: built or not.
pub(super) fn images(config: &Config, dirs: &Dirs) -> Vec<Finding> {
    let look = |name: &str| {
        let found = image::plan(config, dirs, name).and_then(|plan| plan.find(dirs));
        match found {
            Ok(Some(_)) => Finding::good("image", format!("{name} is built")),
            Ok(None) => Finding::good("image", format!("{name} is built when a test first asks for it")),
            Err(error) => Finding::lacking("image", format!("{name} cannot be built: {}", one_line(&error))),
        }
    };
    config.images().map(|image| look(&image.name)).collect()
}

/// The broker.
pub(super) async fn broker(dirs: &Dirs) -> Finding {
    let addresses = match broker::addresses(dirs) {
        Ok(addresses) => addresses,
        Err(error) => return Finding::error("broker", &error),
    };
    let mut running = Vec::new();
    for address in addresses {
        match address.status().await {
            Ok(Some(status)) => running.push(format!(
                "process {} with {} leased and {} warm machines",
                status.pid, status.leases, status.warm
            )),
            Ok(None) => {}
            Err(error) => {
                let text = format!("{}; `cargo vmtest stop` may help", one_line(&error));
                return Finding::lacking("broker", text);
            }
        }
    }
    match running.is_empty() {
        true => Finding::good("broker", "none runs; the first test starts one"),
        false => Finding::good("broker", running.join("; ")),
    }
}
