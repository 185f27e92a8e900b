//! Walking a block of a TPACKET_V3 ring: safe code over bytes, which distrusts all of them.
//!
//! Layout (`linux/if_packet.h`), native byte order. A block begins with
//!
//! ```text
//!     0 version   4 offset_to_priv   8 block_status   12 num_pkts   16 offset_to_first_pkt   20 blk_len
//! ```
//!
//! and each frame in it with a `tpacket3_hdr`, 48 bytes with padding, then a `sockaddr_ll`:
//!
//! ```text
//!     0 next_offset   4 sec   8 nsec   12 snaplen   16 len   20 status   24 mac(16)   26 net(16)
//!    28 rxhash       32 vlan_tci      36 vlan_tpid(16)      58 sll_pkttype(8)
//! ```
//!
//! The 10-byte `virtio_net_hdr` (`linux/virtio_net.h`) ends where the frame begins, at `mac`:
//!
//! ```text
//!     0 flags(8)   1 gso_type(8)   2 hdr_len(16)   4 gso_size(16)   6 csum_start(16)   8 csum_offset(16)
//! ```

use std::num::NonZeroU16;

use crate::frame::{At, Frame, InterfaceId, Offload, Unfinished};
use crate::quantity::{Direction, Timestamp};
use crate::sys::prefetch::prefetch;
use crate::wire::ethernet::VLAN_TAG_LEN;

/// How far before its turn memory is asked for: several small frames, which are done sooner than memory answers. Of a long
/// frame the beginning is enough: the processor asks for the rest by itself.
const AHEAD: usize = 1024;

const BLOCK_STATUS: usize = 8;
const NUMBER_OF_FRAMES: usize = 12;
const FIRST_FRAME: usize = 16;
const NEXT_OFFSET: usize = 0;
const SECONDS: usize = 4;
const NANOSECONDS: usize = 8;
const SNAPLEN: usize = 12;
const LENGTH: usize = 16;
const STATUS: usize = 20;
const MAC: usize = 24;
const VLAN_TCI: usize = 32;
const VLAN_TPID: usize = 36;
const PACKET_TYPE: usize = 48 + 10;
const VNET_HEADER_LEN: usize = 10;

