//! `doctor`, and the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::home::{Home, said};

#[test]
fn help_and_misuse_have_their_status() {
    let home = Home::new("misuse");
    let help = home.run(&[]);
    assert_eq!(help.code, Some(0), "{help:?}");
    assert!(
        help.out.contains("doctor") && help.out.contains("--older-than"),
        "{help:?}"
    );
    let wrong = home.run(&["gc", "--older-than", "7y"]);
    assert_eq!((wrong.code, wrong.out.as_str()), (Some(2), ""), "{wrong:?}");
    assert!(wrong.err.contains("\"7y\""), "{wrong:?}");
}

#[test]
fn a_host_that_runs_tests_is_found_fit() {
    let home = Home::new("fit");
    let fit = home.run(&["doctor"]);
    assert_eq!(fit.code, Some(0), "{fit:?}");
    for line in [
        "ok       config",
        "ok       engine       QEMU ",
        "ok       broker       none runs",
    ] {
        assert!(fit.out.contains(line), "{line} is not in {}", fit.out);
    }
    assert!(!fit.out.contains("MISSING"), "{}", fit.out);
}

#[test]
fn a_missing_engine_is_named_with_its_cure() {
    let home = Home::new("engine");
    let none = said(
        home.tool()
            .arg("doctor")
            .env("PATH", "/nowhere")
            .output()
            .unwrap(),
    );
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(
        none.out
            .contains("MISSING  engine       qemu-system-x86_64 is not in PATH"),
        "{none:?}"
    );
    assert!(none.out.contains("apt-get install qemu-system-x86"), "{none:?}");
    assert!(none.out.contains("lacking  ssh "), "{none:?}");
}

#[test]
fn a_directory_open_to_others_is_named_with_its_cure() {
    let home = Home::new("open");
    fs::set_permissions(home.path("cache"), fs::Permissions::from_mode(0o755)).unwrap();
    let open = home.run(&["doctor"]);
    assert_eq!(open.code, Some(1), "{open:?}");
    assert!(
        open.out.contains("its mode is 755") && open.out.contains("`chmod 700` it"),
        "{open:?}"
    );
}

#[test]
fn a_malformed_configuration_is_shown_with_its_place() {
    let home = Home::new("config");
    let file = home.path("vmtest.toml");
    fs::write(&file, "[settings]\ntimeout = \"soon\"\n").unwrap();
    let wrong = said(
        home.tool()
            .arg("doctor")
            .env("VMTEST_CONFIG", &file)
            .output()
            .unwrap(),
    );
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.out.contains("MISSING  config"), "{wrong:?}");
    assert!(wrong.out.contains("vmtest.toml:2:"), "{wrong:?}");
}
