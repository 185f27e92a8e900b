//! UDP GSO: datagrams of a bucket that pass the kernel's stack once, together, and are cut apart at its end.

use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::config::plan::{Gso, TunnelPlan, UdpChecksum};
use crate::kernel::segmentation::RunsAreCut;
use crate::kernel::underlay::Underlay;
use crate::sys::mmsg::{MOST, MOST_BYTES_OF_A_RUN, MOST_OF_A_RUN};

/// Whether the datagrams of a VXLAN or Geneve tunnel leave in runs. Then all of them have a UDP checksum: the kernel
/// refuses runs of a socket that leaves it zero.
pub fn leave_in_runs(plan: &TunnelPlan, underlay: &Underlay) -> bool {
    match plan.gso {
        _ if plan.transmit.is_xdp() => false,
        Gso::On => true,
        Gso::Off => false,
        Gso::Auto => plan.udp_checksum != UdpChecksum::Off && underlay.runs_are_cut() == RunsAreCut::BeforeTheDevice,
    }
}

/// Decides what may leave as a run.
#[derive(Debug)]
pub(super) struct Runs {
    state: State,
    underlay: Arc<Underlay>,
    /// Bytes of outer IP and UDP in front of each datagram.
    outer_len: usize,
}

/// Whether runs are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// As long as the way is sure to cut them.
    WhereTheyAreCut,
    /// The operator wants them.
    Always,
    /// No longer, or not at all.
    Never,
}

impl Runs {
    /// Runs for a tunnel whose socket adds `outer_len` bytes to each datagram, if its plan and its way allow them.
    pub(super) fn new(plan: &TunnelPlan, underlay: &Arc<Underlay>, outer_len: usize) -> Self {
        let state = match plan.gso {
            _ if !leave_in_runs(plan, underlay) => State::Never,
            Gso::On => State::Always,
            Gso::Auto | Gso::Off => State::WhereTheyAreCut,
        };
        let (remote, is_on) = (underlay.remote(), if state == State::Never { "off" } else { "on" });
        tracing::debug!("UDP GSO to {remote} is {is_on}: gso={}, runs are cut {}", plan.gso, underlay.runs_are_cut());
        Self { state, underlay: Arc::clone(underlay), outer_len }
    }

    /// No runs: for sockets that cannot send any.
    pub(super) fn never(underlay: &Arc<Underlay>) -> Self {
        Self { state: State::Never, underlay: Arc::clone(underlay), outer_len: 0 }
    }

    /// Longest datagram that may be part of a run now, in bytes; 0 when there are none. What the kernel would have to
    /// fragment (`fit = "fragment"`) it refuses in a run.
    pub(super) fn longest(&mut self) -> usize {
        if self.state == State::WhereTheyAreCut && self.underlay.runs_are_cut() != RunsAreCut::BeforeTheDevice {
            self.end("the interface may pass them on uncut now");
        }
        match self.state {
            State::Never => 0,
            State::Always | State::WhereTheyAreCut => {
                (self.underlay.mtu().value() as usize).saturating_sub(self.outer_len)
            }
        }
    }

    /// Sends no more runs: the kernel or the device refused one.
    pub(super) fn give_up(&mut self) {
        self.end("the kernel or the interface refused a run");
    }

    fn end(&mut self, why: &str) {
        let remote = self.underlay.remote();
        tracing::info!("UDP GSO to {remote} is off from now on, every datagram is sent by itself: {why}");
        self.state = State::Never;
    }
}

/// Whether `error`, which stayed with a run, says that the kernel or the device cannot do them: without the option,
/// without checksums in the device (kernels before 6.11), or with less room than it says.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EOPNOTSUPP))
}

/// Cuts `datagrams` into the messages of one call, the first `alone` of them into one each, and returns how many
/// messages that makes. `longest` is [`Runs::longest`].
pub(super) fn cut<'a, 'b>(
    datagrams: &'a [IoSlice<'b>],
    alone: usize,
    longest: usize,
    messages: &mut [&'a [IoSlice<'b>]; MOST],
) -> usize {
    let mut rest = datagrams;
    let mut count = 0;
    for message in messages {
        if rest.is_empty() {
            break;
        }
        let run = if count < alone { 1 } else { run_len(rest, longest) };
        (*message, rest) = rest.split_at(run.min(rest.len()));
        count += 1;
    }
    count
}

/// How many of `datagrams`, from the first on, may leave as one run: equally long ones, and a shorter one behind them.
fn run_len(datagrams: &[IoSlice<'_>], longest: usize) -> usize {
    let size = datagrams.first().map_or(0, |first| first.len());
    if size == 0 || size > longest {
        return 1;
    }
    let most = MOST_OF_A_RUN.min(MOST_BYTES_OF_A_RUN / size).max(1);
    let equal = datagrams.iter().take(most).take_while(|datagram| datagram.len() == size).count();
    let ends_shorter = equal < most && datagrams.get(equal).is_some_and(|last| (1..size).contains(&last.len()));
    equal + usize::from(ends_shorter)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{plan, vxlan};
    use super::*;
    use crate::config::plan::Fit;
    use crate::kernel::underlay::NextHop;
    use crate::quantity::Mtu;

    /// A way of 1500 bytes, and a tunnel over it.
    fn tunnel(gso: Gso, udp_checksum: UdpChecksum, runs_are_cut: RunsAreCut) -> (TunnelPlan, Arc<Underlay>) {
        let (local, remote) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let way = Underlay::new(remote, local, None, Mtu::ETHERNET, NextHop::Usable).with_runs_cut(runs_are_cut);
        let (_, plan) = plan(vxlan(4789), remote, Fit::Split);
        (TunnelPlan { udp_checksum, gso, ..plan }, Arc::new(way))
    }

    #[test]
    fn auto_needs_a_kernel_that_cuts_and_a_checksum_that_is_not_off() {
        use RunsAreCut::{BeforeTheDevice, ByTheDevice, InTheQueue, Unknown};
        for (gso, checksum, way, expected) in [
            (Gso::Auto, UdpChecksum::Auto, BeforeTheDevice, true),
            (Gso::Auto, UdpChecksum::On, BeforeTheDevice, true),
            (Gso::Auto, UdpChecksum::Off, BeforeTheDevice, false),
            (Gso::Auto, UdpChecksum::Auto, ByTheDevice, false),
            (Gso::Auto, UdpChecksum::Auto, InTheQueue, false),
            (Gso::Auto, UdpChecksum::Auto, Unknown, false),
            (Gso::On, UdpChecksum::Auto, Unknown, true),
            (Gso::Off, UdpChecksum::On, BeforeTheDevice, false),
        ] {
            let (plan, way) = tunnel(gso, checksum, way);
            assert_eq!(leave_in_runs(&plan, &way), expected, "{gso} {checksum} {way:?}");
            let longest = if expected { 1472 } else { 0 };
            assert_eq!(Runs::new(&plan, &way, 28).longest(), longest, "{gso} {checksum} {way:?}");
        }
    }

    #[test]
    fn auto_sends_no_more_runs_once_the_way_has_changed_and_on_goes_on() {
        for (gso, afterwards) in [(Gso::Auto, 0), (Gso::On, 1472)] {
            let (plan, way) = tunnel(gso, UdpChecksum::Auto, RunsAreCut::BeforeTheDevice);
            let mut runs = Runs::new(&plan, &way, 28);
            assert_eq!(runs.longest(), 1472);
            way.forget_where_runs_are_cut();
            assert_eq!(runs.longest(), afterwards);
        }
    }
}
