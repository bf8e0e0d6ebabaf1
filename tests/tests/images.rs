//! Images: what needs no network runs always; images of packages are built in the long run, or by hand.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use vmtest::config::Config;
use vmtest::dirs::Dirs;
use vmtest::image::{self, Plan};
use vmtest::{Error, ErrorKind};
use vmtest_backends::spec::{DiskFormat, Image};

/// A project with a `vmtest.toml` and a cache, removed at the end.
struct Project {
    folder: PathBuf,
}

impl Project {
    fn new(name: &str, toml: &str) -> Self {
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("images-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the target folder can be written");
        fs::write(folder.join("vmtest.toml"), toml).expect("it can be written");
        Self { folder }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, bytes).expect("it can be written");
        path
    }

    /// A file that is big and full of holes.
    fn sparse(&self, name: &str, size: u64) -> PathBuf {
        let path = self.file(name, b"not empty");
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(size))
            .expect("holes are free");
        path
    }

    fn dirs(&self) -> Dirs {
        Dirs::under(&self.folder.join("state")).expect("there is a cache")
    }

    fn plan(&self, name: &str) -> Result<Plan, Error> {
        image::plan(
            &Config::read(&self.folder.join("vmtest.toml"))?,
            &self.dirs(),
            name,
        )
    }

    fn build(&self, name: &str) -> Result<Image, Error> {
        self.plan(name)?.build(&self.dirs(), &|_| ())
    }

    /// What lies on the shelf.
    fn shelf(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join("state/cache/images")).expect("there is a shelf");
        let mut names: Vec<_> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Another process that builds the image and prints its progress, then its digest.
    fn builder(&self, name: &str) -> Child {
        Command::new(std::env::current_exe().expect("a test is a file"))
            .args(["--exact", "builds_what_it_is_told_to", "--ignored", "--nocapture"])
            .env("IMAGES_FOLDER", &self.folder)
            .env("IMAGES_NAME", name)
            .env("NO_PROXY", "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a test can be started")
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

const OWN_DISK: &str = "[image.mine]\ndisk = \"disk\"\nagent = false\n";

#[test]
fn a_disk_is_copied_and_never_written_again() {
    let project = Project::new("copied", OWN_DISK);
    let disk = project.file("disk", b"an odd number of bytes");
    let plan = project.plan("mine").expect("it can be planned");
    assert_eq!(plan.find(&project.dirs()).expect("the cache can be read"), None);
    let image = plan.build(&project.dirs(), &|_| ()).expect("it can be built");
    assert_eq!(
        (image.name.as_str(), image.digest.as_str()),
        ("mine", plan.digest())
    );
    assert_eq!(
        (image.disks[0].format, image.disks[0].size),
        (DiskFormat::Raw, 512)
    );
    assert_eq!(
        fs::metadata(&image.disks[0].path).expect("it is there").len(),
        512
    );
    assert!(
        fs::metadata(&image.disks[0].path)
            .expect("it is there")
            .permissions()
            .readonly()
    );
    assert_eq!(
        plan.find(&project.dirs()).expect("the cache can be read"),
        Some(image.clone())
    );

    fs::write(disk, b"other bytes").expect("it can be written");
    let other = project.build("mine").expect("it can be built");
    assert_ne!(other.digest, image.digest);
    let kept = fs::read(&image.disks[0].path).expect("it can be read");
    assert!(kept.starts_with(b"an odd number of bytes"));
}

#[test]
fn the_key_depends_on_content_alone() {
    let project = Project::new("content", OWN_DISK);
    project.file("disk", b"the same");
    let first = project.plan("mine").expect("it can be planned");
    project.file("disk", b"the same");
    assert_eq!(
        project.plan("mine").expect("it can be planned").digest(),
        first.digest()
    );
    let elsewhere = Project::new("elsewhere", OWN_DISK);
    elsewhere.file("disk", b"the same");
    assert_eq!(
        elsewhere.plan("mine").expect("it can be planned").digest(),
        first.digest()
    );
}

#[test]
fn finding_an_image_is_cheap() {
    let project = Project::new("cheap", OWN_DISK);
    project.sparse("disk", 512 << 20);
    project.build("mine").expect("it can be built");
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let begin = Instant::now();
        let plan = project.plan("mine").expect("it can be planned");
        assert!(
            plan.find(&project.dirs())
                .expect("the cache can be read")
                .is_some()
        );
        best = best.min(begin.elapsed());
    }
    assert!(
        best < Duration::from_millis(10),
        "reading the file, planning and finding took {best:?}"
    );
}

