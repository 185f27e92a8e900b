//! The whole configuration as the daemon means it: every session, and the tables that stand beside them.

use bytesize::ByteSize;

use super::keys::{Keys, Mistakes};
use super::load::{Layers, SessionWritten};
use super::mistake::{Mistake, What};
pub use super::monitoring::{ControlPlan, LogFormat, LogLevel, LogPlan, MetricsPlan};
use super::plan::SessionPlan;
use super::privileges::{self, PrivilegesPlan};
use super::{contest, defaults, monitoring, words};
use crate::error::{Explain, Problems};
use crate::quantity::CpuShare;

/// The tables that may stand at the top of a configuration. `farspan mirror` takes its session and `tunnel` out of the
/// same file and leaves the other tables to the daemon.
pub(super) const TABLES: &[&str] = &["session", "tunnel", "limit", "reload", "privileges", "metrics", "control", "log"];

/// Everything that `farspan run` does, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct DaemonPlan {
    /// The sessions, in the order of the file; at least one. Names are unique.
    pub sessions: Vec<SessionPlan>,
    /// What all sessions together may take from the host.
    pub limit: TotalLimitPlan,
    /// When the configuration is read again.
    pub reload: ReloadPlan,
    /// Where scrapers are answered.
    pub metrics: MetricsPlan,
    /// Where the other commands find the daemon.
    pub control: ControlPlan,
    /// How log lines look, and how many there are.
    pub log: LogPlan,
    /// What it may do after it has opened everything.
    pub privileges: PrivilegesPlan,
}

/// `[limit]`: what all sessions together may take from the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TotalLimitPlan {
    /// Memory of all capture buffers, in bytes. Where the sessions' `source.buffer` come to more, each gets its share.
    pub memory: u64,
    /// Bits a second of what all destinations send or write.
    pub bandwidth: Option<f64>,
    /// Frames a second that go on to destinations.
    pub rate: Option<f64>,
    /// CPU time of the whole process.
    pub cpu: Option<CpuShare>,
}

/// `[reload]`: when the configuration is read again, beside SIGHUP and `farspan reload`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadPlan {
    /// Whether it is when the file or a drop-in changes.
    pub watch: bool,
}

/// Resolves everything that `layers` hold. `session` resolves one session, with the flags that go over it.
///
/// # Errors
/// Every mistake in any of it.
pub fn resolve(
    layers: Layers,
    session: impl Fn(SessionWritten) -> Result<SessionPlan, Problems>,
) -> Result<DaemonPlan, Problems> {
    let mut mistakes = Mistakes::new();
    let (limit, reload, privileges) = {
        let top = Keys::new("", layers.top());
        let mistakes = &mut mistakes;
        (limit(&top, mistakes), reload(&top, mistakes), privileges::resolve(&top, mistakes))
    };
    let (metrics, control, log) = {
        let top = Keys::new("", layers.top());
        let mistakes = &mut mistakes;
        (monitoring::metrics(&top, mistakes), monitoring::control(&top, mistakes), monitoring::log(&top, mistakes))
    };
    let memory = layers.top().get("limit").and_then(|limit| limit.origin()).cloned();
    let sessions = layers.into_sessions().and_then(|written| {
        let plans = Problems::gathered(written.iter().cloned().map(session))?;
        mistakes.extend(contest::between(&plans, &written));
        mistakes
            .extend(too_little_memory(limit, &plans).map(|what| Mistake::at(what, memory.as_ref(), "limit.memory")));
        Ok(plans)
    });
    let mut problems: Vec<Box<dyn Explain>> = mistakes.into_iter().map(Into::into).collect();
    let sessions = sessions.unwrap_or_else(|found| {
        problems.extend(found);
        Vec::new()
    });
    let plan = |()| DaemonPlan { sessions, limit, reload, metrics, control, log, privileges };
    Problems::unless_empty(problems).map(plan)
}

fn limit(top: &Keys<'_>, mistakes: &mut Mistakes) -> TotalLimitPlan {
    let keys = top.table("limit", mistakes);
    keys.only(&["memory", "bandwidth", "rate", "cpu"], mistakes);
    TotalLimitPlan {
        memory: keys.read("memory", mistakes, words::memory).unwrap_or(defaults::TOTAL_MEMORY),
        bandwidth: keys.read("bandwidth", mistakes, words::bandwidth),
        rate: keys.read("rate", mistakes, words::frames_a_second),
        cpu: keys.read("cpu", mistakes, str::parse),
    }
}

/// Why `limit` does not suffice for the least buffers of `sessions`.
fn too_little_memory(limit: TotalLimitPlan, sessions: &[SessionPlan]) -> Option<What> {
    let least: Vec<u64> = sessions.iter().map(SessionPlan::least_buffer).filter(|&least| least > 0).collect();
    let (least, sessions) = (least.iter().sum(), least.len());
    (limit.memory < least).then(|| What::TooLittleMemory {
        memory: ByteSize::b(limit.memory),
        least: ByteSize::b(least),
        sessions,
    })
}

fn reload(top: &Keys<'_>, mistakes: &mut Mistakes) -> ReloadPlan {
    let keys = top.table("reload", mistakes);
    keys.only(&["watch"], mistakes);
    ReloadPlan { watch: keys.read("watch", mistakes, words::switch).unwrap_or(defaults::RELOAD_WATCH) }
}

#[cfg(test)]
mod tests {
    use super::super::REFERENCE;
    use super::super::testing::whole as plan;
    use super::*;

    #[test]
    fn the_reference_says_the_real_defaults_of_the_tables() {
        let without_tables = "[session.dmz]\nsource.interface = \"eth0\"\ndestination.ids.to = \"gre://192.0.2.1\"\n";
        let (reference, bare) = (plan(REFERENCE).unwrap(), plan(without_tables).unwrap());
        assert_eq!((reference.limit, reference.reload), (bare.limit, bare.reload));
        assert_eq!(reference.privileges, bare.privileges);
        assert_eq!((reference.metrics, reference.log), (bare.metrics, bare.log));
        assert_eq!(ControlPlan { is_wanted: false, ..reference.control }, bare.control);
        assert_eq!(reference.sessions.len(), 1);
    }

    #[test]
    fn mistakes_of_tables_and_sessions_are_told_together() {
        let text =
            "[limit]\nmemory = 256\ncpuu = 1\n[reload]\nwatch = \"perhaps\"\n[session.a.source]\ninterface = \"e\"\n";
        let said: Vec<String> = plan(text).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "there is no key `cpuu` here",
                "`256` is not a memory size: write a number with its unit, such as 256MiB",
                "`perhaps` is not a switch: write on or off",
                "no destination is given",
            ]
        );
        let unknown = plan("[sesion.a]\n").unwrap_err().to_string();
        assert!(unknown.contains("there is no key `sesion` here") && unknown.contains("did you mean `session`?"));
    }
}
