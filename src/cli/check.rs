//! `farspan check`: what would happen, without sending anything.

use std::panic::resume_unwind;

use tokio::spawn;

use super::output;
use super::runtime::block_on;
use super::session_arguments::SessionArguments;
use super::source_arguments::AllSourceArguments;
use crate::check::kept::Rights;
use crate::check::{check, timers};
use crate::config::plan::SessionPlan;
use crate::error::{Explain, Problems};
use crate::kernel::capabilities::Capabilities;
use crate::privilege::needs::largest_receive_buffer;
use crate::privilege::with_foreign_directories;

pub(super) const USAGE: &str = "\
farspan check -i IF | -r FILE | --from ENDPOINT --to DEST [OPTIONS] [EXPRESSION]...
       farspan check -C FILE [--session NAME] [OPTIONS] [EXPRESSION]...";

pub(super) const EXAMPLES: &str = "\
Examples:
  farspan check -i eth0 --to 'vxlan://192.0.2.10?vni=42' --analyzer suricata
      one session, with what Suricata will not see
  farspan check -i 'veth*' --to 'gre://192.0.2.10' not port 22
      a filter, and the interfaces that a pattern means
  farspan check --config /etc/farspan/farspan.toml
      every session of a file";

/// Prints what there is to say about each session and about what their process keeps, and returns what would keep any of them from running.
///
/// # Errors
/// Every problem of every session, and every file of the configuration that others may write to; warnings are none.
pub fn run(arguments: &SessionArguments<AllSourceArguments>) -> Result<(), Problems> {
    let described = arguments.described()?;
    let outcome = block_on(report(described.sessions()))?;
    let needs = described.needs(largest_receive_buffer());
    let needs = with_foreign_directories(&needs).unwrap_or(needs);
    let has = Capabilities::of_this_process().unwrap_or(Capabilities::NONE);
    // Whoever closed the pipe has read enough; the exit code still tells.
    let _ = output::print(&format!("\n{}", Rights { needs: &needs, has }));
    Problems::gathered([outcome, described.check_trust()]).map(drop)
}

async fn report(plans: &[SessionPlan]) -> Result<(), Problems> {
    let mut found: Vec<Box<dyn Explain>> = Vec::new();
    // All at once: each measures its traffic for a while.
    let checks: Vec<_> = plans.iter().cloned().map(|plan| spawn(async move { check(&plan).await })).collect();
    let mut reports = Vec::new();
    for (number, looked) in checks.into_iter().enumerate() {
        let gap = if number == 0 { "" } else { "\n" };
        let (report, problems) = looked.await.unwrap_or_else(|error| resume_unwind(error.into_panic()));
        let verdict = match problems.len() {
            0 => "would run".to_owned(),
            1 => "would not run: one problem".to_owned(),
            several => format!("would not run: {several} problems"),
        };
        // Whoever closed the pipe has read enough; the exit code still tells.
        let _ = output::print(&format!("{gap}{report}{verdict}\n"));
        found.extend(problems);
        reports.push(report);
    }
    if let Some(finding) = timers::findings(&reports) {
        let _ = output::print(&format!("\n{finding}"));
    }
    Problems::unless_empty(found)
}
