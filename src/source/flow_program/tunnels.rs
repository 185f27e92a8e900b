//! The part of the program that goes into tunnels: of the packets inside each other, the innermost that can be read says
//! which worker gets the frame, so that both directions of a flow inside meet one worker.
//!
//! | tunnel | what is looked into |
//! |---|---|
//! | VXLAN (4789, 8472), HP ERM (7932) | the Ethernet frame |
//! | VXLAN-GPE (4790) | the Ethernet frame, IPv4 or IPv6 packet that the header announces |
//! | Geneve (6081), behind its options; GRE, behind checksum, key and sequence number | the same |
//! | ERSPAN I, II, III | the Ethernet frame |
//!
//! An Ethernet frame in a tunnel may have three VLAN tags. What is none of this, TZSP and Jmirror among it, goes by the packet
//! around it. A program of this kind has no loops, so that the length of TZSP's tags is out of reach.

use super::super::classic_bpf::Step::{self, Do, Go, Here, If};
use super::super::classic_bpf::{
    ADD, ADD_X, AND, ANY_BIT, BYTE, EQUAL, HALF, LOAD_AT, LOAD_M, LOADX, LOADX_M, SHIFT_LEFT, SHIFT_RIGHT, STORE,
    STOREX, TO_X, WORD,
};
use super::Place::{self, Answer, Inside, Ipv4, Ipv6};
use super::{OFFSET, SPARE, SUM_OF_ADDRESSES, SUM_OF_PORTS, WITH_PORTS, add, forward};

/// Places in and around one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// A has an `EtherType` or a GRE protocol type, X where what it announces begins.
    Typed,
    /// X is where an Ethernet header begins.
    Ethernet,
    Tag(u8),
    Ipv4,
    Ipv6,
    /// X is where the transport header begins.
    Transport,
    Ports,
    Udp,
    Generic,
    /// Whether the Generic Protocol Extension has this number for what follows.
    GenericIs(u8, bool),
    Geneve,
    /// A header of so many bytes, then an Ethernet frame.
    Fixed(u8),
    Gre,
    Erspan,
    Erspan2,
    Erspan3,
    /// Whether eight bytes more follow.
    ErspanSubheader(bool),
    BehindErspan,
    BehindGre,
    /// Nothing further can be read.
    Done,
}

use Part::{
    BehindErspan, BehindGre, Done, Erspan, Erspan2, Erspan3, ErspanSubheader, Ethernet, Fixed, Generic, GenericIs,
    Geneve, Gre, Ports, Tag, Transport, Typed, Udp,
};

// The program's memory, beside that of every program.
const KIND: u32 = 4;
const FLAGS: u32 = 5;
const LENGTH: u32 = 6;

const UDP: u32 = 17;
const GRE: u32 = 47;
const UDP_HEADER: u32 = 8;
const TAGS: u8 = 3;

/// From the outermost packet, at X, to the answer: what is inside at most so many tunnels.
pub(super) fn packets(tunnels: u8) -> Vec<Step<Place>> {
    let mut steps = Vec::new();
    for level in 0..=tunnels {
        if level > 0 {
            steps.extend(frame(level));
        }
        steps.extend(addresses(level));
        steps.extend(transport(level, level < tunnels));
    }
    steps
}

fn at(level: u8, part: Part) -> Place {
    match (level, part) {
        (0, Part::Ipv4) => Ipv4,
        (0, Part::Ipv6) => Ipv6,
        _ => Inside(level, part),
    }
}

/// What a tunnel header announced: goes to the IP packet, or leaves it to the packet around.
fn frame(level: u8) -> Vec<Step<Place>> {
    let at = |part| at(level, part);
    let ip = [If(EQUAL, 0x0800, at(Part::Ipv4)), If(EQUAL, 0x86dd, at(Part::Ipv6))];
    let mut steps = vec![Here(at(Typed))];
    steps.extend(ip);
    steps.extend([If(EQUAL, 0x6558, at(Ethernet)), Go(Answer)]);
    steps.extend([Here(at(Ethernet)), Do(LOAD_AT[HALF], 12), Do(STORE, SPARE)]);
    steps.extend(forward(14));
    for tag in 0..TAGS {
        steps.push(Do(LOAD_M, SPARE));
        steps.extend(ip);
        steps.extend([0x8100, 0x88a8, 0x9100, 0x9200].map(|tpid| If(EQUAL, tpid, at(Tag(tag)))));
        steps.extend([Go(Answer), Here(at(Tag(tag))), Do(LOAD_AT[HALF], 2), Do(STORE, SPARE)]);
        steps.extend(forward(4));
    }
    steps.push(Do(LOAD_M, SPARE));
    steps.extend(ip);
    steps.push(Go(Answer));
    steps
}

