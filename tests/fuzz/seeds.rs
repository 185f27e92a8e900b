//! What the fuzzer starts from: sound inputs of every target, made here.

use etherparse::{PacketBuilder, VlanId};

/// The seeds of each target, by its name.
pub fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let frames = frames();
    let tunnels = tunnels();
    let mut captures = vec![listed(&frames), listed(&[frames.clone(), frames.clone()].concat())];
    captures.extend(frames.iter().map(|frame| listed(&[frame.clone(), frame.clone()])));
    captures.push(listed(&[&tunnels[..], &tunnels].concat()));
    vec![
        (
            "ring_block",
            vec![
                block(&frames, [0; 10]),
                block(&frames, SEGMENT),
                block(&frames, TINY_SEGMENT),
                block(&tunnels, CHECKSUM),
            ],
        ),
        ("wire", [&frames[..], &tunnels].concat()),
        (
            "tunnel",
            tunnels
                .iter()
                .map(|frame| listed(std::slice::from_ref(frame)))
                .chain([listed(&fragments(&tunnels[0]))])
                .collect(),
        ),
        ("decapsulate", tunnels.iter().flat_map(|frame| payloads(frame)).collect()),
        ("receive", received(&tunnels)),
        ("capture_file", vec![pcap(&frames, true), pcap(&frames, false), pcapng(&frames), sections(&frames)]),
        ("compare", captures),
        ("http", http()),
        ("control", control()),
        ("netlink", netlink()),
    ]
}

/// Requests for pages.
fn http() -> Vec<Vec<u8>> {
    let requests = [
        "GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text;version=1.0.0,text/plain\r\n\r\n",
        "HEAD http://host:9469/readyz?x=1 HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    ];
    requests.map(|request| request.as_bytes().to_vec()).into()
}

/// Lines of the control protocol, in both directions.
fn control() -> Vec<Vec<u8>> {
    let lines = [
        r#"{"version":1,"command":"status"}"#,
        r#"{"version":1,"command":"pause","session":"dmz"}"#,
        r#"{"version":1,"done":"paused"}"#,
        r#"{"version":1,"reloaded":{"kept":["dmz"],"changed":[],"added":[],"removed":[],"not_open":[["a","b"]]}}"#,
        r#"{"version":1,"problems":[{"what":"there is no session","hint":"one of a","exit_code":1}]}"#,
    ];
    lines.map(|line| [line, "\n"].concat().into_bytes()).into()
}

/// `RTM_NEWLINK` of an interface `eth0` and `RTM_NEWNEIGH` of 192.0.2.1 (rtnetlink(7)), and two entries of an error queue:
/// "packet too big" over IPv4 with MTU 1400, "port unreachable" over IPv6.
fn netlink() -> Vec<Vec<u8>> {
    let message = |kind: u16, body: &[u8]| {
        let length = u32::try_from(16 + body.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
    };
    let attribute = |kind: u16, value: &[u8]| {
        let length = u16::try_from(4 + value.len()).unwrap();
        let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value, &padding].concat()
    };
    let link = [&[0, 0, 1, 0][..], &[7, 0, 0, 0], &[0x43, 0x10, 1, 0], &[0xff; 4]].concat();
    let name = [attribute(3, b"eth0\0"), attribute(4, &1500_u32.to_ne_bytes()), attribute(1, &[2; 6])].concat();
    let neighbour = [&[2, 0, 0, 0][..], &[7, 0, 0, 0], &[2, 0, 0, 1]].concat();
    let address = [attribute(1, &[192, 0, 2, 1]), attribute(2, &[2; 6])].concat();
    let too_big = [&90_u32.to_ne_bytes()[..], &[2, 3, 4, 0], &1400_u32.to_ne_bytes(), &[0; 4]].concat();
    let port = [&111_u32.to_ne_bytes()[..], &[3, 1, 4, 0], &[0; 8]].concat();
    vec![message(16, &[link, name].concat()), message(28, &[neighbour, address].concat()), [too_big, port].concat()]
}

/// `virtio_net_hdr` (`linux/virtio_net.h`): TCP over IPv4 in segments of 100 bytes, its checksum partial.
const SEGMENT: [u8; 10] = [1, 1, 54, 0, 100, 0, 34, 0, 16, 0];
/// The same in segments of one byte.
const TINY_SEGMENT: [u8; 10] = [1, 1, 54, 0, 1, 0, 34, 0, 16, 0];
/// The same without segmentation.
const CHECKSUM: [u8; 10] = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0];

