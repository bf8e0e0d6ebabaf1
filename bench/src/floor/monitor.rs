//! QEMU's monitor, spoken to by hand: lines of JSON.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use crate::error::Result;

/// How long QEMU may be silent.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

pub(super) const STATE_ONLY: &str = r#"{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"x-ignore-shared","state":true},{"capability":"events","state":true}]}}"#;

/// A connection to a monitor.
#[derive(Debug)]
pub(super) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(SILENCE_LIMIT))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends commands; their answers are left to whoever waits.
    pub(super) fn send(&mut self, lines: &[&str]) -> Result {
        self.0.get_mut().write_all((lines.join("\n") + "\n").as_bytes())?;
        Ok(())
    }

    /// Waits until all commands sent before this one were answered.
    pub(super) fn settle(&mut self) -> Result {
        self.send(&[r#"{"execute":"query-status","id":"settled"}"#])?;
        self.until(|message| message["id"] == "settled")
    }

    /// Waits until a migration, out or in, is done.
    pub(super) fn migrated(&mut self) -> Result {
        self.until(|message| message["event"] == "MIGRATION" && message["data"]["status"] == "completed")
    }

    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Result {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Err("the monitor was closed".into());
            }
            let message: Value = serde_json::from_str(&line)?;
            if wanted(&message) {
                return Ok(());
            }
            let failed = message["event"] == "MIGRATION" && message["data"]["status"] == "failed";
            if failed || message.get("error").is_some() {
                return Err(line.into());
            }
        }
    }
}