#[test]
fn a_damaged_image_is_built_anew() {
    let project = Project::new("damaged", OWN_DISK);
    project.file("disk", b"bytes");
    let image = project.build("mine").expect("it can be built");
    fs::remove_file(&image.disks[0].path).expect("it can be removed");
    assert_eq!(
        project
            .plan("mine")
            .and_then(|plan| plan.find(&project.dirs()))
            .expect("it can be read"),
        None
    );
    assert_eq!(project.build("mine").expect("it can be built"), image);
    assert!(image.disks[0].path.exists());
}

#[test]
fn a_qcow2_is_known_by_its_bytes_and_must_be_whole() {
    let project = Project::new("qcow2", OWN_DISK);
    let disk = project.folder.join("disk");
    let create = |args: &[&str]| {
        let mut command = Command::new("qemu-img");
        command
            .args(["create", "-q", "-f", "qcow2"])
            .args(args)
            .arg(&disk)
            .arg("64M");
        let status = command
            .current_dir(&project.folder)
            .status()
            .expect("qemu-img is here");
        assert!(status.success());
    };
    create(&[]);
    let image = project.build("mine").expect("it can be built");
    assert_eq!(
        (image.disks[0].format, image.disks[0].size),
        (DiskFormat::Qcow2, 64 << 20)
    );

    project.sparse("base.raw", 64 << 20);
    create(&["-b", "base.raw", "-F", "raw"]);
    let error = project.build("mine").expect_err("it refers to another file");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.chain().contains("has a backing file; bases must be whole"),
        "{error:?}"
    );

    create(&["-o", "data_file=data.raw"]);
    let error = project.build("mine").expect_err("it refers to another file");
    assert!(
        error.chain().contains("its data lies in another file"),
        "{error:?}"
    );

    fs::write(&disk, b"\xfd7zXZ\0packed").expect("it can be written");
    let error = project.build("mine").expect_err("it is packed");
    assert!(
        error.chain().contains("its format is xz: unpack it first"),
        "{error:?}"
    );
    assert_eq!(
        project.shelf(),
        [image.digest],
        "a build that fails leaves nothing"
    );
}

#[test]
fn a_missing_file_is_told_with_its_place() {
    let project = Project::new("missing", "# one\n\n[image.mine]\nkernel = \"boot/bzImage\"\n");
    let error = project.plan("mine").expect_err("there is no kernel");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let folder = project.folder.display();
    let expected = format!(
        "the kernel of the image mine, {folder}/boot/bzImage, cannot be used (declared at {folder}/vmtest.toml:3:8)"
    );
    assert_eq!(error.message(), expected);
    assert_eq!(error.report().causes, ["No such file or directory (os error 2)"]);
    let error = project.plan("yours").expect_err("there is no such image");
    assert!(
        error
            .message()
            .starts_with("no image is called \"yours\"; known are debian, mine, tiny"),
        "{error}"
    );
}

#[test]
fn a_wrong_checksum_names_both() {
    let wrong = "0".repeat(64);
    let project = Project::new("checksum", "");
    let disk = project.file("cloud image", b"content");
    let right = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";
    let url = format!("file://{}", disk.display());
    let declare = |sum: &str| {
        let toml =
            format!("[image.cloud]\ndisk = {{ url = \"{url}\", sha256 = \"{sum}\" }}\ncloud_init = true\n");
        project.file("vmtest.toml", toml.as_bytes());
    };
    declare(&wrong);
    let error = project.build("cloud").expect_err("the checksum is wrong");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let cause = &error.report().causes[0];
    let expected = format!("the checksum of {url} is wrong: expected SHA-256 {wrong}, found {right}");
    assert!(cause.ends_with(&expected), "{cause}");

    declare(right);
    let image = project.build("cloud").expect("the checksum is right");
    let seed = image.seed.expect("cloud-init reads it");
    let user_data = fs::read_to_string(seed.join("user-data")).expect("it is there");
    assert!(user_data.starts_with("#cloud-config\n"));
    let agent = fs::read(seed.join("vmtest-agent")).expect("it is there");
    assert!(agent.starts_with(b"\x7fELF"), "the agent is a program");
    assert_eq!(image.kernel, None);
}

/// Not a test: what [`Project::builder`] starts.
#[test]
#[ignore = "the part of a builder that other tests start"]
fn builds_what_it_is_told_to() {
    let Some(folder) = std::env::var_os("IMAGES_FOLDER") else {
        return;
    };
    let name = std::env::var("IMAGES_NAME").expect("it is set too");
    let folder = PathBuf::from(folder);
    let dirs = Dirs::under(&folder.join("state")).expect("there is a cache");
    let config = Config::read(&folder.join("vmtest.toml")).expect("it is well-formed");
    let plan = image::plan(&config, &dirs, &name).expect("it can be planned");
    let say = |line: &str| {
        let mut out = std::io::stderr();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .expect("the parent reads");
    };
    let image = plan.build(&dirs, &say).expect("it can be built");
    say(&format!("built {}", image.digest));
}

