//! Runs cases: finds their machines, runs their bodies under a deadline, judges and reports.

mod build;
mod builder;
mod deadline;
mod io;
mod machine;
mod recipe;
mod report;
mod setup;
mod target;

use std::any::Any;
use std::env;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use vmtest_backends::backend::Life;
use vmtest_backends::{Error, ErrorKind};

use crate::config::{OnMissing, stretched};
use crate::outcome::Outcome;
use crate::registry::Case;
use crate::role::{self, Role};
use crate::{broker, sys, vm};

use deadline::Deadline;
use machine::Machine;
use report::Record;
use setup::Setup;

/// The status of a process whose test could not be run, for reasons of ours; where a process holds one test.
pub const ERRORED: i32 = 70;

/// How long an agent may take to answer when a body did not end: a guest that hangs does not.
const PING_LIMIT: Duration = Duration::from_secs(5);

/// How many lines of the console an error shows.
const TAIL: usize = 30;

/// How long the news of a machine's death may be behind the loss of its connection.
const NEWS_LIMIT: Duration = Duration::from_millis(500);

/// To be called first by a `main` of one's own: some processes started from it own machines or build
/// snapshots, and do that here instead of running the rest of `main`. Without it machines are owned by this
/// process alone.
///
/// ```no_run
/// vmtest::init();
/// for case in vmtest::cases() {
///     eprintln!("{}: {:?}", case.name(), vmtest::run(case));
/// }
/// ```
pub fn init() {
    // First, for a builder starts builders of what it builds upon.
    role::enter_by(Vec::new());
    serve_role();
}

/// Runs a case on a machine of its own and tells how it ended. Blocks; must not be called on a tokio runtime.
///
/// What the attribute of the test says counts, with the exception of `ignore`: who calls this wants it run.
pub fn run(case: &'static Case) -> Outcome {
    let mut record = Record::of(case);
    let outcome = attempt(case, &mut record);
    let errored = matches!(outcome, Outcome::Failed(_) | Outcome::Errored(_));
    if let Some(bundle) = record.write(&outcome).filter(|_| errored) {
        eprintln!("evidence is kept in {}", bundle.display());
    }
    outcome
}

/// Runs a case as the body of an ordinary `#[test]`: returns when it passed, panics otherwise.
pub fn run_libtest(case: &'static Case) {
    let name = case.name();
    // First, for a builder starts builders of what it builds upon.
    role::enter_by(libtest_entry(&name));
    serve_role();
    match run(case) {
        Outcome::Passed => {}
        Outcome::Skipped(reason) => report::raw(&format!("SKIPPED {name}: {reason}")),
        Outcome::Failed(text) => {
            eprintln!("failed: {text}");
            // The panic of the body was shown when it happened; another one is not.
            resume_unwind(Box::new(text));
        }
        Outcome::Errored(error) => fail_errored(&error),
    }
}

/// A process that runs one test says so by its status; one that runs several can only fail the test.
fn fail_errored(error: &Error) -> ! {
    let text = format!("errored: {}", error.chain());
    if env::var_os("NEXTEST_EXECUTION_MODE").is_some_and(|mode| mode == "process-per-test") {
        report::raw(&text);
        sys::end_at_once(ERRORED);
    }
    eprintln!("{text}");
    resume_unwind(Box::new(text));
}

fn libtest_entry(name: &str) -> Vec<OsString> {
    [
        "--exact",
        name,
        "--include-ignored",
        "--nocapture",
        "--test-threads=1",
    ]
    .map(OsString::from)
    .into()
}

/// Does what this process was started for, if that is not running tests.
fn serve_role() {
    let Some((role, listener)) = role::take() else {
        return;
    };
    let served = match role {
        Role::Broker => broker::run(listener),
        Role::Build => builder::run(listener),
    };
    if let Err(error) = &served {
        report::raw(&error.chain());
    }
    role::discard_empty_log();
    sys::end_at_once(i32::from(served.is_err()));
}

