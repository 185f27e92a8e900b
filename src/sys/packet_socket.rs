//! AF_PACKET sockets with a memory-mapped receive ring: packet(7), `Documentation/networking/packet_mmap.rst`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::c_int;

use super::mmap::Mapping;
use super::socket_option::set_option;
use super::{check, length_of};
use crate::quantity::Ifindex;

/// Size and count of a ring's blocks, and how long the kernel may fill one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingShape {
    /// Bytes of one block: a multiple of the page size. A frame must fit into one block.
    pub block_size: u32,
    /// Number of blocks.
    pub block_count: u32,
    /// Milliseconds after which the kernel hands over a block that is not full, at least 1.
    pub retire_after: u32,
}

/// An AF_PACKET socket that captures nothing yet.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

/// What the kernel counted since it was asked last (`PACKET_STATISTICS` clears on reading).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketStatistics {
    /// Frames that passed the filter, the dropped ones included.
    pub seen: u32,
    /// Frames dropped because no block was free.
    pub dropped: u32,
}

impl PacketSocket {
    /// A socket bound to no protocol: no frame can enter it before [`bind`](Self::bind).
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW` in the network namespace's user namespace.
    pub fn open() -> io::Result<Self> {
        // SAFETY: socket(2) takes three integers; it reads and writes no memory of ours.
        let fd = check(unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
        })?;
        // SAFETY: the kernel has just returned this descriptor, so it is open and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Leaves out frames that the host sends. Linux 4.20.
    ///
    /// # Errors
    /// `ENOPROTOOPT` on older kernels.
    pub fn ignore_outgoing(&self) -> io::Result<()> {
        self.set(libc::PACKET_IGNORE_OUTGOING, &1)
    }

    /// Asks the interface for frames that are not addressed to this host, as long as the socket lives.
    ///
    /// # Errors
    /// `ENODEV` when there is no such interface.
    pub fn promiscuous(&self, interface: Ifindex) -> io::Result<()> {
        let membership = libc::packet_mreq {
            mr_ifindex: index(interface),
            mr_type: short(libc::PACKET_MR_PROMISC),
            mr_alen: 0,
            mr_address: [0; 8],
        };
        self.set(libc::PACKET_ADD_MEMBERSHIP, &membership)
    }

    /// Maps a TPACKET_V3 receive ring, in which a `virtio_net_hdr` in front of each frame tells what offloads left
    /// unfinished.
    ///
    /// # Errors
    /// `ENOMEM` when the kernel has no memory for the blocks, `EINVAL` for an impossible shape.
    pub fn map_ring(&self, shape: RingShape) -> io::Result<Mapping> {
        const TPACKET_V3: c_int = 2;
        /// With variable-length frames the kernel only checks that this divides the block.
        const FRAME_SIZE: u32 = 2048;

        self.set(libc::PACKET_VERSION, &TPACKET_V3)?;
        self.set(libc::PACKET_VNET_HDR, &1)?;
        let request = libc::tpacket_req3 {
            tp_block_size: shape.block_size,
            tp_block_nr: shape.block_count,
            tp_frame_size: FRAME_SIZE,
            tp_frame_nr: shape.block_count * (shape.block_size / FRAME_SIZE),
            tp_retire_blk_tov: shape.retire_after,
            tp_sizeof_priv: 0,
            tp_feature_req_word: libc::TP_FT_REQ_FILL_RXHASH,
        };
        self.set(libc::PACKET_RX_RING, &request)?;
        Mapping::shared(self.0.as_fd(), shape.block_size as usize * shape.block_count as usize, 0)
    }

    /// Starts capturing every protocol on `interface`.
    ///
    /// # Errors
    /// `ENODEV` when there is no such interface, `ENETDOWN` when it is down.
    pub fn bind(&self, interface: Ifindex) -> io::Result<()> {
        self.bind_to(short(libc::ETH_P_ALL), index(interface))
    }

    fn bind_to(&self, ethertype: u16, interface: c_int) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: short(libc::AF_PACKET),
            sll_protocol: ethertype.to_be(),
            sll_ifindex: interface,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: bind(2) reads `addrlen` bytes of `addr`; both describe the one `sockaddr_ll` above, which outlives the
        // call.
        check(unsafe {
            libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), length_of::<libc::sockaddr_ll>())
        })?;
        Ok(())
    }

    /// Has a `virtio_net_hdr` of ten bytes precede each frame that [`receive`](Self::receive) gives, in the machine's byte
    /// order.
    ///
    /// # Errors
    /// `EBUSY` when a ring is mapped.
    pub fn precede_by_offloads(&self) -> io::Result<()> {
        self.set(libc::PACKET_VNET_HDR, &1)
    }

    /// Starts capturing the packets of one network protocol on every interface: what the protocol itself receives there,
    /// each once.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bind_to_protocol(&self, ethertype: u16) -> io::Result<()> {
        self.bind_to(ethertype, 0)
    }

    /// The oldest frame that waits, cut to the length of `buffer`; returns how many bytes. For a socket without ring.
    ///
    /// # Errors
    /// `WouldBlock` when none waits.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::sys::socket::recv(self.0.as_raw_fd(), buffer, nix::sys::socket::MsgFlags::MSG_DONTWAIT)?)
    }

    /// What was counted since the last call.
    ///
    /// # Errors
    /// Only for a descriptor that is no packet socket, which this type rules out.
    pub fn take_statistics(&self) -> io::Result<PacketStatistics> {
        let mut counted = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        let mut length = length_of::<libc::tpacket_stats_v3>();
        // SAFETY: getsockopt(2) writes at most `*optlen` bytes to `optval` and their number to `optlen`; both point to live
        // variables above, of the size that TPACKET_V3 sockets answer with (net/packet/af_packet.c:packet_getsockopt).
        check(unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counted).cast(),
                &raw mut length,
            )
        })?;
        Ok(PacketStatistics { seen: counted.tp_packets, dropped: counted.tp_drops })
    }

    /// Sets one option of level `SOL_PACKET`.
    fn set<T>(&self, option: c_int, value: &T) -> io::Result<()> {
        set_option(self.0.as_fd(), libc::SOL_PACKET, option, value)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The interface that an AF_PACKET socket is bound to; `None` for one that captures on all, and for one whose interface was
/// deleted or moved to another network namespace: then the kernel has unbound it (`packet_notifier`, `NETDEV_UNREGISTER` in
/// `net/packet/af_packet.c`), so that an interface that gets the same index later is not taken for it.
pub fn bound_to(socket: BorrowedFd<'_>) -> Option<Ifindex> {
    let mut address = libc::sockaddr_ll {
        sll_family: 0,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut length = length_of::<libc::sockaddr_ll>();
    // SAFETY: getsockname(2) writes at most `*addrlen` bytes to `addr`, and the address's length to `addrlen`. Both point to
    // live variables above; every field of `sockaddr_ll` is an integer, so whatever is written is valid.
    let outcome = unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut length) };
    if outcome < 0 || i32::from(address.sll_family) != libc::AF_PACKET {
        return None;
    }
    u64::try_from(address.sll_ifindex).ok().and_then(|index| Ifindex::new(index).ok())
}

/// The kernel's signed form of an interface index; [`Ifindex`] is never larger.
fn index(interface: Ifindex) -> c_int {
    interface.value().cast_signed()
}

/// A constant that the kernel's structures hold in 16 bits.
fn short(constant: c_int) -> u16 {
    u16::try_from(constant).unwrap_or(u16::MAX)
}
