//! Cuts back what GRO merged: the kernel joins TCP segments inside GRE before a socket sees them.
//!
//! It does so for GRE without sequence numbers, whatever else the host has (`net/ipv4/gre_offload.c`). Inside UDP it does so for
//! sockets of its own tunnel devices only (`net/ipv4/udp_offload.c:udp_gro_receive`), with which no endpoint can share address
//! and port.
//!
//! A socket gives the joined packet and does not tell how long the segments were. A packet socket beside it does, in the
//! `virtio_net_hdr`: the watch. The kernel hands every packet to packet sockets of its protocol before the protocol itself
//! (`net/core/dev.c:__netif_receive_skb_core`, and `dev_add_pack` puts the newest first), so that what the endpoint's socket
//! gives has been told of before. The filter of the watch lets only merged packets through; the others cost no copy.
//!
//! A merged packet shows by itself: its inner checksum field holds the sum of the pseudo header. One that nobody tells about
//! is left as it is while the watch misses nothing: senders that do not finish checksums exist. Without a watch, and
//! where the watch lost packets, the segments are taken to be as long as the longest packet that the stream has sent
//! unmerged: that is its full size.

use std::io;
use std::num::NonZeroU16;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockFilter, SockRef};

use super::merge_program;
use crate::frame::At;
use crate::frame::{Offload, Unfinished};
use crate::quantity::Mtu;
use crate::sys::packet_socket::PacketSocket;
use crate::sys::socket_option;
use crate::wire::checksum::is_partial;
use crate::wire::layers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ip, IpVersion};

/// Bytes of a packet that are kept: outer and inner headers, and the beginning of the payload.
const KEPT: usize = 246;
/// The `virtio_net_hdr` before them: `linux/virtio_net.h`.
const OFFLOADS: usize = 10;
const ROOM: usize = OFFLOADS + KEPT;
/// Packets that were told of and not met yet. More wait in the socket.
const WAITING: usize = 256;
/// Receive memory of the watch, in bytes: about a thousand packets.
const MEMORY: usize = 1 << 20;

/// The watch of one endpoint's socket.
#[derive(Debug)]
pub struct MergeWatch {
    socket: Option<PacketSocket>,
    /// What was told and not met yet; a place is used again when its turn comes.
    told: Vec<Told>,
    next: usize,
    /// The socket's drops that are known.
    missed: u32,
    /// Whether it was said that segment sizes are inferred.
    said: bool,
}

/// What is known of one merged packet.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// Payload bytes of each segment but the last; 0: nothing is here.
    segment: u16,
    /// Where the merged packet's transport header begins in `bytes`.
    transport: usize,
    length: usize,
    bytes: [u8; KEPT],
}

impl Told {
    const NOTHING: Self = Self { segment: 0, transport: 0, length: 0, bytes: [0; KEPT] };

    /// Reads a `virtio_net_hdr` and the packet behind it. `None`: no merged packet.
    fn parse(received: &[u8]) -> Option<Self> {
        /// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
        const UNFINISHED: u8 = 1;
        let (header, packet) = received.split_first_chunk::<OFFLOADS>()?;
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let (segment, start) = (word(4), word(6));
        if header[0] & UNFINISHED == 0 || segment == 0 {
            return None;
        }
        let mut told = Self { segment, transport: start.into(), length: packet.len().min(KEPT), ..Self::NOTHING };
        told.bytes.get_mut(..told.length)?.copy_from_slice(packet.get(..told.length)?);
        Some(told)
    }

    /// Whether it tells of `packet`, which stands in `bytes`: whether IP header, and of what follows as much as is kept,
    /// are the same.
    fn is_of(&self, bytes: &[u8], packet: &Ip) -> bool {
        const BEHIND: usize = 20;
        let header = packet.transport - packet.start;
        let start = self.transport.checked_sub(header);
        let kept = start.and_then(|start| self.bytes.get(start..self.length));
        let Some(kept) = kept.filter(|kept| kept.len() >= header + BEHIND) else { return false };
        self.segment != 0 && bytes.get(packet.start..packet.start + kept.len()) == Some(kept)
    }
}

