//! Where wire frames go: tunnels to analyzers, TAP devices and capture files of this host.
//!
//! Each destination fits, encapsulates, batches and sends on its own account, so that a bad one never harms another.

pub mod batch;
pub mod capture_file;
pub mod dry_run;
pub mod encapsulate;
mod file_series;
pub mod fit;
pub mod health;
pub mod last_error;
mod next_hop;
mod notices;
pub mod open_error;
mod origins;
mod outer;
mod output_file;
mod raw_ip;
mod records;
pub mod runs;
pub mod sequence;
mod shared;
pub mod shared_file;
mod socket;
mod socket_bank;
pub mod spread;
pub mod tap;
pub mod tap_device;
pub mod transmit;
pub mod tunnel;
mod udp;
mod xdp;
pub mod xdp_queue;
pub mod zero_copy;

#[cfg(test)]
mod testing;

use std::sync::Arc;
use std::time::Instant;

use crate::config::plan::{DestinationPlan, End};
use crate::error::Explain;
use crate::frame::{InterfaceId, WireFrame};
use crate::ledger::{DestinationLedger, DropReason, Ledger};
use crate::lengths::Lengths;
use crate::select::account::Account;
use crate::wire::carrier::OwnTunnel;
use capture_file::CaptureFile;
use encapsulate::Encapsulator;
use last_error::{LastErrors, LossWatch};
use open_error::CannotOpen;
pub use shared::Shared;
pub use shared_file::Ending;
use spread::{Choice, Spread};
use tap::Tap;
use tunnel::Tunnel;

/// How long a destination may wait for room before it drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Live traffic does not wait: what cannot go now is dropped and counted.
    Drop,
    /// A replay waits (30 s at most, [`crate::config::defaults::REPLAY_PATIENCE`]), so that it is lossless.
    Wait,
}

/// One end of a session.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a session has a handful, side by side in one Vec")]
pub enum Destination {
    /// An analyzer behind a tunnel.
    Tunnel(Tunnel),
    /// A TAP device of this host.
    Tap(Tap),
    /// A capture file or standard output: inner frames as they are.
    File(CaptureFile),
}

/// All destinations of a session, and who of them gets a frame.
#[derive(Debug)]
pub struct Destinations {
    all: Vec<Destination>,
    spread: Spread,
    losses: LossWatch,
}

/// A capture file without all its frames.
#[derive(Debug, thiserror::Error)]
#[error("{frames} frames for {to} could not be written, or were removed by somebody else")]
pub struct Unwritten {
    to: Arc<str>,
    frames: u64,
}

impl Explain for Unwritten {
    fn hint(&self) -> Option<String> {
        Some(DropReason::WriteFailed.remedy().to_owned())
    }
}

impl Unwritten {
    /// The destination of `account`, which is a capture file, if it lacks frames.
    pub fn of(account: &DestinationLedger) -> Option<Self> {
        let frames = account.dropped[DropReason::WriteFailed] + account.lost_from_file;
        (frames > 0).then(|| Self { to: Arc::clone(&account.to), frames })
    }
}

impl Destination {
    /// Prepares for frames of an interface of this name, which they call `interface` from now on.
    fn learn_interface(&mut self, interface: InterfaceId, name: &str) {
        match self {
            Self::Tunnel(tunnel) => tunnel.learn_interface(interface, name),
            Self::Tap(_) => {}
            Self::File(file) => file.learn_interface(interface, name),
        }
    }

    /// Forgets an interface, whose number another one may get.
    fn forget_interface(&mut self, interface: InterfaceId) {
        match self {
            Self::Tunnel(tunnel) => tunnel.forget_interface(interface),
            Self::Tap(_) => {}
            Self::File(file) => file.forget_interface(interface),
        }
    }

    fn offer(&mut self, frame: &WireFrame<'_>, account: &mut DestinationLedger) {
        account.assigned += 1;
        match self {
            Self::Tunnel(tunnel) => tunnel.offer(frame, account),
            Self::Tap(tap) => tap.offer(frame, account),
            Self::File(file) => file.offer(frame, account),
        }
    }