/// Adds up the addresses of the packet at X, and goes to its transport header.
fn addresses(level: u8) -> Vec<Step<Place>> {
    let at = |part| at(level, part);
    // The packet around has had its say.
    let begin = |part| {
        let begin = [Here(at(part)), Do(STOREX, OFFSET), Do(LOADX, 0), Do(STOREX, SUM_OF_ADDRESSES)];
        begin.into_iter().chain([Do(STOREX, SUM_OF_PORTS), Do(LOADX_M, OFFSET)])
    };
    let mut steps: Vec<_> = begin(Part::Ipv4).collect();
    steps.extend([12, 16].into_iter().flat_map(|word| add(WORD, word, SUM_OF_ADDRESSES)));
    // RFC 791 section 3.1: more fragments, or an offset.
    steps.extend([Do(LOAD_AT[HALF], 6), If(ANY_BIT, 0x3fff, at(Done)), Do(LOAD_AT[BYTE], 9), Do(STORE, KIND)]);
    steps.extend([Do(LOAD_AT[BYTE], 0), Do(AND, 0xf), Do(SHIFT_LEFT, 2), Do(ADD_X, 0), Do(TO_X, 0), Go(at(Transport))]);
    steps.extend([Here(at(Done)), Go(Answer)]);
    steps.extend(begin(Part::Ipv6));
    steps.extend((8..40).step_by(4).flat_map(|word| add(WORD, word, SUM_OF_ADDRESSES)));
    // Behind extension headers, a fragment header among them, the addresses are enough.
    steps.extend([Do(LOAD_AT[BYTE], 6), Do(STORE, KIND)]);
    steps.extend(forward(40));
    steps
}

/// Adds up the ports, and goes into a tunnel if `more` are taken off.
fn transport(level: u8, more: bool) -> Vec<Step<Place>> {
    let at_own = |part| at(level, part);
    let mut steps = vec![Here(at_own(Transport)), Do(STOREX, OFFSET), Do(LOAD_M, KIND)];
    steps.extend(WITH_PORTS.map(|protocol| If(EQUAL, protocol, at_own(Ports))));
    steps.extend(more.then_some(If(EQUAL, GRE, at_own(Gre))));
    steps.extend([Go(Answer), Here(at_own(Ports))]);
    steps.extend([0, 2].into_iter().flat_map(|port| add(HALF, port, SUM_OF_PORTS)));
    if !more {
        steps.push(Go(Answer));
        return steps;
    }
    steps.extend([Do(LOAD_M, KIND), If(EQUAL, UDP, at_own(Udp)), Go(Answer)]);
    steps.extend(udp_tunnel(level));
    steps.extend(gre(level));
    steps
}

/// The tunnel headers that are known by their port.
fn udp_tunnel(level: u8) -> Vec<Step<Place>> {
    let (own, inner) = (|part| at(level, part), |part| at(level + 1, part));
    let mut steps = vec![Here(own(Udp)), Do(LOAD_AT[HALF], 2)];
    steps.extend([4789, 8472].map(|port| If(EQUAL, port, own(Fixed(8)))));
    steps.extend([If(EQUAL, 4790, own(Generic)), If(EQUAL, 6081, own(Geneve)), If(EQUAL, 7932, own(Fixed(12)))]);
    steps.push(Go(Answer));
    steps.push(Here(own(Fixed(8))));
    steps.extend(forward(UDP_HEADER + 8));
    steps.extend([Go(inner(Ethernet)), Here(own(Fixed(12)))]);
    steps.extend(forward(UDP_HEADER + 12));
    steps.extend([Go(inner(Ethernet)), Here(own(Generic)), Do(LOAD_AT[BYTE], UDP_HEADER + 3), Do(STORE, SPARE)]);
    steps.extend(forward(UDP_HEADER + 8));
    // The numbers of the Generic Protocol Extension; without it, 0.
    let next = [(1, Part::Ipv4), (2, Part::Ipv6), (3, Ethernet)];
    for (number, part) in next {
        // A conditional jump does not reach every part.
        let (is, is_not) = (own(GenericIs(number, true)), own(GenericIs(number, false)));
        steps.extend([Do(LOAD_M, SPARE), If(EQUAL, number.into(), is), Go(is_not)]);
        steps.extend([Here(is), Go(inner(part)), Here(is_not)]);
    }
    steps.push(Go(inner(Ethernet)));
    // RFC 8926 section 3.4: options in words of four bytes, then the type of what follows.
    steps.extend([Here(own(Geneve)), Do(LOAD_AT[HALF], UDP_HEADER + 2), Do(STORE, SPARE)]);
    steps.extend([Do(LOAD_AT[BYTE], UDP_HEADER), Do(AND, 0x3f), Do(SHIFT_LEFT, 2), Do(ADD, UDP_HEADER + 8)]);
    steps.extend([Do(ADD_X, 0), Do(TO_X, 0), Do(LOAD_M, SPARE), Go(inner(Typed))]);
    steps
}

