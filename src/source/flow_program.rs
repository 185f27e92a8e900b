//! The classic BPF program by which the kernel gives each frame of an Ethernet interface to a worker.
//!
//! Why not the kernel's own hash: `__skb_get_hash_symmetric` looks for the IP header where the network header is, by
//! the frame's first EtherType (`net/core/flow_dissector.c`). Of a sent frame with its VLAN tag inside, the network header is
//! already behind the tag (`net/packet/af_packet.c:packet_parse_headers`, `include/linux/if_vlan.h:vlan_insert_tag_set_proto`),
//! so it reads the tag out of the IP header, and the two directions of a flow would meet different workers.
//!
//! The program adds up what identifies a flow, which forgets the order: addresses, and ports unless the packet is a
//! fragment. What is not IP has one worker.

use libc::sock_filter;

use super::classic_bpf::Step::{self, Do, Go, Here, If};
use super::classic_bpf::{
    ADD, ADD_X, AND, ANY_BIT, BYTE, EQUAL, HALF, LOAD_ABSOLUTE, LOAD_AT, LOAD_M, LOADX, LOADX_M, MULTIPLY, OUTGOING,
    PACKET_TYPE, PROTOCOL, RETURN, RETURN_A, SHIFT_LEFT, SHIFT_RIGHT, STORE, STOREX, TO_A, TO_X, WORD, assembled,
};

/// Places in the program. Jumps go forward only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Sent,
    EtherType(u8),
    Tag(u8),
    Network,
    Ipv4,
    Ipv4Ports,
    Ipv6,
    Ipv6Ports,
    Ports,
    Answer,
}

use Place::{Answer, EtherType, Ipv4, Ipv4Ports, Ipv6, Ipv6Ports, Network, Ports, Sent, Tag};

// The program's memory.
const SUM_OF_ADDRESSES: u32 = 0;
const SUM_OF_PORTS: u32 = 1;
const OFFSET: u32 = 2;
const SPARE: u32 = 3;

/// Tags inside the frame that are looked behind.
const TAGS: u8 = 3;
/// Protocols that begin with two ports: TCP, UDP, DCCP, SCTP.
const WITH_PORTS: [u32; 4] = [6, 17, 33, 132];

/// The program.
pub(super) fn program() -> Vec<sock_filter> {
    let mut steps = to_the_first_ethertype();
    (0..TAGS).for_each(|tag| steps.extend(behind_a_tag(tag)));
    steps.extend([Here(EtherType(TAGS)), Here(Network)]);
    steps.extend([If(EQUAL, 0x0800, Ipv4), If(EQUAL, 0x86dd, Ipv6), Do(RETURN, 0)]);
    steps.extend(ipv4());
    steps.extend(ipv6());
    steps.extend(ports());
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
        Go(EtherType(0)),
        Here(Sent),
        Do(LOADX, 14),
        Do(LOAD_ABSOLUTE[HALF], 12),
    ]
}

/// The same again when A says that X stands at a tag.
fn behind_a_tag(number: u8) -> Vec<Step<Place>> {
    vec![
        Here(EtherType(number)),
        If(EQUAL, 0x8100, Tag(number)),
        If(EQUAL, 0x88a8, Tag(number)),
        Go(Network),
        Here(Tag(number)),
        Do(LOAD_AT[HALF], 2),
        Do(STORE, SPARE),
        Do(TO_A, 0),
        Do(ADD, 4),
        Do(TO_X, 0),
        Do(LOAD_M, SPARE),
    ]
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
