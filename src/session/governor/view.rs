//! What the governor shows of itself.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// What a running governor shows, for whoever wants to see it.
#[derive(Clone, Debug)]
pub struct Shown(Arc<Mutex<GovernorView>>);

impl Shown {
    /// A governor that has not measured anything yet.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(GovernorView {
            state: GovernorState::Open,
            reason: None,
            kept_fraction: 1.0,
            admitted_flows: 1.0,
            limits: Vec::new(),
        })))
    }

    /// Shows this from now on.
    pub(super) fn set(&self, view: GovernorView) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }

    /// What it measured and did last.
    pub fn view(&self) -> GovernorView {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a session's governor measures and does. Its fields are keys of the JSON object of `farspan status --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GovernorView {
    /// What it does.
    pub state: GovernorState,
    /// The limit that is used most while flows are left out.
    pub reason: Option<Cow<'static, str>>,
    /// Of the frames that would have gone on in the last seconds: the part that did, 0 to 1. 1 when there were none.
    pub kept_fraction: f64,
    /// The part of new flows that is admitted, 0 to 1.
    pub admitted_flows: f64,
    /// Every limit, and how far it is used.
    pub limits: Vec<LimitView>,
}

/// What a governor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GovernorState {
    /// Everything is mirrored.
    Open,
    /// Flows are left out.
    Shedding,
    /// New flows are all admitted again; some that were left out still go on unmirrored.
    Recovering,
    /// Everything is left out, and what is used is still more than a limit allows.
    Exhausted,
}

impl GovernorState {
    /// Every label, for whoever shows a state as a set of switches.
    pub const LABELS: [&'static str; 4] = ["open", "shedding", "recovering", "exhausted"];

    /// The word for it in JSON, metrics and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Shedding => "shedding",
            Self::Recovering => "recovering",
            Self::Exhausted => "exhausted",
        }
    }
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitView {
    /// Its key in the configuration: `limit.cpu`; `total limit.cpu` is that of all sessions together.
    pub name: Cow<'static, str>,
    /// What it allows: bits a second, frames a second, cores, or a share of 1.
    pub allowed: f64,
    /// What is used of it, smoothed over a second.
    pub measured: f64,
}

impl LimitView {
    /// How much of it is used: 1 is all of it. Of one that allows nothing, all.
    pub fn used(&self) -> f64 {
        if self.allowed > 0.0 { self.measured / self.allowed } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_one_word_everywhere() {
        let states =
            [GovernorState::Open, GovernorState::Shedding, GovernorState::Recovering, GovernorState::Exhausted];
        assert_eq!(states.map(GovernorState::label), GovernorState::LABELS);
        for state in states {
            assert_eq!(serde_json::to_value(state).unwrap(), state.label());
        }
    }
}
