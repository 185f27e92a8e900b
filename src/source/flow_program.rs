//! The classic BPF program by which the kernel gives each frame of an Ethernet interface to a worker.
//!
//! Why not the kernel's own hash: `__skb_get_hash_symmetric` looks for the IP header where the network header is, by
//! the frame's first EtherType (`net/core/flow_dissector.c`). Of a sent frame with its VLAN tag inside, the network header is
//! already behind the tag (`net/packet/af_packet.c:packet_parse_headers`, `include/linux/if_vlan.h:vlan_insert_tag_set_proto`),
//! so it reads the tag out of the IP header, and the two directions of a flow would meet different workers.
//!
//! The program adds up what identifies a flow, which forgets the order: addresses, and ports unless the packet is a
//! fragment. What is not IP has one worker.

use std::collections::HashMap;

use libc::sock_filter;

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

/// One instruction, or a place.
#[derive(Clone, Copy, Debug)]
enum Step {
    Do(u32, u32),
    /// Goes on at the place when A compares like this.
    If(u32, u32, Place),
    Go(Place),
    Here(Place),
}

use Place::{Answer, EtherType, Ipv4, Ipv4Ports, Ipv6, Ipv6Ports, Network, Ports, Sent, Tag};
use Step::{Do, Go, Here, If};

// linux/bpf_common.h: class, size, mode, operation, operand.
const LOAD_AT: [u32; 3] = [0x40, 0x48, 0x50]; // [X + k]: word, half, byte
const LOAD_ABSOLUTE: [u32; 3] = [0x20, 0x28, 0x30];
const WORD: usize = 0;
const HALF: usize = 1;
const BYTE: usize = 2;
const LOAD_M: u32 = 0x60;
const LOADX: u32 = 0x01;
const LOADX_M: u32 = 0x61;
const STORE: u32 = 0x02;
const STOREX: u32 = 0x03;
const ADD: u32 = 0x04;
const ADD_X: u32 = 0x0c;
const MULTIPLY: u32 = 0x24;
const AND: u32 = 0x54;
const SHIFT_LEFT: u32 = 0x64;
const SHIFT_RIGHT: u32 = 0x74;
const JUMP: u32 = 0x05;
const EQUAL: u32 = 0x15;
const ANY_BIT: u32 = 0x45;
const RETURN: u32 = 0x06;
const RETURN_A: u32 = 0x16;
const TO_X: u32 = 0x07;
const TO_A: u32 = 0x87;

/// `SKF_AD_OFF`: what is beside the bytes (`linux/filter.h`).
const BESIDE: u32 = (-0x1000_i32).cast_unsigned();
const PROTOCOL: u32 = BESIDE;
const PACKET_TYPE: u32 = BESIDE + 4;
const OUTGOING: u32 = 4;

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
fn to_the_first_ethertype() -> Vec<Step> {
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
fn behind_a_tag(number: u8) -> Vec<Step> {
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
fn add(size: usize, at: u32, sum: u32) -> [Step; 5] {
    [Do(LOAD_AT[size], at), Do(LOADX_M, sum), Do(ADD_X, 0), Do(STORE, sum), Do(LOADX_M, OFFSET)]
}

fn ipv4() -> Vec<Step> {
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

fn ipv6() -> Vec<Step> {
    let mut steps = vec![Here(Ipv6), Do(STOREX, OFFSET)];
    steps.extend((8..40).step_by(4).flat_map(|at| add(WORD, at, SUM_OF_ADDRESSES)));
    steps.push(Do(LOAD_AT[BYTE], 6));
    // Behind extension headers, a fragment header among them, the addresses are enough.
    steps.extend(WITH_PORTS.map(|protocol| If(EQUAL, protocol, Ipv6Ports)));
    steps.extend([Go(Answer), Here(Ipv6Ports), Do(TO_A, 0), Do(ADD, 40), Do(TO_X, 0)]);
    steps
}

fn ports() -> Vec<Step> {
    let mut steps = vec![Here(Ports), Do(STOREX, OFFSET)];
    steps.extend([0, 2].into_iter().flat_map(|at| add(HALF, at, SUM_OF_PORTS)));
    steps
}

/// Multiplicative hashing (Knuth, volume 3, section 6.4): the high half of the product is well mixed.
fn answer() -> Vec<Step> {
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

/// Turns places into distances.
fn assembled(steps: &[Step]) -> Vec<sock_filter> {
    let mut places = HashMap::new();
    let mut count: u32 = 0;
    for step in steps {
        match step {
            Here(place) => drop(places.insert(*place, count)),
            Do(..) | If(..) | Go(_) => count += 1,
        }
    }
    let mut program: Vec<sock_filter> = Vec::new();
    for step in steps {
        let next = u32::try_from(program.len()).unwrap_or(u32::MAX).saturating_add(1);
        let distance = |place: &Place| places.get(place).map_or(0, |at| at.saturating_sub(next));
        let instruction = |code: u32, jt: u32, k: u32| sock_filter {
            code: u16::try_from(code).unwrap_or(u16::MAX),
            jt: u8::try_from(jt).unwrap_or(u8::MAX),
            jf: 0,
            k,
        };
        program.extend(match step {
            Do(code, k) => Some(instruction(*code, 0, *k)),
            If(code, k, place) => Some(instruction(*code, distance(place), *k)),
            Go(place) => Some(instruction(JUMP, 0, distance(place))),
            Here(_) => None,
        });
    }
    program
}