fn attempt(case: &'static Case, record: &mut Record) -> Outcome {
    let leased = Setup::of_process().and_then(|setup| {
        let machine = lease(case, &setup)?;
        Ok((setup, machine))
    });
    let (setup, machine) = match leased {
        Ok(leased) => leased,
        Err(error) => return not_to_be_had(error),
    };
    record.machine(&machine);
    let begin = Instant::now();
    let end = body(case, &setup, &machine);
    record.phase("body", begin.elapsed());
    let outcome = judge(case, &machine, end, record);
    match give_back(&setup, machine) {
        // A body that passed on a machine that cannot be put away is not a pass.
        Err(error) if matches!(outcome, Outcome::Passed) => Outcome::Errored(error),
        _ => outcome,
    }
}

/// Ends the lease. A broker buries the machine off our path; a pool of this process must be done before the
/// process is.
fn give_back(setup: &Setup, machine: Machine) -> vmtest_backends::Result<()> {
    let Machine { vm, lease, .. } = machine;
    drop(vm);
    let io = io::handle()?;
    let broker = setup.broker.clone();
    io.block_on(io::on(&io, async move { broker.give_back(lease).await }))
}

/// Our own failure to provide a machine: an error, or where the user wants that, a skip.
fn not_to_be_had(error: Error) -> Outcome {
    let skip = error.kind() == ErrorKind::Unavailable
        && crate::config::Config::load().is_ok_and(|config| config.settings().on_missing == OnMissing::Skip);
    if skip {
        Outcome::Skipped(error.chain())
    } else {
        Outcome::Errored(error)
    }
}

fn lease(case: &'static Case, setup: &Setup) -> vmtest_backends::Result<Machine> {
    let io = io::handle()?;
    let (setup, options) = (setup.clone(), case.options());
    let work = io.spawn(async move { Machine::lease(&setup, &options, &report::progress).await });
    let lost = |cause| Err(Error::new(ErrorKind::Broker, "the I/O thread was lost").because(cause));
    let machine = io.block_on(async { work.await.unwrap_or_else(lost) })?;
    if let (true, Some(why)) = (
        machine.lease.leased().first,
        &machine.resolved.engine.capabilities.fallback,
    ) {
        report::raw(&format!(
            "vmtest: {} is used, for KVM cannot be: {why}",
            machine.lease.leased().engine
        ));
    }
    Ok(machine)
}

/// How a body ended: by itself, by a panic, or not at all.
type BodyEnd = Result<Option<Outcome>, Box<dyn Any + Send>>;

/// Runs the body on this thread, on a runtime of its own: output is captured, and nothing need be `Send`.
fn body(case: &'static Case, setup: &Setup, machine: &Machine) -> (Duration, BodyEnd) {
    let limit = limit(case, setup, machine);
    let failed = |cause| Error::new(ErrorKind::Broker, "no runtime to be had for the body").because(cause);
    let prepared = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed);
    let prepared = prepared.and_then(|runtime| Ok((runtime, io::handle()?)));
    let (runtime, io) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return (limit, Ok(Some(Outcome::Errored(error)))),
    };
    let vm = machine.vm.clone();
    let _deadline = Deadline::watch(&io, case, limit, vm.clone());
    let _current = vm::enter(vm.clone());
    let end = catch_unwind(AssertUnwindSafe(|| {
        let body = async { tokio::time::timeout(limit, case.body(vm)).await.ok() };
        let end = runtime.block_on(body);
        // What the body spawned ends with it, in its own output.
        drop(runtime);
        end
    }));
    (limit, end)
}

fn limit(case: &Case, setup: &Setup, machine: &Machine) -> Duration {
    let settings = setup.config.settings();
    let own = case
        .options()
        .timeout
        .map(|limit| stretched(limit, settings.timeout_factor));
    own.unwrap_or_else(|| stretched(settings.timeout, machine.resolved.engine.patience))
}

