//! `stop`: ends brokers and machines.

use vmtest::Result;
use vmtest::broker;
use vmtest::config::PoolLimits;
use vmtest::dirs::Dirs;
use vmtest::pool::Capacity;

use crate::say::say;

/// Ends all brokers of this user, of whatever build, with their machines.
pub(crate) async fn run() -> Result<()> {
    let dirs = Dirs::from_env()?;
    let mut ended = 0;
    let mut failed = None;
    for address in broker::addresses(&dirs)? {
        let status = address.status().await;
        match address.stop().await {
            Ok(true) => {
                ended += 1;
                let machines = status
                    .ok()
                    .flatten()
                    .map_or(0, |status| status.leases + status.warm);
                say(format!(
                    "ended the broker {} and {machines} machines",
                    address.name()
                ));
            }
            Ok(false) => {
                address.clear_if_dead()?;
            }
            // The others are ended all the same.
            Err(error) => failed = Some(error),
        }
    }
    // What brokers that were killed have left.
    let capacity = Capacity::open(&dirs, PoolLimits::default())?;
    capacity.sweep()?;
    if let Some(error) = failed {
        return Err(error);
    }
    if ended == 0 {
        say("no broker runs");
    }
    for machine in capacity.machines()? {
        say(format!(
            "machine {} belongs to a test process and ends with it",
            machine.id
        ));
    }
    Ok(())
}
