//! Whether two captures hold the same frames, with the same bytes, in the same order, and every difference by its name.
//!
//! Both sides are read in step. Frames that are equal meet and are done; a frame whose equal is not there yet waits.
//! So two files of any size that differ little are compared in little memory: what waits is bounded by a window, and
//! when that is full, the older half of what waits is judged with what is known by then.
//!
//! ```text
//!  A ──side──▶ head ─┐            ┌─ equal: they met
//!  (tunnel off)      ├─ compared ─┤
//!  B ──side──▶ head ─┘            └─ else: has the equal waited? met : waits ──▶ judged ──▶ findings
//! ```
//!
//! It knows sources and byte layouts, and nothing of sessions.

mod field;
mod findings;
mod judge;
mod order;
mod pairing;
mod recall;
mod report;
mod seen;
mod side;
mod stream;
mod tunnel;
mod twin;
mod waiting;

pub use findings::{Counts, Difference, Kind};
pub use side::Tally;

use std::fmt;
use std::hash::RandomState;

use crate::config::plan::FilePath;
use crate::error::{ExitCode, Explain};
use crate::quantity::Snaplen;
use crate::source::{self, Source};
use crate::wire::decapsulate::Rules;
use pairing::Pairing;
use side::{Reading, Side};
use tunnel::Tunnel;

/// What is compared, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The two captures.
    pub files: [FilePath; 2],
    /// How.
    pub rules: Comparing,
}

/// How two captures are compared.
#[derive(Clone, Debug)]
pub struct Comparing {
    /// On which side the outermost tunnel is taken off each packet.
    pub decapsulate: [bool; 2],
    /// What a tunnel is.
    pub tunnels: Rules,
    /// What counts as the same order.
    pub order: Order,
    /// Only so many first bytes of each frame are compared.
    pub snaplen: Option<Snaplen>,
    /// Memory for frames that wait for their equals and for what is remembered of others, in bytes.
    pub window: u64,
    /// How many differences are listed.
    pub most: usize,
    /// Kinds of difference that are counted and do not matter.
    pub ignored: Vec<Kind>,
}

impl Comparing {
    /// Enough for some hundred thousand full frames that do not find their equals.
    pub const WINDOW: u64 = 256 << 20;
    /// Smallest window: several of the largest frames.
    pub const LEAST_WINDOW: u64 = 1 << 20;
    /// As many as fit on a screen.
    pub const MOST: usize = 20;
}

impl Default for Comparing {
    fn default() -> Self {
        Self {
            decapsulate: [false; 2],
            tunnels: Rules::default(),
            order: Order::default(),
            snaplen: None,
            window: Self::WINDOW,
            most: Self::MOST,
            ignored: Vec::new(),
        }
    }
}

/// What counts as the same order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// All frames keep their places.
    #[default]
    Global,
    /// Frames of one flow do, both directions together; flows may overtake each other.
    Flow,
    /// Any order is the same.
    None,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The names of both captures.
    pub names: [String; 2],
    /// What was read on each side.
    pub tallies: [Tally; 2],
    /// Frames that met their equals.
    pub identical: u64,
    /// Differences by kind.
    pub counts: Counts,
    /// The first differences, in the order of the frames.
    pub differences: Vec<Difference>,
    /// How many frames were called missing, extra or changed before everything was seen, because the window was full:
    /// their equals may come later than it reaches.
    pub beyond_window: u64,
    /// How much later the frames of B were captured than their equals in A.
    pub shift: Option<Shift>,
    rules: Comparing,
}

/// How much later frames were captured in B than in A, in nanoseconds; negative when they were earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Shift {
    /// The smallest.
    pub least_ns: i64,
    /// The largest.
    pub most_ns: i64,
}

impl Comparison {
    /// Whether the captures are the same, but for differences that do not matter.
    pub fn is_same(&self) -> bool {
        self.counts.nonzero().all(|(kind, _)| self.rules.ignored.contains(&kind))
    }
}

/// Compares two capture files.
///
/// # Errors
/// When one of them cannot be read, or not to its end.
pub fn compare(plan: &Plan) -> Result<Comparison, CannotCompare> {
    if plan.files.iter().all(|file| *file == FilePath::Standard) {
        return Err(CannotCompare::BothStandard);
    }
    let open = |file| source::open_file(file).map_err(|cause| CannotCompare::Unreadable(Box::new(cause)));
    let sources = [open(&plan.files[0])?, open(&plan.files[1])?];
    compare_sources(sources, plan.files.each_ref().map(ToString::to_string), &plan.rules)
}

/// Compares what two sources give, until both have ended.
///
/// # Errors
/// When one of them ends before its time.
pub fn compare_sources(
    sources: [Box<dyn Source>; 2],
    names: [String; 2],
    rules: &Comparing,
) -> Result<Comparison, CannotCompare> {
    let reading = Reading {
        hasher: RandomState::new(),
        keep: rules.snaplen.map_or(usize::MAX, |snaplen| snaplen.value() as usize),
        by_flow: rules.order == Order::Flow,
    };
    let [a, b] = sources;
    let side = |source, decapsulate: bool| {
        let tunnel = decapsulate.then(|| Tunnel::new(rules.tunnels.clone()));
        Side::new(source, tunnel, reading.clone())
    };
    let mut pairing = Pairing::new([side(a, rules.decapsulate[0]), side(b, rules.decapsulate[1])], rules);
    pairing.run().map_err(CannotCompare::Unreadable)?;
    Ok(pairing.into_comparison(names, rules))
}

/// Why there is no verdict.
#[derive(Debug)]
pub enum CannotCompare {
    /// There is one standard input only.
    BothStandard,
    /// A side cannot be read, or not to its end.
    Unreadable(Box<dyn Explain>),
}

impl fmt::Display for CannotCompare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BothStandard => f.write_str("both captures are to be read from standard input"),
            Self::Unreadable(cause) => cause.fmt(f),
        }
    }
}

impl std::error::Error for CannotCompare {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::BothStandard => None,
            Self::Unreadable(cause) => cause.source(),
        }
    }
}

impl Explain for CannotCompare {
    fn hint(&self) -> Option<String> {
        match self {
            Self::BothStandard => Some("name a file for one of them, or use the shell's <(command)".to_owned()),
            Self::Unreadable(cause) => cause.hint(),
        }
    }

    /// As diff(1) and cmp(1): 1 is kept for "different".
    fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}
