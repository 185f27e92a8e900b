//! Plans for tests, from what stands in a configuration file.

use std::path::Path;

use super::daemon::{self, DaemonPlan};
use super::file::File;
use super::load::Layers;
use super::plan::SessionPlan;
use super::resolve;
use crate::error::Problems;

/// The only session of a file.
///
/// # Errors
/// Every mistake in it.
pub fn session(text: &str) -> Result<SessionPlan, Problems> {
    resolve::session(&layers(text)?.session(None)?)
}

/// Everything in a file, as `farspan run` takes it.
///
/// # Errors
/// Every mistake in it.
pub fn whole(text: &str) -> Result<DaemonPlan, Problems> {
    daemon::resolve(layers(text)?, |written| resolve::session(&written))
}

fn layers(text: &str) -> Result<Layers, Problems> {
    let file = File::parse(Path::new("test.toml"), text).map_err(|mut errors| Problems::from(errors.remove(0)))?;
    Layers::of(vec![file], std::iter::empty())
}
