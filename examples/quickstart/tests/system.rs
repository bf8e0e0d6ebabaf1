//! What an ordinary test must not do to the machine it runs on: each of these has one of its own.

use std::time::{Duration, Instant};

use vmtest::prelude::*;

#[vm_test(image = "tiny")]
async fn a_tiny_machine_runs_a_program(vm: Vm) -> Result {
    let begin = Instant::now();
    let output = vm.command("id").arg("-u").await?.check()?;
    assert_eq!(output.text(), "0");
    eprintln!("{} ran it in {:?}", vm.engine(), begin.elapsed());
    Ok(())
}

#[vm_test(image = "tiny")]
async fn status_and_both_outputs_are_told_apart(vm: Vm) -> Result {
    let output = vm.sh("echo fine; echo odd >&2; exit 3").await?;
    assert_eq!(output.code(), Some(3));
    assert_eq!(
        (output.text().as_ref(), output.stderr_text().as_ref()),
        ("fine", "odd")
    );
    Ok(())
}

/// Makes the package `greeting` and installs it, without a network.
const INSTALL: &str = r#"
set -e
mkdir -p /tmp/greeting/DEBIAN /tmp/greeting/usr/bin
printf 'Package: greeting\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody\nDescription: says hello\n' \
    > /tmp/greeting/DEBIAN/control
printf '#!/bin/sh\necho hello from a package\n' > /tmp/greeting/usr/bin/greeting
chmod 755 /tmp/greeting/usr/bin/greeting
dpkg-deb --build /tmp/greeting /tmp/greeting.deb
apt-get install --yes /tmp/greeting.deb
"#;

#[vm_test(image = "debian")]
async fn a_package_is_installed(vm: Vm) -> Result {
    vm.sh(INSTALL).await?.check()?;

    assert_eq!(
        vm.command("greeting").await?.check()?.text(),
        "hello from a package"
    );
    let status = vm.sh("dpkg-query -W -f='${Status}' greeting").await?.check()?;
    assert_eq!(status.text(), "install ok installed");
    Ok(())
}

/// Whether it runs before, beside or after the test above: that was another fork.
#[vm_test(image = "debian")]
async fn the_package_of_another_test_is_not_there(vm: Vm) -> Result {
    assert!(!vm.sh("dpkg-query -W greeting").await?.success());
    assert!(
        !vm.sh("test -e /usr/bin/greeting || test -e /tmp/greeting.deb")
            .await?
            .success()
    );
    Ok(())
}

#[vm_test(image = "debian")]
async fn a_file_system_is_made_and_mounted(vm: Vm) -> Result {
    let script = "set -e
        truncate -s 32M /root/disk
        mkfs.ext4 -q /root/disk
        mount -o loop /root/disk /mnt
        echo kept > /mnt/file
        umount /mnt
        mount -o loop,ro /root/disk /mnt";
    vm.sh(script).await?.check()?;

    assert_eq!(vm.read_to_string("/mnt/file").await?, "kept\n");
    let refused = vm.sh("echo more >> /mnt/file").await?;
    assert!(
        refused.stderr_text().contains("Read-only file system"),
        "{refused:?}"
    );
    Ok(())
}

#[vm_test(image = "debian")]
async fn the_kernel_is_configured(vm: Vm) -> Result {
    vm.sh("sysctl -w net.ipv4.ip_forward=1").await?.check()?;
    vm.sh("modprobe dummy && ip link add test0 type dummy && ip link set test0 up")
        .await?
        .check()?;

    assert_eq!(vm.read_to_string("/proc/sys/net/ipv4/ip_forward").await?, "1\n");
    assert!(vm.read_to_string("/proc/modules").await?.contains("dummy "));
    Ok(())
}

#[vm_test(image = "debian")]
async fn a_reboot_keeps_the_disk_and_nothing_else(vm: Vm) -> Result {
    vm.write("/root/on-disk", "kept").await?;
    vm.write("/run/in-memory", "lost").await?;
    let boot = vm.read_to_string("/proc/sys/kernel/random/boot_id").await?;
    let begin = Instant::now();

    vm.reboot().await?;

    assert_eq!(vm.read_to_string("/root/on-disk").await?, "kept");
    assert!(!vm.sh("test -e /run/in-memory").await?.success());
    assert_ne!(vm.read_to_string("/proc/sys/kernel/random/boot_id").await?, boot);
    let uptime = vm.read_to_string("/proc/uptime").await?;
    let uptime: f64 = uptime
        .split(' ')
        .next()
        .unwrap_or_default()
        .parse()
        .expect("a number of seconds");
    assert!(
        Duration::from_secs_f64(uptime) < begin.elapsed(),
        "up for {uptime} s"
    );
    Ok(())
}

#[vm_test(image = "debian")]
async fn a_machine_is_entered_over_ssh(vm: Vm) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let ssh = vm.ssh().await?;

    let output = ssh
        .command("sh")
        .args(["-c", "id -un; echo $SSH_CONNECTION"])
        .output()
        .await?;

    let text = String::from_utf8(output.stdout)?;
    assert!(text.starts_with("root\n127.0.0.1 "), "{text}");
    ssh.close().await?;
    Ok(())
}
