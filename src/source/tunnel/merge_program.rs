//! The classic BPF program that lets only datagrams through whose inner packets GRO has merged.
//!
//! No instruction of classic BPF reads `gso_size`. But of a merged packet the kernel leaves the sum of the pseudo header in
//! the inner checksum field (`net/ipv4/tcp_offload.c:tcp4_gro_complete`, `net/ipv6/tcpv6_offload.c:tcp6_gro_complete`,
//! `net/ipv4/udp_offload.c:udp4_gro_complete`): that is what the program looks for. It reads the shapes that GRO merges, and
//! no others: GRE without a sequence number (`net/ipv4/gre_offload.c:gre_gro_receive`), inside it VLAN tags, IPv4 without options,
//! IPv6 without extension headers.

use libc::sock_filter;

use super::super::classic_bpf::Step::{self, Do, Go, Here, If};
use super::super::classic_bpf::{
    ADD, ADD_X, AND, ANY_BIT, BYTE, EQUAL, EQUAL_X, HALF, HARDWARE_TYPE, LOAD_ABSOLUTE, LOAD_AT, LOAD_M, LOADX,
    LOADX_M, RETURN, SHIFT_LEFT, SHIFT_RIGHT, STORE, STOREX, TO_A, TO_X, assembled,
};
use crate::wire::gre::{CHECKSUM_PRESENT, KEY_PRESENT, TRANSPARENT_ETHERNET};
use crate::wire::layers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, GRE, IpVersion, TCP, UDP};

/// Places in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    HasMacHeader,
    Outer,
    OfGre,
    Frame,
    EtherType(u8),
    Tag(u8),
    Network,
    Ipv4,
    PlainIpv4,
    Ipv4Tcp,
    Ipv4Udp,
    Ipv6,
    Ipv6Tcp,
    Ipv6Udp,
    Compare,
    Merged,
    Other,
}

use Place::{
    Compare, EtherType, Frame, HasMacHeader, Ipv4, Ipv4Tcp, Ipv4Udp, Ipv6, Ipv6Tcp, Ipv6Udp, Merged, Network, OfGre,
    Other, Outer, PlainIpv4, Tag,
};

// The program's memory.
const SUM: u32 = 0;
const OFFSET: u32 = 1;
const SPARE: u32 = 2;
const CHECKSUM_WORDS: u32 = 3;
const KEY_WORDS: u32 = 4;

/// VLAN tags of the inner frame that are looked behind.
const TAGS: u8 = 2;
/// `linux/if_arp.h`: `ARPHRD_ETHER` and `ARPHRD_LOOPBACK` have the MAC header of Ethernet.
const ETHERNET: u32 = 1;
const LOOPBACK: u32 = 772;

/// The program for outer packets of this IP version: it gives the first `keep` bytes of what it lets through.
pub(super) fn program(version: IpVersion, keep: u32) -> Vec<sock_filter> {
    let mut steps = to_the_gre_header(version);
    steps.extend(behind_gre());
    steps.extend(into_the_frame());
    steps.extend(ipv4());
    steps.extend(ipv6());
    steps.extend(compare());
    steps.extend([Here(Other), Do(RETURN, 0), Here(Merged), Do(RETURN, keep)]);
    assembled(&steps)
}

/// X: the GRE header.
fn to_the_gre_header(version: IpVersion) -> Vec<Step<Place>> {
    const MAC_HEADER: u32 = 14;
    let mut steps = vec![
        Do(LOAD_ABSOLUTE[HALF], HARDWARE_TYPE),
        If(EQUAL, ETHERNET, HasMacHeader),
        If(EQUAL, LOOPBACK, HasMacHeader),
        Do(LOADX, 0),
        Go(Outer),
        Here(HasMacHeader),
        Do(LOADX, MAC_HEADER),
        Here(Outer),
    ];
    let (protocol_at, header): (u32, &[Step<Place>]) = match version {
        IpVersion::V4 => (9, &[Do(LOAD_AT[BYTE], 0), Do(AND, 0xf), Do(SHIFT_LEFT, 2), Do(ADD_X, 0), Do(TO_X, 0)]),
        IpVersion::V6 => (6, &[Do(TO_A, 0), Do(ADD, 40), Do(TO_X, 0)]),
    };
    steps.extend([Do(LOAD_AT[BYTE], protocol_at), If(EQUAL, GRE.into(), OfGre), Go(Other), Here(OfGre)]);
    steps.extend(header);
    steps
}

