//! What a test may ask of its machine, and what it gets without asking.

use std::io::Write as _;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use vmtest::prelude::*;

/// How long a connection out of the guest may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// An address of this host that is not its loopback; no packet is sent to find it.
fn address_of_host() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// Greets one client that comes to this host.
fn greet_one(host: IpAddr) -> std::io::Result<u16> {
    let listener = TcpListener::bind((host, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        if let Ok((mut client, _)) = listener.accept() {
            // The guest's end tells whether it came.
            let _ = client.write_all(b"hello");
        }
    });
    Ok(port)
}

#[vm_test(image = "tiny", network = true)]
async fn an_uplink_reaches_the_host(vm: Vm) -> Result<(), Box<dyn std::error::Error>> {
    let Some(host) = address_of_host() else {
        vmtest::skip!("this host has no address but its loopback's");
    };
    let port = greet_one(host)?;
    // Debian 12's passt now and then keeps the end of a connection to itself, so the end is not waited for.
    vm.sh(format!("nc {host} {port} </dev/null >/tmp/heard"))
        .detach()
        .await?;
    vm.wait_for(Succeeds("grep -q hello /tmp/heard"))
        .timeout(CONNECT_LIMIT)
        .await?;
    let names = vm.read_to_string("/etc/resolv.conf").await?;
    assert!(names.contains("nameserver 10.0.2.3"), "{names}");
    Ok(())
}

#[vm_test(image = "tiny")]
async fn without_asking_there_is_no_network(vm: Vm) -> Result {
    let addresses = vm.sh("ip -4 -o addr; ip route").await?.check()?;
    let text = addresses.text();
    assert!(text.lines().all(|line| line.contains("127.0.0.1")), "{text}");
    Ok(())
}

#[vm_test(image = "tiny", memory = 128, cpus = 2)]
async fn memory_and_cpus_are_those_asked_for(vm: Vm) -> Result {
    let memory = vm
        .sh("awk '/MemTotal/ { print $2 }' /proc/meminfo; nproc")
        .await?
        .check()?;
    let numbers: Vec<u32> = memory
        .text()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    assert!(
        numbers[0] > 64 * 1024 && numbers[0] <= 128 * 1024,
        "{} KiB",
        numbers[0]
    );
    assert_eq!(numbers[1], 2);
    Ok(())
}

#[vm_test(image = "debian")]
async fn a_unit_is_waited_for(vm: Vm) -> Result {
    vm.sh("systemctl stop ssh.service; (sleep 1; systemctl start ssh.service) >/dev/null 2>&1 &")
        .await?
        .check()?;
    vm.wait_for(Unit("ssh.service"))
        .timeout(Duration::from_secs(60))
        .await?;
    let late = vm
        .wait_for(Unit("nothing-of-the-kind.service"))
        .timeout(Duration::from_secs(1))
        .await;
    let late = late.unwrap_err().to_string();
    assert!(late.contains("nothing-of-the-kind.service"), "{late}");
    Ok(())
}