/// RFC 2784, RFC 2890: four bytes for each of checksum, key and sequence number that is there. ERSPAN stands behind it.
fn gre(level: u8) -> Vec<Step<Place>> {
    let (own, inner) = (|part| at(level, part), |part| at(level + 1, part));
    let four_if = |shift| {
        [Do(LOAD_M, FLAGS), Do(SHIFT_RIGHT, shift), Do(AND, 4), Do(LOADX_M, LENGTH), Do(ADD_X, 0), Do(STORE, LENGTH)]
    };
    let longer = |by| [Do(LOAD_M, LENGTH), Do(ADD, by), Do(STORE, LENGTH)];
    let mut steps = vec![Here(own(Gre)), Do(LOAD_AT[HALF], 2), Do(STORE, KIND), Do(LOAD_AT[HALF], 0), Do(STORE, FLAGS)];
    steps.extend([Do(LOADX, 4), Do(STOREX, LENGTH)]);
    steps.extend([13, 11, 10].into_iter().flat_map(four_if));
    steps.extend([
        Do(LOAD_M, KIND),
        If(EQUAL, 0x88be, own(Erspan)),
        If(EQUAL, 0x22eb, own(Erspan3)),
        Go(own(BehindGre)),
    ]);
    // Only the sequence number tells type II from type I.
    steps.extend([Here(own(Erspan)), Do(LOAD_M, FLAGS), If(ANY_BIT, 0x1000, own(Erspan2)), Go(own(BehindErspan))]);
    steps.push(Here(own(Erspan2)));
    steps.extend(longer(8));
    steps.extend([Go(own(BehindErspan)), Here(own(Erspan3)), Do(LOADX_M, OFFSET), Do(LOAD_M, LENGTH), Do(ADD_X, 0)]);
    // The last bit of the third word: eight bytes more.
    steps.extend([
        Do(TO_X, 0),
        Do(LOAD_AT[BYTE], 11),
        If(ANY_BIT, 1, own(ErspanSubheader(true))),
        Go(own(ErspanSubheader(false))),
    ]);
    steps.push(Here(own(ErspanSubheader(true))));
    steps.extend(longer(8));
    steps.push(Here(own(ErspanSubheader(false))));
    steps.extend(longer(12));
    steps.push(Here(own(BehindErspan)));
    // An Ethernet frame.
    steps.extend([Do(LOADX, 0x6558), Do(STOREX, KIND), Here(own(BehindGre))]);
    steps.extend([
        Do(LOADX_M, OFFSET),
        Do(LOAD_M, LENGTH),
        Do(ADD_X, 0),
        Do(TO_X, 0),
        Do(LOAD_M, KIND),
        Go(inner(Typed)),
    ]);
    steps
}

#[cfg(test)]
mod tests {
    use super::super::super::bpf::{Instruction, Program};
    use super::super::super::classic_bpf::PACKET_TYPE;
    use super::super::program;

    /// What the program says of a frame that is sent.
    fn worker_of(tunnels: u8, frame: &[u8]) -> Option<u32> {
        const LOAD_IMMEDIATE: u16 = 0;
        const OUTGOING: u32 = 4;
        let instructions = program(tunnels).into_iter().map(|step| match step.k {
            PACKET_TYPE => Instruction { code: LOAD_IMMEDIATE, jump_true: 0, jump_false: 0, operand: OUTGOING },
            operand => Instruction { code: step.code, jump_true: step.jt, jump_false: step.jf, operand },
        });
        Program::new(instructions.collect()).run([&[], frame], 0)
    }