    fn flush(&mut self, now: Instant, account: &mut DestinationLedger) {
        match self {
            Self::Tunnel(tunnel) => tunnel.flush(now, account),
            Self::Tap(tap) => tap.flush(now, account),
            Self::File(file) => file.flush(now, account),
        }
    }

    fn finish(&mut self, now: Instant, account: &mut DestinationLedger) {
        match self {
            Self::Tunnel(tunnel) => tunnel.finish(now, account),
            // Every frame has left, or was dropped, when it was offered.
            Self::Tap(tap) => tap.flush(now, account),
            Self::File(file) => file.finish(account),
        }
    }

    /// Whether it can take no other frame: it is a pipe whose reader has ended.
    fn is_gone(&self) -> bool {
        match self {
            Self::Tunnel(tunnel) => tunnel.is_closed(),
            Self::Tap(_) => false,
            Self::File(file) => file.is_closed(),
        }
    }

    /// What its own datagrams look like on the underlay.
    fn own_tunnel(&self) -> Option<&OwnTunnel> {
        match self {
            Self::Tunnel(tunnel) => tunnel.own_tunnel(),
            Self::Tap(_) | Self::File(_) => None,
        }
    }

    /// When a frame in flight, or a file whose time ends, must be looked at again.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Tunnel(tunnel) => tunnel.deadline(),
            Self::Tap(tap) => tap.deadline(),
            Self::File(file) => file.deadline(),
        }
    }

    /// The error with which the kernel last refused a datagram or a record, if it is known.
    fn last_refusal(&self) -> Option<String> {
        match self {
            Self::Tunnel(tunnel) => tunnel.last_refusal(),
            Self::Tap(_) => None,
            Self::File(file) => file.last_refusal(),
        }
    }
}

/// Those of `destinations` whose ids go by interface and leave one of `interfaces` out.
pub fn missing_ids(destinations: &[DestinationPlan], interfaces: &[String]) -> Vec<Box<dyn Explain>> {
    let missing = |destination: &DestinationPlan| -> Option<Box<dyn Explain>> {
        let End::Tunnel(tunnel) = &destination.end else { return None };
        let error = Encapsulator::new(&tunnel.encapsulation, interfaces).err()?;
        Some(CannotOpen { destination: destination.place(), error }.into())
    };
    destinations.iter().filter_map(missing).collect()
}

impl Destinations {
    /// In the order of the plan, which is the order of the ledger's accounts. Each gets every frame.
    pub fn new(destinations: Vec<Destination>) -> Self {
        Self { all: destinations, spread: Spread::replicate(), losses: LossWatch::default() }
    }

    /// The same, of which each frame goes where `spread` says.
    #[must_use]
    pub fn spread_by(self, spread: Spread) -> Self {
        Self { spread, ..self }
    }

    /// The same, whose losses are noted in `errors`.
    #[must_use]
    pub fn telling(self, errors: LastErrors) -> Self {
        Self { losses: LossWatch::telling(errors), ..self }
    }

    /// Prepares every destination for frames of an interface of this name, which they call `interface` from now on. Asked
    /// between turns, when nothing that was collected says otherwise.
    pub fn learn_interface(&mut self, interface: InterfaceId, name: &str) {
        self.all.iter_mut().for_each(|destination| destination.learn_interface(interface, name));
    }

    /// The same for an interface that was found in the capture file `file`: where ids go by interface and leave `name` out,
    /// it has those of the file.
    pub fn learn_recorded_interface(&mut self, interface: InterfaceId, name: &str, file: &str) {
        for destination in &mut self.all {
            let is_known = match destination {
                Destination::Tunnel(tunnel) => tunnel.has_id_for(name),
                Destination::Tap(_) | Destination::File(_) => true,
            };
            destination.learn_interface(interface, if is_known { name } else { file });
        }
    }

    /// Has every destination forget an interface that no source captures: frames with its number are
    /// [`DropReason::UnknownInterface`] until another interface is learnt by it.
    pub fn forget_interface(&mut self, interface: InterfaceId) {
        self.all.iter_mut().for_each(|destination| destination.forget_interface(interface));
    }

