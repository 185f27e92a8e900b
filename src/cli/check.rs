//! `farspan check`: what would happen, without sending anything.

use std::io::{self, Write as _};

use crate::check::check;
use crate::config::plan::SessionPlan;
use crate::error::{Explain, Problems};

/// Prints what there is to say about each session, and returns what would keep any of them from running.
///
/// # Errors
/// Every problem of every session; warnings are none.
pub async fn run(plans: &[SessionPlan]) -> Result<(), Problems> {
    let mut found: Vec<Box<dyn Explain>> = Vec::new();
    for plan in plans {
        let (report, problems) = check(plan).await;
        let verdict = match problems.len() {
            0 => "would run",
            1 => "would not run: one problem",
            _ => "would not run: several problems",
        };
        // Whoever closed the pipe has read enough; the exit code still tells.
        let _ = writeln!(io::stdout(), "{report}{verdict}");
        found.extend(problems);
    }
    Problems::unless_empty(found)
}
