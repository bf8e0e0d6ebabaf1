//! Every engine there is, tried by the suite that all of them have to pass.

use std::fs::{self, File};
use std::path::Path;

use vmtest::config::{Accel, Config};
use vmtest::conformance::{self, Verdict};
use vmtest::{image, pool};
use vmtest_backends::spec::{Disk, DiskFormat, Spec};
use vmtest_tests::Lab;

/// The size of the blank disk, in bytes.
const DISK: u64 = 64 << 20;

/// A machine of the image `tiny` with a disk that nothing is on.
fn spec(lab: &Lab) -> Spec {
    let config = Config::load().expect("the configuration can be read");
    let plan = image::plan(&config, lab.dirs(), "tiny").expect("the image tiny is known");
    let mut image = plan
        .find(lab.dirs())
        .expect("images can be looked for")
        .expect("the lab has it");
    let path = lab.project().join("blank");
    File::create(&path)
        .and_then(|file| file.set_len(DISK))
        .expect("a disk can be made");
    image.disks = vec![Disk {
        path,
        format: DiskFormat::Raw,
        size: DISK,
    }];
    Spec {
        image,
        memory_mib: 128,
        cpus: 1,
    }
}

#[tokio::test]
async fn qemu_keeps_what_engines_promise() {
    let lab = Lab::open("conformance");
    let program = std::env::var_os("VMTEST_QEMU").map(Into::into);
    let choice = pool::EngineChoice {
        backend: "qemu".to_owned(),
        accel: Accel::Auto,
        program,
    };
    let engine = pool::engine(&choice, lab.dirs()).expect("the engine is known");
    let folder = lab.dirs().in_cache("trial").expect("a folder can be made");
    let report = conformance::check(engine, spec(&lab), &folder).await;
    eprintln!("{report}");
    assert!(report.holds(), "{report}");
    // QEMU promises all of it: nothing may fall out of the suite unnoticed.
    assert!(
        report
            .promises()
            .iter()
            .all(|(_, verdict)| *verdict == Verdict::Holds),
        "{report}"
    );
    assert_eq!(report.promises().len(), 15, "{report}");
    let blank = fs::read(lab.project().join("blank")).expect("the disk can be read");
    assert!(
        blank.iter().all(|byte| *byte == 0),
        "a machine wrote to its image's disk"
    );
    nothing_runs(&folder);
    lab.close().await;
}

fn nothing_runs(folder: &Path) {
    let left = vmtest_tests::residue::processes(folder).expect("/proc can be read");
    assert!(left.is_empty(), "{left:?}");
}