    fn ipv4(protocol: u8, [from, to]: [u8; 2], payload: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let header = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, from, 10, 0, 0, to];
        [&header[..], payload].concat()
    }

    fn ipv6(protocol: u8, [from, to]: [u8; 2], payload: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let mut header = vec![0x60, 0, 0, 0, high, low, protocol, 64];
        header.extend([[0x20, 1, 0xd, 0xb8], [0; 4], [0; 4], [0, 0, 0, from]].concat());
        header.extend([[0x20, 1, 0xd, 0xb8], [0; 4], [0; 4], [0, 0, 0, to]].concat());
        [header, payload.to_vec()].concat()
    }

    fn ports([from, to]: [u16; 2], payload: &[u8]) -> Vec<u8> {
        [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 4], payload].concat()
    }

    fn ethernet(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&[2; 12][..], &ethertype.to_be_bytes(), packet].concat()
    }

    /// A tunnel's packet in a frame. The source port tells it from others.
    fn carried(header: &(u8, Option<u16>, &[u8]), version: u8, number: u8, inside: &[u8]) -> Vec<u8> {
        let &(protocol, port, bytes) = header;
        let payload = [bytes, inside].concat();
        let payload = port.map_or(payload.clone(), |port| ports([50_000 + u16::from(number), port], &payload));
        match version {
            4 => ethernet(0x0800, &ipv4(protocol, [number, number + 1], &payload)),
            _ => ethernet(0x86dd, &ipv6(protocol, [number, number + 1], &payload)),
        }
    }

    const ETHERNET_TUNNELS: [(u8, Option<u16>, &[u8]); 13] = [
        (17, Some(4789), &[8, 0, 0, 0, 0, 0, 7, 0]),
        (17, Some(8472), &[8, 0, 0, 0, 0, 0, 7, 0]),
        (17, Some(4790), &[12, 0, 0, 3, 0, 0, 7, 0]),
        (17, Some(6081), &[0, 0, 0x65, 0x58, 0, 0, 7, 0]),
        (17, Some(6081), &[2, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 1, 5, 6, 7, 8]),
        (17, Some(7932), &[0; 12]),
        (47, None, &[0, 0, 0x65, 0x58]),
        (47, None, &[0x20, 0, 0x65, 0x58, 0, 0, 0, 9]),
        (47, None, &[0xb0, 0, 0x65, 0x58, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 9]),
        (47, None, &[0, 0, 0x88, 0xbe]),
        (47, None, &[0x10, 0, 0x88, 0xbe, 0, 0, 0, 9, 0x10, 0, 0, 7, 0, 0, 0, 0]),
        (47, None, &[0x10, 0, 0x22, 0xeb, 0, 0, 0, 9, 0x20, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x80, 0]),
        (
            47,
            None,
            &[0x10, 0, 0x22, 0xeb, 0, 0, 0, 9, 0x20, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
    ];
    const PACKET_TUNNELS: [(u8, Option<u16>, &[u8]); 3] = [
        (17, Some(4790), &[12, 0, 0, 1, 0, 0, 7, 0]),
        (17, Some(6081), &[0, 0, 8, 0, 0, 0, 7, 0]),
        (47, None, &[0, 0, 8, 0]),
    ];

    /// The frame inside has the worker that it would have alone, whichever direction it goes and whoever sent its tunnel.
    #[test]
    fn a_frame_in_a_tunnel_has_the_worker_that_it_has_alone() {
        let there = ipv4(6, [1, 2], &ports([40_000, 80], &[0; 12]));
        let back = ipv4(6, [2, 1], &ports([80, 40_000], &[0; 12]));
        let six = ethernet(0x86dd, &ipv6(17, [1, 2], &ports([40_000, 53], &[0; 12])));
        let tagged = [&[2; 12][..], &[0x81, 0, 0, 7, 8, 0], &there].concat();
        let alone = worker_of(0, &ethernet(0x0800, &there)).unwrap();
        for header in &ETHERNET_TUNNELS {
            for version in [4, 6] {
                let around = |number, frame: &[u8]| carried(header, version, number, frame);
                for (frame, expected) in [
                    (ethernet(0x0800, &there), alone),
                    (ethernet(0x0800, &back), alone),
                    (tagged.clone(), alone),
                    (six.clone(), worker_of(0, &six).unwrap()),
                ] {
                    let twice = carried(&ETHERNET_TUNNELS[0], version, 30, &around(20, &frame));
                    assert_eq!(worker_of(1, &around(20, &frame)), Some(expected), "{header:x?}");
                    assert_eq!(worker_of(2, &twice), Some(expected), "{header:x?}");
                    assert_eq!(worker_of(8, &twice), Some(expected), "{header:x?}");
                    assert_eq!(worker_of(1, &twice), worker_of(0, &around(20, &frame)), "only one is taken off");
                }
                assert_eq!(worker_of(1, &around(1, &ethernet(0x0806, &[0; 28]))), worker_of(0, &around(1, &[])), "ARP");
            }
        }
        for header in &PACKET_TUNNELS {
            assert_eq!(worker_of(1, &carried(header, 4, 20, &back)), Some(alone), "{header:x?}");
        }
    }

    #[test]
    fn a_frame_without_a_tunnel_has_the_worker_that_it_always_has() {
        for frame in [
            ethernet(0x0800, &ipv4(6, [1, 2], &ports([1, 2], &[0; 12]))),
            ethernet(0x86dd, &ipv6(17, [1, 2], &ports([1, 2], &[]))),
            ethernet(0x0800, &ipv4(1, [1, 2], &[8, 0, 0, 0])),
            ethernet(0x0806, &[0; 28]),
            ethernet(
                0x0800,
                &ipv4(17, [1, 2], &ports([53, 4789], &[0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 3, b'w'])),
            ),
        ] {
            let frame = [frame, vec![0; 60]].concat();
            assert_eq!(worker_of(8, &frame), worker_of(0, &frame));
        }
    }
}
