//! Copying files and folders between host and guest.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use vmtest_backends::session::{Exec, Exit, Reader, Signals, Writer};
use vmtest_backends::{Error, ErrorKind, Result};

use super::Vm;
use super::archive::{Exact, Piece, PieceReader, PieceWriter, Refusal, pack, pieces, unpack};
use super::capture::Capture;
use super::child::{Child, Launch, SIGKILL};

use super::file::{WRITE, absolute, not_moved, octal};
use super::task::Task;

/// How much of a tool's complaints is kept, in bytes.
const COMPLAINTS: usize = 16 * 1024;

/// How much is read at once, in bytes.
const PIECE: usize = 64 * 1024;

/// Unpacks standard input into the folder `$1`, which is made with mode `$2` where it is missing.
const UNPACK: &str = r#"
if [ ! -d "$1" ]; then mkdir -p "$1" && chmod "$2" "$1" || exit 1; fi
exec tar -xpf - -C "$1"
"#;

/// Packs the folder `$1`, or else the file `$3` in the folder `$2`.
const PACK: &str = r#"
if [ -d "$1" ]; then exec tar -cf - -C "$1" .; fi
exec tar -chf - -C "$2" "./$3"
"#;

/// Makes the folder of the file `$1`, then writes it.
const MAKE_FOLDER: &str = r#"mkdir -p "${1%/*}/" || exit 1"#;

impl Vm {
    /// Copies a file or a folder of the host into the guest. `guest` is the name that the copy gets, not the
    /// folder to put it in; folders above it are made. A folder that is there already is added to.
    ///
    /// Modes, times, symbolic links and empty folders are kept; everything belongs to root; hard links become
    /// files of their own. A single file is replaced whole or not at all. Nothing is held in memory: 2 GiB
    /// are as good as 2 KiB. The guest needs `sh`, `mktemp` and, for folders, `tar`.
    ///
    /// Errors: [`ErrorKind::Exec`] with what the host or the guest said: no such file, no space left, or a
    /// socket, pipe or device among the host's files.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// vm.copy_in("target/release/server", "/usr/local/bin/server").await?;
    /// vm.copy_in("tests/fixtures", "/srv/fixtures").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn copy_in(&self, host: impl AsRef<Path>, guest: impl AsRef<str>) -> Result<()> {
        let host = host.as_ref().to_owned();
        let guest = absolute(guest.as_ref())?;
        let shown = format!("copy {} in to {guest}", host.display());
        let vm = self.clone();
        let copying = async move {
            let mut recording = vm.0.transcript.begin(&shown);
            let result = copy_in(&vm, host, &guest, shown).await;
            recording.bytes_in = *result.as_ref().unwrap_or(&0);
            recording.done(&result);
            result.map(drop)
        };
        self.on_io(copying).await
    }

    /// Copies a file or a folder of the guest to the host. `host` is the name that the copy gets, not the
    /// folder to put it in; folders above it are made. A folder that is there already is added to.
    ///
    /// Modes (without set-user-ID and the like), times, symbolic links and empty folders are kept; everything
    /// belongs to the user who runs the test. A `guest` that is a symbolic link is followed. Nothing is held
    /// in memory. The guest needs `sh` and `tar`.
    ///
    /// The guest is not trusted: nothing is written outside `host`. Names that are absolute or have a `..`,
    /// symbolic links that lead outside, devices and pipes end the copy with an [`ErrorKind::Exec`] that
    /// names the entry; what was copied before stays. So does a missing file, with what the guest said.
    /// At most 64 GiB and 2 million entries.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// vm.copy_out("/var/log/nginx", "target/nginx-logs").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn copy_out(&self, guest: impl AsRef<str>, host: impl AsRef<Path>) -> Result<()> {
        let host = host.as_ref().to_owned();
        let guest = absolute(guest.as_ref())?;
        let shown = format!("copy {guest} out to {}", host.display());
        let vm = self.clone();
        let copying = async move {
            let mut recording = vm.0.transcript.begin(&shown);
            let result = copy_out(&vm, &guest, host, shown).await;
            recording.bytes_out = *result.as_ref().unwrap_or(&0);
            recording.done(&result);
            result.map(drop)
        };
        self.on_io(copying).await
    }
}

async fn copy_in(vm: &Vm, host: PathBuf, guest: &str, shown: String) -> Result<u64> {
    let failed = format!("{} could not be copied to {guest} in the guest", host.display());
    let meta =
        fs::metadata(&host).map_err(|cause| Error::new(ErrorKind::Exec, failed.as_str()).because(cause))?;
    let (mode, size) = (octal(Some(meta.mode())), meta.len());
    let (sender, receiver) = pieces();
    let (script, args, packing) = if meta.is_dir() {
        let packing =
            vm.0.io
                .spawn_blocking(move || pack(&host, PieceWriter::new(sender)));
        (UNPACK.to_owned(), vec![guest.to_owned(), mode], packing)
    } else {
        let packing =
            vm.0.io
                .spawn_blocking(move || read_file(&host, size, PieceWriter::new(sender)));
        let args = vec![guest.to_owned(), size.to_string(), mode];
        (format!("{MAKE_FOLDER}\n{WRITE}"), args, packing)
    };
    let mut tool = start(vm, script, args, true, shown).await?;
    let (stdin, stderr) = (tool.stdin.take(), tool.stderr.take());
    let signals = tool.signals();
    let mut complaints = Capture::tail(COMPLAINTS);
    let feeding = async { Ok(feed(stdin, receiver, Task::new(packing), &*signals).await) };
    let (fed, (), exit) = tokio::try_join!(feeding, complaints.fill(stderr), tool.finished())?;
    match (fed.packed, exit) {
        // The host's error ended the tool; otherwise the tool's end is why the host could not go on.
        (Err(error), _) if !fed.refused => Err(error),
        (_, Exit::Code(0)) => Ok(fed.sent),
        (_, exit) => Err(not_moved(&failed, exit, &complaints.kept)),
    }
}

