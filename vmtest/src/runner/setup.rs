//! What every test of a process stands on: configuration, directories, the store, the way to the machines.

use std::env;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vmtest_backends::backend::{Backend, Capabilities};
use vmtest_backends::spec::{Image, Spec};
use vmtest_backends::{Error, ErrorKind, Result};

use crate::broker::{Broker, BrokerSettings};
use crate::config::{Accel, BrokerUse, Config, stretched};
use crate::dirs::Dirs;
use crate::pool::{self, EngineChoice, Limits};
use crate::role;
use crate::store::Store;

/// What a guest needs more time for without hardware virtualisation.
const TCG_PATIENCE: f64 = 3.0;

/// From fork to the agent's answer; a few hundred milliseconds on a quiet host.
const FORK_LIMIT: Duration = Duration::from_secs(20);

/// What every test of a process stands on; a cheap handle.
#[derive(Debug, Clone)]
pub(super) struct Setup(Arc<Parts>);

#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) dirs: Dirs,
    pub(super) store: Store,
    pub(super) broker: Broker,
}

impl std::ops::Deref for Setup {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// An engine that was found to work here, and what it can do.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    pub(super) choice: EngineChoice,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) capabilities: Capabilities,
    /// What limits of ours are multiplied by.
    pub(super) patience: f64,
}

impl Setup {
    /// This process's: read when the first test asks for it, and again only as long as that fails.
    pub(super) fn of_process() -> Result<Self> {
        static SETUP: Mutex<Option<Setup>> = Mutex::new(None);
        let mut setup = SETUP.lock().unwrap_or_else(PoisonError::into_inner);
        match &*setup {
            Some(setup) => Ok(setup.clone()),
            None => Ok(setup.insert(Self::load()?).clone()),
        }
    }

    /// Reads the configuration and opens the directories. Starts nothing.
    pub(super) fn load() -> Result<Self> {
        let config = Config::load()?;
        let dirs = Dirs::from_env()?;
        let store = Store::open(&dirs)?;
        let settings = config.settings();
        let told = BrokerSettings {
            pool: settings.pool,
            idle: settings.idle,
        };
        let broker = if settings.broker == BrokerUse::Off || !role::can_start() {
            Broker::in_process(&dirs, told)?
        } else {
            Broker::of_user(&dirs, told)?
        };
        Ok(Self(Arc::new(Parts {
            config,
            dirs,
            store,
            broker,
        })))
    }

    /// The engine that is asked for, else the configured one, else the first that works here. `image` is
    /// what an accelerator is tried with.
    pub(super) async fn engine(&self, asked: Option<&str>, image: &Image) -> Result<Engine> {
        let settings = self.config.settings();
        if let Some(named) = asked.or(settings.backend.as_deref()) {
            return self.probe(named, image).await;
        }
        let mut refusals = Vec::new();
        for name in pool::names() {
            match self.probe(name, image).await {
                Ok(engine) => return Ok(engine),
                Err(cause) => refusals.push(cause),
            }
        }
        let error = Error::new(ErrorKind::Unavailable, "no engine works on this host");
        Err(match refusals.pop() {
            Some(only) if refusals.is_empty() => only,
            Some(last) => error.because(last),
            None => error,
        })
    }

    /// Whether there is an engine at all, before anything is built for it.
    pub(super) async fn check_engine(&self, asked: Option<&str>) -> Result<()> {
        let named = asked.or(self.config.settings().backend.as_deref());
        let mut refusal = None;
        for name in named.map_or(pool::names().to_vec(), |named| vec![named]) {
            // An engine of its own: what is found without a guest to try is not kept.
            match pool::engine(&self.choice(name), &self.dirs)?.probe(None).await {
                Ok(_) => return Ok(()),
                Err(cause) => refusal = Some(cause),
            }
        }
        Err(refusal.unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "no engine works on this host")))
    }

    fn choice(&self, name: &str) -> EngineChoice {
        let program = env::var_os("VMTEST_QEMU")
            .filter(|path| !path.is_empty())
            // The broker works in another directory; what cannot be resolved is reported as it was given.
            .map(|path| std::path::absolute(&path).unwrap_or_else(|_| PathBuf::from(path)));
        EngineChoice {
            backend: name.to_owned(),
            accel: self.config.settings().accel,
            program,
        }
    }

    async fn probe(&self, name: &str, image: &Image) -> Result<Engine> {
        let settings = self.config.settings();
        let mut choice = self.choice(name);
        let backend = pool::engine(&choice, &self.dirs)?;
        let trial = Spec {
            image: image.clone(),
            memory_mib: 512,
            cpus: 1,
        };
        let capabilities = backend.probe(Some(&trial)).await?;
        let kvm = capabilities.accelerator == "kvm";
        choice.accel = if kvm { Accel::Kvm } else { Accel::Tcg };
        let patience = settings.timeout_factor * if kvm { 1.0 } else { TCG_PATIENCE };
        Ok(Engine {
            choice,
            backend,
            capabilities,
            patience,
        })
    }
}

impl Engine {
    /// How long machines may take to be made.
    pub(super) fn limits(&self, setup: &Setup) -> Limits {
        Limits {
            boot: stretched(setup.config.settings().boot_timeout, self.patience),
            fork: stretched(FORK_LIMIT, self.patience),
        }
    }
}