/// The content that the server below has.
const SERVED: &[u8] = &[7; 3 << 20];

/// A web server with one file, which answers when it is told to.
struct Server {
    listener: TcpListener,
}

impl Server {
    fn new() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").expect("loopback is there"),
        }
    }

    /// An image whose disk lies here.
    fn toml(&self) -> String {
        let mut sum = Command::new("sha256sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        sum.stdin
            .take()
            .expect("a pipe")
            .write_all(SERVED)
            .expect("it reads");
        let sum = sum.wait_with_output().expect("it ends").stdout;
        let sum = String::from_utf8_lossy(&sum[..64]).into_owned();
        let port = self.listener.local_addr().expect("it is bound").port();
        format!(
            "[image.far]\ndisk = {{ url = \"http://127.0.0.1:{port}/disk\", sha256 = \"{sum}\" }}\nagent = false\n"
        )
    }

    /// Waits for a request; returns its connection and from which byte on it asks.
    fn request(&self) -> (TcpStream, usize) {
        let (stream, _) = self.listener.accept().expect("somebody comes");
        let mut lines = BufReader::new(stream.try_clone().expect("a descriptor is left")).lines();
        let mut from = 0;
        while let Some(Ok(line)) = lines
            .next()
            .filter(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
        {
            if let Some(range) = line.strip_prefix("Range: bytes=") {
                from = range.trim_end_matches('-').parse().expect("an open range");
            }
        }
        (stream, from)
    }

    /// Answers with the bytes `from..to` of the content, though more are announced.
    fn answer(&self, mut stream: TcpStream, from: usize, to: usize) -> TcpStream {
        let all = SERVED.len();
        let head = match from {
            0 => format!("HTTP/1.1 200 OK\r\nContent-Length: {all}\r\n\r\n"),
            _ => format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{all}\r\n\r\n",
                all - from,
                all - 1
            ),
        };
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(&SERVED[from..to]))
            .expect("it is read");
        stream
    }
}

#[test]
fn racing_builders_build_once() {
    let server = Server::new();
    let project = Project::new("race", &server.toml());
    let mut builders: Vec<Child> = (0..4).map(|_| project.builder("far")).collect();
    let (told, lines) = mpsc::channel();
    for builder in &mut builders {
        let (told, stderr) = (told.clone(), builder.stderr.take().expect("a pipe"));
        thread::spawn(move || {
            BufReader::new(stderr)
                .lines()
                .map_while(Result::ok)
                .for_each(|line| drop(told.send(line)))
        });
    }
    drop(told);
    let (stream, from) = server.request();
    let mut all = String::new();
    while all.matches("waiting for another process").count() < 3 {
        let line = lines.recv_timeout(Duration::from_secs(30));
        all.push_str(&line.unwrap_or_else(|_| panic!("three others should wait:\n{all}")));
        all.push('\n');
    }
    drop(server.answer(stream, from, SERVED.len()));
    for line in lines {
        all.push_str(&line);
        all.push('\n');
    }
    for mut builder in builders {
        assert!(builder.wait().expect("it ends").success(), "{all}");
    }
    let digest = project
        .plan("far")
        .expect("it can be planned")
        .digest()
        .to_owned();
    assert_eq!(all.matches(&format!("built {digest}")).count(), 4, "{all}");
    assert_eq!(all.matches(": ready").count(), 1, "{all}");
    assert_eq!(project.shelf(), [digest], "no lock and no partial folder stays");
}

