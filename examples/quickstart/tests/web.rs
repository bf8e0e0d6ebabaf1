//! A service, reached from the host. The snapshot `web` is declared in `vmtest.toml`: in it the service runs
//! and was visited once.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use vmtest::prelude::*;

/// How long the service may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// An ordinary blocking client: it may block the body, for the forward is served by another thread.
fn get(addr: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[vm_test(image = "debian", snapshot = "web")]
async fn a_service_answers_through_a_forward(vm: Vm) -> Result {
    let web = vm.forward(8080).await?;

    let answer = get(web.addr()).expect("the service answers");

    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nvisit 2\n"), "{answer}");
    Ok(())
}

#[vm_test(image = "debian", snapshot = "web")]
async fn each_fork_has_the_memory_of_the_snapshot(vm: Vm) -> Result {
    let web = vm.forward(8080).await?;

    // The process was not started anew, and no other test's visits are in its memory.
    for visit in 2..6 {
        let answer = get(web.addr()).expect("the service answers");
        assert!(answer.ends_with(&format!("visit {visit}\n")), "{answer}");
    }
    Ok(())
}

#[vm_test(image = "debian", snapshot = "web")]
async fn systemd_starts_a_service_again(vm: Vm) -> Result {
    vm.sh("mkdir -p /etc/systemd/system/counter.service.d")
        .await?
        .check()?;
    let restart = "[Service]\nRestart=always\nRestartSec=0\n";
    vm.write("/etc/systemd/system/counter.service.d/restart.conf", restart)
        .await?;
    vm.sh("systemctl daemon-reload").await?.check()?;

    vm.sh("systemctl kill --signal=KILL counter").await?.check()?;

    vm.wait_for(Http::get(8080, "/")).await?;
    assert_eq!(
        vm.sh("systemctl show -P NRestarts counter")
            .await?
            .check()?
            .text(),
        "1"
    );
    Ok(())
}
