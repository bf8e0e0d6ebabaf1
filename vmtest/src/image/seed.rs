//! The folder that guests see as a small disk labelled CIDATA: the agent, and what makes cloud-init start it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use vmtest_backends::Result;

use super::agent;
use super::shelf::unusable;

/// A unit that runs the agent; an image without cloud-init can be given it beforehand.
const UNIT: &str = "\
[Unit]
Description=Agent of vmtest
DefaultDependencies=no
After=systemd-tmpfiles-setup-dev.service
Before=shutdown.target

[Service]
ExecStart=/usr/local/sbin/vmtest-agent
Restart=always
RestartSec=100ms
KillMode=process
OOMScoreAdjust=-1000

[Install]
WantedBy=multi-user.target
";

/// Run at every boot, before the network: brings the agent in and starts it. `--no-block`, because the unit
/// could otherwise wait for the very service that runs this.
const USER_DATA: &str = "\
#cloud-config
disable_root: false
ssh_pwauth: false
preserve_hostname: true
package_update: false
ssh_genkeytypes: [ed25519]
no_ssh_fingerprints: true
ssh:
  emit_keys_to_console: false
bootcmd:
  - - sh
    - -c
    - |
      set -e
      modprobe vfat || true
      mkdir -p /run/vmtest-seed
      mount -o ro \"$(findfs LABEL=CIDATA)\" /run/vmtest-seed
      install -m 0755 /run/vmtest-seed/vmtest-agent /usr/local/sbin/vmtest-agent
      install -m 0644 /run/vmtest-seed/vmtest-agent.service /etc/systemd/system/vmtest-agent.service
      umount /run/vmtest-seed
      systemctl daemon-reload
      systemctl enable vmtest-agent.service
      systemctl start --no-block vmtest-agent.service
";

/// No interface is set up: a machine has an uplink only where its test asks for one.
const NETWORK_CONFIG: &str = "version: 2\nethernets: {}\n";

/// Makes the folder `seed` in `folder`. `digest` becomes part of the instance's id: cloud-init treats another
/// image as another machine.
pub(super) fn write(folder: &Path, digest: &str) -> Result<PathBuf> {
    let seed = folder.join("seed");
    fs::create_dir(&seed).map_err(|cause| unusable(&seed, "cannot be made", cause))?;
    let put = |name: &str, bytes: &[u8], mode: u32| {
        let path = seed.join(name);
        fs::write(&path, bytes)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .map_err(|cause| unusable(&path, "cannot be written", cause))
    };
    put(
        "meta-data",
        format!("instance-id: vmtest-{digest}\nlocal-hostname: vmtest\n").as_bytes(),
        0o444,
    )?;
    put("user-data", USER_DATA.as_bytes(), 0o444)?;
    put("network-config", NETWORK_CONFIG.as_bytes(), 0o444)?;
    put(&format!("{}.service", agent::NAME), UNIT.as_bytes(), 0o444)?;
    put(agent::NAME, agent::bytes(), 0o555)?;
    Ok(seed)
}

/// What of it goes into content keys, besides the agent.
pub(super) fn key() -> String {
    [UNIT, USER_DATA, NETWORK_CONFIG].concat()
}
