//! The wish to end early: Ctrl-C, SIGTERM, a closed terminal.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{Error, Result};

#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// From now on the signals no longer end this process: every wait has to race with [`Stop::asked`].
    pub(crate) fn listen() -> Result<Self> {
        let (ask, asked) = watch::channel(false);
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ] {
            let mut signals = signal(kind).map_err(Error::at("cannot listen for signals"))?;
            let ask = ask.clone();
            tokio::spawn(async move {
                signals.recv().await;
                let _nobody_waits = ask.send(true);
            });
        }
        Ok(Self(asked))
    }

    /// For what has to be done even so: nobody can ask it to end.
    pub(crate) fn never() -> Self {
        Self(watch::channel(false).1)
    }

    /// Returns once the end was asked for.
    pub(crate) async fn asked(&self) {
        let mut asked = self.0.clone();
        if asked.wait_for(|asked| *asked).await.is_err() {
            // The listeners are gone: nobody will ever ask.
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn check(&self) -> Result {
        if *self.0.borrow() {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }
}
