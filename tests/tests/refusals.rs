//! What cannot be done gets one clear message, with the place.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use tokio::process::Command;
use vmtest_tests::lab::GONE_LIMIT;
use vmtest_tests::program::run;
use vmtest_tests::{Fixture, Lab};

/// How long a refusal may take; the slowest one waits for a guest that never boots.
const LIMIT: Duration = Duration::from_secs(60);

/// Mounts as the first argument says, seen by nobody else, and goes on as the other arguments.
const MOUNTED: &str = r#"eval "$1"; shift; exec "$@""#;

fn one(lab: &Lab, fixture: &Fixture, case: &str) -> Command {
    let mut command = lab.command(fixture.libtest());
    command
        .args(["--exact", case])
        .env("FIXTURE_FILE", lab.project().join("made"));
    command
}

/// Runs a case that is to be refused, with `texts` in what it says.
async fn refused(lab: &Lab, command: Command, texts: &[&str]) {
    let ran = run(command, LIMIT).await;
    assert_eq!(ran.status.code(), Some(101), "{}", ran.output);
    assert!(ran.output.contains("errored: "), "{}", ran.output);
    for text in texts {
        assert!(
            ran.output.contains(text),
            "it does not say {text:?}: {}",
            ran.output
        );
    }
    assert_eq!(ran.output.matches("errored: ").count(), 1, "{}", ran.output);
    lab.stop().await;
    lab.nothing_left(GONE_LIMIT).await;
}

fn declare(lab: &Lab, text: &str) {
    fs::write(lab.project().join("vmtest.toml"), text).expect("a file can be written");
}

#[tokio::test]
async fn what_is_written_wrongly_is_refused_with_its_place() {
    let (lab, fixture) = (Lab::open("written"), Fixture::get().await);
    let passes = || one(&lab, fixture, "cases::plain::passes");
    declare(&lab, "[image.tiny]\nmemory = \"lots\"\n");
    refused(&lab, passes(), &["vmtest.toml:2:10"]).await;
    declare(&lab, "[image.tiny\n");
    refused(&lab, passes(), &["vmtest.toml:1:"]).await;
    declare(&lab, "");
    refused(
        &lab,
        one(&lab, fixture, "cases::plain::wants_an_unknown_snapshot"),
        &["no snapshot \"nothing-of-the-kind\""],
    )
    .await;
    refused(
        &lab,
        one(&lab, fixture, "cases::engine::unknown_image"),
        &["no image is called \"nowhere\"", "known are debian, tiny"],
    )
    .await;
    refused(
        &lab,
        one(&lab, fixture, "cases::builds::cycle"),
        &["form a cycle", "round -> about -> round", "builds.rs:"],
    )
    .await;
    lab.close().await;
}

#[tokio::test]
async fn what_is_not_there_or_not_the_same_is_refused() {
    let (lab, fixture) = (Lab::open("absent"), Fixture::get().await);
    let own = || one(&lab, fixture, "cases::engine::own_image");
    declare(&lab, "[image.own]\nkernel = \"no-such-kernel\"\n");
    refused(&lab, own(), &["no-such-kernel"]).await;
    fs::write(lab.project().join("disk.raw"), vec![0; 1 << 20]).expect("a file can be written");
    let digest = "0".repeat(64);
    declare(
        &lab,
        &format!(
            "[image.own]\ndisk = {{ url = \"file://{}/disk.raw\", sha256 = \"{digest}\" }}\n",
            lab.project().display()
        ),
    );
    refused(&lab, own(), &["the checksum of", "is wrong", &digest]).await;
    lab.close().await;
}

#[tokio::test]
async fn an_image_that_never_boots_ends_with_its_console() {
    let (lab, fixture) = (Lab::open("never"), Fixture::get().await);
    let (kernel, initrd) = tiny(&lab);
    let own = |cmdline: &str| {
        declare(
            &lab,
            &format!("[image.own]\nkernel = \"{kernel}\"\ninitrd = \"{initrd}\"\ncmdline = \"{cmdline}\"\n"),
        );
        one(&lab, fixture, "cases::engine::own_image")
    };
    // The kernel finds no program to begin with, and panics.
    refused(
        &lab,
        own("rdinit=/nowhere init=/nowhere panic=0"),
        &["start: ", "the guest's kernel panicked", "    | "],
    )
    .await;
    // A shell that waits for ever: no agent says a word.
    let mut silent = own("rdinit=/bin/busybox panic=0");
    silent.env("VMTEST_BOOT_TIMEOUT", "4s");
    refused(&lab, silent, &["could not be made", "    | "]).await;
    lab.close().await;
}

/// Kernel and initial RAM disk of the image `tiny`.
fn tiny(lab: &Lab) -> (String, String) {
    let config = vmtest::config::Config::load().expect("the configuration can be read");
    let plan = vmtest::image::plan(&config, lab.dirs(), "tiny").expect("the image tiny is known");
    let image = plan
        .find(lab.dirs())
        .expect("images can be looked for")
        .expect("the lab has it");
    let text = |path: Option<std::path::PathBuf>| path.expect("tiny has it").display().to_string();
    (text(image.kernel), text(image.initrd))
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_used_is_refused() {
    let (lab, fixture) = (Lab::empty("unusable"), Fixture::get().await);
    let state = lab.project().join("state");
    let passes = || {
        let mut command = one(&lab, fixture, "cases::engine::passes");
        command.env("VMTEST_DIR", &state);
        command
    };
    fs::write(&state, "in the way").expect("a file can be written");
    refused(
        &lab,
        passes(),
        &["store: ", "is refused: it is not a directory", "state"],
    )
    .await;
    fs::remove_file(&state).expect("it was written");
    symlink("/nonexistent", &state).expect("a link can be made");
    refused(&lab, passes(), &["store: ", "symlinks are not followed"]).await;
    fs::remove_file(&state).expect("it was made");
    fs::create_dir_all(&state).expect("a folder can be made");
    fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    refused(&lab, passes(), &["store: ", "its mode is 755"]).await;
    lab.close().await;
}

/// The case where `mounts` have been made, in a namespace of its own: nobody has to be root for that.
fn one_mounted(lab: &Lab, fixture: &Fixture, case: &str, mounts: &str) -> Command {
    let mut command = lab.command("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-ec", MOUNTED, "sh", mounts])
        .arg(fixture.libtest())
        .args(["--exact", case]);
    command
}

#[tokio::test]
async fn a_full_or_read_only_file_system_is_told() {
    let (lab, fixture) = (Lab::open("full"), Fixture::get().await);
    let cache = lab.dirs().cache().display().to_string();
    let frozen = format!("mount --bind {cache} {cache}; mount -o remount,bind,ro {cache}");
    let command = one_mounted(&lab, fixture, "cases::engine::passes", &frozen);
    refused(&lab, command, &["store: ", "Read-only file system"]).await;
    // Last: a failed build is remembered for the whole run.
    let machines = lab.dirs().in_cache("machines").expect("a folder can be made");
    let small = format!("mount -t tmpfs -o size=48m,mode=700 tmpfs {}", machines.display());
    let command = one_mounted(&lab, fixture, "cases::plain::passes", &small);
    refused(
        &lab,
        command,
        &["no space for a machine in", " MiB are free, ", "cargo vmtest gc"],
    )
    .await;
    lab.close().await;
}