#[test]
fn a_killed_builder_leaves_nothing_that_stays_and_what_it_fetched_is_used() {
    let server = Server::new();
    let project = Project::new("killed", &server.toml());
    let digest = project
        .plan("far")
        .expect("it can be planned")
        .digest()
        .to_owned();
    let mut builder = project.builder("far");
    let (stream, from) = server.request();
    let half = SERVED.len() / 2;
    let stream = server.answer(stream, from, half);
    let fetched = || {
        let entries = fs::read_dir(project.folder.join("state/cache/downloads"))
            .expect("it fetches")
            .flatten();
        entries
            .filter_map(|entry| entry.metadata().ok())
            .map(|meta| meta.len())
            .max()
            .unwrap_or(0)
    };
    wait_until("half of it is there", || fetched() >= half as u64 / 2);
    assert_eq!(programs_in(&project.folder), 1, "curl runs");
    builder.kill().expect("it runs");
    builder.wait().expect("it ends");
    wait_until("its programs end with it", || programs_in(&project.folder) == 0);
    drop(stream);
    assert!(
        project.shelf().contains(&format!(".partial-{digest}")),
        "it was killed at work"
    );

    let answering = thread::spawn(move || {
        let (stream, from) = server.request();
        drop(server.answer(stream, from, SERVED.len()));
        from
    });
    let output = project.builder("far").wait_with_output().expect("it ends");
    assert!(
        output.status.success(),
        "the next one builds: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found = project.plan("far").and_then(|plan| plan.find(&project.dirs()));
    let image = found.expect("it can be read").expect("it is built");
    assert!(
        answering.join().expect("it answers") > 0,
        "it goes on where the other was"
    );
    assert_eq!(fs::read(&image.disks[0].path).expect("it is there"), SERVED);
    assert_eq!(project.shelf(), [digest]);
}

fn wait_until(what: &str, mut there: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !there() {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{what}: not within 10 s"
        );
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// How many programs have the folder on their command line.
fn programs_in(folder: &Path) -> usize {
    let folder = folder.to_string_lossy().into_owned();
    let command = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
    let processes = fs::read_dir("/proc").expect("it is mounted").flatten();
    processes
        .map(command)
        .filter(|line| String::from_utf8_lossy(line).contains(&folder))
        .count()
}

/// Builds the images named in `VMTEST_BUILD` (else `tiny`) in the configured cache.
#[test]
#[ignore = "fetches packages and builds for up to a minute"]
fn an_image_of_packages_is_built_and_then_found() {
    let names = std::env::var("VMTEST_BUILD").unwrap_or_else(|_| "tiny".to_owned());
    let config = Config::load().expect("the configuration can be read");
    let dirs = Dirs::from_env().expect("there is a cache");
    for name in names.split(',') {
        let plan = image::plan(&config, &dirs, name).expect("the image can be planned");
        let built = plan
            .build(&dirs, &|line| eprintln!("{line}"))
            .expect("the image can be built");
        assert_eq!(built.digest, plan.digest());
        let found = plan
            .find(&dirs)
            .expect("the cache can be read")
            .expect("it has just been built");
        assert_eq!(found, built);
        check_initrd(&dirs, &found);
    }
}

/// Reads the initial RAM disk back by another program: the busybox that is in it.
fn check_initrd(dirs: &Dirs, image: &Image) {
    let initrd = image.initrd.as_ref().expect("it has one");
    let shelf = fs::read_dir(dirs.cache().join("images")).expect("there is a shelf");
    let Some(busybox) = shelf
        .flatten()
        .map(|entry| entry.path().join("busybox"))
        .find(|path| path.exists())
    else {
        return assert_ne!(image.name, "tiny", "it is made of busybox");
    };
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("initrd-{}", image.digest));
    fs::create_dir_all(&unpacked).expect("it can be made");
    let names = [
        "init",
        "modules",
        "modules/*",
        "bin",
        "bin/busybox",
        "bin/sh",
        "etc",
        "etc/passwd",
    ];
    let mut command = Command::new(busybox);
    command.args(["cpio", "-idu"]).args(names).current_dir(&unpacked);
    let status = command
        .stdin(File::open(initrd).expect("it is there"))
        .status()
        .expect("it runs");
    assert!(status.success());
    let list = fs::read_to_string(unpacked.join("modules/list")).expect("there is a list");
    let names: Vec<&str> = list
        .lines()
        .map(|line| line.rsplit('/').next().expect("a path"))
        .collect();
    for line in list.lines() {
        let module = fs::read(unpacked.join(line.trim_start_matches('/'))).expect("what is listed is there");
        assert!(module.starts_with(b"\x7fELF"), "{line} is unpacked");
    }
    let place = |name: &str| names.iter().position(|found| *found == name);
    if let Some(net) = place("virtio_net.ko") {
        assert!(
            place("net_failover.ko") < Some(net) && place("failover.ko") < place("net_failover.ko"),
            "{list}"
        );
    }
    assert!(
        fs::read(unpacked.join("init"))
            .expect("there is an init")
            .starts_with(b"\x7fELF")
    );
    if image.name == "tiny" {
        let sh = fs::read_link(unpacked.join("bin/sh")).expect("it is a link");
        assert_eq!(sh, Path::new("/bin/busybox"));
    }
    fs::remove_dir_all(&unpacked).expect("it can be removed");
}
