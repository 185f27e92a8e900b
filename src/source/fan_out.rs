//! How several workers share one interface: packet(7)'s fan-out, a group of sockets of which each frame meets one.
//!
//! On Ethernet interfaces a program of our own chooses by the flow ([`flow_program`]). Elsewhere the kernel's symmetric hash
//! does (`net/packet/af_packet.c:fanout_demux_hash`, which since Linux 4.7 asks
//! `net/core/flow_dissector.c:__skb_get_hash_symmetric`). By either, both directions of a flow meet one worker, and so do
//! all fragments of one packet.
//!
//! Not asked for: `DEFRAG`, which would mirror whole packets in the place of their fragments, and `ROLLOVER`, which would
//! give the frames of a full ring to another worker and tear flows apart.

use std::io;
use std::os::fd::BorrowedFd;

use libc::{c_int, c_uint};

use super::flow_program;
use crate::quantity::Directions;
use crate::sys::packet_fanout;
use crate::sys::socket_option::IntOption;

/// One group in the making: its members are the workers' sockets, in the workers' order. Groups of one interface that
/// have as many members, joined in the same order, choose the same member for a flow.
#[derive(Debug)]
pub(super) struct FanOut {
    /// How frames are spread, with the flags that all members must agree on.
    mode: c_uint,
    /// How many tunnels are taken off the frames.
    tunnels: u8,
    /// Known when the first member has made the group.
    id: Option<c_uint>,
}

impl FanOut {
    /// A group without members for an Ethernet interface or another one, for frames of `directions` that lose as many
    /// `tunnels`. On another interface it is the outermost packet that chooses.
    pub(super) fn new(is_ethernet: bool, directions: Directions, tunnels: u8) -> Self {
        let chosen_by = if is_ethernet { libc::PACKET_FANOUT_CBPF } else { libc::PACKET_FANOUT_HASH };
        // A group has its own answer to PACKET_IGNORE_OUTGOING. Kernels that do not know the flag ignore it, and leave it to
        // the filter.
        let ignored = if directions == Directions::In { libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING } else { 0 };
        Self { mode: chosen_by | ignored, tunnels, id: None }
    }

    /// Makes `socket` the next member. It must be bound to the group's interface.
    ///
    /// # Errors
    /// `EINVAL` from kernels before Linux 4.12, which give out no unique ids: with a made-up id, two processes might share
    /// a group, and each would miss the other's part.
    pub(super) fn join(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(id) = self.id {
            return IntOption::PACKET_FANOUT.set(socket, argument(self.mode, id));
        }
        let unique = self.mode | libc::PACKET_FANOUT_FLAG_UNIQUEID;
        IntOption::PACKET_FANOUT.set(socket, argument(unique, 0))?;
        let made = IntOption::PACKET_FANOUT.value_of(socket)?;
        self.id = Some(made.cast_unsigned() & 0xffff);
        if self.mode & 0xff == libc::PACKET_FANOUT_CBPF {
            packet_fanout::choose_by(socket, &flow_program::program(self.tunnels))?;
        }
        Ok(())
    }
}

/// The option's value: `id` in the low half, `mode` in the high half.
fn argument(mode: c_uint, id: c_uint) -> c_int {
    (mode << 16 | id).cast_signed()
}