impl MergeWatch {
    /// A watch of GRE over this version of IP. Without `CAP_NET_RAW` it knows nothing.
    pub fn open(version: IpVersion) -> Self {
        let socket = open(version)
            .inspect_err(|error| tracing::debug!(%error, "segment sizes of merged packets are not told"))
            .ok();
        Self { socket, told: vec![Told::NOTHING; WAITING], next: 0, missed: 0, said: false }
    }

    /// What GRO did to an inner frame, in whose `bytes` stands `packet`. `full_size` is the length of the longest packet that its stream
    /// has sent unmerged, in bytes, IP header included.
    pub fn offload_of(&mut self, bytes: &[u8], packet: &Ip, full_size: u16) -> Option<Offload> {
        if !is_partial(bytes, packet) {
            return None;
        }
        if let Some(segment) = self.segment_of(bytes, packet) {
            let start = u16::try_from(packet.transport).ok();
            // Only where the transport header begins is looked at.
            let checksum = start.map(|start| At { start, offset: 0 });
            return Some(Offload::Exact(Unfinished { segment: Some(segment), checksum }));
        }
        if !self.misses_some() || packet.end - packet.start <= usize::from(full_size) {
            return None;
        }
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(
                "the kernel merges inner TCP segments and does not tell their sizes here: they are cut to the sender's \
                 full size of {full_size} bytes. `ethtool -K DEVICE gro off` on the receiving device, or the capability \
                 CAP_NET_RAW, makes them exact"
            );
        }
        Mtu::new(full_size.into()).ok().map(|mtu| Offload::Unknown { mtu })
    }

    /// The segment size that was told of the packet.
    fn segment_of(&mut self, bytes: &[u8], packet: &Ip) -> Option<NonZeroU16> {
        if let Some(found) = self.take(bytes, packet) {
            return Some(found);
        }
        self.listen();
        self.take(bytes, packet)
    }

    /// Takes the oldest that tells of the packet.
    fn take(&mut self, bytes: &[u8], packet: &Ip) -> Option<NonZeroU16> {
        let (newer, older) = self.told.split_at_mut(self.next);
        let found = older.iter_mut().chain(newer).find(|told| told.is_of(bytes, packet))?;
        NonZeroU16::new(std::mem::take(&mut found.segment))
    }

    /// Reads what waits in the socket, as much as there is room for.
    fn listen(&mut self) {
        let Some(socket) = &self.socket else { return };
        let mut received = [0; ROOM];
        for _ in 0..WAITING {
            match socket.receive(&mut received) {
                Ok(length) => {
                    if let Some(told) = received.get(..length).and_then(Told::parse) {
                        if let Some(place) = self.told.get_mut(self.next) {
                            *place = told;
                        }
                        self.next = (self.next + 1) % WAITING;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A packet that a virtio_net_hdr cannot describe: the next one is another.
                Err(_) => {}
            }
        }
    }

    /// Whether merged packets may have gone by unseen: there is no watch, or its memory was full since this was asked last.
    fn misses_some(&mut self) -> bool {
        let Some(socket) = &self.socket else { return true };
        let missed = socket_option::dropped(socket.as_fd()).unwrap_or(self.missed);
        std::mem::replace(&mut self.missed, missed) != missed
    }
}

fn open(version: IpVersion) -> io::Result<PacketSocket> {
    let keep = u32::try_from(KEPT).unwrap_or(u32::MAX);
    let program: Vec<SockFilter> = merge_program::program(version, keep)
        .into_iter()
        .map(|step| SockFilter::new(step.code, step.jt, step.jf, step.k))
        .collect();
    let socket = PacketSocket::open()?;
    socket.precede_by_offloads()?;
    SockRef::from(&socket).attach_filter(&program)?;
    let _ =
        setsockopt(&socket, sockopt::RcvBufForce, &MEMORY).or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &MEMORY));
    socket.bind_to_protocol(match version {
        IpVersion::V4 => ETHERTYPE_IPV4,
        IpVersion::V6 => ETHERTYPE_IPV6,
    })?;
    Ok(socket)
}
