//! The classic BPF program by which the kernel gives each frame of an Ethernet interface to a worker.
//!
//! Why not the kernel's own hash: `__skb_get_hash_symmetric` looks for the IP header where the network header is, by
//! the frame's first EtherType (`net/core/flow_dissector.c`). Of a sent frame with its VLAN tag inside, the network header is
//! already behind the tag (`net/packet/af_packet.c:packet_parse_headers`, `include/linux/if_vlan.h:vlan_insert_tag_set_proto`),
//! so it reads the tag out of the IP header, and the two directions of a flow would meet different workers.
//!
//! The program adds up what identifies a flow, which forgets the order: addresses, and ports unless the packet is a
//! fragment. It looks behind VLAN tags, MPLS, `PPPoE` and other headers between Ethernet and IP. What is not IP has one worker.
//!
//! Where tunnels are taken off, it goes on into them ([`tunnels`]).

mod tunnels;

use libc::sock_filter;

use super::classic_bpf::Step::{self, Do, Go, Here, If};
use super::classic_bpf::{
    ABOVE, ADD, ADD_X, AND, ANY_BIT, BYTE, EQUAL, HALF, LOAD_ABSOLUTE, LOAD_AT, LOAD_M, LOADX, LOADX_M, MULTIPLY,
    OUTGOING, PACKET_TYPE, PROTOCOL, RETURN, RETURN_A, SHIFT_LEFT, SHIFT_RIGHT, STORE, STOREX, TO_A, TO_X, WORD,
    assembled,
};

/// Places in the program. Jumps go forward only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Sent,
    Header(u8),
    Found(u8, Shim),
    Llc(u8),
    Other(u8),
    Bottom(u8),
    ControlWord(u8),
    Ipv4,
    Ipv4Ports,
    Ipv6,
    Ipv6Ports,
    Ports,
    Answer,
    /// In a packet inside so many tunnels.
    Inside(u8, tunnels::Part),
}

use Place::{Answer, Bottom, ControlWord, Found, Header, Ipv4, Ipv4Ports, Ipv6, Ipv6Ports, Llc, Ports, Sent};

// The program's memory.
const SUM_OF_ADDRESSES: u32 = 0;
const SUM_OF_PORTS: u32 = 1;
const OFFSET: u32 = 2;
const SPARE: u32 = 3;

/// Headers between Ethernet and IP that are looked behind: VLAN tags, and those of [`crate::wire::shim`] that are common.
const HEADERS: u8 = 4;
/// Labels of an MPLS stack.
const LABELS: usize = 4;
/// Protocols that begin with two ports: TCP, UDP, DCCP, SCTP.
const WITH_PORTS: [u32; 4] = [6, 17, 33, 132];

/// A header between Ethernet and IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Shim {
    Ipv4,
    Ipv6,
    Tag,
    VnTag,
    ETag,
    CiscoMetadata,
    ITag,
    Pppoe,
    Mpls,
    Snap,
    /// IP behind PPP, and behind labels: jumps do not reach far.
    Ipv4After,
    Ipv6After,
    Ipv4Labelled,
    Ipv6Labelled,
}

/// Their `EtherType`s.
const SHIMS: [(u32, Shim); 13] = [
    (0x0800, Shim::Ipv4),
    (0x86dd, Shim::Ipv6),
    (0x8100, Shim::Tag),
    (0x88a8, Shim::Tag),
    (0x9100, Shim::Tag),
    (0x9200, Shim::Tag),
    (0x8926, Shim::VnTag),
    (0x893f, Shim::ETag),
    (0x8909, Shim::CiscoMetadata),
    (0x88e7, Shim::ITag),
    (0x8864, Shim::Pppoe),
    (0x8847, Shim::Mpls),
    (0x8848, Shim::Mpls),
];

