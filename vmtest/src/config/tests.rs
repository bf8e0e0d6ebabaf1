use std::path::Path;
use std::time::Duration;

use super::check::Document;
use super::*;

fn read(text: &str) -> Result<(Settings, BTreeMap<String, ImageDecl>)> {
    Document::new(Path::new("/w/vmtest.toml"), text).read(Settings::default())
}

fn refusal(text: &str) -> String {
    read(text).expect_err("this must be refused").message().to_owned()
}

fn image(text: &str, name: &str) -> ImageDecl {
    read(text)
        .expect("this is well-formed")
        .1
        .remove(name)
        .expect("the image is there")
}

#[test]
fn every_field_is_read() {
    let text = r#"
        [settings]
        backend = "qemu"
        accel = "tcg"
        broker = "off"
        on_missing = "skip"
        memory = 300
        cpus = 2
        timeout = "30s"
        build_timeout = "2m"
        boot_timeout = "1h"
        lease_timeout = "500ms"
        timeout_factor = 2
        pool = { memory = "50%", cpus = 4 }
        warm = 0
        idle = "1s"

        [image.pg]
        base = "debian"
        packages = ["postgresql", "curl"]
        disk_size = "4G"
        memory = "1G"
        cpus = 2

        [image.pg.snapshot.ready]
        from = "installed"
        network = true
        timeout = "5m"
        steps = [
            { copy = "data/seed.sql", to = "/root/seed.sql" },
            { run = "systemctl start postgresql", timeout = "10s" },
            { wait = { port = 5432 }, timeout = "10s" },
            { wait = { unit = "ssh.service" } },
            { wait = { file = "/x" } },
            { wait = { command = "true" } },
        ]
        [image.pg.snapshot.installed]
        memory = "512M"

        [image.mine]
        kernel = "boot/bzImage"
        initrd = "/abs/initrd"
        disk = "disk.qcow2"
        cmdline = "quiet"
        agent = false

        [image.cloud]
        disk = { url = "file:///x.qcow2", sha256 = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855" }
        cloud_init = true
        ready = "true"
    "#;
    let (settings, images) = read(text).expect("this is well-formed");
    let expected = Settings {
        backend: Some("qemu".into()),
        accel: Accel::Tcg,
        broker: BrokerUse::Off,
        on_missing: OnMissing::Skip,
        memory_mib: Some(300),
        cpus: Some(2),
        timeout: Duration::from_secs(30),
        build_timeout: Duration::from_secs(120),
        boot_timeout: Duration::from_secs(3600),
        lease_timeout: Duration::from_millis(500),
        timeout_factor: 2.0,
        pool: PoolLimits {
            memory: MemoryLimit::Percent(50),
            cpus: Some(4),
        },
        warm: Some(0),
        idle: Duration::from_secs(1),
    };
    assert_eq!(settings, expected);

    let pg = &images["pg"];
    let packages = vec!["curl".to_owned(), "postgresql".to_owned()];
    assert_eq!(
        pg.source,
        Source::Debian(DebianDecl {
            packages,
            disk_size: 4 << 30
        })
    );
    assert_eq!((pg.memory_mib, pg.cpus), (Some(1024), Some(2)));
    let ready = &pg.snapshots["ready"];
    assert_eq!((ready.from.as_deref(), ready.network), (Some("installed"), true));
    assert_eq!(ready.timeout, Some(Duration::from_secs(300)));
    let limit = Some(Duration::from_secs(10));
    let wait = |what| Step::Wait { what, timeout: None };
    let steps = vec![
        Step::Copy {
            from: "/w/data/seed.sql".into(),
            to: "/root/seed.sql".into(),
        },
        Step::Run {
            text: "systemctl start postgresql".into(),
            timeout: limit,
        },
        Step::Wait {
            what: WaitFor::Port(5432),
            timeout: limit,
        },
        wait(WaitFor::Unit("ssh.service".into())),
        wait(WaitFor::File("/x".into())),
        wait(WaitFor::Command("true".into())),
    ];
    assert_eq!(ready.steps, steps);
    assert_eq!(pg.snapshots["installed"].memory_mib, Some(512));

    let mine = FilesDecl {
        kernel: Some("/w/boot/bzImage".into()),
        initrd: Some("/abs/initrd".into()),
        disk: Some(DiskDecl::Path("/w/disk.qcow2".into())),
        cmdline: Some("quiet".into()),
        agent: false,
        cloud_init: false,
        ready: None,
    };
    assert_eq!(images["mine"].source, Source::Files(mine));
    let Source::Files(cloud) = &images["cloud"].source else {
        panic!("a cloud image is made of files")
    };
    let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".to_owned();
    assert_eq!(
        cloud.disk,
        Some(DiskDecl::Url {
            url: "file:///x.qcow2".into(),
            sha256
        })
    );
    assert!(cloud.cloud_init && cloud.agent);
}

#[test]
fn a_refusal_names_line_and_column() {
    let cases = [
        (
            "[settings]\ntimeout = \"30\"\n",
            "2:11: expected a time such as \"500ms\"",
        ),
        (
            "[settings]\ntimeout = 30\n",
            "2:11: expected a time such as \"500ms\"",
        ),
        ("[settings]\n\nmemory = 8\n", "3:10: expected at least 64 MiB"),
        (
            "[settings]\ncpus = 0\n",
            "2:8: expected a whole number from 1, found 0",
        ),
        (
            "[settings]\ncpus = \"2\"\n",
            "2:8: expected a whole number from 1, found \"2\"",
        ),
        (
            "[settings]\naccel = \"hvf\"\n",
            "2:9: expected one of \"auto\", \"kvm\", \"tcg\", found \"hvf\"",
        ),
        (
            "[settings]\npool = { memory = \"150%\" }\n",
            "2:19: expected a share of memory",
        ),
        (
            "[settings]\ntimeout_factor = 0\n",
            "2:18: expected a number above 0",
        ),
        (
            "[settings]\ntimout = \"3s\"\n",
            "2:1: unknown field `timout`, expected one of `backend`",
        ),
        ("[settings\n", "1:10: "),
        ("ä = 1 = 2\n", "1:"),
        (
            "[image.x]\nbase = \"fedora\"\n",
            "2:8: expected the base \"debian\" or \"tiny\", found \"fedora\"",
        ),
        (
            "[image.x]\nmemory = 256\n",
            "1:8: the image \"x\" has neither a `base`",
        ),
        (
            "[image.debian]\nkernel = \"k\"\nbase = \"debian\"\n",
            "2:10: `kernel` has no meaning with the base",
        ),
        (
            "[image.tiny]\npackages = []\n",
            "2:12: `packages` has no meaning with the base \"tiny\"",
        ),
        (
            "[image.x]\nbase = \"debian\"\npackages = [\"a\", \"-o\"]\n",
            "3:18: \"-o\" cannot be the name of a package",
        ),
        (
            "[image.x]\ndisk = \"d\"\ndisk_size = \"3G\"\n",
            "3:13: `disk_size` needs a `base`",
        ),
        (
            "[image.debian]\ndisk_size = \"2\"\n",
            "2:13: expected a size such as \"512M\"",
        ),
        (
            "[image.debian]\ndisk_size = \"20M\"\n",
            "2:13: a Debian disk needs at least 1G",
        ),
        (
            "[image.x]\ndisk = \"d\"\ninitrd = \"i\"\n",
            "3:10: an `initrd` needs a `kernel`",
        ),
        (
            "[image.x]\ndisk = { url = \"ftp://x\", sha256 = \"\" }\n",
            "2:16: expected a url that starts with",
        ),
        (
            "[image.x]\ndisk = { url = \"http://x\", sha256 = \"ab\" }\n",
            "2:37: expected a SHA-256",
        ),
        (
            "[image.x]\ndisk = { url = \"http://x\" }\n",
            "2:8: missing field `sha256`",
        ),
        (
            "[image.x]\ndisk = 3\n",
            "2:8: invalid type: integer `3`, expected a path, or { url",
        ),
        (
            "[image.\"a/b\"]\nbase = \"tiny\"\n",
            "1:8: the name \"a/b\" of this image is refused",
        ),
    ];
    for (text, expected) in cases {
        let found = refusal(text);
        let start = format!("/w/vmtest.toml:{expected}");
        assert!(
            found.starts_with(&start),
            "{text}\nexpected {start}\nfound    {found}"
        );
        assert!(!found.contains('\n'), "one line: {found}");
    }
}

#[test]
fn a_step_has_one_meaning() {
    let step = |step: &str| refusal(&format!("[image.tiny.snapshot.a]\nsteps = [\n  {step},\n]\n"));
    let one = "/w/vmtest.toml:3:3: a step has exactly one of `copy` (with `to`), `run` or `wait`";
    assert_eq!(step("{ run = \"a\", copy = \"b\", to = \"/c\" }"), one);
    assert_eq!(step("{ timeout = \"1s\" }"), one);
    assert_eq!(step("{ run = \"a\", to = \"/c\" }"), one);
    assert!(step("{ copy = \"b\" }").contains("a copy also needs `to`"));
    assert!(step("{ copy = \"b\", to = \"c\" }").contains("starts with `/`"));
    assert!(step("{ wait = { port = 1, file = \"/x\" } }").contains(":3:12: a wait has exactly one of"));
    assert!(step("{ wait = { port = 70000 } }").contains(":3:21: invalid value: integer `70000`"));
    assert!(step("{ sleep = 3 }").contains(":3:5: unknown field `sleep`"));
}

#[test]
fn a_cycle_names_its_chain_and_place() {
    let text = "[image.tiny.snapshot.a]\nfrom = \"b\"\n[image.tiny.snapshot.b]\nfrom = \"c\"\n\
                [image.tiny.snapshot.c]\nfrom = \"a\"\n";
    let expected = "/w/vmtest.toml:6:8: a cycle of snapshots in the image \"tiny\": a from b from c from a";
    assert_eq!(refusal(text), expected);
    let itself = "[image.tiny.snapshot.a]\nfrom = \"a\"\n";
    assert!(refusal(itself).contains(":2:8: a cycle of snapshots in the image \"tiny\": a from a"));
}

#[test]
fn an_unknown_parent_is_named() {
    let text = "[image.tiny.snapshot.a]\nfrom = \"b\"\n[image.tiny.snapshot.b]\nfrom = \"x\"\n";
    let expected = "/w/vmtest.toml:4:8: no snapshot is called \"x\" in the image \"tiny\": a from b from x; \
                    known are a, b";
    assert_eq!(refusal(text), expected);
}

#[test]
fn the_file_of_another_project_is_told() {
    let found = refusal("# theirs\n[[target]]\nname = \"x\"\nimage = \"y\"\n");
    assert!(
        found.starts_with("/w/vmtest.toml:2:1: `target` is of another project"),
        "{found}"
    );
}

#[test]
fn built_in_images_are_always_known() {
    let config = Config::build(None, Settings::default(), BTreeMap::new()).expect("nothing can be wrong");
    assert_eq!(config.image("tiny").expect("built in").default_memory_mib(), 256);
    let error = config.image("debain").expect_err("a typo");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.message(),
        "no image is called \"debain\"; known are debian, tiny (there is no vmtest.toml)"
    );
    let own = image(
        "[image.debian]\npackages = [\"git\"]\n[image.debian.snapshot.a]\n",
        "debian",
    );
    let packages = vec!["git".to_owned()];
    assert_eq!(
        own.source,
        Source::Debian(DebianDecl {
            packages,
            disk_size: DEFAULT_DISK_SIZE
        })
    );
    assert!(own.snapshots.contains_key("a"));
}