fn behind_gre() -> Vec<Step<Place>> {
    let others = !(CHECKSUM_PRESENT | KEY_PRESENT);
    vec![
        Do(LOAD_AT[HALF], 0),
        If(ANY_BIT, others.into(), Other),
        // Four bytes for each of the two flags.
        Do(SHIFT_RIGHT, 13),
        Do(AND, 4),
        Do(STORE, CHECKSUM_WORDS),
        Do(LOAD_AT[HALF], 0),
        Do(SHIFT_RIGHT, 11),
        Do(AND, 4),
        Do(STORE, KEY_WORDS),
        Do(LOAD_AT[HALF], 2),
        Do(STORE, SPARE),
        Do(TO_A, 0),
        Do(ADD, 4),
        Do(LOADX_M, CHECKSUM_WORDS),
        Do(ADD_X, 0),
        Do(LOADX_M, KEY_WORDS),
        Do(ADD_X, 0),
        Do(TO_X, 0),
        Do(LOAD_M, SPARE),
        If(EQUAL, TRANSPARENT_ETHERNET.into(), Frame),
        Go(Network),
    ]
}

/// From an Ethernet frame at X to its IP packet. At [`Network`] A has the EtherType of what X stands at.
fn into_the_frame() -> Vec<Step<Place>> {
    let forward = |distance| [Do(STORE, SPARE), Do(TO_A, 0), Do(ADD, distance), Do(TO_X, 0), Do(LOAD_M, SPARE)];
    let mut steps = vec![Here(Frame), Do(LOAD_AT[HALF], 12)];
    steps.extend(forward(14));
    for tag in 0..TAGS {
        steps.extend([Here(EtherType(tag)), If(EQUAL, 0x8100, Tag(tag)), If(EQUAL, 0x88a8, Tag(tag)), Go(Network)]);
        steps.extend([Here(Tag(tag)), Do(LOAD_AT[HALF], 2)]);
        steps.extend(forward(4));
    }
    steps.push(Here(Network));
    steps.extend([If(EQUAL, ETHERTYPE_IPV4.into(), Ipv4), If(EQUAL, ETHERTYPE_IPV6.into(), Ipv6), Go(Other)]);
    steps
}

/// Adds the half word at `at` behind X to the sum; X stays, because it stands in memory too.
fn add(at: u32) -> [Step<Place>; 5] {
    [Do(LOAD_AT[HALF], at), Do(LOADX_M, SUM), Do(ADD_X, 0), Do(STORE, SUM), Do(LOADX_M, OFFSET)]
}

/// Adds the protocol number to the sum and loads the checksum field.
fn transport(place: Place, protocol: u8, field: u32) -> [Step<Place>; 6] {
    let (load, sum) = (Do(LOAD_M, SUM), Do(STORE, SUM));
    [Here(place), load, Do(ADD, protocol.into()), sum, Do(LOAD_AT[HALF], field), Go(Compare)]
}

fn ipv4() -> Vec<Step<Place>> {
    const HEADER: u32 = 20;
    let mut steps = vec![Here(Ipv4), Do(STOREX, OFFSET), Do(LOAD_AT[BYTE], 0)];
    steps.extend([If(EQUAL, 0x45, PlainIpv4), Go(Other), Here(PlainIpv4)]);
    steps.extend([Do(LOAD_AT[HALF], 2), Do(ADD, HEADER.wrapping_neg()), Do(STORE, SUM)]);
    steps.extend((12..20).step_by(2).flat_map(add));
    steps.extend([Do(LOAD_AT[BYTE], 9), If(EQUAL, TCP.into(), Ipv4Tcp), If(EQUAL, UDP.into(), Ipv4Udp), Go(Other)]);
    steps.extend(transport(Ipv4Tcp, TCP, HEADER + 16));
    steps.extend(transport(Ipv4Udp, UDP, HEADER + 6));
    steps
}

fn ipv6() -> Vec<Step<Place>> {
    const HEADER: u32 = 40;
    let mut steps = vec![Here(Ipv6), Do(STOREX, OFFSET), Do(LOAD_AT[HALF], 4), Do(STORE, SUM)];
    steps.extend((8..40).step_by(2).flat_map(add));
    steps.extend([Do(LOAD_AT[BYTE], 6), If(EQUAL, TCP.into(), Ipv6Tcp), If(EQUAL, UDP.into(), Ipv6Udp), Go(Other)]);
    steps.extend(transport(Ipv6Tcp, TCP, HEADER + 16));
    steps.extend(transport(Ipv6Udp, UDP, HEADER + 6));
    steps
}

/// Compares A with the sum of 18 half words at most, in 16 bits: two carries are enough.
fn compare() -> Vec<Step<Place>> {
    let mut steps = vec![Here(Compare), Do(STORE, SPARE)];
    for _ in 0..2 {
        steps.extend([Do(LOAD_M, SUM), Do(SHIFT_RIGHT, 16), Do(TO_X, 0), Do(LOAD_M, SUM), Do(AND, 0xffff)]);
        steps.extend([Do(ADD_X, 0), Do(STORE, SUM)]);
    }
    steps.extend([Do(LOADX_M, SPARE), If(EQUAL_X, 0, Merged), Go(Other)]);
    steps
}
