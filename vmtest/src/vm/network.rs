//! The guest's side of an uplink to the network.

use vmtest_backends::Result;

use super::Vm;

/// Gives the first network device that is not the loopback the address that the uplink expects, and says where names
/// are resolved. Done again, it changes nothing. Without pipes into `while`: an error must reach the end.
const UP: &str = r#"
device=
for path in /sys/class/net/*; do
    name=${path##*/}
    [ "$name" = lo ] || [ ! -e "$path/device" ] || { device=$name; break; }
done
[ -n "$device" ] || { echo "the machine has no network device" >&2; exit 1; }
ip link set dev "$device" up || exit 1
ip addr flush dev "$device" scope global || exit 1
ip addr add 10.0.2.15/24 dev "$device" || exit 1
ip route add default via 10.0.2.2 dev "$device" || exit 1
rm -f /etc/resolv.conf
echo "nameserver 10.0.2.3" >/etc/resolv.conf
"#;

impl Vm {
    /// Sets up the network of a guest whose test asked for one: 10.0.2.15/24, by way of 10.0.2.2, names from
    /// 10.0.2.3. For the runner; [`Vm::reboot`] and [`Vm::reset`] do it by themselves.
    #[doc(hidden)]
    pub async fn network_up(&self) -> Result<()> {
        self.script(UP, [])
            .label("set up the network")
            .output()
            .await?
            .check()
            .map(drop)
    }
}
