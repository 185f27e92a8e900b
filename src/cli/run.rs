//! `farspan run`: the daemon.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::log::{Log, LogArguments};
use super::output;
use super::runtime::block_on;
use super::session_arguments::environment;
use crate::config::daemon::{self, DaemonPlan};
use crate::config::load::Layers;
use crate::config::resolve;
use crate::config::trust;
use crate::daemon::{Configuration, End, LastAccount, Manager, run as run_daemon};
use crate::error::Problems;
use crate::ledger::Ledger;
use crate::privilege::user::become_user;
use crate::source;
use crate::sys::malloc::return_large_allocations;

pub(super) const EXAMPLES: &str = "\
Examples:
  farspan run
      every session of /etc/farspan/farspan.toml and the conf.d/*.toml beside it, until SIGTERM
  farspan check -C farspan.toml && farspan run -C farspan.toml --json
      another file, once it has no mistake; the ledgers at the end for programs

SIGHUP reads the files again: sessions that did not change lose no frame, and a mistake leaves everything as it was.";

/// Arguments of `farspan run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The configuration; conf.d/*.toml beside it and FARSPAN_…__… of the environment go over it
    #[arg(short = 'C', long, value_name = "FILE", default_value = "/etc/farspan/farspan.toml", value_hint = ValueHint::FilePath)]
    config: PathBuf,
    /// Print the ledgers as one JSON object, by session
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Runs every session until SIGINT or SIGTERM; then prints the ledgers.
///
/// # Errors
/// Every mistake of the configuration: then nothing was started. Afterwards, that it did not wait for all sessions to end.
pub fn run(arguments: &RunArguments, log: &LogArguments) -> Result<(), Problems> {
    let (plan, quiet) = (load(&arguments.config)?, log.quiet);
    log.start(plan.log, Log::Daemon);
    if let Some(user) = &plan.privileges.user {
        become_user(user)?;
        if let Err(error) = std::fs::File::open(&arguments.config) {
            let (file, user) = (arguments.config.display(), &user.name);
            tracing::warn!("user {user} cannot read {file}, so that no reload will: {error}; chgrp {user} {file}");
        }
    }
    for session in &plan.sessions {
        output::check_reader(&session.destinations)?;
    }
    allow_many_descriptors();
    return_large_allocations();
    let file = arguments.config.clone();
    let load = {
        let file = file.clone();
        Box::new(move || load(&file))
    };
    let said = file.display().to_string();
    let ready = |manager: &Manager| {
        if !quiet {
            output::say(&start_line(manager, &said));
        }
    };
    let End { accounts, cut_short } = block_on(run_daemon(Configuration { plan, load, file }, ready))??;
    let printed = if quiet { Ok(()) } else { print_ledgers(&accounts, arguments.json) };
    Problems::gathered([printed, Problems::unless_empty(cut_short.into_iter().collect())]).map(drop)
}

/// The whole configuration, checked as far as it can be without opening anything.
///
/// # Errors
/// Every mistake in it.
pub fn load(file: &Path) -> Result<DaemonPlan, Problems> {
    let layers = Layers::load(Some(file), environment())?;
    let plan = daemon::resolve(layers, |written| resolve::session(&written))?;
    let trusted = trust::check(file, plan.privileges.user.as_ref().map(|user| user.uid));
    let filters = plan.sessions.iter().map(source::check_filter);
    Problems::gathered(filters.chain([trusted])).map(|_| plan)
}

/// A session has a descriptor for each source port, and there are hundreds of sessions: as many as the host allows this
/// process anyway.
fn allow_many_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
}

fn start_line(manager: &Manager, file: &str) -> String {
    format!("farspan: running {file}, {}\n", manager.status())
}

/// All ledgers: tables, each under its session's name, or one JSON object by session.
fn print_ledgers(accounts: &[LastAccount], json: bool) -> Result<(), Problems> {
    let destinations: Vec<_> = accounts.iter().flat_map(|account| account.destinations.clone()).collect();
    let text = if json {
        let by_session: BTreeMap<&str, &Ledger> =
            accounts.iter().map(|account| (account.session.as_str(), &account.ledger)).collect();
        // Names, numbers and strings: nothing that JSON could refuse.
        serde_json::to_string(&by_session).unwrap_or_default() + "\n"
    } else {
        let table = |account: &LastAccount| format!("session {}\n{}", account.session, account.ledger.table());
        accounts.iter().map(table).collect::<Vec<_>>().join("\n")
    };
    output::print_beside(&destinations, &text)
}
