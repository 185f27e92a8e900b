//! What signals ask of a session or a daemon. None of them ends it by its default action.
//!
//! | signal | in the foreground | in the daemon |
//! |---|---|---|
//! | SIGINT, SIGTERM, SIGQUIT | ends in order, with the ledger | the same |
//! | SIGHUP | ends in order; stays ignored where nohup(1) ignores it | reads the configuration again |
//! | SIGUSR1 | prints the ledger and goes on | the same, of all sessions |
//! | SIGXCPU | raises the limit of CPU time; ends in order one second before the hard limit | the same |
//! | SIGXFSZ | the write that is too large fails: `write_failed` | the same |
//! | SIGPIPE | the write fails: `reader_gone` | the same |
//! | SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGSTKFLT, SIGUSR2, SIGTTOU, real-time signals | nothing | nothing |
//! | SIGTSTP, SIGTTIN, SIGSTOP, SIGCONT | stop and go on, as a shell asks | the same |
//! | SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP | what the kernel says of a defect: a core dump | the same |

use std::io;

use nix::sys::resource::{RLIM_INFINITY, Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::signal::{SigSet, Signal as Number};
use nix::sys::time::TimeValLike as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

use crate::sys::signal::{ignore, is_ignored, real_time};

/// Those that nothing is meant by.
const IGNORED: [libc::c_int; 9] = [
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGUSR2,
    // A log line of a job in the background must not stop the mirror (`stty tostop`).
    libc::SIGTTOU,
    libc::SIGPIPE,
];
/// Those that wait for [`Signals::listen`]. SIGINT and SIGTERM do not: before that they end a process that has nothing open.
const WAIT_AT_THE_START: [Number; 3] = [Number::SIGHUP, Number::SIGUSR1, Number::SIGXCPU];
/// CPU time that an end in order may take, in seconds.
const LAST_SECONDS: u64 = 1;

/// Has a write beyond `ulimit -f` fail instead of ending the process. For every command.
pub fn let_large_writes_fail() {
    ignore_or_say(libc::SIGXFSZ);
}

/// Keeps signals from ending the process before [`Signals::listen`] is called. For commands that run sessions, before the
/// first thread is started.
pub fn hold() {
    IGNORED.into_iter().chain(real_time()).for_each(ignore_or_say);
    if let Err(error) = WAIT_AT_THE_START.into_iter().collect::<SigSet>().thread_block() {
        tracing::debug!("early signals do not wait: {error}");
    }
}

fn ignore_or_say(signal: libc::c_int) {
    if let Err(error) = ignore(signal) {
        tracing::debug!("signal {signal} keeps its default action: {error}");
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To end in order.
    End,
    /// To read the configuration again.
    Reload,
    /// To print the ledger and to go on.
    Account,
}

/// Who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// A command in the foreground: SIGHUP says that its terminal has gone.
    Foreground,
    /// A daemon: SIGHUP asks for a reload.
    Daemon,
}

/// The signals that ask for something. From the moment it exists they do nothing else.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    account: Signal,
    cpu_time: Signal,
    /// None where SIGHUP is to stay ignored.
    hang_up: Option<Signal>,
    hang_up_asks: Request,
    has_asked: bool,
}

impl Signals {
    /// Listens from now on: before anybody is told that the session runs. To be called on the thread of [`hold`].
    ///
    /// # Errors
    /// When the runtime cannot listen for signals.
    pub fn listen(listener: Listener) -> io::Result<Self> {
        let stays_ignored = listener == Listener::Foreground && is_ignored(libc::SIGHUP);
        let signals = Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            account: signal(SignalKind::user_defined1())?,
            cpu_time: signal(SignalKind::from_raw(libc::SIGXCPU))?,
            hang_up: if stays_ignored { None } else { Some(signal(SignalKind::hangup())?) },
            hang_up_asks: match listener {
                Listener::Foreground => Request::End,
                Listener::Daemon => Request::Reload,
            },
            has_asked: false,
        };
        WAIT_AT_THE_START.into_iter().collect::<SigSet>().thread_unblock()?;
        Ok(signals)
    }

    /// Waits for the next request. Nothing is missed when the wait is given up.
    pub async fn next(&mut self) -> Request {
        let request = loop {
            let Self { interrupt, terminate, quit, account, cpu_time, hang_up, hang_up_asks, has_asked: _ } = self;
            break tokio::select! {
                _ = interrupt.recv() => Request::End,
                _ = terminate.recv() => Request::End,
                _ = quit.recv() => Request::End,
                () = received(hang_up) => *hang_up_asks,
                _ = account.recv() => Request::Account,
                _ = cpu_time.recv() => if goes_on_within_its_time() { continue } else { Request::End },
            };
        };
        self.has_asked |= request == Request::End;
        request
    }

    /// Whether one has asked to end.
    pub fn have_asked_to_end(&self) -> bool {
        self.has_asked
    }

    /// Waits for the next request to end.
    pub async fn end(&mut self) {
        while self.next().await != Request::End {}
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Raises the soft limit of CPU time as far as the hard one lets it (setrlimit(2), `RLIMIT_CPU`), which the kernel enforces by
/// SIGKILL. Whether there is time left.
fn goes_on_within_its_time() -> bool {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_CPU) else { return true };
    if soft == RLIM_INFINITY {
        return true;
    }
    let raised = if hard == RLIM_INFINITY { hard } else { hard.saturating_sub(LAST_SECONDS) };
    let used =
        getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| (usage.user_time() + usage.system_time()).num_seconds());
    let used = u64::try_from(used).unwrap_or(0);
    if used < raised && setrlimit(Resource::RLIMIT_CPU, raised, hard).is_ok() {
        warn!(
            "the limit of CPU time (ulimit -t) was reached after {used} s; it is raised as far as the hard limit allows"
        );
        return true;
    }
    warn!("the limit of CPU time (ulimit -t) is reached after {used} s of {hard} s: ending in order");
    false
}
