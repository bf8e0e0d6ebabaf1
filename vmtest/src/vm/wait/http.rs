//! Waiting for an answer over HTTP.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use vmtest_backends::session::{Reader, Target};
use vmtest_backends::{Error, ErrorKind, Result};

use super::sealed::Look;
use super::{Condition, Seen, Vm, is_final, poll, reason};

/// How long a server may take for one answer before it is asked anew.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The longest status line, in bytes.
const STATUS_LINE_LIMIT: u64 = 8 * 1024;

/// A plain HTTP server on the guest's loopback that answers GET with a status: 200 unless asked for otherwise.
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
/// use vmtest::vm::Http;
///
/// vm.wait_for(Http::get(8080, "/health").status(204)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    port: u16,
    path: String,
    status: u16,
}

impl Http {
    /// GET of `path`, which begins with a slash, on port `port`.
    pub fn get(port: u16, path: impl Into<String>) -> Self {
        Self {
            port,
            path: path.into(),
            status: 200,
        }
    }

    /// The status to wait for.
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    async fn look(&self, vm: &Vm) -> Result<Option<String>> {
        let asked = match timeout(ANSWER_LIMIT, self.ask(vm)).await {
            Ok(asked) => asked,
            Err(_) => return Ok(Some(format!("no answer within {ANSWER_LIMIT:?}"))),
        };
        match asked {
            Ok(status) if status == self.status => Ok(None),
            Ok(status) => Ok(Some(format!("status {status}"))),
            Err(error) if is_final(&error) => Err(error),
            Err(error) => Ok(Some(reason(&error))),
        }
    }

    async fn ask(&self, vm: &Vm) -> Result<u16> {
        let (reader, mut writer) = vm.0.session.open(Target::Tcp(self.port)).await?;
        let (path, port) = (&self.path, self.port);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        let broken = |cause| Error::new(ErrorKind::Exec, "the connection broke off").because(cause);
        writer.write_all(request.as_bytes()).await.map_err(broken)?;
        writer.flush().await.map_err(broken)?;
        let line = status_line(reader).await.map_err(broken)?;
        status(&line).ok_or_else(|| Error::new(ErrorKind::Exec, format!("no HTTP: {:?}", shorten(&line))))
    }
}

impl Condition for Http {}

#[async_trait]
impl Look for Http {
    async fn met(&self, vm: &Vm, seen: &Seen) -> Result<()> {
        check(&self.path)?;
        poll(seen, || self.look(vm)).await
    }
}

fn check(path: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_graphic();
    if path.starts_with('/') && path.chars().all(plain) {
        return Ok(());
    }
    let what = format!("{path:?} is no path of a URL: it must begin with a slash and have no blanks");
    Err(Error::new(ErrorKind::Invalid, what))
}

async fn status_line(reader: Reader) -> std::io::Result<Vec<u8>> {
    let mut reader = reader.take(STATUS_LINE_LIMIT);
    let mut line = Vec::new();
    while !line.contains(&b'\n') && reader.read_buf(&mut line).await? > 0 {}
    Ok(line)
}

/// The status of a status line: `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let end = line.iter().position(|&byte| byte == b'\n')?;
    let mut words = std::str::from_utf8(&line[..end]).ok()?.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    let status = words.next().filter(|status| status.len() == 3)?;
    status.parse().ok().filter(|status| (100..600).contains(status))
}

fn shorten(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().take(80).collect()
}

impl fmt::Display for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "status {} of http://localhost:{}{}",
            self.status, self.port, self.path
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_read_or_refused() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nServer: x"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        let bad = [
            "",
            "HTTP/1.1 200 OK",
            "HTTP/2 200\n",
            "HTTP/1.1 20\n",
            "HTTP/1.1 -20 x\n",
            "HTTP/1.1 999 x\n",
            "220 smtp\n",
        ];
        for line in bad {
            assert_eq!(status(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(status(b"HTTP/1.1 200 \xff\n"), None);
    }

    #[test]
    fn paths_that_would_be_another_request_are_refused() {
        assert!(check("/health?x=1").is_ok());
        for bad in ["", "health", "/a b", "/a\r\nX: y"] {
            assert_eq!(check(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
    }
}
