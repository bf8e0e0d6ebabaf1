//! `stop`, with a real broker and a real machine.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vmtest::dirs::Dirs;
use vmtest::prelude::*;

use super::home::Home;

/// The variable that makes the test below hold its machine.
const HOLD: &str = "HOLD_MACHINE";

/// What that test prints when it has its machine.
const HELD: &str = "the machine is held";

/// How long broker, machine and test may take to end.
const END_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn nothing_to_stop_is_fine() {
    let home = Home::new("idle");
    drop(std::os::unix::net::UnixListener::bind(home.path("run/broker-0-x.sock")).unwrap());
    let idle = home.run(&["stop"]);
    assert_eq!(
        (idle.code, idle.out.as_str()),
        (Some(0), "no broker runs\n"),
        "{idle:?}"
    );
    assert!(!home.has("run/broker-0-x.sock"), "a dead socket stays");
}

#[vm_test(image = "tiny")]
#[ignore = "the test below runs it in a process of its own"]
async fn holds_its_machine(vm: Vm) -> Result {
    if std::env::var_os(HOLD).is_none() {
        return Ok(());
    }
    eprintln!("{HELD}");
    vm.sh("sleep 600")
        .timeout(Duration::from_secs(600))
        .await?
        .check()?;
    Ok(())
}

/// Ends the process that holds a machine, whatever becomes of the test.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// That this test has a machine is why the image is there to be shared.
#[vm_test(image = "tiny")]
async fn a_broker_is_stopped_with_the_machines_that_tests_hold(_vm: Vm) -> Result {
    let home = Home::new("stop");
    share_images(&home)?;
    let mut holder = hold(&home);

    let held = home.run(&["ls"]);
    assert!(held.out.contains("1 leased"), "{held:?}");
    let all = home.run(&["gc", "--all"]);
    assert!(
        !all.out.contains("booted"),
        "the snapshot of a live machine is gone: {all:?}"
    );
    let stopped = home.run(&["stop"]);

    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    assert!(stopped.out.starts_with("ended the broker broker-"), "{stopped:?}");
    assert_eq!(machines(&home), Vec::<PathBuf>::new(), "{stopped:?}");
    let begin = Instant::now();
    let status = holder.0.wait().unwrap();
    assert!(
        begin.elapsed() < END_LIMIT,
        "the test lost its machine and went on"
    );
    assert!(!status.success());
    let after = home.run(&["ls"]);
    assert!(after.out.contains("broker: none runs"), "{after:?}");
    Ok(())
}

/// Gives the state directory what is whole in this one's cache of images; others may be building there.
fn share_images(home: &Home) -> Result {
    let images = Dirs::from_env()?.cache().join("images");
    for entry in fs::read_dir(images).unwrap().flatten() {
        if !entry.path().join("files.json").is_file() {
            continue;
        }
        let place = home.path("cache/images").join(entry.file_name());
        let linked = Command::new("cp").arg("-al").args([entry.path(), place]).status();
        assert!(linked.unwrap().success(), "{entry:?} cannot be linked");
    }
    Ok(())
}

/// This program, holding a machine in that state directory.
fn hold(home: &Home) -> Holder {
    let mut program = Command::new(std::env::current_exe().unwrap());
    let name = "stop::holds_its_machine";
    program.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
    program
        .env("VMTEST_DIR", home.path(""))
        .env(HOLD, "1")
        .env_remove("NEXTEST_EXECUTION_MODE");
    // That it fails when its machine is ended is not to be seen among our own results.
    let mut child = program
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let holder = Holder(child);
    let told = lines
        .map_while(std::result::Result::ok)
        .any(|line| line.contains(HELD));
    assert!(told, "no machine was held");
    holder
}

/// What the ledger has besides its own lock.
fn machines(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.path("cache/machines")).unwrap().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| !path.ends_with("ledger"))
        .collect()
}
