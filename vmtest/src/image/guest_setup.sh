# Runs inside the new system, as its root, before the disk is made.
set -eu

echo debian >/etc/hostname
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 debian\n' >/etc/hosts
printf '/dev/vda / ext4 rw,noatime 0 0\n' >/etc/fstab
printf 'LANG=C.UTF-8\n' >/etc/default/locale
rm -f /etc/resolv.conf
printf '# written when the machine gets an uplink\n' >/etc/resolv.conf
# Empty: each boot gets an id of its own, and none of them counts as the first.
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id

# The archive, as on the host that made this; nothing of how it was made.
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/apt/apt.conf.d/99mmdebstrap /etc/dpkg/dpkg.cfg.d/99mmdebstrap
printf '%s' "$SOURCES" >/etc/apt/sources.list.d/release.sources
printf 'Acquire::Languages "none";\nAPT::Install-Recommends "false";\n%s' "$CHECKS" >/etc/apt/apt.conf.d/80vmtest
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log /var/log/bootstrap.log
mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial

# A machine that lives for minutes needs no upkeep and nobody at its terminals.
off() { for unit in "$@"; do ln -sf /dev/null "/etc/systemd/system/$unit"; done; }
off apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer man-db.timer \
    logrotate.timer systemd-tmpfiles-clean.timer
off e2scrub_reap.service getty@tty1.service serial-getty@ttyS0.service console-getty.service getty-static.service
off systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service
off systemd-pstore.service systemd-machine-id-commit.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-random-seed.service systemd-journal-flush.service \
    systemd-remount-fs.service systemd-binfmt.service sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount \
    dev-mqueue.mount sys-fs-fuse-connections.mount modprobe@configfs.service modprobe@drm.service \
    modprobe@fuse.service modprobe@efi_pstore.service systemd-udev-settle.service
off modprobe@dm_mod.service modprobe@loop.service
ln -sf /lib/systemd/system/multi-user.target /etc/systemd/system/default.target

# Questions that every start would ask: of boot loaders, of partitions, of the address on a socket that is not there.
mkdir -p /etc/systemd/system-generators
for generator in bless-boot gpt-auto hibernate-resume integritysetup ssh tpm2 veritysetup; do
    ln -sf /dev/null "/etc/systemd/system-generators/systemd-$generator-generator"
done

mkdir -p /etc/systemd/journald.conf.d /etc/systemd/system.conf.d /etc/systemd/logind.conf.d
printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\nRateLimitIntervalSec=0\n' >/etc/systemd/journald.conf.d/vmtest.conf
printf '[Manager]\nShowStatus=no\nDefaultTimeoutStopSec=10s\n' >/etc/systemd/system.conf.d/vmtest.conf
printf '[Login]\nNAutoVTs=0\nReserveVT=0\n' >/etc/systemd/logind.conf.d/vmtest.conf

# Loaded by name when wanted, not because the emulated hardware could use them: seconds of each boot.
for module in aesni_intel ahci crc32_pclmul crc32c_intel crct10dif_pclmul evdev ghash_clmulni_intel iTCO_wdt i2c_i801 \
    intel_agp kvm_amd kvm_intel lpc_ich pcspkr polyval_clmulni psmouse qemu_fw_cfg serio_raw sha1_ssse3 sha256_ssse3 \
    sha512_ssse3; do
    echo "blacklist $module"
done >/etc/modprobe.d/vmtest.conf

# One kind of host key: each costs the start of the server and of every connection.
rm -f /etc/ssh/ssh_host_rsa_key* /etc/ssh/ssh_host_ecdsa_key*
printf 'HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\n' >/etc/ssh/sshd_config.d/vmtest.conf

depmod "$KERNEL"
ldconfig

# Nothing has changed since: the caches need not be made again at the first start.
touch /etc/.updated /var/.updated