/// The program for frames that so many tunnels are taken off.
pub(super) fn program(tunnels: u8) -> Vec<sock_filter> {
    let mut steps = to_the_first_ethertype();
    (0..HEADERS).for_each(|number| steps.extend(behind_a_header(number)));
    steps.extend([Here(Header(HEADERS)), If(EQUAL, 0x0800, Ipv4), If(EQUAL, 0x86dd, Ipv6), Do(RETURN, 0)]);
    if tunnels == 0 {
        steps.extend(ipv4());
        steps.extend(ipv6());
        steps.extend(ports());
    } else {
        steps.extend(tunnels::packets(tunnels));
    }
    steps.extend(answer());
    assembled(&steps)
}

/// A: the first `EtherType` that is inside the bytes or beside them. X: what stands behind it.
///
/// The bytes of a received frame begin behind its Ethernet header and a tag, those of a sent one with its header.
fn to_the_first_ethertype() -> Vec<Step<Place>> {
    vec![
        Do(LOADX, 0),
        Do(STOREX, SUM_OF_ADDRESSES),
        Do(STOREX, SUM_OF_PORTS),
        Do(LOAD_ABSOLUTE[WORD], PACKET_TYPE),
        If(EQUAL, OUTGOING, Sent),
        Do(LOAD_ABSOLUTE[WORD], PROTOCOL),
        Go(Header(0)),
        Here(Sent),
        Do(LOADX, 14),
        Do(LOAD_ABSOLUTE[HALF], 12),
    ]
}

/// Goes to IP, or behind the header at X. A has the `EtherType` of what X stands at, before and after.
fn behind_a_header(number: u8) -> Vec<Step<Place>> {
    let next = Go(Header(number + 1));
    // The EtherType that stands `distance` bytes behind X, and X behind it.
    let behind = |distance| {
        let to = [Do(LOAD_AT[HALF], distance), Do(STORE, SPARE)];
        to.into_iter().chain(forward(distance + 2)).chain([Do(LOAD_M, SPARE), next])
    };
    let found = |shim| Here(Found(number, shim));
    let mut steps = vec![Here(Header(number))];
    steps.extend(SHIMS.map(|(ethertype, shim)| If(EQUAL, ethertype, Found(number, shim))));
    // A sent frame has its length here; a received one ETH_P_802_2 (`net/ethernet/eth.c:eth_type_trans`).
    steps.extend([If(ABOVE, 1500, Place::Other(number)), Go(Llc(number))]);
    steps.extend([Here(Place::Other(number)), Do(RETURN, 0)]);
    steps.extend([found(Shim::Ipv4), Go(Ipv4), found(Shim::Ipv6), Go(Ipv6)]);
    for (shim, distance) in
        [(Shim::Tag, 2), (Shim::VnTag, 4), (Shim::ETag, 6), (Shim::CiscoMetadata, 6), (Shim::ITag, 16)]
    {
        steps.push(found(shim));
        steps.extend(behind(distance));
    }
    // PPP's numbers, as EtherTypes.
    steps.extend([found(Shim::Pppoe), Do(LOAD_AT[HALF], 6), Do(STORE, SPARE)]);
    steps.extend(forward(8));
    steps.extend([Do(LOAD_M, SPARE), If(EQUAL, 0x0021, Found(number, Shim::Ipv4After))]);
    steps.extend([If(EQUAL, 0x0057, Found(number, Shim::Ipv6After)), If(EQUAL, 0x0281, Found(number, Shim::Mpls))]);
    steps.extend([Do(RETURN, 0), found(Shim::Ipv4After), Go(Ipv4), found(Shim::Ipv6After), Go(Ipv6)]);
    // The third byte of a label says whether it is the last.
    steps.push(found(Shim::Mpls));
    for _ in 0..LABELS {
        steps.extend([Do(LOAD_AT[BYTE], 2), Do(STORE, SPARE)]);
        steps.extend(forward(4));
        steps.extend([Do(LOAD_M, SPARE), If(ANY_BIT, 1, Bottom(number))]);
    }
    steps.extend([Do(RETURN, 0), Here(Bottom(number)), Do(LOAD_AT[BYTE], 0), Do(SHIFT_RIGHT, 4)]);
    steps.extend([If(EQUAL, 4, Found(number, Shim::Ipv4Labelled)), If(EQUAL, 6, Found(number, Shim::Ipv6Labelled))]);
    steps.extend([If(EQUAL, 0, ControlWord(number))]);
    steps.extend(behind(12));
    steps.push(Here(ControlWord(number)));
    steps.extend(behind(16));
    steps.extend([found(Shim::Ipv4Labelled), Go(Ipv4), found(Shim::Ipv6Labelled), Go(Ipv6)]);
    // LLC and SNAP (RFC 1042).
    steps.extend([Here(Llc(number)), Do(LOAD_AT[WORD], 0), If(EQUAL, 0xaaaa_0300, Found(number, Shim::Snap))]);
    steps.extend([Do(RETURN, 0), found(Shim::Snap)]);
    steps.extend(behind(6));
    steps
}

