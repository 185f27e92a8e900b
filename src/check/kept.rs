//! What the process keeps once everything is open, and what it gives up then.

use std::fmt;

use crate::kernel::capabilities::{Capabilities, USED, listed};
use crate::privilege::needs::Needs;

/// What a process with certain capabilities goes on with after the start.
#[derive(Clone, Copy, Debug)]
pub struct Rights<'a> {
    /// What its plan goes on to need.
    pub needs: &'a Needs,
    /// What it has until then.
    pub has: Capabilities,
}

impl fmt::Display for Rights<'_> {
    /// A block of lines as [`super::report::Report`] has them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needs, has } = self;
        writeln!(f, "capabilities, once everything is open")?;
        for (capability, reason) in needs.capabilities().filter(|&(capability, _)| has.has(capability)) {
            writeln!(f, "  keeps    {capability}: {reason}")?;
        }
        for (capability, reason) in needs.capabilities().filter(|&(capability, _)| !has.has(capability)) {
            writeln!(f, "  lacks    {capability}, as whoever checks does: {reason}")?;
        }
        if needs.capabilities().next().is_none() {
            writeln!(f, "  keeps    none: the plan opens nothing again that takes one")?;
        }
        let given_up: Vec<_> = USED.into_iter().filter(|&used| has.has(used) && !needs.has(used)).collect();
        match listed(given_up.iter()) {
            nothing if nothing.is_empty() => Ok(()),
            names => writeln!(f, "  gives up {names} and every other: the plan does not go on to need them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::capabilities::Capability;
    use crate::privilege::needs::Reason;

    fn said(needs: &Needs, has: &[Capability]) -> String {
        Rights { needs, has: has.iter().copied().collect() }.to_string()
    }

    #[test]
    fn each_capability_that_stays_has_its_reason_and_the_others_are_named() {
        let mut needs = Needs::default();
        needs.capability(Capability::CAP_NET_RAW, Reason::Interfaces);
        needs.capability(Capability::CAP_NET_ADMIN, Reason::Tap);
        assert_eq!(
            said(&needs, &[Capability::CAP_NET_RAW, Capability::CAP_BPF, Capability::CAP_SYS_ADMIN]),
            "capabilities, once everything is open\n  \
             keeps    CAP_NET_RAW: interfaces that come new or come back\n  \
             lacks    CAP_NET_ADMIN, as whoever checks does: a TAP device that is made again when somebody deletes it\n  \
             gives up CAP_SYS_ADMIN CAP_BPF and every other: the plan does not go on to need them\n"
        );
    }

    #[test]
    fn a_plan_that_needs_none_keeps_none() {
        let nothing = Needs::default();
        let keeps = "capabilities, once everything is open\n  \
                     keeps    none: the plan opens nothing again that takes one\n";
        assert_eq!(said(&nothing, &[]), keeps);
        let raw = "  gives up CAP_NET_RAW and every other: the plan does not go on to need them\n";
        assert_eq!(said(&nothing, &[Capability::CAP_NET_RAW]), [keeps, raw].concat());
    }
}