/// Judges a body's end, with regard to what became of its machine, and keeps the evidence.
fn judge(case: &Case, machine: &Machine, end: (Duration, BodyEnd), record: &mut Record) -> Outcome {
    let (limit, end) = end;
    let passed =
        matches!(end, Ok(Some(Outcome::Passed | Outcome::Skipped(_)))) && case.should_panic().is_none();
    if passed {
        return end.ok().flatten().unwrap_or(Outcome::Passed);
    }
    let io = match io::handle() {
        Ok(io) => io,
        Err(error) => return Outcome::Errored(error),
    };
    let dead = io.block_on(death(machine));
    io.block_on(record.evidence(&machine.vm));
    match (end, dead) {
        (Ok(Some(Outcome::Errored(error))), _) => Outcome::Errored(error),
        (end, Some(dead)) => Outcome::Errored(lost(end, &dead)),
        (Ok(None), None) => {
            let text = format!("the body did not end within {} s (timeout)", limit.as_secs_f32());
            Outcome::Failed(text)
        }
        (Ok(Some(outcome)), None) => Outcome::judged(Ok(outcome), case.should_panic()),
        (Err(payload), None) => match ours_in(&machine.vm, &*payload) {
            Some(error) => Outcome::Errored(error),
            None => Outcome::judged(Err(payload), case.should_panic()),
        },
    }
}

/// The error of ours that a body panicked over, by unwrapping it: told by its words in the panic's.
fn ours_in(vm: &vm::Vm, payload: &(dyn Any + Send)) -> Option<Error> {
    let text = crate::outcome::panic_text(payload);
    let mut errors = vm.errors();
    errors.retain(|error| !crate::outcome::blames_test(error.kind()) && text.contains(error.message()));
    errors.pop()
}

/// What became of a machine whose body did not pass: `None` when it lives and its guest answers.
async fn death(machine: &Machine) -> Option<Error> {
    let mut life = machine.lease.link().life();
    let limit = stretched(PING_LIMIT, machine.resolved.engine.patience);
    let running = *life.borrow() == Life::Running;
    let hung = if running {
        machine.lease.session().ping(limit).await.err()
    } else {
        None
    };
    if hung
        .as_ref()
        .is_some_and(|hung| hung.kind() == ErrorKind::Disconnected)
    {
        // The connection is lost at once; the news of why comes from the broker.
        let news = async { life.wait_for(|life| *life != Life::Running).await.map(|_| ()) };
        let _ = tokio::time::timeout(NEWS_LIMIT, news).await;
    }
    let life = life.borrow().clone();
    let error = match life {
        Life::Panicked(text) => Error::new(ErrorKind::Died, format!("the guest's kernel panicked: {text}")),
        Life::Exited(why) => Error::new(ErrorKind::Died, why),
        Life::Running => {
            let text = "the guest hangs: its agent no longer answers";
            Error::new(ErrorKind::Disconnected, text).because(hung?)
        }
    };
    let console = tokio::time::timeout(PING_LIMIT, machine.vm.console()).await;
    let console = console.ok().and_then(Result::ok).unwrap_or_default();
    Some(error.with_console(vmtest_backends::console::tail(&console, TAIL)))
}

/// A body that ended badly on a machine that was lost: ours, with what the body had to say.
fn lost(end: BodyEnd, dead: &Error) -> Error {
    let said = match end {
        Ok(Some(Outcome::Failed(text))) => text,
        Ok(_) => "it was still running".to_owned(),
        Err(payload) => format!("it panicked: {}", crate::outcome::panic_text(&*payload)),
    };
    let console = dead.console().unwrap_or_default().to_owned();
    let cause = Error::from(dead.report());
    let text = format!("the machine was lost while the body ran ({said})");
    Error::new(ErrorKind::Died, text)
        .because(cause)
        .with_console(console)
}