#[test]
fn the_environment_wins() {
    let variable = |name: &str| match name {
        "VMTEST_ACCEL" => Some("kvm".to_owned()),
        "VMTEST_TIMEOUT_FACTOR" => Some("2.5".to_owned()),
        "VMTEST_MEMORY" => Some("1G".to_owned()),
        "VMTEST_POOL_MEMORY" => Some("8G".to_owned()),
        _ => None,
    };
    let settings = Settings::default()
        .overridden_by(&variable)
        .expect("these are right");
    assert_eq!((settings.accel, settings.timeout_factor), (Accel::Kvm, 2.5));
    assert_eq!(
        (settings.memory_mib, settings.pool.memory),
        (Some(1024), MemoryLimit::Mib(8192))
    );
    assert_eq!(settings.scaled(Duration::from_secs(2)), Duration::from_secs(5));
    assert!(settings.scaled(Duration::MAX) < Duration::from_secs(700_000));
    let absurd = stretched(Duration::from_secs(1), f64::MAX * 3.0);
    assert_eq!(absurd, Duration::from_secs(7 * 24 * 60 * 60));

    let wrong = |name: &str| (name == "VMTEST_TIMEOUT").then(|| "fast".to_owned());
    let error = Settings::default().overridden_by(&wrong).expect_err("no time");
    assert!(
        error
            .message()
            .starts_with("the variable VMTEST_TIMEOUT is \"fast\": expected a time"),
        "{error}"
    );
}

#[test]
fn times_and_sizes() {
    assert_eq!(quantity::duration("90s"), Ok(Duration::from_secs(90)));
    assert_eq!(quantity::duration("2 m"), Ok(Duration::from_secs(120)));
    assert_eq!(quantity::size("1GiB"), Ok(1 << 30));
    assert_eq!(quantity::size("3K"), Ok(3072));
    for wrong in [
        "",
        "s",
        "1",
        "-1s",
        "1.5s",
        "1d",
        "1s1s",
        "0s",
        "99999999999999999999s",
        "9999999999999999h",
    ] {
        assert!(quantity::duration(wrong).is_err(), "{wrong:?}");
    }
    for wrong in ["", "G", "1", "1g", "1B", "0M", "18446744073709551615T"] {
        assert!(quantity::size(wrong).is_err(), "{wrong:?}");
    }
}