/// A script of ours in the guest. To be polled on the I/O runtime.
async fn start(vm: &Vm, script: String, args: Vec<String>, stdin: bool, shown: String) -> Result<Child> {
    let mut exec = Exec::new("/bin/sh");
    exec.args = vec!["-c".into(), script, "sh".into()];
    exec.args.extend(args);
    exec.stdin = stdin;
    let launch = Launch {
        exec,
        shown,
        limit: None,
        recording: None,
    };
    Child::start(vm.clone(), launch).await
}

/// How the feeding of a tool went.
struct Fed {
    sent: u64,
    /// Whether the tool stopped reading.
    refused: bool,
    packed: Result<()>,
}

/// Gives a tool what a blocking thread makes, and ends its input only where that was made to its end.
async fn feed(
    stdin: Option<Writer>,
    mut pieces: mpsc::Receiver<Piece>,
    packing: Task<()>,
    signals: &dyn Signals,
) -> Fed {
    let (mut sent, mut refused) = (0, false);
    let mut stdin = stdin.unwrap_or_else(|| Box::new(tokio::io::sink()));
    while let Some(piece) = pieces.recv().await {
        if stdin.write_all(&piece).await.is_err() {
            refused = true;
            break;
        }
        sent += piece.len() as u64;
    }
    drop(pieces);
    let packed = packing.await;
    match &packed {
        Ok(()) => refused |= stdin.shutdown().await.is_err(),
        Err(_) if refused => {}
        Err(_) => signals.send(SIGKILL),
    }
    Fed {
        sent,
        refused,
        packed,
    }
}

/// Sends `size` bytes of a file.
fn read_file(path: &Path, size: u64, mut out: PieceWriter) -> Result<()> {
    let sent = File::open(path).and_then(|file| {
        io::copy(&mut Exact::new(file, size), &mut out)?;
        out.flush()
    });
    sent.map_err(|cause| {
        let what = format!("{} on the host could not be copied", path.display());
        Error::new(ErrorKind::Exec, what).because(cause)
    })
}

async fn copy_out(vm: &Vm, guest: &str, host: PathBuf, shown: String) -> Result<u64> {
    let failed = format!("{guest} in the guest could not be copied to {}", host.display());
    let (folder, name) = guest.trim_end_matches('/').rsplit_once('/').unwrap_or_default();
    let args = vec![guest.to_owned(), format!("{folder}/"), name.to_owned()];
    let mut tool = start(vm, PACK.into(), args, false, shown).await?;
    let (stdout, stderr) = (tool.stdout.take(), tool.stderr.take());
    let signals = tool.signals();
    let (sender, receiver) = pieces();
    let unpacking = Task::new(
        vm.0.io
            .spawn_blocking(move || Ok(unpack(PieceReader::new(receiver), &host))),
    );
    let mut complaints = Capture::tail(COMPLAINTS);
    let taking = async {
        take(stdout, sender, &*signals).await;
        unpacking.await
    };
    let (unpacked, (), exit) = tokio::try_join!(taking, complaints.fill(stderr), tool.finished())?;
    match unpacked {
        Err(Refusal::Refused(error)) => Err(Error::new(ErrorKind::Exec, failed).because(error)),
        _ if !tolerable(exit, &complaints.kept) => Err(not_moved(&failed, exit, &complaints.kept)),
        Err(Refusal::Broken(cause)) => Err(Error::new(ErrorKind::Exec, failed).because(cause)),
        Ok(size) => Ok(size),
    }
}

/// Hands a tool's output to a blocking thread; kills the tool when that wants no more.
async fn take(stdout: Option<Reader>, pieces: mpsc::Sender<Piece>, signals: &dyn Signals) {
    let Some(mut stdout) = stdout else {
        return;
    };
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        // An output that breaks off is an archive that does: the unpacking tells.
        if !matches!(stdout.read_buf(&mut piece).await, Ok(1..)) {
            return;
        }
        if pieces.send(piece).await.is_err() {
            return signals.send(SIGKILL);
        }
    }
}

/// Whether `tar` did what it was to do: files that live change or go while they are read.
fn tolerable(exit: Exit, stderr: &[u8]) -> bool {
    const LIVELY: [&str; 2] = ["file changed as we read it", "File removed before we read it"];
    let lively = |line: &str| LIVELY.iter().any(|end| line.ends_with(end));
    let complaints = String::from_utf8_lossy(stderr);
    match exit {
        Exit::Code(0) => true,
        Exit::Code(1) => !complaints.trim().is_empty() && complaints.lines().all(lively),
        _ => false,
    }
}