    /// Gives `frame` to those destinations that are to have it. What does not leave at once is in flight until the next
    /// flush.
    pub fn offer(&mut self, frame: &WireFrame<'_>, ledger: &mut Ledger) {
        ledger.offered += 1;
        match self.spread.of(frame.flow) {
            Choice::Every => {
                for (destination, account) in self.all.iter_mut().zip(&mut ledger.destinations) {
                    destination.offer(frame, account);
                }
            }
            Choice::One(chosen) => match (self.all.get_mut(chosen), ledger.destinations.get_mut(chosen)) {
                (Some(destination), Some(account)) => destination.offer(frame, account),
                _ => ledger.not_assigned[DropReason::NoDestination] += 1,
            },
            Choice::Nobody => ledger.not_assigned[DropReason::NoDestination] += 1,
        }
    }

    /// Takes note of who is healthy now. Called before every turn: what is offered then goes to nobody who is not.
    pub fn look(&mut self) {
        self.spread.look();
    }

    /// Sends what is in flight. Called after every turn, and on every error path.
    pub fn flush(&mut self, now: Instant, ledger: &mut Ledger) {
        self.each(ledger, |destination, account| destination.flush(now, account));
        if self.losses.next_look.is_due(now) {
            self.note_losses(ledger);
        }
    }

    /// Sends what can still be sent and gives everything else its fate: afterwards nothing is in flight.
    pub fn finish(&mut self, now: Instant, ledger: &mut Ledger) {
        self.each(ledger, |destination, account| destination.finish(now, account));
        self.note_losses(ledger);
    }

    /// Whether nobody can take another frame: every destination is a pipe whose reader has ended.
    pub fn are_gone(&self) -> bool {
        self.all.iter().all(Destination::is_gone)
    }

    /// The accounts of the tunnels that [`own_tunnels`](Self::own_tunnels) names, in its order: all workers have the same.
    pub fn accounts(&self) -> Vec<Option<Account>> {
        let of = |destination: &Destination| match destination {
            Destination::Tunnel(tunnel) => tunnel.account(),
            Destination::Tap(_) | Destination::File(_) => None,
        };
        self.all.iter().filter(|destination| destination.own_tunnel().is_some()).map(of).collect()
    }

    /// Whether frames leave for an analyzer elsewhere.
    pub fn have_a_tunnel(&self) -> bool {
        self.all.iter().any(|destination| matches!(destination, Destination::Tunnel(_)))
    }

    /// What the session's own datagrams look like on the underlay.
    pub fn own_tunnels(&self) -> Vec<OwnTunnel> {
        self.all.iter().filter_map(Destination::own_tunnel).cloned().collect()
    }

    /// The lengths of the datagrams that left through tunnels since the last time.
    pub fn take_lengths(&mut self) -> Lengths {
        let mut sent = Lengths::default();
        for destination in &mut self.all {
            if let Destination::Tunnel(tunnel) = destination {
                tunnel.take_lengths(&mut sent);
            }
        }
        sent
    }

    /// When a frame in flight, or a file whose time ends, must be looked at again, if any.
    pub fn deadline(&self) -> Option<Instant> {
        self.all.iter().filter_map(Destination::deadline).min()
    }

    fn note_losses(&mut self, ledger: &Ledger) {
        for (number, (destination, account)) in self.all.iter().zip(&ledger.destinations).enumerate() {
            self.losses.look(number, account, || destination.last_refusal());
        }
    }

    fn each(&mut self, ledger: &mut Ledger, mut act: impl FnMut(&mut Destination, &mut DestinationLedger)) {
        for (destination, account) in self.all.iter_mut().zip(&mut ledger.destinations) {
            act(destination, account);
        }
    }
}

#[cfg(test)]
impl Destinations {
    /// What each capture file calls an interface.
    pub(crate) fn names_of(&self, interface: InterfaceId) -> Vec<String> {
        let name = |destination: &Destination| match destination {
            Destination::File(file) => file.name_of(interface).map(str::to_owned),
            Destination::Tunnel(_) | Destination::Tap(_) => None,
        };
        self.all.iter().filter_map(name).collect()
    }
}
