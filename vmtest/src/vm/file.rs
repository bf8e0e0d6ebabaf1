//! Reading and writing files of the guest.

use vmtest_backends::session::Exit;
use vmtest_backends::{Error, ErrorKind, Result};

use super::Vm;
use super::command::Command;
use super::output::{Output, ended, excerpt};

/// Writes standard input to the file `$1`, which must come to `$2` bytes, with mode `$3` or else the one it has,
/// 644 where it is new. Whole or not at all, by a file beside it that is renamed, where such a file
/// can be made and the target is one that can be replaced: not in /proc or /sys, and no device or mount point.
pub(super) const WRITE: &str = r#"
target=$1 size=$2 mode=$3 partial=
fail() { [ -z "$1" ] || echo "$1" >&2; [ -z "$partial" ] || rm -f "$partial"; exit 1; }
[ ! -d "$target" ] || fail "$target: is a directory"
if [ -L "$target" ]; then real=$(readlink -f "$target") && [ -n "$real" ] && target=$real; fi
folder=${target%/*}
if [ ! -e "$target" ] || [ -f "$target" ]; then partial=$(mktemp "$folder/.vmtest-XXXXXX" 2>/dev/null); fi
if [ -z "$partial" ]; then
    cat >"$target" || fail
    [ -z "$mode" ] || chmod "$mode" "$target" || fail
    exit 0
fi
if [ -e "$target" ]; then
    chown "$(stat -c %u:%g "$target")" "$partial" || fail
    [ -n "$mode" ] || mode=$(stat -c %a "$target") || fail
fi
cat >"$partial" || fail
[ "$(stat -c %s "$partial")" = "$size" ] || fail "$target: the input broke off"
chmod "${mode:-644}" "$partial" || fail
mv -f "$partial" "$target" 2>/dev/null || { cat "$partial" >"$target" && rm -f "$partial"; } || fail
"#;

impl Vm {
    /// The content of the file `path` in the guest, at most 256 MiB; [`Vm::copy_out`] has no such limit.
    ///
    /// A path that is not absolute counts from `/`. Errors: [`ErrorKind::Exec`] with what the guest said: no
    /// such file, permission denied, is a directory.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// let id = vm.read("/etc/machine-id").await?;
    /// assert_eq!(id.len(), 33);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read(&self, path: impl AsRef<str>) -> Result<Vec<u8>> {
        let path = absolute(path.as_ref())?;
        let command = self
            .command("cat")
            .args(["--", &path])
            .label(format!("read {path}"));
        let output = command.output().await?;
        moved(&format!("the file {path} could not be read"), output).map(|output| output.stdout)
    }

    /// The same as text, which must be UTF-8.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// assert!(vm.read_to_string("/etc/os-release").await?.contains("Debian"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_to_string(&self, path: impl AsRef<str>) -> Result<String> {
        let bytes = self.read(path.as_ref()).await?;
        String::from_utf8(bytes).map_err(|cause| {
            let what = format!("the file {} is not UTF-8", path.as_ref());
            Error::new(ErrorKind::Exec, what).because(cause)
        })
    }

    /// Makes `bytes` the content of the file `path` in the guest: whole or not at all, where the file system
    /// allows. A new file has mode 644, an existing one keeps its mode and owner; a symbolic link is
    /// followed; the folder must exist.
    ///
    /// Errors: [`ErrorKind::Exec`] with what the guest said: no such directory, no space left, permission
    /// denied.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// vm.write("/etc/motd", "welcome\n").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write(&self, path: impl AsRef<str>, bytes: impl Into<Vec<u8>>) -> Result<()> {
        self.write_file(path.as_ref(), bytes.into(), None).await
    }

    /// The same, and the file gets mode `mode`.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// vm.write_with_mode("/usr/local/bin/hello", "#!/bin/sh\necho hello\n", 0o755).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write_with_mode(
        &self,
        path: impl AsRef<str>,
        bytes: impl Into<Vec<u8>>,
        mode: u32,
    ) -> Result<()> {
        self.write_file(path.as_ref(), bytes.into(), Some(mode)).await
    }

    /// Whether there is something at `path` in the guest; a symbolic link counts if it leads to something.
    pub async fn exists(&self, path: impl AsRef<str>) -> Result<bool> {
        let path = absolute(path.as_ref())?;
        let script = r#"[ -e "$1" ]"#;
        let look = self
            .script(script, [path.as_str()])
            .label(format!("look for {path}"));
        Ok(look.status().await? == Exit::Code(0))
    }

    async fn write_file(&self, path: &str, bytes: Vec<u8>, mode: Option<u32>) -> Result<()> {
        let path = absolute(path)?;
        let (size, mode) = (bytes.len().to_string(), octal(mode));
        let command = self.script(WRITE, [path.as_str(), &size, &mode]);
        let output = command
            .label(format!("write {path}"))
            .stdin(bytes)
            .output()
            .await?;
        moved(&format!("the file {path} could not be written"), output).map(drop)
    }

    /// A script of ours with its arguments.
    pub(super) fn script<'a>(&self, script: &str, args: impl IntoIterator<Item = &'a str>) -> Command {
        self.command("/bin/sh").args(["-c", script, "sh"]).args(args)
    }
}

/// A mode as `chmod` reads it; empty for none.
pub(super) fn octal(mode: Option<u32>) -> String {
    mode.map(|mode| format!("{:o}", mode & 0o7777))
        .unwrap_or_default()
}

/// A path of the guest, from its root.
pub(super) fn absolute(path: &str) -> Result<String> {
    if path.is_empty() || path.contains('\0') {
        let what = format!("{path:?} is no path: it is empty or contains a zero byte");
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    Ok(match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    })
}

/// The output of a tool that was to move bytes; an error that begins with `failed` where it did not succeed.
pub(super) fn moved(failed: &str, output: Output) -> Result<Output> {
    if output.success() {
        return Ok(output);
    }
    Err(not_moved(failed, output.status, &output.stderr))
}

pub(super) fn not_moved(failed: &str, status: Exit, stderr: &[u8]) -> Error {
    let said = String::from_utf8_lossy(stderr);
    let message = match said.trim().lines().collect::<Vec<_>>()[..] {
        [] => format!("{failed}: the guest's tool {}", ended(status)),
        [line] => format!("{failed}: {line}"),
        _ => format!(
            "{failed}: the guest's tool {}{}",
            ended(status),
            excerpt(stderr, b"")
        ),
    };
    Error::new(ErrorKind::Exec, message)
}
