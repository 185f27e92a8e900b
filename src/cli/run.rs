//! `farspan run`: the daemon.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueHint};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{AccessFlags, access};

use super::log::{Log, LogArguments};
use super::output;
use super::runtime::{RuntimeError, block_on};
use super::session_arguments::environment;
use crate::config::daemon;
use crate::config::load::Layers;
use crate::config::{reading, resolve, trust};
use crate::daemon::{Configuration, End, LastAccount, Loaded, Manager, run as run_daemon};
use crate::error::{ExitCode, Explain, Problems};
use crate::escape::{in_json, in_lines, in_one_line};
use crate::ledger::Ledger;
use crate::privilege::user::become_user;
use crate::session::signals::{Listener, Signals};
use crate::source;
use crate::spool::Spool;
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
    let first = {
        let file = arguments.config.clone();
        reading::within_time(&arguments.config, move || load(&file))?
    };
    let (plan, quiet) = (&first.plan, log.quiet);
    log.start(plan.log, Log::Daemon);
    if let Some(user) = &plan.privileges.user {
        become_user(user)?;
        if let Err(error) = access(&arguments.config, AccessFlags::R_OK) {
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
        Arc::new(move || load(&file))
    };
    let said = file.display().to_string();
    let ready = |manager: &Manager| {
        if !quiet {
            output::say(&start_line(manager, &said));
        }
    };
    let json = arguments.json;
    let show = |accounts: &[LastAccount]| spool_of(accounts).offer(in_words(accounts, json).into_bytes());
    block_on(async {
        let mut signals = Signals::listen(Listener::Daemon).map_err(RuntimeError)?;
        let End { accounts, cut_short } =
            run_daemon(Configuration { first, load, file }, &mut signals, ready, show).await?;
        let printed = if quiet {
            Ok(())
        } else {
            output::deliver(in_words(&accounts, json), spool_of(&accounts), true, &mut signals).await
        };
        Problems::gathered([printed, Problems::unless_empty(cut_short.into_iter().collect())]).map(drop)
    })?
}

/// The whole configuration, checked as far as it can be without opening anything, and the directories that it was read from.
///
/// # Errors
/// Every mistake in it.
pub fn load(file: &Path) -> Result<Loaded, Problems> {
    let layers = Layers::load(Some(file), environment())?;
    let provenance = layers.provenance().clone();
    let plan = daemon::resolve(layers, |written| resolve::session(&written))?;
    let trusted = trust::check(&provenance, plan.privileges.user.as_ref().map(|user| user.uid));
    let once = provenance.once.into_iter().map(|path| Problems::from(ReadOnce { path }));
    let again = Problems::gathered(once.map(Err::<(), _>)).map(drop);
    let filters = plan.sessions.iter().map(source::check_filter);
    Problems::gathered(filters.chain([trusted, again])).map(|_| Loaded { plan, directories: provenance.directories })
}

/// A reload would find nothing in it.
#[derive(Debug, thiserror::Error)]
#[error("the configuration {} is no regular file: it can be read only once, and a reload reads it again", path.display())]
struct ReadOnce {
    path: PathBuf,
}

impl Explain for ReadOnce {
    fn hint(&self) -> Option<String> {
        Some("name a file; `farspan mirror --config` and `farspan check --config` take a pipe".to_owned())
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::Config
    }
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
    format!("farspan: running {}, {}\n", in_one_line(file), manager.status())
}

/// All ledgers: tables, each under its session's name, or one JSON object by session.
fn in_words(accounts: &[LastAccount], json: bool) -> String {
    if json {
        let by_session: BTreeMap<&str, &Ledger> =
            accounts.iter().map(|account| (account.session.as_str(), &account.ledger)).collect();
        // Names, numbers and strings: nothing that JSON could refuse.
        in_json(&serde_json::to_string(&by_session).unwrap_or_default()).into_owned() + "\n"
    } else {
        let table = |account: &LastAccount| format!("session {}\n{}", account.session, account.ledger.table());
        in_lines(&accounts.iter().map(table).collect::<Vec<_>>().join("\n")).into_owned()
    }
}

fn spool_of(accounts: &[LastAccount]) -> &'static Spool {
    output::spool_beside(accounts.iter().flat_map(|account| &account.destinations))
}