/// A frame of each kind that is treated in its own way.
fn frames() -> Vec<Vec<u8>> {
    let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let payload: Vec<u8> = (0..=250_u8).cycle().take(400).collect();
    let mut frames = Vec::new();
    let mut add = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = Vec::new();
        write(&mut frame);
        frames.push(frame);
    };
    add(&|out| {
        ethernet().ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).tcp(4000, 80, 7, 500).ack(9).write(out, &payload).unwrap();
    });
    add(&|out| ethernet().ipv6([1; 16], [2; 16], 64).tcp(4000, 80, 7, 500).psh().write(out, &payload).unwrap());
    add(&|out| ethernet().ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(4000, 53).write(out, &payload[..40]).unwrap());
    let [outer, inner] = [100, 200].map(|id| VlanId::try_new(id).unwrap());
    add(&|out| ethernet().double_vlan(outer, inner).ipv6([1; 16], [2; 16], 64).udp(1, 2).write(out, b"qinq").unwrap());
    add(&|out| {
        ethernet().ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).icmpv4_echo_request(1, 2).write(out, b"ping").unwrap();
    });
    add(&|out| out.extend([&[0xff; 6][..], &[2; 6], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[1; 20]].concat()));
    add(&|out| {
        // A jumbo frame without a length, as a host hands down a super-frame over 64 KiB.
        ethernet().ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).tcp(1, 2, 3, 4).write(out, &[7; 3000]).unwrap();
        out[16..18].fill(0);
    });
    frames
}

/// One packet of each encapsulation.
fn tunnels() -> Vec<Vec<u8>> {
    let inner = frames().swap_remove(2);
    let udp = |port: u16, header: &[u8]| {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([4; 6], [6; 6]).ipv4([198, 51, 100, 1], [198, 51, 100, 2], 64);
        builder.udp(50_000, port).write(&mut frame, &[header, &inner].concat()).unwrap();
        frame
    };
    let gre = |header: &[u8]| {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([4; 6], [6; 6]).ipv4([198, 51, 100, 1], [198, 51, 100, 2], 64);
        builder.write(&mut frame, etherparse::ip_number::GRE, &[header, &inner].concat()).unwrap();
        frame
    };
    vec![
        udp(4789, &[8, 0, 0, 0, 0, 0, 42, 0]),
        udp(8472, &[8, 0, 0, 0, 0, 0, 42, 0]),
        udp(4790, &[0x0c, 0, 0, 3, 0, 0, 42, 0]),
        udp(6081, &[1, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 0]),
        gre(&[0, 0, 0x65, 0x58]),
        gre(&[0xb0, 0, 0x65, 0x58, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1]),
        gre(&[0, 0, 0x88, 0xbe]),
        gre(&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 5, 8, 3, 0, 0, 0, 9]),
        gre(&[0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0x80, 9, 0x14, 0, 0, 0, 0, 0, 0, 0]),
    ]
}

/// What the target `decapsulate` reads of the tunnel packet in `frame`, which is IPv4 without options: the whole frame,
/// what IP carries, and what UDP carries; nothing of them was cut.
fn payloads(frame: &[u8]) -> [Vec<u8>; 3] {
    [0, 34, 42].map(|begin| [&[0], &frame[begin..]].concat())
}

/// What the target `receive` reads: captures of tunnel packets, behind what is asked for. Some are fragments, some come
/// over IPv6, some carry another tunnel, some come twice or in the wrong order.
fn received(tunnels: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut packets = tunnels.to_vec();
    let ethernet = || PacketBuilder::ethernet2([4; 6], [6; 6]);
    for inner in tunnels {
        let vxlan = [&[8, 0, 0, 0, 0, 0, 42, 0], &inner[..]].concat();
        let mut nested = Vec::new();
        ethernet().ipv4([198, 51, 100, 1], [198, 51, 100, 2], 64).udp(50_000, 4789).write(&mut nested, &vxlan).unwrap();
        packets.extend(fragments(&nested));
        packets.push(nested);
        let mut over_ipv6 = Vec::new();
        ethernet()
            .single_vlan(VlanId::try_new(7).unwrap())
            .ipv6([1; 16], [2; 16], 64)
            .write(&mut over_ipv6, etherparse::ip_number::GRE, &[&[0, 0, 0x65, 0x58], &inner[..]].concat())
            .unwrap();
        packets.push(over_ipv6);
    }
    // GRE's sequence number is the last field of its header, behind its key.
    packets.extend([0_u8, 2, 1, 1, 4, 5].map(|number| {
        let mut numbered = tunnels[5].clone();
        numbered[49] = number;
        numbered
    }));
    let asked = [[0, 1], [0xff, 0], [0b0001_1000, 2], [0b0110_0001, 0], [0b1000_0110, 3]];
    let mut seeds: Vec<Vec<u8>> = asked.iter().map(|asked| [&asked[..], &pcap(&packets, true)].concat()).collect();
    seeds.push([&[0b0101_1000, 0], &pcapng(&packets)[..]].concat());
    seeds.extend(
        packets.iter().map(|packet| [&[0b0001_1000, 0], &pcap(std::slice::from_ref(packet), false)[..]].concat()),
    );
    seeds
}

/// The IPv4 packet in `frame`, which has no options, in two fragments.
fn fragments(frame: &[u8]) -> Vec<Vec<u8>> {
    let (header, data) = frame[..].split_at(34);
    let cut = data.len() / 16 * 8;
    let piece = |field: u16, data: &[u8]| {
        let mut piece = [header, data].concat();
        piece[16..18].copy_from_slice(&u16::try_from(20 + data.len()).unwrap().to_be_bytes());
        piece[20..22].copy_from_slice(&field.to_be_bytes());
        piece
    };
    vec![piece(0x2000, &data[..cut]), piece(u16::try_from(cut / 8).unwrap(), &data[cut..])]
}