/// Moves X forward; A is lost.
fn forward(distance: u32) -> [Step<Place>; 3] {
    [Do(TO_A, 0), Do(ADD, distance), Do(TO_X, 0)]
}

/// Adds the word at `at` behind X to the sum in memory; X stays, because it stands in memory too.
fn add(size: usize, at: u32, sum: u32) -> [Step<Place>; 5] {
    [Do(LOAD_AT[size], at), Do(LOADX_M, sum), Do(ADD_X, 0), Do(STORE, sum), Do(LOADX_M, OFFSET)]
}

fn ipv4() -> Vec<Step<Place>> {
    let mut steps = vec![Here(Ipv4), Do(STOREX, OFFSET)];
    steps.extend([12, 16].into_iter().flat_map(|at| add(WORD, at, SUM_OF_ADDRESSES)));
    // RFC 791 section 3.1: more fragments, or an offset.
    steps.extend([Do(LOAD_AT[HALF], 6), If(ANY_BIT, 0x3fff, Answer), Do(LOAD_AT[BYTE], 9)]);
    steps.extend(WITH_PORTS.map(|protocol| If(EQUAL, protocol, Ipv4Ports)));
    steps.extend([Go(Answer), Here(Ipv4Ports)]);
    // The header's length in words.
    steps.extend([Do(LOAD_AT[BYTE], 0), Do(AND, 0xf), Do(SHIFT_LEFT, 2), Do(ADD_X, 0), Do(TO_X, 0), Go(Ports)]);
    steps
}

fn ipv6() -> Vec<Step<Place>> {
    let mut steps = vec![Here(Ipv6), Do(STOREX, OFFSET)];
    steps.extend((8..40).step_by(4).flat_map(|at| add(WORD, at, SUM_OF_ADDRESSES)));
    steps.push(Do(LOAD_AT[BYTE], 6));
    // Behind extension headers, a fragment header among them, the addresses are enough.
    steps.extend(WITH_PORTS.map(|protocol| If(EQUAL, protocol, Ipv6Ports)));
    steps.extend([Go(Answer), Here(Ipv6Ports), Do(TO_A, 0), Do(ADD, 40), Do(TO_X, 0)]);
    steps
}

fn ports() -> Vec<Step<Place>> {
    let mut steps = vec![Here(Ports), Do(STOREX, OFFSET)];
    steps.extend([0, 2].into_iter().flat_map(|at| add(HALF, at, SUM_OF_PORTS)));
    steps
}

/// Multiplicative hashing (Knuth, volume 3, section 6.4): the high half of the product is well mixed.
fn answer() -> Vec<Step<Place>> {
    vec![
        Here(Answer),
        Do(LOAD_M, SUM_OF_ADDRESSES),
        Do(MULTIPLY, 0x9e37_79b1),
        Do(LOADX_M, SUM_OF_PORTS),
        Do(ADD_X, 0),
        Do(MULTIPLY, 0x85eb_ca6b),
        Do(SHIFT_RIGHT, 16),
        Do(RETURN_A, 0),
    ]
}
