//! Starting the guest anew.

use std::time::Duration;

use tokio::time::timeout;
use vmtest_backends::session::Exec;
use vmtest_backends::spec::Ready;
use vmtest_backends::{Error, ErrorKind, Result};

use super::Vm;
use super::child::{Child, Launch};
use crate::broker::Control;

/// How long a guest may take to shut down and start again, with hardware virtualisation.
const RESTART_LIMIT: Duration = Duration::from_secs(120);

/// How long it may take from there until it is ready, with hardware virtualisation.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// An init that can be told to reboot is told so; anything else is rebooted past it, with its disks written.
const REBOOT: &str = r#"
if [ -d /run/systemd/system ]; then exec systemctl reboot; fi
case $(cat /proc/1/comm) in
    init | openrc-init | runit | s6-svscan | dinit) exec reboot ;;
esac
sync
exec reboot -f
"#;

impl Vm {
    /// Reboots the guest in good order and waits until it is ready again, as its image says. Processes and
    /// open connections are gone then; disks keep what was written; forwards go on.
    ///
    /// Errors: [`ErrorKind::TimedOut`] when it is not back after 120 s, longer without hardware
    /// virtualisation.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// vm.write("/etc/sysctl.d/90-test.conf", "vm.swappiness = 5\n").await?;
    /// vm.reboot().await?;
    /// assert_eq!(vm.sh("sysctl -n vm.swappiness").await?.check()?.text(), "5");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn reboot(&self) -> Result<()> {
        self.script(REBOOT, []).label("reboot").detach().await?;
        self.back_again("reboot").await
    }

    /// Presses the reset button and waits until the guest is ready again. What it had not written to its
    /// disks is lost, as after a power failure.
    ///
    /// Errors: as of [`Vm::reboot`], and those of an engine that has no such button.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// vm.sh("echo 1 > /data/journal; sync; echo 2 >> /data/journal").await?.check()?;
    /// vm.reset().await?;
    /// assert!(vm.read_to_string("/data/journal").await?.starts_with("1\n"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn reset(&self) -> Result<()> {
        let link = self.0.lifeline.link();
        self.on_io(async move { link.control(Control::Reset).await })
            .await?;
        self.back_again("reset").await
    }

    /// Stops the machine's virtual CPUs until [`Vm::resume`]. Its guest answers nothing meanwhile.
    pub async fn pause(&self) -> Result<()> {
        self.press(Control::Pause).await
    }

    /// Lets a paused machine go on.
    pub async fn resume(&self) -> Result<()> {
        self.press(Control::Resume).await
    }

    async fn press(&self, button: Control) -> Result<()> {
        let link = self.0.lifeline.link();
        self.on_io(async move { link.control(button).await }).await
    }

    async fn back_again(&self, why: &str) -> Result<()> {
        let vm = self.clone();
        let what = format!("during a {why}");
        let back = async move {
            let mut recording = vm.0.transcript.begin(&format!(
                "wait for the guest after a {}",
                &what["during a ".len()..]
            ));
            let back = vm.0.lifeline.race(&what, restart(&vm)).await;
            recording.done(&back);
            back
        };
        self.on_io(back).await?;
        match self.0.origin.network {
            true => self.network_up().await,
            false => Ok(()),
        }
    }
}

async fn restart(vm: &Vm) -> Result<()> {
    vm.0.session.restarted(vm.scaled(RESTART_LIMIT)).await?;
    let Ready::Command(words) = &vm.0.origin.ready else {
        return Ok(());
    };
    let Some((program, args)) = words.split_first() else {
        return Ok(());
    };
    let limit = vm.scaled(READY_LIMIT);
    let shown = words.join(" ");
    let mut exec = Exec::new(program);
    exec.args = args.to_vec();
    let launch = Launch {
        exec,
        shown: shown.clone(),
        limit: None,
        recording: None,
    };
    let ready = async { Child::start(vm.clone(), launch).await?.wait().await };
    match timeout(limit, ready).await {
        // Its status does not matter: a degraded system is ready too.
        Ok(ended) => ended.map(drop),
        Err(_) => Err(Error::new(
            ErrorKind::TimedOut,
            format!("the guest was not ready after {limit:?}: `{shown}` ran on"),
        )),
    }
}