/// Frames behind their lengths, as the targets `tunnel` and `compare` read them.
fn listed(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.iter().flat_map(|frame| [&u16::try_from(frame.len()).unwrap().to_le_bytes()[..], frame].concat()).collect()
}

/// A TPACKET_V3 block (`linux/if_packet.h`) with these frames, each with this `virtio_net_hdr`. Every second one lacks a
/// tag that the kernel took out.
fn block(frames: &[Vec<u8>], vnet: [u8; 10]) -> Vec<u8> {
    const HEADER: usize = 48;
    const MAC: usize = 96;
    let word = |value: usize| u32::try_from(value).unwrap().to_ne_bytes();
    let mut block = [1, 0, 1, frames.len(), HEADER, 0].map(word).concat();
    block.resize(HEADER, 0);
    for (number, frame) in frames.iter().enumerate() {
        let (status, tag) = if number % 2 == 0 { (1, 0) } else { (1 | 1 << 4 | 1 << 6, 100) };
        let length = (MAC + frame.len()).next_multiple_of(16);
        let mut entry = [length, 1, 2, frame.len(), frame.len(), status].map(word).concat();
        entry.extend(
            [&96_u16.to_ne_bytes()[..], &110_u16.to_ne_bytes(), &word(0), &word(tag), &0x8100_u16.to_ne_bytes()]
                .concat(),
        );
        entry.resize(MAC - vnet.len(), 0);
        entry.extend(vnet);
        entry.extend(frame);
        entry.resize(length, 0);
        block.extend(entry);
    }
    block
}

/// Classic pcap (draft-ietf-opsawg-pcap) in either byte order.
fn pcap(frames: &[Vec<u8>], little: bool) -> Vec<u8> {
    let word = |value: u32| if little { value.to_le_bytes() } else { value.to_be_bytes() };
    let version = if little { 2 | 4 << 16 } else { 2 << 16 | 4 };
    let mut file = [0xa1b2_c3d4, version, 0, 0, 65_535, 1].map(word).concat();
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap();
        file.extend([7, 8, length, length].map(word).concat());
        file.extend(frame);
    }
    file
}

/// pcapng with a section of each byte order, and blocks of every kind that a reader treats in its own way: interfaces with a
/// name, a clock and a frame check sequence, enhanced, obsolete and simple packet blocks, flags, and a block without a frame.
fn sections(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for big in [false, true] {
        let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let half = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let mut block = |kind: u32, body: &[u8]| {
            let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
            let length = word(u32::try_from(12 + body.len() + padding.len()).unwrap());
            file.extend([&word(kind)[..], &length, body, &padding, &length].concat());
        };
        block(0x0a0d_0d0a, &[&word(0x1a2b_3c4d)[..], &half(1), &half(0), &[0xff; 8]].concat());
        let options = [
            &half(2)[..],
            &half(4),
            b"eth0",
            &half(9),
            &half(1),
            &[0x8a, 0, 0, 0],
            &half(13),
            &half(1),
            &[4, 0, 0, 0],
            &half(14),
            &half(8),
            &[0; 8],
            &[0; 4],
        ];
        for link_type in [1, 101, 9, 113] {
            block(1, &[&half(link_type)[..], &half(0), &word(0), &options.concat()].concat());
        }
        block(0xbad, &[1; 9]);
        for (number, frame) in (0..).zip(frames) {
            let length = u32::try_from(frame.len()).unwrap();
            let times = [[0, 7], [length, length]].concat().into_iter().flat_map(word).collect::<Vec<_>>();
            let padding = vec![0; frame.len().next_multiple_of(4) - frame.len()];
            let flags = [&half(2)[..], &half(4), &word(1 | 4 << 5), &[0; 4]].concat();
            match number % 3 {
                0 => block(6, &[&word(number % 4), &times[..], frame, &padding, &flags].concat()),
                1 => block(2, &[&half(0)[..], &half(1), &times, frame].concat()),
                _ => block(3, &[&word(length), &frame[..]].concat()),
            }
        }
    }
    file
}

/// pcapng (draft-ietf-opsawg-pcapng), little-endian.
fn pcapng(frames: &[Vec<u8>]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let padded = body.len().next_multiple_of(4);
        let length = u32::try_from(12 + padded).unwrap().to_le_bytes();
        let padding = vec![0; padded - body.len()];
        [&kind.to_le_bytes()[..], &length, body, &padding, &length].concat()
    };
    let mut file = block(0x0a0d_0d0a, &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat());
    file.extend(block(1, &[1, 0, 0, 0, 0xff, 0xff, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]));
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap();
        let fixed = [0, 0, 5, length, length].map(u32::to_le_bytes).concat();
        file.extend(block(6, &[&fixed, &frame[..]].concat()));
    }
    file
}