/// `TP_STATUS_USER`: the kernel has filled the slot. It claims one, writes `next_offset` and the tag's status bits, and only
/// then tries to describe the frame's offload. Where that fails it counts a drop and leaves the slot as it is, with what the
/// memory held before (`tpacket_rcv` in `net/packet/af_packet.c`). Every frame that it does write gets this bit.
const FILLED: u32 = 1;
/// `TP_STATUS_BLK_TMO`: the block was handed over because the delay was over.
const BLOCK_TIMED_OUT: u32 = 1 << 5;
/// `TP_STATUS_VLAN_VALID`: the kernel or the NIC took the outermost tag out of the frame.
const VLAN_VALID: u32 = 1 << 4;
/// `TP_STATUS_VLAN_TPID_VALID`: its TPID is known too.
const VLAN_TPID_VALID: u32 = 1 << 6;
/// `PACKET_OUTGOING` of `linux/if_packet.h`.
const PACKET_OUTGOING: u8 = 4;
/// TPID of a stripped tag from a kernel that does not tell it.
const DEFAULT_TPID: u16 = 0x8100;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_*` without the ECN bit.
const GSO_TYPE_MASK: u8 = 0x7f;

/// Position in a block between two turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    next: usize,
    left: u32,
    unfilled: u32,
}

impl Cursor {
    /// Before the first frame of `block`.
    pub(super) fn start(block: &[u8]) -> Self {
        let left = native_u32(block, NUMBER_OF_FRAMES).unwrap_or(0);
        let next = native_u32(block, FIRST_FRAME).unwrap_or(0) as usize;
        Self { next, left, unfilled: 0 }
    }

    /// The next frame of `block`, which was seen on `interface`; `None` at its end, or where it makes no sense: then
    /// [`left`](Self::left) says how many frames the kernel promised beyond it.
    pub(super) fn advance<'a>(&mut self, block: &'a mut [u8], interface: InterfaceId) -> Option<Frame<'a>> {
        let told = loop {
            if self.left == 0 {
                return None;
            }
            let told = Header::read(block.get(self.next..)?)?;
            if told.status & FILLED != 0 {
                break told;
            }
            self.unfilled += 1;
            self.step(told.next_offset);
        };
        let header = block.get_mut(self.next..)?;
        prefetch(ahead(header, told.next_offset));
        let frame = read_frame(header, &told, interface)?;
        self.step(told.next_offset);
        Some(frame)
    }

    fn step(&mut self, next_offset: usize) {
        self.left -= 1;
        // Never on the spot: a hostile offset cannot make this loop for ever. `left` ends it in any case.
        self.next = self.next.saturating_add(next_offset.max(1));
    }

    /// Slots so far that the kernel claimed and did not fill. It has counted each as dropped.
    pub(super) fn unfilled(&self) -> u32 {
        self.unfilled
    }

    /// Frames that the block's header promised and that were not read.
    pub(super) fn left(&self) -> u32 {
        self.left
    }
}

/// What a `tpacket3_hdr`, and the `sockaddr_ll` behind it, tell of a slot.
struct Header {
    next_offset: usize,
    seconds: u32,
    nanoseconds: u32,
    snaplen: usize,
    length: u32,
    status: u32,
    mac: usize,
    tci: u32,
    tpid: u16,
    packet_type: u8,
}

impl Header {
    /// Reads the first bytes of a slot. One check of their number serves all fields.
    #[inline]
    fn read(slot: &[u8]) -> Option<Self> {
        let fixed = slot.first_chunk()?;
        Some(Self {
            next_offset: u32_of(fixed, NEXT_OFFSET) as usize,
            seconds: u32_of(fixed, SECONDS),
            nanoseconds: u32_of(fixed, NANOSECONDS),
            snaplen: u32_of(fixed, SNAPLEN) as usize,
            length: u32_of(fixed, LENGTH),
            status: u32_of(fixed, STATUS),
            mac: usize::from(u16_of(fixed, MAC)),
            tci: u32_of(fixed, VLAN_TCI),
            tpid: u16_of(fixed, VLAN_TPID),
            packet_type: fixed[PACKET_TYPE],
        })
    }
}

/// Number of a field at a constant place of the header.
#[inline]
fn u32_of(fixed: &[u8; PACKET_TYPE + 1], at: usize) -> u32 {
    u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
}

#[inline]
fn u16_of(fixed: &[u8; PACKET_TYPE + 1], at: usize) -> u16 {
    u16::from_ne_bytes([fixed[at], fixed[at + 1]])
}

/// What to ask for before the frame at the start of `header` is read, which the next one follows at `next_offset`: what
/// stands just before [`AHEAD`] bytes further on than that, as much as this frame takes up.
fn ahead(header: &[u8], next_offset: usize) -> &[u8] {
    let end = next_offset.saturating_add(AHEAD);
    header.get(end - next_offset.min(AHEAD)..end).unwrap_or_default()
}

/// Whether the kernel handed `block` over because it was full, and not because the delay was over.
pub(super) fn was_full(block: &[u8]) -> bool {
    native_u32(block, BLOCK_STATUS).is_some_and(|status| status & BLOCK_TIMED_OUT == 0)
}

/// The frame of the slot `header`, with everything the kernel tells about it: a VLAN tag that was taken out is put back.
#[inline]
fn read_frame<'a>(header: &'a mut [u8], told: &Header, interface: InterfaceId) -> Option<Frame<'a>> {
    let (mut mac, mut wire_len) = (told.mac, told.length);
    let end = mac.checked_add(told.snaplen)?;
    let mut unfinished = read_vnet(header.get(mac.checked_sub(VNET_HEADER_LEN)?..mac)?.first_chunk()?);
    let nanos = u64::from(told.seconds) * 1_000_000_000 + u64::from(told.nanoseconds);
    let tag = stripped_tag(told);
    if let Some(tag) = tag {
        mac = put_back(header, mac, end, tag)?;
        wire_len = wire_len.saturating_add(u32::try_from(VLAN_TAG_LEN).ok()?);
        let shift = u16::try_from(VLAN_TAG_LEN).ok()?;
        unfinished.checksum = unfinished.checksum.map(|at| At { start: at.start.saturating_add(shift), ..at });
    }
    Some(Frame {
        bytes: header.get(mac..end)?,
        wire_len,
        timestamp: Timestamp::from_nanos(nanos),
        direction: Some(if told.packet_type == PACKET_OUTGOING { Direction::Out } else { Direction::In }),
        interface,
        origin: None,
        offload: Offload::Exact(unfinished),
        has_restored_tag: tag.is_some(),
        refused: None,
    })
}

/// TPID and TCI of the tag that the kernel or the NIC took out of the frame, if it did.
fn stripped_tag(told: &Header) -> Option<[u8; VLAN_TAG_LEN]> {
    if told.status & VLAN_VALID == 0 {
        return None;
    }
    let tpid = if told.status & VLAN_TPID_VALID == 0 { DEFAULT_TPID } else { told.tpid };
    // The field has 32 bits; a tag has 16.
    let tci = u16::try_from(told.tci & 0xffff).ok()?;
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
    Some([a, b, c, d])
}

/// Puts `tag` behind the two MAC addresses of the frame at `mac`, which move to the front by its length, over the
/// `virtio_net_hdr` that has been read. Returns where the frame begins now.
fn put_back(header: &mut [u8], mac: usize, end: usize, tag: [u8; VLAN_TAG_LEN]) -> Option<usize> {
    const ADDRESSES: usize = 12;
    let start = mac - VLAN_TAG_LEN;
    let frame = header.get_mut(start..end).filter(|frame| frame.len() >= VLAN_TAG_LEN + ADDRESSES)?;
    frame.copy_within(VLAN_TAG_LEN..VLAN_TAG_LEN + ADDRESSES, 0);
    frame[ADDRESSES..ADDRESSES + VLAN_TAG_LEN].copy_from_slice(&tag);
    Some(start)
}

/// The `virtio_net_hdr` in our words.
#[inline]
fn read_vnet(header: &[u8; VNET_HEADER_LEN]) -> Unfinished {
    let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    Unfinished {
        segment: NonZeroU16::new(if header[1] & GSO_TYPE_MASK == 0 { 0 } else { field(4) }),
        checksum: (header[0] & NEEDS_CHECKSUM != 0).then(|| At { start: field(6), offset: field(8) }),
    }
}

fn native_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel says about a frame that a test puts into a block.
    #[derive(Clone, Copy, Default)]
    struct Told {
        status: u32,
        tci: u32,
        tpid: u16,
        packet_type: u8,
        vnet: [u8; VNET_HEADER_LEN],
        cut: usize,
        unfilled: bool,
    }

    const TOLD: Told =
        Told { status: 0, tci: 0, tpid: 0, packet_type: 0, vnet: [0; VNET_HEADER_LEN], cut: 0, unfilled: false };
    /// Where Linux puts the frame: behind header and address, with room for its network header to be aligned.
    const FRAME: usize = 92;

    /// A block as `net/packet/af_packet.c` lays it out, field by field.
    fn block(frames: &[(Told, &[u8])]) -> Vec<u8> {
        let mut block = vec![0; 48];
        block[NUMBER_OF_FRAMES..][..4].copy_from_slice(&u32::try_from(frames.len()).unwrap().to_ne_bytes());
        block[FIRST_FRAME..][..4].copy_from_slice(&48_u32.to_ne_bytes());
        for (number, (told, bytes)) in frames.iter().enumerate() {
            let mut record = vec![0; FRAME];
            let mut put = |at: usize, value: u32| record[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            put(SECONDS, 1_700_000_000);
            put(NANOSECONDS, u32::try_from(number).unwrap());
            put(SNAPLEN, u32::try_from(bytes.len() - told.cut).unwrap());
            put(LENGTH, u32::try_from(bytes.len()).unwrap());
            put(STATUS, told.status | if told.unfilled { 0 } else { FILLED });
            put(VLAN_TCI, told.tci);
            record[MAC..][..2].copy_from_slice(&u16::try_from(FRAME).unwrap().to_ne_bytes());
            record[VLAN_TPID..][..2].copy_from_slice(&told.tpid.to_ne_bytes());
            record[PACKET_TYPE] = told.packet_type;
            record[FRAME - VNET_HEADER_LEN..].copy_from_slice(&told.vnet);
            record.extend(&bytes[..bytes.len() - told.cut]);
            record.resize(record.len().next_multiple_of(16), 0xee);
            let length = u32::try_from(record.len()).unwrap();
            record[NEXT_OFFSET..][..4].copy_from_slice(&length.to_ne_bytes());
            block.extend(record);
        }
        block
    }

    const ETH3: InterfaceId = InterfaceId(3);
    const FRAME_BYTES: &[u8; 20] = b"ddddddssssss\x08\x00abcdef";

    #[test]
    fn a_block_says_whether_it_was_full_or_the_delay_was_over() {
        let mut block = block(&[(TOLD, FRAME_BYTES)]);
        block[BLOCK_STATUS..][..4].copy_from_slice(&1_u32.to_ne_bytes()); // TP_STATUS_USER
        assert!(was_full(&block));
        block[BLOCK_STATUS..][..4].copy_from_slice(&0x21_u32.to_ne_bytes()); // and TP_STATUS_BLK_TMO
        assert!(!was_full(&block));
        assert!(!was_full(&[]));
    }

    #[test]
    fn frames_come_in_order_with_what_the_kernel_told() {
        let vnet = [1, 1, 0, 0, 0xa8, 0x05, 34, 0, 16, 0].map(|byte: u8| byte);
        let vnet = if cfg!(target_endian = "little") { vnet } else { [1, 1, 0, 0, 0x05, 0xa8, 0, 34, 0, 16] };
        let mut block = block(&[
            (TOLD, FRAME_BYTES),
            (Told { packet_type: PACKET_OUTGOING, vnet, ..TOLD }, FRAME_BYTES),
            (Told { cut: 4, ..TOLD }, FRAME_BYTES),
        ]);
        let mut cursor = Cursor::start(&block);
        let first = cursor.advance(&mut block, ETH3).unwrap();
        assert_eq!(
            (first.bytes, first.wire_len, first.direction, first.has_restored_tag, first.offload),
            (&FRAME_BYTES[..], 20, Some(Direction::In), false, Offload::Exact(Unfinished::default()))
        );
        assert_eq!((first.timestamp.nanos(), first.interface), (1_700_000_000_000_000_000, ETH3));
        let second = cursor.advance(&mut block, ETH3).unwrap();
        let unfinished = Unfinished { segment: NonZeroU16::new(1448), checksum: Some(At { start: 34, offset: 16 }) };
        assert_eq!((second.direction, second.offload), (Some(Direction::Out), Offload::Exact(unfinished)));
        let third = cursor.advance(&mut block, ETH3).unwrap();
        assert_eq!((third.bytes, third.wire_len), (&FRAME_BYTES[..16], 20));
        assert_eq!((cursor.advance(&mut block, ETH3).is_none(), cursor.left()), (true, 0));
    }

    #[test]
    fn a_tag_that_was_taken_out_comes_back_with_its_tpid() {
        let vnet = if cfg!(target_endian = "little") {
            [1, 0, 0, 0, 0, 0, 34, 0, 6, 0]
        } else {
            [1, 0, 0, 0, 0, 0, 0, 34, 0, 6]
        };
        for (status, tpid, expected) in [
            (VLAN_VALID, 0, [0x81, 0x00, 0xa0, 0x05]),
            (VLAN_VALID | VLAN_TPID_VALID, 0x88a8, [0x88, 0xa8, 0xa0, 0x05]),
        ] {
            let told = Told { status, tpid, tci: 0xa005, vnet, ..TOLD };
            let mut block = block(&[(told, FRAME_BYTES)]);
            let tagged = Cursor::start(&block).advance(&mut block, ETH3).unwrap();
            let whole = [&FRAME_BYTES[..12], &expected, &FRAME_BYTES[12..]].concat();
            assert_eq!((tagged.bytes, tagged.wire_len, tagged.has_restored_tag), (&whole[..], 24, true));
            let Offload::Exact(unfinished) = tagged.offload else { panic!("the kernel tells exactly") };
            assert_eq!(unfinished.checksum, Some(At { start: 38, offset: 6 }), "offsets count over the tag");
        }
    }

    #[test]
    fn tag_0_is_a_tag_and_a_field_without_its_status_is_none() {
        let mut block =
            block(&[(Told { status: VLAN_VALID, ..TOLD }, FRAME_BYTES), (Told { tci: 5, ..TOLD }, FRAME_BYTES)]);
        let mut cursor = Cursor::start(&block);
        assert_eq!(cursor.advance(&mut block, ETH3).unwrap().bytes[12..16], [0x81, 0, 0, 0]);
        assert_eq!(cursor.advance(&mut block, ETH3).unwrap().bytes, FRAME_BYTES);
    }

    #[test]
    fn slots_that_the_kernel_did_not_fill_are_left_out_and_counted() {
        let unfilled = Told { unfilled: true, ..TOLD };
        let tagged = Told { unfilled: true, status: VLAN_VALID, ..TOLD };
        let other: &[u8; 20] = b"DDDDDDSSSSSS\x08\x00ABCDEF";
        let mut block = block(&[
            (unfilled, other),
            (TOLD, FRAME_BYTES),
            (tagged, other),
            (unfilled, other),
            (TOLD, FRAME_BYTES),
            (unfilled, other),
        ]);
        let mut cursor = Cursor::start(&block);
        for _ in 0..2 {
            assert_eq!(cursor.advance(&mut block, ETH3).unwrap().bytes, FRAME_BYTES);
        }
        assert!(cursor.advance(&mut block, ETH3).is_none());
        assert_eq!((cursor.unfilled(), cursor.left()), (4, 0));
    }

    proptest! {
        /// Whatever stands in a block: no panic, no frame from outside it, and an end.
        #[test]
        fn hostile_blocks_end(mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut cursor = Cursor::start(&bytes);
            let promised = cursor.left();
            let mut read = 0;
            while cursor.advance(&mut bytes, ETH3).is_some() {
                read += 1;
            }
            prop_assert_eq!(cursor.left() + cursor.unfilled() + read, promised);
            prop_assert!(read as usize <= 600);
        }

        /// The same with one field of a right block made wrong.
        #[test]
        fn a_damaged_block_ends(at in 0..400_usize, with in any::<u8>()) {
            let mut block = block(&[(TOLD, FRAME_BYTES), (Told { status: VLAN_VALID, ..TOLD }, FRAME_BYTES), (TOLD, FRAME_BYTES)]);
            let length = block.len();
            block[at % length] = with;
            let mut cursor = Cursor::start(&block);
            while cursor.advance(&mut block, ETH3).is_some() {}
        }
    }
}
